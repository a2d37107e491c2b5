package dataplane_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// goesOn is the policy with which a client's session goes on when its upstream session
// ends.
var goesOn = &leaseholdv1.SessionPolicy{OnUpstreamLost: leaseholdv1.OnUpstreamLost_ON_UPSTREAM_LOST_REINITIALIZE}

// change changes a gateway's definition.
func (p *plane) redefine(id string, change func(*leaseholdv1.Gateway)) {
	p.change(func() {
		old := p.gateways["gateways/"+id]
		next := &leaseholdv1.Gateway{Name: old.Name, Session: old.Session, Description: old.Description, Status: &leaseholdv1.GatewayStatus{Revision: p.revision}}
		for _, u := range old.Upstreams {
			next.Upstreams = append(next.Upstreams, &leaseholdv1.Upstream{Name: u.Name, Url: u.Url})
		}
		change(next)
		p.gateways["gateways/"+id] = next
	})
}

// reached has the URL of an upstream changed.
func reached(url string) func(*leaseholdv1.Gateway) {
	return func(g *leaseholdv1.Gateway) { g.Upstreams[0].Url = url }
}

func TestAChangeOfSettingsEndsTheAffectedUpstreamSessionsOnAllWorkersAndNoOthers(t *testing.T) {
	p, old, next, other := startPlane(t), startUpstream(t), startUpstream(t), startUpstream(t)
	p.setGateway("fails", old.URL, nil)
	p.setGateway("goes", old.URL, goesOn)
	p.setGateway("other", other.URL, nil)
	workers := []*worker{startWorker(t, p), startWorker(t, p)}
	sessions := map[string][]*client{}
	for _, gateway := range []string{"fails", "goes", "other"} {
		for i := range 20 {
			c := newClient(t, gateway)
			c.initialize(workers[i%2])
			c.call(workers[i%2])
			sessions[gateway] = append(sessions[gateway], c)
		}
	}
	p.redefine("fails", reached(next.URL))
	p.redefine("goes", reached(next.URL))
	eventually(t, "no session is left at the old upstream", func() bool { return old.live() == 0 })
	if old.deleted != 40 {
		t.Errorf("%d sessions were ended with DELETE, want 40", old.deleted)
	}
	for i, c := range sessions["fails"] {
		if status, got := c.call(workers[i%2]); status != http.StatusNotFound {
			t.Errorf("with FAIL: got %d %s, want 404", status, got)
		}
	}
	for i, c := range sessions["goes"] {
		if status, got := c.call(workers[(i+1)%2]); status != http.StatusOK || got != "1" {
			t.Errorf("with REINITIALIZE: got %d %s, want a new session's first count", status, got)
		}
	}
	for i, c := range sessions["other"] {
		if status, got := c.call(workers[i%2]); status != http.StatusOK || got != "2" {
			t.Errorf("of another gateway: got %d %s, want its session to go on", status, got)
		}
	}
	if next.live() != 20 || other.live() != 20 {
		t.Errorf("live sessions: got %d at the new upstream and %d at the other, want 20 each", next.live(), other.live())
	}
	for _, record := range p.live() {
		if fresh := record.GetUpstreams()[0].GetGatewayRevision(); record.GetUpstreams()[0].GetConnectionFingerprint() == nil || fresh == 0 {
			t.Errorf("record %v has no settings", record)
		}
	}
}

func TestAChangeOfPolicyOrLooksEndsNothing(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, goesOn)
	w := startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(w)
	for i, change := range []func(*leaseholdv1.Gateway){
		func(g *leaseholdv1.Gateway) { g.Description = "new" },
		func(g *leaseholdv1.Gateway) { g.Session = nil },
		func(g *leaseholdv1.Gateway) { g.Upstreams[0].MaxConcurrentRequests = 7 },
	} {
		p.redefine("g", change)
		eventually(t, "it is applied", func() bool { return p.acknowledged() >= p.revisionOf("g") })
		if status, got := c.call(w); status != http.StatusOK || got != fmt.Sprint(i+1) {
			t.Errorf("change %d: got %d %s, want the session to go on", i, status, got)
		}
	}
	if u.deleted != 0 || u.opened != 1 {
		t.Errorf("%d upstream sessions were opened and %d ended, want 1 and 0", u.opened, u.deleted)
	}
}

func TestCallsInFlightEndBeforeTheirUpstreamSessionAndHoldUpNoOther(t *testing.T) {
	for name, policy := range map[string]*leaseholdv1.SessionPolicy{"fails": nil, "goes on": goesOn} {
		t.Run(name, func(t *testing.T) {
			p, old, next := startPlane(t), startUpstream(t), startUpstream(t)
			p.setGateway("g", old.URL, policy)
			w := startWorker(t, p)
			const busy, idle = 300, 20 // more calls than sessions that are ended at a time
			inside, release := make(chan struct{}, busy), make(chan struct{})
			old.setHook(func(_ http.ResponseWriter, _ *http.Request, method string) bool {
				if method == "tools/call" {
					inside <- struct{}{}
					<-release
				}
				return false
			})
			var calls sync.WaitGroup
			var all []*client
			for range busy {
				c := newClient(t, "g")
				c.initialize(w)
				all = append(all, c)
				calls.Go(func() {
					if status, got := c.call(w); status != http.StatusOK {
						t.Errorf("call in flight: got %d %s, want its answer", status, got)
					}
				})
			}
			for range busy {
				<-inside
			}
			for range idle {
				newClient(t, "g").initialize(w)
			}
			p.redefine("g", reached(next.URL))
			eventually(t, "the idle sessions are ended", func() bool { return old.live() == busy })
			close(release)
			calls.Wait()
			eventually(t, "the others are too", func() bool { return old.live() == 0 })
			if policy == nil {
				return
			}
			if status, got := all[0].call(w); status != http.StatusOK || got != "1" {
				t.Errorf("call after it: got %d %s, want a new session's first count", status, got)
			}
		})
	}
}

// TestAnUpstreamThatHangsDoesNotHaveItsSessionsEndOneAfterTheOther has more sessions than would
// end in time a few at once.
func TestAnUpstreamThatHangsDoesNotHaveItsSessionsEndOneAfterTheOther(t *testing.T) {
	p, old, next := startPlane(t), startUpstream(t), startUpstream(t)
	p.setGateway("g", old.URL, nil)
	w := startWorker(t, p)
	const sessions = 200
	for range sessions {
		newClient(t, "g").initialize(w)
	}
	old.setHook(func(_ http.ResponseWriter, r *http.Request, _ string) bool {
		if r.Method == http.MethodDelete {
			<-r.Context().Done()
		}
		return r.Method == http.MethodDelete
	})
	began := time.Now()
	p.redefine("g", reached(next.URL))
	eventually(t, "all sessions are over", func() bool { return len(p.tombstones()) == sessions })
	t.Logf("%d sessions were over after %v", sessions, time.Since(began).Round(time.Millisecond))
}

func TestACallThatDoesNotEndIsCutBeforeItsUpstreamSessionEnds(t *testing.T) {
	p, old, next := startPlane(t), startUpstream(t), startUpstream(t)
	p.setGateway("g", old.URL, goesOn)
	w := startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(w)
	inside := make(chan struct{})
	old.setHook(func(_ http.ResponseWriter, r *http.Request, method string) bool {
		if method == "tools/call" {
			close(inside)
			<-r.Context().Done()
		}
		return method == "tools/call"
	})
	answered := make(chan string, 1)
	long := *c
	go func() {
		_, got := long.call(w)
		answered <- got
	}()
	<-inside
	c.ids = 10 // others than those of the call in flight
	began := time.Now()
	p.redefine("g", reached(next.URL))
	eventually(t, "it is applied", func() bool { return p.acknowledged() >= p.revisionOf("g") })
	if status, got := c.call(w); status != http.StatusOK || got != "1" {
		t.Errorf("call beside it: got %d %s, want it served by the new upstream at once", status, got)
	}
	if got := <-answered; !strings.Contains(got, "5040") {
		t.Errorf("call in flight: got %s, want its outcome to be unknown", got)
	}
	eventually(t, "the old session is ended", func() bool { return old.live() == 0 })
	t.Logf("the old session was over after %v", time.Since(began).Round(time.Millisecond))
}

func TestAClientThatListensIsToldToAskAgainWhenTheSettingsChanged(t *testing.T) {
	p, old, next := startPlane(t), startUpstream(t), startUpstream(t)
	stream := func(w http.ResponseWriter, r *http.Request, method string) bool {
		switch {
		case r.Method == http.MethodGet:
			w.Header().Set("Content-Type", "text/event-stream")
			http.NewResponseController(w).Flush()
			<-r.Context().Done()
			return true
		case method == "initialize":
			next.mu.Lock()
			defer next.mu.Unlock()
			next.opened++
			id := fmt.Sprintf("up-%d", next.opened)
			next.sessions[id] = 0
			w.Header().Set("Mcp-Session-Id", id)
			reply(w, []byte(`"leasehold"`), `{"protocolVersion":"2025-11-25","capabilities":{"tools":{"listChanged":true}},"serverInfo":{"name":"u","version":"1"}}`)
			return true
		}
		return false
	}
	old.setHook(func(w http.ResponseWriter, r *http.Request, method string) bool {
		return r.Method == http.MethodGet && stream(w, r, method)
	})
	next.setHook(stream)
	p.setGateway("g", old.URL, goesOn)
	w := startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(w)
	listen := func() io.ReadCloser {
		ctx, cancel := context.WithCancel(t.Context())
		t.Cleanup(cancel)
		r, _ := http.NewRequestWithContext(ctx, http.MethodGet, w.url+c.path, nil)
		r.Header.Set("Accept", "text/event-stream")
		r.Header.Set("Mcp-Session-Id", c.session)
		resp, err := c.http.Do(r)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("GET: %v, %v", resp, err)
		}
		return resp.Body
	}
	first := listen()
	p.redefine("g", reached(next.URL))
	if _, err := io.ReadAll(first); err != nil {
		t.Logf("the stream under the old settings ended with %v", err)
	}
	buffer := make([]byte, 4096)
	got := ""
	for second := listen(); !strings.Contains(got, "list_changed"); {
		n, err := second.Read(buffer)
		if got += string(buffer[:n]); err != nil {
			t.Fatalf("the stream ended with %v after %q, want list_changed", err, got)
		}
	}
}

func TestADeletedGatewayEndsAllOfItsSessions(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, goesOn)
	workers := []*worker{startWorker(t, p), startWorker(t, p)}
	for i := range 20 {
		newClient(t, "g").initialize(workers[i%2])
	}
	p.deleteGateway("g")
	eventually(t, "no session is left", func() bool { return u.live() == 0 && len(p.live()) == 0 })
	for _, reason := range p.tombstones() {
		if reason != leaseholdv1.EndReason_END_REASON_GATEWAY_DELETED {
			t.Errorf("reason: got %v, want GATEWAY_DELETED", reason)
		}
	}
}

func TestASessionWhoseOwnerDiedWhenItsSettingsChangedGoesOnWithNewOnes(t *testing.T) {
	p, old, next := startPlane(t), startUpstream(t), startUpstream(t)
	p.setGateway("g", old.URL, goesOn)
	owner, other := startWorker(t, p), startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(owner)
	p.change(func() { p.mute = map[string]bool{owner.id: true} })
	p.redefine("g", reached(next.URL))
	owner.stop()
	if status, got := c.call(other); status != http.StatusOK || got != "1" {
		t.Errorf("got %d %s, want a new session's first count", status, got)
	}
	if old.sessions["up-1"] != 0 {
		t.Error("the old upstream was called")
	}
}

func TestAnOwnerThatMissedAPushDoesNotUseTheOldSettingsForAFrontThatKnowsTheNew(t *testing.T) {
	p, old, next := startPlane(t), startUpstream(t), startUpstream(t)
	p.setGateway("g", old.URL, goesOn)
	owner, front := startWorker(t, p), startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(owner)
	c.call(front)
	p.change(func() { p.mute = map[string]bool{owner.id: true} })
	p.redefine("g", func(g *leaseholdv1.Gateway) { g.Description = "new" })
	eventually(t, "the front knows", func() bool { return p.acknowledged() >= p.revisionOf("g") })
	if status, got := c.call(front); status != http.StatusOK {
		t.Errorf("with the same settings: got %d %s, want it served", status, got)
	}
	p.redefine("g", reached(next.URL))
	eventually(t, "the front knows", func() bool { return p.acknowledged() >= p.revisionOf("g") })
	served := old.count()
	if status, got := c.call(front); status != http.StatusServiceUnavailable {
		t.Errorf("got %d %s, want 503", status, got)
	}
	if old.count() != served {
		t.Error("the old upstream was called")
	}
	p.change(func() { p.mute = nil })
	if status, got := c.call(front); status != http.StatusOK || got != "1" {
		t.Errorf("once the owner knows: got %d %s, want a new session's first count", status, got)
	}
}

func TestAnOwnerThatMissedAPushDoesNotUseTheOldSettingsOfOneOfSeveralUpstreams(t *testing.T) {
	s := startSeveral(t, "a", "b")
	p, next := s.p, startUpstream(t)
	next.lists = true
	owner, front := startWorker(t, p), startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(owner)
	s.count(t, c, front, 1)
	p.change(func() { p.mute = map[string]bool{owner.id: true} })
	known := func() { eventually(t, "the front knows", func() bool { return p.acknowledged() >= p.revisionOf("g") }) }
	p.redefine("g", func(g *leaseholdv1.Gateway) { g.Description = "new" })
	known()
	s.count(t, c, front, 2)
	p.redefine("g", func(g *leaseholdv1.Gateway) { g.Upstreams[1].Url = next.URL })
	known()
	served := s.of["b"].count()
	if status, got := c.tool(front, "b_n", "{}"); status != http.StatusServiceUnavailable {
		t.Errorf("got %d %s, want 503", status, got)
	}
	if s.of["b"].count() != served {
		t.Error("the old upstream was called")
	}
	p.change(func() { p.mute = nil })
	eventually(t, "the new upstream serves", func() bool {
		status, got := c.tool(front, "b_n", "{}")
		return status == http.StatusOK && got == "1"
	})
	if status, got := c.tool(front, "a_n", "{}"); status != http.StatusOK || got != "3" {
		t.Errorf("the upstream that has not changed: got %d %s, want its third count", status, got)
	}
}

// count is how many calls the sessions that live have had.
func (u *upstreamServer) count() (n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, calls := range u.sessions {
		n += calls
	}
	return n
}
