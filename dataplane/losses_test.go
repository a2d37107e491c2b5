package dataplane_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/leasehold/leasehold/dataplane"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func TestAReplicaThatIsBehindTakesNothingAway(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	before := p.revision
	p.setGateway("g", u.URL, nil)
	w := startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(w)
	watches := p.count("Watch")
	definition := p.gateways["gateways/g"]
	now := p.revision
	p.change(func() { // an older state, as a replica without etcd has it
		delete(p.gateways, "gateways/g")
		p.revision = before
	})
	eventually(t, "the worker turns to another replica", func() bool { return p.count("Watch") > watches+1 })
	p.change(func() {
		p.gateways["gateways/g"] = definition
		p.revision = now + 10
	})
	if status, got := c.call(w); status != http.StatusOK || got != "1" || u.deleted != 0 || len(p.tombstones()) != 0 {
		t.Errorf("got %d %s, %d deleted, ends %v; want 200 1 and no end", status, got, u.deleted, p.tombstones())
	}
}

// deafStream opens a stream that the client never reads, on which the upstream
// writes until nothing of it fits anywhere any more.
func deafStream(t *testing.T, u *upstreamServer, w *worker, c *client) (cut <-chan struct{}) {
	t.Helper()
	gone := make(chan struct{})
	var written atomic.Int32
	u.setHook(func(w http.ResponseWriter, r *http.Request, _ string) bool {
		if r.Method != http.MethodGet {
			return false
		}
		defer close(gone)
		w.Header().Set("Content-Type", "text/event-stream")
		event := "data: " + strings.Repeat("x", 64<<10) + "\n\n"
		for {
			if _, err := fmt.Fprint(w, event); err != nil {
				return true
			}
			written.Add(1)
		}
	})
	conn, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\nMcp-Session-Id: %s\r\n\r\n", c.path, c.session)
	var before int32
	var since time.Time
	eventually(t, "the stream is full", func() bool {
		if now := written.Load(); now == 0 || now != before {
			before, since = now, time.Now()
		}
		select {
		case <-gone:
			return true
		default:
			return time.Since(since) > 300*time.Millisecond
		}
	})
	return gone
}

func TestAClientThatDoesNotReadHoldsUpNoEnd(t *testing.T) {
	t.Parallel()
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	w := startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(w)
	deafStream(t, u, w, c)
	p.deleteGateway("g")
	eventually(t, "the session ends upstream and in the records", func() bool { return u.live() == 0 && len(p.tombstones()) == 1 })
}

func TestAClientThatDoesNotReadLosesItsStreamInTheEnd(t *testing.T) {
	t.Parallel()
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	start := func() *worker {
		return startWorkerWith(t, p, func(cfg *dataplane.Config) { cfg.SetStall(100 * time.Millisecond) })
	}
	owner, other := start(), start()
	for _, w := range []*worker{owner, other} {
		c := newClient(t, "g")
		u.setHook(nil)
		c.initialize(owner)
		await(t, deafStream(t, u, w, c))
		if status, _ := c.call(w); status != http.StatusOK {
			t.Errorf("the session after it: got %d, want 200", status)
		}
	}
}

func TestAFencedWorkerDeniesNoSessionThatMayLiveElsewhere(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	const idle = 500 * time.Millisecond
	p.setGateway("g", u.URL, &leaseholdv1.SessionPolicy{IdleTimeout: durationpb.New(idle)})
	w := startWorker(t, p)
	used, unused := newClient(t, "g"), newClient(t, "g")
	used.initialize(w)
	unused.initialize(w)
	p.change(func() { p.away = true })
	eventually(t, "the worker is fenced", func() bool {
		first, _ := unused.call(w)
		second, _ := used.call(w)
		return first == http.StatusServiceUnavailable && second == http.StatusServiceUnavailable
	})
	<-time.After(2 * idle) // nobody uses the session here for longer than its idle time
	for _, c := range []*client{used, unused} {
		if status, body := c.call(w); status != http.StatusServiceUnavailable {
			t.Errorf("got %d %s, want 503", status, body)
		}
	}
	p.change(func() { p.away = false })
	eventually(t, "the session that is asked for goes on", func() bool {
		status, body := used.call(w)
		if status != http.StatusOK && status != http.StatusServiceUnavailable {
			t.Fatalf("once nobody took it: got %d %s, want 200 in the end", status, body)
		}
		return status == http.StatusOK
	})
}

func TestASessionWhoseReclaimWasGrantedUnheardIsTakenUpAndEnds(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, &leaseholdv1.SessionPolicy{IdleTimeout: durationpb.New(time.Second)})
	owner, other := startWorker(t, p), startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(owner)
	p.change(func() { p.afterReclaim = func() error { return refusal(codes.Unavailable, "LOST") } })
	owner.stop()
	ctx, cancel := context.WithCancel(t.Context())
	called := make(chan struct{})
	go func() {
		defer close(called)
		c.doContext(ctx, other, http.MethodPost, forwardedCall)
	}()
	eventually(t, "the session is reclaimed", func() bool { return p.count("Reclaim") > 1 })
	cancel() // and never comes back
	<-called
	record := p.live()
	if len(record) != 1 || record[0].GetWorker() != other.id {
		t.Fatalf("records: got %v, want one of the second worker", record)
	}
	eventually(t, "the session ends for want of use", func() bool {
		ends := p.tombstones()
		return len(ends) == 1 && ends[0] == leaseholdv1.EndReason_END_REASON_IDLE && u.live() == 0
	})
}
