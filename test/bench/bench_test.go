package main

import (
	"bytes"
	"errors"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
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

// newCallers opens n sessions at a URL.
func newCallers(t *testing.T, at string, n int) []*caller {
	t.Helper()
	var callers []*caller
	for range n {
		c, err := newCaller(t.Context(), at, at)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.disconnect)
		callers = append(callers, c)
	}
	return callers
}

// measureBriefly lets clients work for a moment and returns all their times.
func measureBriefly[S stepper](t *testing.T, clients []S) []time.Duration {
	t.Helper()
	if err := connectAll(clients); err != nil {
		t.Fatal(err)
	}
	if _, err := drive(clients, 50*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	var all []time.Duration
	for _, c := range clients {
		if len(c.took()) == 0 {
			t.Error("a client did nothing")
		}
		all = append(all, c.took()...)
	}
	return all
}

func TestClientsMeasureTheUpstreamDirectlyAndThroughTheProxy(t *testing.T) {
	upstream := listen(t, newUpstream().serve)
	proxy := listen(t, func(l net.Listener) error { return serveProxy(l, upstream) })
	for name, base := range map[string]string{"direct": upstream, "proxy": proxy} {
		at := base + "/mcp"
		t.Run(name+" small", func(t *testing.T) { measureBriefly(t, newCallers(t, at, 3)) })
		t.Run(name+" large", func(t *testing.T) {
			callers := newCallers(t, at, 2)
			for _, c := range callers {
				c.use(toolLarge)
			}
			measureBriefly(t, callers)
			if got := len(callers[0].body); got < largeSize {
				t.Errorf("a large result has %d bytes", got)
			}
		})
		t.Run(name+" stream", func(t *testing.T) {
			var listeners []listener
			for _, c := range newCallers(t, at, 3) {
				c.use(toolStream)
				listeners = append(listeners, listener{c})
			}
			took := measureBriefly(t, listeners)
			slices.Sort(took)
			if d := took[len(took)/2]; took[0] <= 0 || d >= streamPause { // one or the other is late on a busy machine
				t.Errorf("half of the first events took %v or more; they are to come before the last is written, %v later", d, streamPause)
			}
		})
		t.Run(name+" list", func(t *testing.T) {
			callers := newCallers(t, at, 2)
			for _, c := range callers {
				c.list(len(tools))
			}
			measureBriefly(t, callers)
			if got := bytes.Count(callers[0].body, []byte(`"inputSchema"`)); got != 100 {
				t.Errorf("a list has %d tools, want 100", got)
			}
		})
		t.Run(name+" long", func(t *testing.T) {
			c := newCallers(t, at, 1)[0]
			c.use(toolLong + "60ms")
			start := time.Now()
			if err := errors.Join(c.connect(), longCaller{c}.call()); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(start); took < 60*time.Millisecond || bytes.Count(c.body, []byte("progressToken")) < 2 {
				t.Errorf("a call of 60 ms took %v and was answered with %q, want a report at the begin and one more", took, c.body)
			}
			c.use(toolStream)
			if err := (longCaller{c}).call(); err != nil {
				t.Errorf("a short stream: %v", err)
			}
			c.use(toolEcho)
			if err := (longCaller{c}).call(); err == nil {
				t.Error("an answer without a report was counted as one of a long call")
			}
		})
		t.Run(name+" churn", func(t *testing.T) {
			var churners []*churner
			for range 3 {
				c, err := newChurner(at)
				if err != nil {
					t.Fatal(err)
				}
				churners = append(churners, c)
			}
			measureBriefly(t, churners)
		})
	}
}

func TestSessionsThatAreLeftAloneHaveAskedForTheTools(t *testing.T) {
	u := newUpstream()
	c, err := newChurner(listen(t, u.serve) + "/mcp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.disconnect)
	if err := c.connect(); err != nil {
		t.Fatal(err)
	}
	if err := c.openAndList(); err != nil {
		t.Fatal(err)
	}
	if len(u.sessions) != 1 || !bytes.Contains(c.body, []byte(`"tools":[`)) {
		t.Errorf("%d sessions, the last answer is %.100q; want 1 and its tools", len(u.sessions), c.body)
	}
}

func TestChurnLeavesNoSession(t *testing.T) {
	u := newUpstream()
	c, err := newChurner(listen(t, u.serve) + "/mcp")
	if err != nil {
		t.Fatal(err)
	}
	done := measureBriefly(t, []*churner{c})
	u.mu.RLock()
	defer u.mu.RUnlock()
	if len(u.sessions) != 0 {
		t.Errorf("%d of %d sessions are left", len(u.sessions), len(done))
	}
}

func TestAnswersThatAreNotResultsAreErrors(t *testing.T) {
	u := newUpstream()
	callers := newCallers(t, listen(t, u.serve)+"/mcp", 1)
	u.mu.Lock()
	clear(u.sessions)
	u.mu.Unlock()
	if err := connectAll(callers); err != nil {
		t.Fatal(err)
	}
	if _, err := drive(callers, 20*time.Millisecond); err == nil {
		t.Error("an answer of 404 was counted as a call")
	}
	callers[0].use(toolStream)
	if _, err := drive([]listener{{callers[0]}}, 20*time.Millisecond); err == nil {
		t.Error("an answer of 404 was counted as a stream")
	}
}

// A path that holds a stream back until it is whole must not look fast.
func TestStreamHeldBackIsSeen(t *testing.T) {
	upstream := listen(t, newUpstream().serve)
	holds := listen(t, func(l net.Listener) error {
		return http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			req, _ := http.NewRequest(r.Method, upstream+r.URL.Path, r.Body)
			req.Header = r.Header
			resp, err := http.DefaultTransport.RoundTrip(req)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			var whole bytes.Buffer
			whole.ReadFrom(resp.Body)
			for name, values := range resp.Header {
				w.Header()[name] = values
			}
			w.WriteHeader(resp.StatusCode)
			if resp.Header.Get("Content-Type") == "text/event-stream" {
				http.NewResponseController(w).Flush() // so that the length is not known
			}
			w.Write(whole.Bytes())
		}))
	})
	c := newCallers(t, holds+"/mcp", 1)[0]
	c.use(toolStream)
	for _, d := range measureBriefly(t, []listener{{c}}) {
		if d < streamPause {
			t.Errorf("an event that was held back for %v took %v", streamPause, d)
		}
	}
}

func TestSentTime(t *testing.T) {
	event := strings.SplitN(string(appendFirstEvent(nil)), "\r\n\r\n", 2)[1]
	now := time.Now()
	sent, ok := sentTime([]byte(event))
	if !ok || now.Sub(sent) < 0 || now.Sub(sent) > time.Minute {
		t.Errorf("the event was sent at %v, %v; now it is %v", sent, ok, now)
	}
	if _, ok := sentTime([]byte(strings.TrimRight(event, "\r\n"))); ok {
		t.Error("an event counts before its end has come")
	}
}

func TestOpenLoopCountsTheTimeACallWaits(t *testing.T) {
	const interval, stall, n = 2 * time.Millisecond, 60 * time.Millisecond, 100
	made := 0
	call := func() error {
		if made++; made == 10 {
			<-time.After(stall)
		}
		return nil
	}
	latencies, err := openLoop([]func() error{call}, interval, n)
	if err != nil || len(latencies) != n {
		t.Fatalf("%d calls, %v", len(latencies), err)
	}
	// The call that stalls is late by 60 ms, the next by 58, and so on: 15 by at
	// least half of it, where a closed loop would see one.
	late := 0
	for _, l := range latencies {
		if l >= stall/2 {
			late++
		}
	}
	if late < 15 {
		t.Errorf("%d calls are late by half of the stall, want 15 at least", late)
	}
}

func TestOpenLoopKeepsItsSchedule(t *testing.T) {
	const interval, n = time.Millisecond, 50
	start := time.Now()
	latencies, err := openLoop([]func() error{func() error { return nil }, func() error { return nil }}, interval, n)
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took < n*interval {
		t.Errorf("%d calls, one each %v, were made in %v", n, interval, took)
	}
	for _, l := range latencies {
		if l < 0 {
			t.Errorf("a call was made %v before its time", -l)
		}
	}
}

func TestOpenLoopReturnsErrors(t *testing.T) {
	broken := errors.New("broken")
	_, err := openLoop([]func() error{func() error { return broken }}, time.Millisecond, 5)
	if !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

func TestPercentile(t *testing.T) {
	var sorted []time.Duration
	for i := range 1000 {
		sorted = append(sorted, time.Duration(i+1))
	}
	for part, want := range map[float64]time.Duration{0.5: 500, 0.99: 990, 0.999: 999, 1: 1000} {
		if got := percentile(sorted, part); got != want {
			t.Errorf("percentile %v is %d, want %d", part, got, want)
		}
	}
	if got := percentile(sorted[:1], 0.99); got != 1 {
		t.Errorf("percentile of one is %d", got)
	}
}

func TestParse(t *testing.T) {
	s, err := parse([]string{"-only", "churn,idle", "-clients", "2,3", "-paths", "owner"})
	if err != nil || !slices.Equal(s.only, []string{"churn", "idle"}) || !slices.Equal(s.clients, []int{2, 3}) || !slices.Equal(s.paths, []string{"owner"}) {
		t.Errorf("%+v, %v", s, err)
	}
	for _, wrong := range []string{"-only=some", "-paths=some", "-clients=0", "-rounds=0", "-rate=-1", "-long=0s", "compare"} {
		if _, err := parse([]string{wrong}); err == nil {
			t.Errorf("%s is accepted", wrong)
		}
	}
}

func TestProcessFigures(t *testing.T) {
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
	if rss, err := residentBytes(os.Getpid()); err != nil || rss < 1<<20 {
		t.Errorf("resident are %v bytes, %v", rss, err)
	}
	open, err := descriptors(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open("/proc/self/stat")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if more, err := descriptors(os.Getpid()); err != nil || more != open+1 {
		t.Errorf("%d descriptors, and %d with one more file, %v", open, more, err)
	}
}
