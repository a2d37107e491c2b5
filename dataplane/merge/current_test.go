package merge

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/session"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// reachedAt notes by which host each message reaches a server.
func (s *server) reachedAt() func() []string {
	var mu sync.Mutex
	var at []string
	s.set(func() {
		s.on = func(_ context.Context, d *session.Dispatch, m *mcp.Message) (*http.Response, error) {
			mu.Lock()
			defer mu.Unlock()
			at = append(at, m.Method+" at "+d.Upstream.URL.Host)
			return nil, nil
		}
	})
	return func() (all []string) {
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		all, at = at, nil
		return all
	}
}

// TestNoPartIsCalledBySettingsThatAreKnownToBeOld changes the definition at the last
// moment: when the gate is asked whether a message may go out, after it was decided where
// to.
func TestNoPartIsCalledBySettingsThatAreKnownToBeOld(t *testing.T) {
	for name, request := range map[string]string{
		"call":         `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"a_x"}}`,
		"notification": `{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}`,
		"level":        `{"jsonrpc":"2.0","id":7,"method":"logging/setLevel","params":{"level":"info"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			virtually(t, func(t *testing.T) {
				a, b := newServer("a", "x"), newServer("b", "y")
				r := newRig(t, a, b)
				c := r.open()
				c.call("a_x")
				reached := a.reachedAt()
				c.gate.whenAsked(func() {
					r.define(func(*leaseholdv1.Gateway) { r.upstream("a").Url = "http://elsewhere" })
				})
				got := c.post(request)
				for _, at := range reached() {
					if !strings.HasSuffix(at, " at elsewhere") {
						t.Errorf("after the change: %s", at)
					}
				}
				if name == "call" {
					wantText(t, "the call", got, `"text":"a x"`)
				}
				if live := a.live(); live != 1 {
					t.Errorf("%d sessions are left, want 1: the new one", live)
				}
			})
		})
	}
}

// whenAsked has something done when the gate is asked next, before it answers.
func (s *switchable) whenAsked(asked func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = asked
}

func TestACallForAPartThatIsRemovedAtTheLastMomentIsNotSent(t *testing.T) {
	virtually(t, func(t *testing.T) {
		a, b, d := newServer("a", "x"), newServer("b", "y"), newServer("d", "z")
		r := newRig(t, a, b, d)
		c := r.open()
		c.call("a_x")
		reached := a.reachedAt()
		c.gate.whenAsked(func() { r.define(func(g *leaseholdv1.Gateway) { g.Upstreams = g.Upstreams[1:] }) })
		wantText(t, "the call", c.call("a_x"), `"executed":"no"`, `"upstream":"a"`)
		if got := reached(); len(got) > 0 {
			t.Errorf("a was sent %v", got)
		}
	})
}

func TestInitializeThatMeetsAChangeIsAnsweredByTheNewDefinition(t *testing.T) {
	virtually(t, func(t *testing.T) {
		a, b := newServer("a", "x"), newServer("b", "y")
		r := newRig(t, a, b)
		old := errors.New("not there any more")
		a.dead, b.dead = old, old
		c := &client{rig: r, gate: &switchable{}}
		c.gate.whenAsked(func() {
			a.set(func() { a.dead = nil })
			b.set(func() { b.dead = nil })
			r.define(func(*leaseholdv1.Gateway) { r.upstream("a").Url, r.upstream("b").Url = "http://c", "http://d" })
		})
		answer, err := r.up.Do(t.Context(), c.dispatch(http.MethodPost, initializeBody))
		if err != nil || answer.StatusCode != http.StatusOK {
			t.Fatalf("got %v, %v", answer, err)
		}
		if c.id = answer.Header.Get(mcp.HeaderSessionID); c.id == "" {
			t.Fatalf("got %s", body(t, answer))
		}
		c.post(`{"jsonrpc":"2.0","method":"notifications/initialized"}`)
		wantText(t, "a call", c.call("a_x"), `"text":"a x"`)
	})
}
