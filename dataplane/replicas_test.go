package dataplane_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/leasehold/leasehold/dataplane"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// startReplicas starts upstreams that know nothing of each other's sessions, at
// several addresses of one name.
func startReplicas(t *testing.T, ips ...string) (url string, replicas []*upstreamServer, lookup func(context.Context, string) ([]netip.Addr, error), rename func(ips ...string)) {
	t.Helper()
	port := "0"
	for _, ip := range ips {
		l, err := net.Listen("tcp", net.JoinHostPort(ip, port))
		if err != nil {
			t.Fatal(err)
		}
		_, port, _ = net.SplitHostPort(l.Addr().String())
		u := &upstreamServer{sessions: map[string]int{}}
		u.Server = &httptest.Server{Listener: l, Config: &http.Server{Handler: u}}
		u.Start()
		t.Cleanup(u.Close)
		replicas = append(replicas, u)
	}
	var mu sync.Mutex
	named := ips
	lookup = func(context.Context, string) (addresses []netip.Addr, err error) {
		mu.Lock()
		defer mu.Unlock()
		for _, ip := range named {
			addresses = append(addresses, netip.MustParseAddr(ip))
		}
		return addresses, nil
	}
	rename = func(ips ...string) {
		mu.Lock()
		defer mu.Unlock()
		named = ips
	}
	return "http://mcp.test:" + port + "/mcp", replicas, lookup, rename
}

func TestASessionStaysWithTheUpstreamReplicaThatOpenedIt(t *testing.T) {
	p := startPlane(t)
	url, replicas, lookup, rename := startReplicas(t, "127.0.0.1", "127.0.0.2")
	p.setGateway("g", url, nil)
	start := func() *worker {
		return startWorkerWith(t, p, func(cfg *dataplane.Config) { cfg.SetLookup(lookup) })
	}
	owner, other := start(), start()
	clients := make([]*client, 24)
	for i := range clients {
		clients[i] = newClient(t, "g")
		clients[i].initialize(owner)
	}
	for i, u := range replicas {
		if u.live() == 0 {
			t.Errorf("replica %d has no session of %d", i, len(clients))
		}
	}
	work := func(at *worker, want string) {
		t.Helper()
		for i, c := range clients {
			if status, got := c.call(at); status != http.StatusOK || got != want {
				t.Fatalf("call of session %d: got %d %s, want 200 %s", i, status, got, want)
			}
		}
	}
	work(other, "1")
	owner.stop()
	work(other, "2") // another owner, the same replica

	gone, stays := replicas[0], replicas[1].live()
	gone.CloseClientConnections()
	gone.Close()
	rename("127.0.0.2")
	eventually(t, "every session of the replica that is gone ends, and no other", func() bool {
		lost := 0
		for _, c := range clients {
			if status, _ := c.call(other); status == http.StatusNotFound {
				lost++
			}
		}
		return lost == len(clients)-stays
	})
	eventually(t, "the ends are recorded", func() bool {
		reasons := p.tombstones()
		return len(reasons) == len(clients)-stays && len(slices.Compact(reasons)) == 1 && reasons[0] == leaseholdv1.EndReason_END_REASON_UPSTREAM_LOST
	})
	again := newClient(t, "g")
	again.initialize(other)
	if status, got := again.call(other); status != http.StatusOK || got != "1" {
		t.Errorf("a new session: got %d %s, want 200 1", status, got)
	}
}
