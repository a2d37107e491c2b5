package dataplane_test

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/leasehold/leasehold/dataplane"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// setUpstream makes a gateway whose upstream's definition is changed by change.
func (p *plane) setUpstream(id, url string, change func(*leaseholdv1.Upstream)) {
	p.setGateway(id, url, nil)
	p.change(func() {
		g := p.gateways["gateways/"+id]
		g.Status.Revision = p.revision
		change(g.Upstreams[0])
	})
}

// startWorkerBehindWire starts a worker that the others reach over a wire.
func startWorkerBehindWire(t *testing.T, p *plane) (w *worker, line *wire) {
	t.Helper()
	w = startWorkerWith(t, p, func(cfg *dataplane.Config) {
		line = startWire(t, cfg.PeerListener.Addr().String())
		cfg.PeerAdvertise = line.address()
	})
	return w, line
}

func TestACallToAnOwnerThatStallsIsNotDispatchedThereAndGoesToTheNextOwner(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	owner, line := startWorkerBehindWire(t, p)
	other := startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(owner)
	if status, got := c.call(other); status != 200 || got != "1" {
		t.Fatalf("call before: got %d %s, want 200 1", status, got)
	}
	<-time.After(50 * time.Millisecond) // so that the owner was not heard of just now
	line.stall()
	resolved := p.count("Resolve")
	answered := make(chan string, 1)
	go func() {
		status, text := c.call(other)
		answered <- fmt.Sprint(status, " ", text)
	}()
	eventually(t, "the call gives the owner up and waits", func() bool { return p.count("Resolve") > resolved })
	p.kill(owner.id)
	if got := <-answered; got != "200 2" {
		t.Errorf("got %q, want \"200 2\" from the next owner", got)
	}
	line.resume() // what was held up arrives now, and has no effect
	if status, got := c.call(other); status != 200 || got != "3" {
		t.Errorf("call after: got %d %s, want 200 3", status, got)
	}
}

func TestAToolThatTheGatewayCallsRepeatableIsCalledAgainWhenItsOwnerDiesWithinIt(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setUpstream("g", u.URL, func(up *leaseholdv1.Upstream) { up.RepeatableTools = []string{"look"} })
	owner, other := startWorker(t, p), startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(owner)
	inside, release := make(chan struct{}, 4), make(chan struct{})
	u.setHook(func(_ http.ResponseWriter, _ *http.Request, method string) bool {
		if method == "tools/call" {
			inside <- struct{}{}
			<-release
		}
		return false
	})
	answers := map[string]chan string{"look": make(chan string, 1), "act": make(chan string, 1)}
	for i, tool := range []string{"look", "act"} {
		go func() {
			resp, body := c.do(other, http.MethodPost, fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":%q}}`, i, tool))
			answers[tool] <- fmt.Sprint(resp.StatusCode, " ", body)
		}()
	}
	<-inside
	<-inside
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		owner.stop() // calls in flight get 3 s, then they are cut
	}()
	if got, want := <-answers["act"], `"data":{"executed":"unknown","tool":"act","upstream":"up","epoch":1}`; !strings.HasPrefix(got, "200 ") || !strings.Contains(got, `"code":5040`) || !strings.Contains(got, want) {
		t.Errorf("a tool with effects: got %s, want 200 with code 5040 and %s", got, want)
	}
	<-inside // once more, at the other worker
	close(release)
	if got := <-answers["look"]; !strings.HasPrefix(got, "200 ") || strings.Contains(got, "5040") {
		t.Errorf("a repeatable tool: got %s, want the answer of the second attempt", got)
	}
	if len(inside) != 0 {
		t.Errorf("%d calls more than expected", len(inside))
	}
	<-stopped
}

func TestASecondRequestWithTheIDOfOneInFlightIsRefusedAtEveryWorker(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	owner, other := startWorker(t, p), startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(owner)
	inside, release := make(chan struct{}, 4), make(chan struct{})
	u.setHook(func(_ http.ResponseWriter, r *http.Request, method string) bool {
		if method == "tools/call" {
			inside <- struct{}{}
			<-release
		}
		return false
	})
	const call = `{"jsonrpc":"2.0","id":"same","method":"tools/call","params":{"name":"n"}}`
	first := make(chan string, 1)
	go func() {
		_, body := c.do(other, http.MethodPost, call)
		first <- body
	}()
	<-inside
	for name, w := range map[string]*worker{"owner": owner, "forwarded": other} {
		resp, body := c.do(w, http.MethodPost, call)
		if resp.StatusCode != http.StatusBadRequest || !strings.Contains(body, `"code":-32600`) || !strings.Contains(body, `"id":"same"`) {
			t.Errorf("%s: got %d %s, want 400 with code -32600 and the id", name, resp.StatusCode, body)
		}
	}
	close(release)
	if body := <-first; !strings.Contains(body, `"text":"1"`) {
		t.Errorf("the first call: got %s, want its result", body)
	}
	if len(inside) != 0 {
		t.Errorf("the upstream saw %d calls more than one", len(inside))
	}
	if _, body := c.do(owner, http.MethodPost, call); !strings.Contains(body, `"text":"2"`) {
		t.Errorf("the same id once it is free: got %s, want a result", body)
	}
}

func TestAFencedOwnerCutsItsCallsWithoutEndingTheirSession(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	owner, other := startWorker(t, p), startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(owner)
	inside, release := make(chan struct{}, 4), make(chan struct{})
	gone := make(chan struct{}, 4)
	u.setHook(func(_ http.ResponseWriter, r *http.Request, method string) bool {
		if method != "tools/call" {
			return false
		}
		inside <- struct{}{}
		select {
		case <-release:
		case <-r.Context().Done():
			gone <- struct{}{}
			return true
		}
		return false
	})
	var group sync.WaitGroup
	for i, w := range []*worker{owner, other} {
		group.Go(func() {
			resp, body := c.do(w, http.MethodPost, fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"n"}}`, i))
			if resp == nil || resp.StatusCode != http.StatusOK || !strings.Contains(body, `"code":5040`) {
				t.Errorf("call %d in flight at the fence: got %v %s, want 200 with code 5040", i, resp, body)
			}
		})
	}
	await(t, inside)
	await(t, inside)
	p.change(func() { p.away = true })
	group.Wait()
	await(t, gone) // the sockets are closed
	await(t, gone)
	p.change(func() { p.away = false })
	close(release)
	eventually(t, "the owner serves again", func() bool {
		status, _ := c.call(owner)
		return status == http.StatusOK
	})
	if live := p.live(); u.opened != 1 || u.deleted != 0 || len(live) != 1 || live[0].GetEpoch() != 1 {
		t.Errorf("after the fence: %d upstream sessions opened, %d deleted, records %v; want 1, 0 and epoch 1", u.opened, u.deleted, live)
	}
}

func TestOrphansComeBackToAnUpstreamAtItsRate(t *testing.T) {
	const sessions, rate = 8, 8
	p, u := startPlane(t), startUpstream(t)
	p.setUpstream("g", u.URL, func(up *leaseholdv1.Upstream) { up.ReconnectsPerSecond = rate })
	owner, other := startWorker(t, p), startWorker(t, p)
	clients := make([]*client, sessions)
	for i := range clients {
		clients[i] = newClient(t, "g")
		clients[i].initialize(owner)
	}
	owner.stop()
	var mu sync.Mutex
	var times []time.Time
	u.setHook(func(http.ResponseWriter, *http.Request, string) bool {
		mu.Lock()
		defer mu.Unlock()
		times = append(times, time.Now())
		return false
	})
	var group sync.WaitGroup
	began := time.Now()
	for _, c := range clients {
		group.Go(func() {
			if status, got := c.call(other); status != 200 || got != "1" {
				t.Errorf("call: got %d %s, want 200 1", status, got)
			}
		})
	}
	group.Wait()
	slices.SortFunc(times, time.Time.Compare)
	if took, least := times[len(times)-1].Sub(began), (sessions-1)*time.Second/rate; took < least {
		t.Errorf("%d sessions came back within %v, want at least %v", sessions, took, least)
	}
}

func TestAPinnedSessionEndsWithItsOwnerAndSaysWhy(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	owner, other := startWorker(t, p), startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(owner)
	p.change(func() {
		for _, s := range p.records {
			s.record.Class = leaseholdv1.Class_CLASS_PINNED
		}
	})
	owner.stop()
	if status, body := c.call(other); status != http.StatusNotFound {
		t.Errorf("got %d %s, want 404", status, body)
	}
	eventually(t, "the end is recorded", func() bool {
		return slices.Equal(p.tombstones(), []leaseholdv1.EndReason{leaseholdv1.EndReason_END_REASON_OWNER_LOST})
	})
}

func TestAForwardedStreamThatBreaksOffSaysThatItsOutcomeIsUnknown(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	owner, line := startWorkerBehindWire(t, p)
	other := startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(owner)
	const progress = `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1,"result":2}}`
	for name, tc := range map[string]struct {
		events  []string
		unknown bool
	}{
		"nothing yet":         {nil, true},
		"progress":            {[]string{"data: " + progress + "\n\n"}, true},
		"the answer":          {[]string{"data: " + progress + "\n\n", `data: {"jsonrpc":"2.0","id":1,"result":{}}` + "\n\n"}, false},
		"events to ask for":   {[]string{"id: 7\ndata: " + progress + "\n\n"}, false},
		"an event in one CR":  {[]string{"data: " + progress + "\r\r"}, true},
		"the beginning of it": {[]string{"data: " + progress + "\n\n", "data: {"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			sent, release := make(chan struct{}), make(chan struct{})
			u.setHook(func(w http.ResponseWriter, _ *http.Request, method string) bool {
				if method != "tools/call" {
					return false
				}
				w.Header().Set("Content-Type", "text/event-stream")
				w.WriteHeader(http.StatusOK)
				for _, event := range tc.events {
					fmt.Fprint(w, event)
				}
				w.(http.Flusher).Flush()
				close(sent)
				<-release
				return true
			})
			defer close(release)
			c.ids++ // the call before may still be on its way at the owner
			id := fmt.Sprintf(`"id":%d`, c.ids)
			r, _ := http.NewRequest(http.MethodPost, other.url+c.path, strings.NewReader(strings.Replace(forwardedCall, `"id":1`, id, 1)))
			r.Header = http.Header{"Accept": {"application/json, text/event-stream"}, "Content-Type": {"application/json"}, "Mcp-Session-Id": {c.session}}
			resp, err := c.http.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			<-sent
			got := make([]byte, len(strings.TrimSuffix(strings.Join(tc.events, ""), "data: {"))) // what is whole is passed on
			if _, err := io.ReadFull(resp.Body, got); err != nil {
				t.Fatal(err)
			}
			line.cut()
			rest, _ := io.ReadAll(resp.Body)
			if unknown := strings.Contains(string(rest), `"code":5040`) && strings.Contains(string(rest), id); unknown != tc.unknown {
				t.Errorf("after %q came %q; want an event with code 5040: %v", got, rest, tc.unknown)
			}
		})
	}
}
