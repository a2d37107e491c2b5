package dataplane_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func TestEveryFailureOfOpeningEndsTheUpstreamSession(t *testing.T) {
	type rig struct {
		p *plane
		u *upstreamServer
		w *worker
		c *client
	}
	open := func(t *testing.T, r rig) { r.c.do(r.w, http.MethodPost, initialize) }
	for name, fail := range map[string]func(t *testing.T, r rig){
		"claim refused": func(t *testing.T, r rig) {
			r.p.change(func() { r.p.claimErr = refusal(codes.FailedPrecondition, "NOT_ALIVE") })
			open(t, r)
		},
		"initialized refused": func(t *testing.T, r rig) {
			r.u.setHook(func(w http.ResponseWriter, _ *http.Request, method string) bool {
				if method == "notifications/initialized" {
					w.WriteHeader(http.StatusBadRequest)
					return true
				}
				return false
			})
			r.c.initialize(r.w)
			r.c.do(r.w, http.MethodPost, `{"jsonrpc":"2.0","method":"notifications/initialized"}`)
		},
		"answer without a version": func(t *testing.T, r rig) {
			r.u.setHook(func(w http.ResponseWriter, _ *http.Request, method string) bool {
				if method != "initialize" {
					return false
				}
				r.u.mu.Lock()
				r.u.opened, r.u.sessions["up-1"] = 1, 0
				r.u.mu.Unlock()
				w.Header().Set("Mcp-Session-Id", "up-1")
				reply(w, []byte("0"), `{}`)
				return true
			})
			open(t, r)
		},
		"gateway deleted meanwhile": func(t *testing.T, r rig) {
			inside, deleted := make(chan struct{}), make(chan struct{})
			r.u.setHook(func(_ http.ResponseWriter, _ *http.Request, method string) bool {
				if method == "initialize" {
					close(inside)
					<-deleted
				}
				return false
			})
			go func() {
				defer close(deleted)
				<-inside
				r.p.deleteGateway("g")
				eventually(t, "the worker knows", func() bool {
					resp, _ := r.c.do(r.w, http.MethodGet, "")
					return resp.StatusCode == http.StatusNotFound
				})
			}()
			open(t, r)
		},
		"client gone": func(t *testing.T, r rig) {
			ctx, cancel := context.WithCancel(t.Context())
			hungUp := make(chan struct{})
			r.u.setHook(func(_ http.ResponseWriter, _ *http.Request, method string) bool {
				if method == "initialize" {
					cancel()
					<-hungUp
					newClient(t, "g").do(r.w, http.MethodGet, "") // the worker's turn to notice
				}
				return false
			})
			r.c.doContext(ctx, r.w, http.MethodPost, initialize)
			close(hungUp)
		},
	} {
		t.Run(name, func(t *testing.T) {
			p, u := startPlane(t), startUpstream(t)
			p.setGateway("g", u.URL, nil)
			r := rig{p, u, startWorker(t, p), newClient(t, "g")}
			fail(t, r)
			opened := func() int { u.mu.Lock(); defer u.mu.Unlock(); return u.opened }
			eventually(t, "one upstream session was opened, and none is left", func() bool { return opened() == 1 && u.live() == 0 })
			p.change(func() { p.claimErr = nil })
			eventually(t, "no live record is left", func() bool { return len(p.live()) == 0 })
		})
	}
}

func TestSessionsEndWithTheirReason(t *testing.T) {
	second := durationpb.New(time.Second)
	for name, c := range map[string]struct {
		policy *leaseholdv1.SessionPolicy
		end    func(p *plane, u *upstreamServer, c *client, w *worker)
		want   leaseholdv1.EndReason
	}{
		"idle":     {policy: &leaseholdv1.SessionPolicy{IdleTimeout: second}, want: leaseholdv1.EndReason_END_REASON_IDLE},
		"lifetime": {policy: &leaseholdv1.SessionPolicy{AbsoluteLifetime: second}, want: leaseholdv1.EndReason_END_REASON_EXPIRED},
		"client": {want: leaseholdv1.EndReason_END_REASON_CLIENT,
			end: func(_ *plane, _ *upstreamServer, c *client, w *worker) { c.do(w, http.MethodDelete, "") }},
		"gateway": {want: leaseholdv1.EndReason_END_REASON_GATEWAY_DELETED,
			end: func(p *plane, _ *upstreamServer, _ *client, _ *worker) { p.deleteGateway("g") }},
		"url": {want: leaseholdv1.EndReason_END_REASON_UPSTREAM_CHANGED,
			end: func(p *plane, u *upstreamServer, _ *client, _ *worker) { p.setGateway("g", u.URL+"/other", nil) }},
		"upstream lost it": {want: leaseholdv1.EndReason_END_REASON_UPSTREAM_LOST,
			end: func(_ *plane, u *upstreamServer, c *client, w *worker) {
				u.mu.Lock()
				clear(u.sessions)
				u.mu.Unlock()
				c.call(w)
			}},
		"operator": {want: leaseholdv1.EndReason_END_REASON_TERMINATED,
			end: func(p *plane, _ *upstreamServer, _ *client, _ *worker) { p.terminateAll() }},
	} {
		t.Run(name, func(t *testing.T) {
			p, u := startPlane(t), startUpstream(t)
			p.setGateway("g", u.URL, c.policy)
			w := startWorker(t, p)
			client := newClient(t, "g")
			client.initialize(w)
			if c.end != nil {
				c.end(p, u, client, w)
			}
			eventually(t, "the session has its tombstone", func() bool { return len(p.tombstones()) == 1 })
			if got := p.tombstones()[0]; got != c.want {
				t.Errorf("reason: got %v, want %v", got, c.want)
			}
			if u.live() != 0 {
				t.Errorf("upstream sessions: got %d, want 0", u.live())
			}
			if status, _ := client.call(w); status != http.StatusNotFound {
				t.Errorf("call after the end: got %d, want 404", status)
			}
		})
	}
}

func TestOrphanThatAnOperatorEndsIsEndedUpstream(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	owner := startWorker(t, p)
	newClient(t, "g").initialize(owner)
	startWorker(t, p)
	owner.stop()
	p.terminateAll()
	eventually(t, "the upstream session is ended", func() bool { return u.live() == 0 && len(p.live()) == 0 })
}

func TestARequestInFlightHoldsTheIdleClock(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, &leaseholdv1.SessionPolicy{IdleTimeout: durationpb.New(time.Second)})
	w := startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(w)
	u.setHook(func(_ http.ResponseWriter, r *http.Request, method string) bool {
		if method == "tools/call" {
			<-time.After(1500 * time.Millisecond) // longer than the idle timeout
		}
		return false
	})
	if status, got := c.call(w); status != 200 {
		t.Errorf("call of 1.5 s with an idle timeout of 1 s: got %d %s, want 200", status, got)
	}
	u.setHook(nil)
	eventually(t, "the session ends after it", func() bool { return u.live() == 0 })
}

func TestCallsInFlightMayEndBeforeTheirSession(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	w, other := startWorker(t, p), startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(w)
	inside, release := make(chan struct{}), make(chan struct{})
	u.setHook(func(_ http.ResponseWriter, _ *http.Request, method string) bool {
		if method == "tools/call" {
			close(inside)
			<-release
		}
		return false
	})
	long := *c
	answered := make(chan string, 1)
	go func() {
		status, got := long.call(other)
		answered <- fmt.Sprint(status, " ", got)
	}()
	<-inside
	deleted := make(chan int, 1)
	go func() {
		resp, _ := c.do(w, http.MethodDelete, "")
		deleted <- resp.StatusCode
	}()
	eventually(t, "new calls are refused", func() bool {
		resp, _ := c.do(w, http.MethodPost, `{"jsonrpc":"2.0","id":9,"method":"ping"}`)
		return resp.StatusCode == http.StatusNotFound
	})
	close(release)
	if got := <-answered; !strings.HasPrefix(got, "200 ") {
		t.Errorf("call in flight: got %q, want 200", got)
	}
	if got := <-deleted; got != http.StatusNoContent {
		t.Errorf("DELETE: got %d, want 204", got)
	}
}

func TestEventsArriveOneByOneAndOnlyAListenersDisconnectReachesTheUpstream(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	owner, other := startWorker(t, p), startWorker(t, p)
	for name, w := range map[string]*worker{"owner": owner, "forwarded": other} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			t.Run(name+" "+method, func(t *testing.T) {
				c := newClient(t, "g")
				c.initialize(owner)
				next, gone := make(chan string), make(chan struct{})
				u.setHook(func(rw http.ResponseWriter, r *http.Request, rpc string) bool {
					if r.Method != http.MethodGet && rpc != "tools/call" {
						return false
					}
					rw.Header().Set("Content-Type", "text/event-stream")
					for {
						http.NewResponseController(rw).Flush()
						select {
						case event := <-next:
							io.WriteString(rw, event)
						case <-r.Context().Done():
							close(gone)
							return true
						}
					}
				})
				defer u.setHook(nil)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				r, _ := http.NewRequestWithContext(ctx, method, w.url+c.path, strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"tools/call"}`))
				r.Header = http.Header{"Accept": {"application/json, text/event-stream"}, "Content-Type": {"application/json"}, "Mcp-Session-Id": {c.session}}
				resp, err := c.http.Do(r)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				prefix := map[string]string{http.MethodGet: "up/g/", http.MethodPost: "up/p/"}[method]
				for _, event := range []string{"id: 1\ndata:\n\n", ": comment\r\n\r\n", "retry: 5\n\n", "event: x\ndata: {\"a\":\ndata: 1}\n\n"} {
					next <- event
					want := strings.Replace(event, "id: ", "id: "+prefix, 1)
					got := make([]byte, len(want))
					if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != want {
						t.Fatalf("event: got %q %v, want %q", got, err, want)
					}
				}
				cancel()
				if method == http.MethodPost {
					next <- "data: still read\n\n"
					c.do(w, http.MethodDelete, "") // ends it
				}
				select {
				case <-gone:
				case <-time.After(15 * time.Second):
					t.Error("the upstream did not see the end within 15 s")
				}
			})
		}
	}
}

func TestASessionThatEndsWhileItsOwnerIsFencedIsEndedUpstreamAfterwards(t *testing.T) {
	t.Parallel()
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, &leaseholdv1.SessionPolicy{IdleTimeout: durationpb.New(3 * time.Second)})
	w := startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(w)
	p.change(func() { p.away = true })
	eventually(t, "the worker is fenced", func() bool {
		status, _ := c.call(w)
		return status == http.StatusServiceUnavailable
	})
	<-time.After(3 * time.Second) // the idle timeout itself
	if u.deleted != 0 {
		t.Error("a fenced worker spoke for the session")
	}
	p.change(func() { p.away = false })
	eventually(t, "it is ended upstream and recorded", func() bool { return u.live() == 0 && len(p.tombstones()) == 1 })
}

func TestAnUpstreamThatHangsDoesNotHoldUpTheEndsOfOthers(t *testing.T) {
	p, u, hanging := startPlane(t), startUpstream(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	p.setGateway("h", hanging.URL, nil)
	w := startWorker(t, p)
	for range 80 {
		newClient(t, "h").initialize(w)
	}
	newClient(t, "g").initialize(w)
	release, deletes := make(chan struct{}), make(chan struct{}, 1)
	defer close(release)
	hanging.setHook(func(_ http.ResponseWriter, r *http.Request, _ string) bool {
		if r.Method != http.MethodDelete {
			return false
		}
		select {
		case deletes <- struct{}{}:
		default:
		}
		<-release
		return false
	})
	p.deleteGateway("h")
	await(t, deletes)
	p.deleteGateway("g")
	done := time.Now().Add(deleteTimeoutOfAWorker / 2)
	eventually(t, "the other gateway's session is ended", func() bool { return u.live() == 0 })
	if time.Now().After(done) {
		t.Error("the other gateway's session waited for the upstream that hangs")
	}
}

// deleteTimeoutOfAWorker is how long a worker waits for an upstream's DELETE.
const deleteTimeoutOfAWorker = 5 * time.Second

func TestAWorkerStopsInTimeWhateverIsUnderWay(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	p.setGateway("h", u.URL+"/h", nil)
	w, other := startWorker(t, p), startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(w)
	newClient(t, "h").initialize(w)
	inside := make(chan struct{}, 8)
	release := make(chan struct{})
	defer close(release)
	u.setHook(func(rw http.ResponseWriter, r *http.Request, method string) bool {
		if r.Method == http.MethodGet {
			rw.Header().Set("Content-Type", "text/event-stream")
			http.NewResponseController(rw).Flush()
		}
		inside <- struct{}{}
		select {
		case <-release:
		case <-r.Context().Done():
		}
		return true
	})
	stream, call := *c, *c
	go stream.do(other, http.MethodGet, "")       // a stream through another worker
	go call.do(w, http.MethodPost, forwardedCall) // a call that does not end
	p.deleteGateway("h")                          // an upstream that hangs on DELETE
	for range 3 {
		await(t, inside)
	}
	p.change(func() { p.away = true }) // and a control plane that does not answer
	began := time.Now()
	w.stop()
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("took %v, want at most 5 s", took)
	}
}

func TestAnUpstreamWithoutAStreamToListenOnKeepsItsSession(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	w := startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(w)
	u.setHook(func(rw http.ResponseWriter, r *http.Request, _ string) bool {
		if r.Method == http.MethodGet {
			http.Error(rw, "Cannot GET /mcp", http.StatusNotFound)
			return true
		}
		return false
	})
	if resp, body := c.do(w, http.MethodGet, ""); resp.StatusCode != http.StatusMethodNotAllowed || resp.Header.Get("Allow") == "" {
		t.Errorf("GET: got %d %s, want 405 with Allow", resp.StatusCode, body)
	}
	if status, body := c.call(w); status != http.StatusOK {
		t.Errorf("call after it: got %d %s, want 200", status, body)
	}
}

func TestClientsMayHaveNamesInAnyScript(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	w := startWorker(t, p)
	resp, body := newClient(t, "g").do(w, http.MethodPost, strings.Replace(initialize, `"name":"t"`, `"name":"`+strings.Repeat("客", 100)+`"`, 1))
	if resp.StatusCode != http.StatusOK || !strings.HasPrefix(p.live()[0].GetClient().GetName(), "客客") {
		t.Errorf("got %d %s, want 200 and the beginning of the name in the record", resp.StatusCode, body)
	}
}
