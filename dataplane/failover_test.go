package dataplane_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
)

func TestSessionOfADeadOwnerGoesOnUnderTheSameUpstreamSession(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	owner, second, third := startWorker(t, p), startWorker(t, p), startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(owner)
	c.call(second)
	owner.stop()
	for i, w := range []*worker{second, third, second, third} {
		if status, got := c.call(w); status != 200 || got != fmt.Sprint(i+2) {
			t.Fatalf("call %d: got %d %q, want 200 %q", i, status, got, fmt.Sprint(i+2))
		}
	}
	live := p.live()
	if len(live) != 1 || live[0].GetEpoch() != 2 {
		t.Errorf("records: got %v, want one with epoch 2", live)
	}
	if u.opened != 1 || u.live() != 1 {
		t.Errorf("upstream: %d sessions opened, %d live; want 1 and 1", u.opened, u.live())
	}
}

func TestConcurrentFirstCallsReclaimOnceAndACancelledOneCancelsNoOther(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	owner, second, third := startWorker(t, p), startWorker(t, p), startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(owner)
	owner.stop()
	release := make(chan struct{})
	u.setHook(func(_ http.ResponseWriter, r *http.Request, method string) bool {
		<-release
		return false
	})
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	var got []string
	var group sync.WaitGroup
	for i := range 8 {
		one := *c
		one.ids = i * 100
		w := []*worker{second, third}[i%2]
		group.Go(func() {
			if i == 0 {
				one.doContext(ctx, w, http.MethodPost, `{"jsonrpc":"2.0","id":"cancelled","method":"ping"}`)
				return
			}
			status, text := one.call(w)
			mu.Lock()
			defer mu.Unlock()
			got = append(got, fmt.Sprint(status, " ", text))
		})
	}
	eventually(t, "the session is reclaimed", func() bool { return p.count("Reclaim") > 0 })
	cancel()
	close(release)
	group.Wait()
	slices.Sort(got)
	got = slices.Compact(got)
	if len(got) != 7 || u.opened != 1 {
		t.Errorf("answers %q after %d initializes; want 7 different ones after 1", got, u.opened)
	}
	if n := p.count("Reclaim"); n > 2 { // at most one per worker
		t.Errorf("reclaims: got %d, want at most 2", n)
	}
}

func TestWorkerDropsItsSessionsWhenItsIncarnationIsOver(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	owner, other := startWorker(t, p), startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(owner)
	c.call(owner)
	other.awaitPower(t)
	p.kill(owner.id)            // its next renewal is refused, and so is its re-adoption
	for calls := 2; ; calls++ { // the other worker learns of it in a moment
		if status, got := c.call(other); status != 200 || got != fmt.Sprint(calls) {
			t.Fatalf("call at the other worker: got %d %q, want 200 %q", status, got, fmt.Sprint(calls))
		}
		if p.live()[0].GetWorker() == other.id {
			break
		}
	}
	eventually(t, "the old owner forwards", func() bool {
		status, _ := c.call(owner)
		return status == 200
	})
	if u.live() != 1 || u.deleted != 0 {
		t.Errorf("upstream: %d live, %d deleted; want 1 and 0", u.live(), u.deleted)
	}
	if live := p.live(); len(live) != 1 || live[0].GetWorker() != other.id {
		t.Errorf("owner: got %v, want %s", live, other.id)
	}
}

func TestRequestWaitsForTheDeathOfAnOwnerThatCannotBeReached(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	owner, other := startWorker(t, p), startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(owner)
	record := p.members[owner.id]
	owner.stop()
	p.change(func() { p.members[owner.id] = record }) // its lease has not run out yet
	resolved := p.count("Resolve")
	answered := make(chan string, 1)
	go func() {
		status, text := c.call(other)
		answered <- fmt.Sprint(status, " ", text)
	}()
	eventually(t, "the request waits", func() bool { return p.count("Resolve") > resolved })
	select {
	case got := <-answered:
		t.Fatalf("answered %q while the owner's lease lives", got)
	default:
	}
	p.kill(owner.id)
	select {
	case got := <-answered:
		if got != "200 1" {
			t.Errorf("got %q, want \"200 1\"", got)
		}
	case <-time.After(time.Second):
		t.Error("not answered within 1 s of the lease's end")
	}
}

func TestOwnerStopsDispatchingBeforeItsLeaseCanHaveEnded(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	owner, other := startWorker(t, p), startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(owner)
	p.change(func() { p.away = true })
	away := time.Now()
	for {
		u.mu.Lock()
		before := u.sessions["up-1"]
		u.mu.Unlock()
		status, body := c.call(owner)
		if status == http.StatusOK {
			if time.Since(away) > testTTL {
				t.Fatalf("a call was served %v after the last renewal, with a lease of %v", time.Since(away), testTTL)
			}
			continue
		}
		if status != http.StatusServiceUnavailable {
			t.Fatalf("got %d %s, want 503", status, body)
		}
		u.mu.Lock()
		after := u.sessions["up-1"]
		u.mu.Unlock()
		if after != before {
			t.Errorf("the refused call reached the upstream")
		}
		break
	}
	if status, body := c.call(other); status != http.StatusServiceUnavailable {
		t.Errorf("call at the other worker: got %d %s, want 503", status, body)
	}
	if resp, _ := newClient(t, "g").do(owner, http.MethodPost, initialize); resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
		t.Errorf("initialize without a lease: got %d, want 503 with Retry-After", resp.StatusCode)
	}
	p.change(func() { p.away = false })
	eventually(t, "the owner serves again", func() bool {
		status, _ := c.call(owner)
		return status == http.StatusOK
	})
	if live := p.live(); u.opened != 1 || u.deleted != 0 || len(live) != 1 || live[0].GetEpoch() != 1 {
		t.Errorf("after the outage: %d upstream sessions opened, %d deleted, records %v; want 1, 0 and epoch 1", u.opened, u.deleted, live)
	}
}

func TestAReclaimWhoseAnswerWasLostLeavesNoSessionWithoutAnOwner(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	owner, other := startWorker(t, p), startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(owner)
	owner.stop()
	p.change(func() { p.afterReclaim = func() error { return refusal(codes.Unavailable, "LOST") } })
	for i := 1; i <= 2; i++ {
		if status, got := c.call(other); status != http.StatusOK || got != fmt.Sprint(i) {
			t.Errorf("call %d: got %d %s, want 200 %d", i, status, got, i)
		}
	}
	if live := p.live(); len(live) != 1 || live[0].GetEpoch() != 2 || u.opened != 1 {
		t.Errorf("records %v after %d initializes; want one with epoch 2 after 1", live, u.opened)
	}
}

func TestAWorkerThatIsBehindNeitherDeniesNorEndsASession(t *testing.T) {
	t.Parallel()
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("old", u.URL, nil)
	p.setGateway("g", "http://127.0.0.1:1/elsewhere", nil)
	owner, behind := startWorker(t, p), startWorker(t, p)
	p.change(func() { p.mute = map[string]bool{behind.id: true} })
	p.setGateway("g", u.URL, nil)
	p.setGateway("new", u.URL, nil)
	clients := []*client{newClient(t, "g"), newClient(t, "new")}
	for _, c := range clients {
		eventually(t, "the owner knows the gateway", func() bool {
			resp, _ := c.do(owner, http.MethodPost, initialize)
			c.session = resp.Header.Get("Mcp-Session-Id")
			return resp.StatusCode == http.StatusOK
		})
		if status, body := c.call(behind); status != http.StatusOK {
			t.Errorf("%s, forwarded: got %d %s, want 200", c.path, status, body)
		}
	}
	owner.stop()
	for _, c := range clients {
		if status, body := c.call(behind); status != http.StatusServiceUnavailable {
			t.Errorf("%s, taken over by a worker that is behind: got %d %s, want 503", c.path, status, body)
		}
	}
	p.change(func() { p.mute = nil })
	for _, c := range clients {
		if status, body := c.call(behind); status != http.StatusOK {
			t.Errorf("%s, once it has caught up: got %d %s, want 200", c.path, status, body)
		}
	}
	if ends := p.tombstones(); len(ends) != 0 {
		t.Errorf("sessions ended: %v", ends)
	}
}

func TestABatchThatMayHaveBeenCarriedOutIsNotOfferedForRepetition(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	owner, other := startWorker(t, p), startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(owner)
	inside, release := make(chan struct{}), make(chan struct{})
	u.setHook(func(_ http.ResponseWriter, r *http.Request, _ string) bool {
		if r.Method == http.MethodPost {
			close(inside)
			<-release
		}
		return false
	})
	answered := make(chan *http.Response, 1)
	go func() {
		resp, _ := send(t, other, http.MethodPost, c.path, "["+forwardedCall+"]", map[string]string{"Mcp-Session-Id": c.session, "Mcp-Protocol-Version": "2025-03-26"})
		answered <- resp
	}()
	await(t, inside)
	go owner.stop()
	if resp := <-answered; resp.StatusCode != http.StatusBadGateway || resp.Header.Get("Retry-After") != "" {
		t.Errorf("got %d %v, want 502 without Retry-After", resp.StatusCode, resp.Header)
	}
	close(release)
	owner.stop()
}
