package dataplane_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// forget makes the upstream lose all of its sessions.
func (u *upstreamServer) forget() {
	u.mu.Lock()
	defer u.mu.Unlock()
	clear(u.sessions)
	u.told = nil
}

// reinitialize is the policy of going on after the upstream lost a session.
var reinitialize = &leaseholdv1.SessionPolicy{OnUpstreamLost: leaseholdv1.OnUpstreamLost_ON_UPSTREAM_LOST_REINITIALIZE}

func TestASessionGoesOnWithANewUpstreamSessionIfTheGatewaySaysSo(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, reinitialize)
	owner, other := startWorker(t, p), startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(owner)
	c.call(other)
	var said, initialized sync.Map
	u.setHook(func(w http.ResponseWriter, r *http.Request, method string) bool {
		switch method {
		case "initialize":
			body, _ := io.ReadAll(r.Body)
			said.Store(string(body), true)
			u.setHook(nil)
			w.Header().Set("Mcp-Session-Id", "renewed")
			u.mu.Lock()
			u.opened++
			u.sessions["renewed"] = 0
			u.mu.Unlock()
			reply(w, []byte(`"leasehold"`), `{"protocolVersion":"2025-11-25","capabilities":{"tools":{},"prompts":{}},"serverInfo":{"name":"u","version":"1"}}`)
			return true
		case "notifications/initialized":
			initialized.Store(true, true)
		}
		return false
	})
	u.forget()
	if status, body := c.call(other); status != http.StatusOK || !strings.Contains(body, `"code":5021`) || !strings.Contains(body, `"executed":"no"`) {
		t.Errorf("the call that found the session lost: got %d %s, want 200 with code 5021", status, body)
	}
	want := `"params":{"protocolVersion":"2025-11-25","capabilities":{"roots":{}},"clientInfo":{"name":"t","version":"1"}}}`
	said.Range(func(body, _ any) bool {
		if !strings.HasSuffix(body.(string), want) {
			t.Errorf("the new session was opened with %s, want %s", body, want)
		}
		return true
	})
	for n := 1; n <= 3; n++ {
		if status, got := c.call([]*worker{owner, other}[n%2]); status != http.StatusOK || got != fmt.Sprint(n) {
			t.Errorf("call %d afterwards: got %d %s, want the new session's count", n, status, got)
		}
	}
	s := u.speak()
	listening := c.listen(owner, "", "")
	<-s.opened
	for _, want := range []string{`{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}`, `{"jsonrpc":"2.0","method":"notifications/prompts/list_changed"}`} {
		if got := listening.data(); got != want {
			t.Errorf("the client was told %s, want %s", got, want)
		}
	}
	u.setHook(nil)
	owner.stop() // the record names the new session
	if status, got := c.call(other); status != http.StatusOK || got != "4" {
		t.Errorf("call at the next owner: got %d %s, want 200 4", status, got)
	}
	if resp, _ := c.do(other, http.MethodDelete, ""); resp.StatusCode != http.StatusNoContent || u.live() != 0 {
		t.Errorf("DELETE: got %d, and the upstream has %d sessions, want none", resp.StatusCode, u.live())
	}
}

func TestRequestsThatFindASessionLostShareOneNewOne(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, reinitialize)
	owner, other := startWorker(t, p), startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(owner)
	c.call(owner)
	opened := u.opened
	u.forget()
	var group sync.WaitGroup
	for n := range 16 {
		group.Go(func() {
			w := []*worker{owner, other}[n%2]
			resp, body := c.do(w, http.MethodPost, fmt.Sprintf(`{"jsonrpc":"2.0","id":"l%d","method":"tools/list"}`, n))
			if resp == nil || resp.StatusCode != http.StatusOK || !strings.Contains(body, "result") {
				t.Errorf("a list at the moment of the loss: got %v %s, want its result from the new session", resp, body)
			}
		})
	}
	group.Wait()
	if got := u.opened - opened; got != 1 {
		t.Errorf("%d new upstream sessions were opened, want 1", got)
	}
	if u.live() != 1 {
		t.Errorf("the upstream has %d sessions, want 1", u.live())
	}
}

func TestASessionThatCannotBeRenewedEnds(t *testing.T) {
	for name, prepare := range map[string]func(p *plane, u *upstreamServer){
		"the upstream speaks another version": func(_ *plane, u *upstreamServer) {
			u.setHook(func(w http.ResponseWriter, r *http.Request, method string) bool {
				if method != "initialize" {
					return false
				}
				w.Header().Set("Mcp-Session-Id", "older")
				u.mu.Lock()
				u.sessions["older"] = 0
				u.mu.Unlock()
				reply(w, []byte(`"leasehold"`), `{"protocolVersion":"2025-03-26","capabilities":{},"serverInfo":{"name":"u","version":"1"}}`)
				return true
			})
		},
		"the upstream refuses": func(_ *plane, u *upstreamServer) {
			u.setHook(func(w http.ResponseWriter, r *http.Request, method string) bool {
				if method == "initialize" {
					w.WriteHeader(http.StatusServiceUnavailable)
				}
				return method == "initialize"
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			p, u := startPlane(t), startUpstream(t)
			p.setGateway("g", u.URL, reinitialize)
			w := startWorker(t, p)
			c := newClient(t, "g")
			c.initialize(w)
			c.call(w)
			u.forget()
			prepare(p, u)
			if status, body := c.call(w); status != http.StatusNotFound {
				t.Errorf("got %d %s, want 404", status, body)
			}
			eventually(t, "the end is recorded", func() bool { return len(p.tombstones()) == 1 })
			if u.live() != 0 {
				t.Errorf("the upstream has %d sessions, want none", u.live())
			}
		})
	}
}

func TestARenewedSessionThatIsNoLongerThisWorkersIsEndedUpstream(t *testing.T) {
	t.Parallel()
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, reinitialize)
	w := startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(w)
	c.call(w)
	u.forget()
	p.change(func() { p.saveErr = refusal(codes.Aborted, "STALE") })
	if status, body := c.call(w); status == http.StatusOK {
		t.Errorf("got %d %s, want a refusal", status, body)
	}
	if u.live() != 0 {
		t.Errorf("the upstream has %d sessions, want none", u.live())
	}
}

func TestAnUpstreamThatIsSilentForTooLongEndsTheCall(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setUpstream("g", u.URL, func(up *leaseholdv1.Upstream) { up.ResponseTimeout = durationpb.New(time.Second) })
	owner, other := startWorker(t, p), startWorker(t, p)
	const progress = "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{\"progressToken\":1,\"progress\":1}}\n\n"
	for name, tc := range map[string]struct {
		w      *worker
		events int // one each 400 ms before the silence; -1: not even a head
	}{"no head": {owner, -1}, "a head": {other, 0}, "five events": {owner, 5}} {
		t.Run(name, func(t *testing.T) {
			c := newClient(t, "g")
			c.initialize(owner)
			cancelled := make(chan string, 1)
			u.setHook(func(w http.ResponseWriter, r *http.Request, method string) bool {
				switch method {
				case "notifications/cancelled":
					body, _ := io.ReadAll(r.Body)
					cancelled <- string(body)
					return false
				case "tools/call":
				default:
					return false
				}
				if tc.events >= 0 {
					w.Header().Set("Content-Type", "text/event-stream")
					w.(http.Flusher).Flush()
				}
				for range tc.events {
					<-time.After(400 * time.Millisecond)
					io.WriteString(w, progress)
					w.(http.Flusher).Flush()
				}
				<-r.Context().Done()
				return true
			})
			defer u.setHook(nil)
			began := time.Now()
			resp, body := c.do(tc.w, http.MethodPost, slowCall)
			if resp == nil || resp.StatusCode != http.StatusOK || !strings.Contains(body, `"code":5040`) || !strings.Contains(body, "silent for 1s") {
				t.Errorf("got %v %s, want the error 5040 that names the silence", resp, body)
			}
			if got := strings.Count(body, "progressToken"); got != max(tc.events, 0) {
				t.Errorf("%d events came before the error, want %d", got, tc.events)
			}
			if least := time.Second + time.Duration(max(tc.events, 0))*400*time.Millisecond; time.Since(began) < least {
				t.Errorf("the call ended after %v, want at least %v: events begin the time anew", time.Since(began), least)
			}
			select {
			case got := <-cancelled:
				if !strings.Contains(got, `"requestId":"slow"`) {
					t.Errorf("the upstream was told %s, want the cancellation of the call", got)
				}
			case <-time.After(10 * time.Second):
				t.Error("the upstream was not told within 10 s")
			}
		})
	}
}

// list asks for the upstream's tools, which is safe to ask twice.
func (c *client) list(w *worker) (int, string) {
	c.tb.Helper()
	c.ids++
	resp, body := c.do(w, http.MethodPost, fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"tools/list"}`, c.ids))
	return resp.StatusCode, body
}
