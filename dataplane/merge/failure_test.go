package merge

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/leasehold/leasehold/dataplane/catalogue"
	"github.com/leasehold/leasehold/dataplane/credential"
	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/session"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func TestAPartThatLostItsSessionIsOpenedAnewAndTheCallRepeatedIfItMayBe(t *testing.T) {
	virtually(t, func(t *testing.T) {
		a, b := newServer("a", "x"), newServer("b", "safe", "unsafe")
		r := newRig(t, a, b)
		r.define(func(*leaseholdv1.Gateway) { r.upstream("b").RepeatableTools = []string{"safe"} })
		c := r.open()
		s := c.listen("")
		c.names(catalogue.Tools)
		b.forgetSessions()
		wantText(t, "one that may be repeated", c.call("b_safe"), `"text":"b safe"`)
		b.forgetSessions()
		wantText(t, "one that may not", c.call("b_unsafe"), `"error":{"code":5021`, `"data":{"executed":"no","upstream":"b"}`)
		if b.heard("tools/call unsafe") != 0 {
			t.Error("it was carried out")
		}
		time.Sleep(time.Second)
		wantText(t, "the next one", c.call("b_unsafe"), `"text":"b unsafe"`)
		wantText(t, "the other part", c.call("a_x"), `"text":"a x"`)
		if a.opens() != 1 || b.opens() != 3 || b.live() != 1 {
			t.Errorf("opened at a %d, at b %d, of which %d are left; want 1, 3 and 1", a.opens(), b.opens(), b.live())
		}
		if got := s.messages(); len(got) != 0 {
			// Its tools are what they were: there is nothing to tell of them.
			for _, message := range got {
				if message == changedTools {
					t.Errorf("told %q though the tools are the same", got)
				}
			}
		}
	})
}

func TestAPartThatFailsIsTriedForOneSessionOfTheWorkerAtATime(t *testing.T) {
	virtually(t, func(t *testing.T) {
		a, b := newServer("a", "x"), newServer("b", "y")
		b.dead = errDown
		r := newRig(t, a, b)
		var clients []*client
		for range 50 {
			clients = append(clients, r.open())
		}
		b.set(func() {
			b.dead = nil
			b.version = "2099-01-01" // it answers, but is of no use
			b.ledger, b.most = nil, 0
		})
		time.Sleep(time.Minute)
		if n := b.heard("initialize"); n == 0 || n > 8 || b.most > 1 {
			t.Errorf("50 sessions made %d tries in a minute, %d at the same time; want a few, one by one", n, b.most)
		}
		b.set(func() { b.version, b.ledger = "", nil })
		time.Sleep(tryAgainMost + 5*time.Second)
		if b.heard("initialize") != 50 || b.most > together {
			t.Errorf("then %d were opened, %d at the same time; want 50 and at most %d", b.heard("initialize"), b.most, together)
		}
		for _, c := range clients {
			wantText(t, "call", c.call("b_y"), `"text":"b y"`)
		}
		synctest.Wait()
		if r.up.reopening[placeOf(r.world.Load().Gateways["g"].Real()[1])] != nil {
			t.Error("there is something left to do")
		}
	})
}

func TestNothingIsSentForASessionWhoseOwnerMayNotAct(t *testing.T) {
	virtually(t, func(t *testing.T) {
		a, b := newServer("a", "x"), newServer("b", "y")
		c := newRig(t, a, b).open()
		c.listen("")
		c.names(catalogue.Tools)
		c.gate.set(session.ErrFenced)
		before := len(a.ledger)
		if _, err := c.do(t.Context(), http.MethodPost, `{"jsonrpc":"2.0","id":9,"method":"tools/call","params":{"name":"a_x"}}`); !errors.Is(err, session.ErrFenced) || !errors.Is(err, session.ErrNotSent) {
			t.Errorf("a call: got %v, want that it was not sent since the owner is fenced", err)
		}
		c.up.lost(c, "b")
		a.say(changedTools) // which would have the list fetched
		a.forgetSessions()  // and its stream opened again
		time.Sleep(time.Minute)
		if got := a.ledger[before:]; len(got) != 0 {
			t.Errorf("sent: %q", got)
		}
		c.gate.set(nil)
		wantText(t, "once it may, what was to be opened meanwhile", c.call("b_y"), `"text":"b y"`)
	})
}

func TestDeleteEndsAllPartsAtTheSameTimeAndInTime(t *testing.T) {
	virtually(t, func(t *testing.T) {
		a, b, stuck := newServer("a", "x"), newServer("b", "y"), newServer("stuck", "z")
		r := newRig(t, a, b, stuck)
		c := r.open()
		c.listen("")
		stuck.set(func() { stuck.stalls = true })
		began := time.Now()
		answer, err := c.do(t.Context(), http.MethodDelete, "")
		if err != nil || answer.StatusCode != http.StatusNoContent {
			t.Fatalf("got %v %v, want 204", answer, err)
		}
		if took := time.Since(began); took > endTime {
			t.Errorf("it took %v, want at most %v", took, endTime)
		}
		if a.live()+b.live() != 0 || r.up.Len() != 0 {
			t.Errorf("left: %d at a, %d at b, %d sessions", a.live(), b.live(), r.up.Len())
		}
		if got := c.call("a_x"); !strings.Contains(got, `"code":-32001`) {
			t.Errorf("a call afterwards: got %s, want that there is no session", got)
		}
	})
}

func TestDropSendsNothingAndEndsWhatNobodyElseCanHave(t *testing.T) {
	virtually(t, func(t *testing.T) {
		a, b := newServer("a", "x"), newServer("b", "y")
		r := newRig(t, a, b)
		c := r.open()
		c.listen("")
		r.up.Drop(r.virtual(), c.id)
		synctest.Wait()
		wantSlice(t, "dropped", r.dropped, []string{"a a-1", "b b-1"})
		if a.heard("DELETE")+b.heard("DELETE") != 0 || r.up.Len() != 0 {
			t.Error("a session was ended that somebody else may have")
		}
	})
}

func TestAConfigChangeTouchesTheUpstreamsThatItConcerns(t *testing.T) {
	virtually(t, func(t *testing.T) {
		a, b, added := newServer("a", "x"), newServer("b", "y"), newServer("added", "z")
		r := newRig(t, a, b)
		r.servers["added"] = added
		c := r.open()
		s := c.listen("")
		c.names(catalogue.Tools)
		sb := newStreamed()
		b.on = sb.on
		call := c.calling("77", "b_y")
		r.define(func(g *leaseholdv1.Gateway) {
			r.upstream("b").Url = "http://elsewhere"
			g.Upstreams = append(g.Upstreams, &leaseholdv1.Upstream{Name: "added", Url: "http://added"})
		})
		time.Sleep(time.Second)
		if b.opens() != 2 || b.heard("DELETE") != 0 {
			t.Errorf("b: opened %d, ended %d; want a new session, and the old one until its call is over", b.opens(), b.heard("DELETE"))
		}
		sb.say(`data: {"jsonrpc":"2.0","id":77,"result":{}}` + "\n\n")
		sb.out.end(nil)
		wantSlice(t, "the call's answer", call.messages(), []string{`{"jsonrpc":"2.0","id":77,"result":{}}`})
		call.answer.Body.Close()
		synctest.Wait()
		if b.heard("DELETE") != 1 || b.live() != 1 {
			t.Errorf("b: ended %d, left %d; want 1 and 1", b.heard("DELETE"), b.live())
		}
		wantSlice(t, "told", toolChanges(s.messages()), []string{changedTools})
		wantSlice(t, "tools", c.names(catalogue.Tools), []string{"a_x", "b_y", "added_z"})
		if a.opens() != 1 || a.heard("GET") != 1 {
			t.Errorf("a: opened %d, listened to %d times; want it untouched", a.opens(), a.heard("GET"))
		}
		r.define(func(g *leaseholdv1.Gateway) {
			g.Upstreams = g.Upstreams[1:]
			r.upstream("b").Tools = &leaseholdv1.ItemSelection{Exclude: []string{"*"}}
		})
		time.Sleep(time.Second)
		if a.live() != 0 {
			t.Error("a has a session still")
		}
		wantSlice(t, "told", toolChanges(s.messages()), []string{changedTools})
		wantSlice(t, "tools", c.names(catalogue.Tools), []string{"added_z"})
	})
}

func TestACallOfAPartThatIsRemovedIsCutInTime(t *testing.T) {
	virtually(t, func(t *testing.T) {
		a, b, c := newServer("a", "x"), newServer("b", "y"), newServer("c", "z")
		r := newRig(t, a, b, c)
		one := r.open()
		one.names(catalogue.Tools)
		b.on = func(ctx context.Context, _ *session.Dispatch, m *mcp.Message) (*http.Response, error) {
			if m.Method != "tools/call" {
				return nil, nil
			}
			<-ctx.Done()
			return nil, context.Cause(ctx)
		}
		began := time.Now()
		done := make(chan string)
		go func() { done <- one.call("b_y") }()
		synctest.Wait()
		r.define(func(g *leaseholdv1.Gateway) { g.Upstreams = slices.Delete(g.Upstreams, 1, 2) })
		wantText(t, "the call", <-done, `"code":5040`, `"upstream":"b"`)
		if took := time.Since(began); took != callGrace || b.live() != 0 {
			t.Errorf("it ended after %v with %d sessions left, want after %v with none", took, b.live(), callGrace)
		}
	})
}

// toolChanges leaves what is about tools.
func toolChanges(messages []string) (changes []string) {
	for _, m := range messages {
		if m == changedTools {
			changes = append(changes, m)
		}
	}
	return changes
}

func TestASessionGoesOnFromItsParts(t *testing.T) {
	virtually(t, func(t *testing.T) {
		a, rebuilt, pinned, late := newServer("a", "x"), newServer("rebuilt", "y"), newServer("pinned", "p"), newServer("late", "z")
		rebuilt.sessionless, late.dead = true, errDown
		a.numbered = true
		r := newRig(t, a, rebuilt, pinned, late)
		c := r.open()
		s := c.listen("")
		a.say(`{"jsonrpc":"2.0","method":"notifications/message","params":{}}`)
		events := s.take()
		parts := r.up.Parts(c.id)
		parts[0].Cursor = r.up.Cursors(c.id, events[len(events)-1].id)["a"]
		if got := r.up.Cursors(c.id, "=a:other:YS0x"); len(got) != 0 {
			t.Errorf("an event of another upstream session: goes on after %v", got)
		}
		if len(parts) != 3 || parts[0].ID != "a-1" || parts[0].Version != "2025-11-25" || parts[0].Cursor != "a-1" || parts[0].Class != leaseholdv1.Class_CLASS_RESUMABLE ||
			parts[1].ID != "" || parts[1].Class != leaseholdv1.Class_CLASS_REBUILDABLE {
			t.Fatalf("parts: got %+v", parts)
		}
		late.set(func() { late.dead = nil })
		time.Sleep(10 * time.Second)
		if got := r.up.Parts(c.id); len(got) != 4 || len(r.changed) == 0 {
			t.Errorf("after a part has joined: %d parts, told %d times; want 4 and at least once", len(got), len(r.changed))
		}

		parts[2].Class = leaseholdv1.Class_CLASS_PINNED // as of a program that was elsewhere
		r.up.Drop(r.virtual(), c.id)
		synctest.Wait()
		opened := map[*server]int{a: a.opens(), rebuilt: rebuilt.opens(), pinned: pinned.opens(), late: late.opens()}
		next := &client{rig: r, gate: &switchable{}}
		client, err := clientOf([]byte(`{"protocolVersion":"2025-11-25","capabilities":{"roots":{}},"clientInfo":{"name":"t","version":"1"}}`))
		if err != nil {
			t.Fatal(err)
		}
		next.id = r.up.Attach(r.virtual(), client, session.Wishes{}, parts)
		time.Sleep(time.Minute)
		for s, n := range opened {
			if s.opens() != n {
				t.Errorf("%s was opened before a request came", s.name)
			}
		}
		wantText(t, "one that goes on", next.call("a_x"), `"text":"a x"`)
		if a.opens() != 1 {
			t.Errorf("a: opened %d times, want once", a.opens())
		}
		again := next.listen("")
		for _, one := range a.sessions {
			if one.last != "a-1" {
				t.Errorf("a's stream goes on after %q, want a-1", one.last)
			}
		}
		wantText(t, "one that was rebuilt", next.call("rebuilt_y"), `"text":"rebuilt y"`)
		synctest.Wait()
		if pinned.opens() != opened[pinned]+1 {
			t.Errorf("pinned: opened %d times, want anew", pinned.opens()-opened[pinned])
		}
		if got := toolChanges(again.messages()); len(got) == 0 {
			t.Error("the client was not told that a part was lost")
		}
		for _, s := range []*server{pinned, late} {
			if s.heard("notifications/initialized") != 2 {
				t.Errorf("%s: heard initialized %d times, want 2: in its new session too", s.name, s.heard("notifications/initialized"))
			}
		}
	})
}

func TestCallsInFlightAreBounded(t *testing.T) {
	virtually(t, func(t *testing.T) {
		a, b := newServer("a", "x"), newServer("b", "y")
		c := newRig(t, a, b).open()
		c.names(catalogue.Tools)
		sa := newStreamed()
		sa.call = make(chan struct{}, maxCalls+1)
		a.on = sa.on
		for i := range maxCalls {
			c.calling(fmt.Sprint(1000+i), "a_x")
		}
		wantText(t, "one more", c.call("b_y"), `"code":5030`, "256 requests in flight")
	})
}

// lost has a session find that a part has lost it.
func (u *Upstream) lost(c *client, name string) {
	m := u.find(c.id)
	m.lose(m.linkOf(name))
}

func TestAPartIsOpenedAgainWithWhatItsCallerShows(t *testing.T) {
	virtually(t, func(t *testing.T) {
		a, b := newServer("a", "x"), newServer("b", "y")
		c := newRig(t, a, b).open()
		field := credential.CallerField("X-Key")
		d := c.dispatch(http.MethodPost, `{"jsonrpc":"2.0","id":1,"method":"ping"}`)
		d.Header[field] = []string{"secret"}
		if _, err := c.up.Do(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		c.up.lost(c, "b")
		time.Sleep(time.Minute)
		synctest.Wait()
		for _, one := range b.sessions {
			if one.header.Get(field) == "secret" {
				return
			}
		}
		t.Error("the new session was opened without it")
	})
}
