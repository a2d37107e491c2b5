package merge

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/leasehold/leasehold/dataplane/catalogue"
	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/session"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// resourceful is a server with one resource.
func resourceful(name string) *server {
	s := newServer(name, "x")
	s.items[catalogue.Resources] = []string{fmt.Sprintf(`{"uri":"file:///%s","name":"r"}`, name)}
	return s
}

// changes returns how often the session's record was to be saved.
func (r *rig) changes() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.changed)
}

func TestPartsThatAreOpenedAnewElsewhereAreToldOfTheClientsWishes(t *testing.T) {
	virtually(t, func(t *testing.T) {
		resumed, rebuilt, pinned, idle := resourceful("resumed"), resourceful("rebuilt"), resourceful("pinned"), resourceful("idle")
		rebuilt.sessionless, idle.sessionless = true, true
		r := newRig(t, resumed, rebuilt, pinned, idle)
		c := r.open()
		c.names(catalogue.Resources)
		synctest.Wait()
		before := r.changes()
		c.ask(mcp.MethodSetLevel, `{"level":"error"}`)
		for _, name := range []string{"resumed", "rebuilt", "pinned"} {
			wantText(t, "subscribe", c.ask(mcp.MethodResourcesSubscribe, fmt.Sprintf(`{"uri":"file:///%s"}`, name)), `"result"`)
		}
		if n := r.changes() - before; n != 4 {
			t.Errorf("the record was to be saved %d times, want 4", n)
		}
		c.ask(mcp.MethodSetLevel, `{"level":"error"}`)
		c.ask(mcp.MethodResourcesSubscribe, `{"uri":"file:///pinned"}`)
		if n := r.changes() - before; n != 4 {
			t.Errorf("the record was to be saved for what has not changed")
		}
		wishes, parts := r.up.Wishes(c.id), r.up.Parts(c.id)
		want := []session.Subscription{{Upstream: "pinned", URI: "file:///pinned"}, {Upstream: "rebuilt", URI: "file:///rebuilt"}, {Upstream: "resumed", URI: "file:///resumed"}}
		if string(wishes.LogLevel) != `"error"` || !slices.Equal(wishes.Subscriptions, want) {
			t.Fatalf("wishes: got %s %v", wishes.LogLevel, wishes.Subscriptions)
		}
		parts[2].Class = leaseholdv1.Class_CLASS_PINNED
		r.up.Drop(r.virtual(), c.id)
		all := map[*server]int{resumed: 0, rebuilt: 1, pinned: 1, idle: 0}
		for s := range all {
			s.set(func() { s.ledger = nil })
		}

		next := &client{rig: r, gate: &switchable{}}
		client, err := clientOf([]byte(`{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}`))
		if err != nil {
			t.Fatal(err)
		}
		wishes.Subscriptions = append(wishes.Subscriptions, session.Subscription{Upstream: "removed", URI: "file:///x"})
		next.id = r.up.Attach(r.virtual(), client, wishes, parts)
		next.call("resumed_x")
		synctest.Wait()
		for s, told := range all {
			if got := s.heard("logging/setLevel"); got != told {
				t.Errorf("%s: told of the level %d times, want %d", s.name, got, told)
			}
			if got := s.heard("resources/subscribe file:///" + s.name); got != told {
				t.Errorf("%s: subscribed %d times, want %d", s.name, got, told)
			}
		}
		next.call("idle_x")
		if idle.heard("logging/setLevel") != 1 {
			t.Error("a part that was opened when it was used was not told of the level")
		}
		if got := r.up.Wishes(next.id); string(got.LogLevel) != `"error"` || !slices.Equal(got.Subscriptions, want) {
			t.Errorf("wishes afterwards: got %s %v, want %v", got.LogLevel, got.Subscriptions, want)
		}
		next.ask(mcp.MethodResourcesUnsubscribe, `{"uri":"file:///pinned"}`)
		if got := r.up.Wishes(next.id); len(got.Subscriptions) != 2 {
			t.Errorf("after one was given up: got %v", got.Subscriptions)
		}
	})
}

func TestSubscriptionsAreBoundedInBytes(t *testing.T) {
	virtually(t, func(t *testing.T) {
		a, b := newServer("a", "x"), newServer("b", "y")
		long := strings.Repeat("u", 8000)
		for i := range 10 {
			a.items[catalogue.Resources] = append(a.items[catalogue.Resources], fmt.Sprintf(`{"uri":"file:///%d%s","name":"r"}`, i, long))
		}
		c := newRig(t, a, b).open()
		for i := range 9 {
			want := `"result"`
			if i == 8 {
				want = `"code":5030`
			}
			wantText(t, fmt.Sprintf("subscription %d", i), c.ask(mcp.MethodResourcesSubscribe, fmt.Sprintf(`{"uri":"file:///%d%s"}`, i, long)), want)
		}
	})
}
