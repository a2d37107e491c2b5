package main

import (
	"net"
	"os"
	"testing"
	"time"

	"github.com/leasehold/leasehold/test/internal/cluster"
)

// listen serves f on a free port and returns its URL.
func listen(t *testing.T, f func(net.Listener) error) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go f(listener)
	return "http://" + listener.Addr().String()
}

func TestCallersMeasureTheUpstreamDirectlyAndThroughTheProxy(t *testing.T) {
	upstream := listen(t, newUpstream().serve)
	proxy := listen(t, func(l net.Listener) error { return serveProxy(l, upstream) })
	for name, base := range map[string]string{"direct": upstream, "proxy": proxy} {
		var callers []*caller
		for range 3 {
			c, err := newCaller(t.Context(), base+"/mcp", base+"/mcp")
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			callers = append(callers, c)
			if err := c.connect(); err != nil {
				t.Fatal(err)
			}
			defer c.disconnect()
		}
		if _, err := drive(callers, 50*time.Millisecond); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, c := range callers {
			if len(c.latencies) == 0 {
				t.Errorf("%s: a caller made no call", name)
			}
		}
	}
}

func TestCallerRefusesTheWrongAnswer(t *testing.T) {
	u := newUpstream()
	url := listen(t, u.serve) + "/mcp"
	c, err := newCaller(t.Context(), url, url)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.connect(); err != nil {
		t.Fatal(err)
	}
	defer c.disconnect()
	u.mu.Lock()
	clear(u.sessions)
	u.mu.Unlock()
	if _, err := drive([]*caller{c}, 20*time.Millisecond); err == nil {
		t.Error("an answer of 404 was counted as a call")
	}
}

func TestResultTakesMediansAndRatios(t *testing.T) {
	s := settings{clients: []int{16}, paths: allPaths, duration: time.Second}
	r := newResult(s)
	for path, rates := range map[string][]float64{
		pathDirect: {400, 500, 600}, pathProxy: {100, 10, 110}, pathOwner: {300, 110, 111}, pathForward: {50, 60, 40},
	} {
		for _, rate := range rates {
			r.add(path, 16, measurement{CallsPerSecond: rate})
		}
	}
	r.finish()
	owner, forward := r.find(pathOwner, 16), r.find(pathForward, 16)
	if owner.Median.CallsPerSecond != 111 || owner.ToProxy != 1.11 || forward.ToOwner != 50.0/111 {
		t.Errorf("owner %+v, forward %+v", owner, forward)
	}
	if err := r.checkGoals(); err == nil {
		t.Error("forward at 0.45 × the owner's calls/s reaches the goal of 0.5")
	}
	r.Counters = cluster.Metrics{`leasehold_etcd_requests_total{op="renew"}`: 3}
	if err := r.checkCounters(); err != nil {
		t.Error(err)
	}
	r.Counters[`leasehold_etcd_requests_total{op="get"}`] = 1
	if err := r.checkCounters(); err == nil {
		t.Error("a request to etcd other than renew passed")
	}
}

func TestCPUTimeOfThisProcessGrows(t *testing.T) {
	self := []*cluster.Process{{Name: "self", PID: os.Getpid()}}
	before, err := cpuTime(self)
	if err != nil {
		t.Fatal(err)
	}
	for start := time.Now(); time.Since(start) < 60*time.Millisecond; {
	}
	after, err := cpuTime(self)
	if err != nil || after <= before {
		t.Errorf("CPU time went from %v to %v, %v", before, after, err)
	}
}
