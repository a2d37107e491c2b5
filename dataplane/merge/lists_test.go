package merge

import (
	"encoding/base64"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/leasehold/leasehold/dataplane/catalogue"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func TestListsAreFetchedInFullAndServedInPages(t *testing.T) {
	virtually(t, func(t *testing.T) {
		a, b := newServer("a"), newServer("b", "y")
		a.pages = 400
		var want []string
		for i := range 1500 {
			a.items[catalogue.Tools] = append(a.items[catalogue.Tools], fmt.Sprintf(`{"name":"x%d","odd":[1 , 2]}`, i))
			want = append(want, fmt.Sprintf("a_x%d", i))
		}
		want = append(want, "b_y")
		r := newRig(t, a, b)
		c := r.open()
		if got := c.names(catalogue.Tools); !slices.Equal(got, want) {
			t.Errorf("got %d tools, want %d in the order of the upstreams", len(got), len(want))
		}
		if got := a.heard("tools/list"); got != 4 {
			t.Errorf("a was asked %d times, want 4 for its pages", got)
		}
		wantText(t, "first page", c.ask("tools/list", "{}"), `{"name":"a_x0","odd":[1 , 2]}`, `"nextCursor":`)
		wantText(t, "foreign cursor", c.ask("tools/list", `{"cursor":"abc"}`), `"code":-32602`)
		own := formatPageCursor(catalogue.Tools, 1, catalogue.Hash{})
		wantText(t, "one that is not sealed", c.ask("tools/list", fmt.Sprintf(`{"cursor":%q}`, base64.RawURLEncoding.EncodeToString(own))), `"code":-32602`)
		wantText(t, "another list's cursor", c.ask("tools/list", c.cursor(formatPageCursor(catalogue.Prompts, 1, catalogue.Hash{}))), `"code":-32602`)
		wantText(t, "an older catalogue's cursor", c.ask("tools/list", c.cursor(formatPageCursor(catalogue.Tools, 1500, catalogue.Hash{9}))), `"tools":[{"name":"b_y"`)
	})
}

func TestAListChangeIsFetchedOnceAndToldOnceAndOnlyIfTheListIsAnother(t *testing.T) {
	virtually(t, func(t *testing.T) {
		a, b := newServer("a", "x"), newServer("b", "y")
		r := newRig(t, a, b)
		c := r.open()
		s := c.listen("")
		c.names(catalogue.Tools)
		before := a.heard("tools/list")
		for range 3 {
			a.say(changedTools)
		}
		time.Sleep(time.Second)
		wantSlice(t, "told of no change", s.messages(), nil)
		if got := a.heard("tools/list") - before; got != 1 {
			t.Errorf("three notifications made %d fetches, want 1", got)
		}
		a.set(func() { a.items[catalogue.Tools] = append(a.items[catalogue.Tools], `{"name":"new"}`) })
		b.set(func() { b.items[catalogue.Tools] = nil })
		a.say(changedTools)
		b.say(changedTools)
		time.Sleep(time.Second)
		wantSlice(t, "told of two changes", s.messages(), []string{changedTools})
		before = a.heard("tools/list")
		wantSlice(t, "tools", c.names(catalogue.Tools), []string{"a_x", "a_new"})
		if got := a.heard("tools/list") - before; got != 0 {
			t.Errorf("the client's list made %d fetches, want 0: it was there", got)
		}
	})
}

func TestAListThatChangesWhileItIsFetchedIsFetchedAgain(t *testing.T) {
	virtually(t, func(t *testing.T) {
		a, b := newServer("a", "x"), newServer("b", "y")
		c := newRig(t, a, b).open()
		s := c.listen("")
		c.names(catalogue.Tools)
		a.set(func() { a.slowList = time.Second })
		a.say(changedTools)
		time.Sleep(500 * time.Millisecond) // it is being fetched, as it was
		a.set(func() { a.items[catalogue.Tools] = []string{`{"name":"new"}`} })
		a.say(changedTools)
		time.Sleep(5 * time.Second)
		wantSlice(t, "told", s.messages(), []string{changedTools})
		wantSlice(t, "tools", c.names(catalogue.Tools), []string{"a_new", "b_y"})
	})
}

func TestAChangeThatCouldNotBeFetchedIsNotForgotten(t *testing.T) {
	virtually(t, func(t *testing.T) {
		a, b := newServer("a", "x"), newServer("b", "y")
		c := newRig(t, a, b).open()
		s := c.listen("")
		c.names(catalogue.Tools)
		a.set(func() {
			a.dead = errDown
			a.items[catalogue.Tools] = []string{`{"name":"new"}`}
		})
		a.say(changedTools)
		time.Sleep(time.Second)
		a.set(func() { a.dead = nil })
		wantSlice(t, "told at once", s.messages(), nil)
		time.Sleep(time.Minute)
		wantSlice(t, "told", s.messages(), []string{changedTools})
		wantSlice(t, "tools", c.names(catalogue.Tools), []string{"a_new", "b_y"})
	})
}

func TestADeadOrSlowPartCostsItsOwnItemsOnly(t *testing.T) {
	virtually(t, func(t *testing.T) {
		a, b, slow := newServer("a", "x"), newServer("b", "y"), newServer("slow", "z")
		r := newRig(t, a, b, slow)
		c := r.open()
		s := c.listen("")
		wantSlice(t, "tools", c.names(catalogue.Tools), []string{"a_x", "b_y", "slow_z"})
		b.set(func() { b.dead = errDown })
		slow.set(func() {
			slow.slowList = 10 * time.Second
			slow.items[catalogue.Tools] = []string{`{"name":"z2"}`}
		})
		b.say(changedTools)
		slow.say(changedTools)
		synctest.Wait()
		began := time.Now()
		wantSlice(t, "what was there stays listed", c.names(catalogue.Tools), []string{"a_x", "b_y", "slow_z"})
		if took := time.Since(began); took > listPatience {
			t.Errorf("the list took %v, want at most %v", took, listPatience)
		}
		began = time.Now()
		wantSlice(t, "the same again", c.names(catalogue.Tools), []string{"a_x", "b_y", "slow_z"})
		if took := time.Since(began); took != 0 {
			t.Errorf("the next list took %v, want that nobody waits for the slow one again", took)
		}
		time.Sleep(30 * time.Second)
		wantSlice(t, "told", s.messages(), []string{changedTools})
		wantSlice(t, "tools then", c.names(catalogue.Tools), []string{"a_x", "b_y", "slow_z2"})
	})
}

func TestAListOfWhichNobodyWouldTellIsNotOlderThanTwoSeconds(t *testing.T) {
	virtually(t, func(t *testing.T) {
		a, b := newServer("a", "x"), newServer("b")
		r := newRig(t, a, b)
		c := r.open() // without a GET stream
		c.names(catalogue.Tools)
		a.set(func() { a.items[catalogue.Tools] = []string{`{"name":"new"}`} })
		wantSlice(t, "at once", c.names(catalogue.Tools), []string{"a_x"})
		time.Sleep(freshFor)
		wantSlice(t, "then", c.names(catalogue.Tools), []string{"a_new"})
	})
}

func TestSessionsWithEqualListsShareOneCatalogue(t *testing.T) {
	virtually(t, func(t *testing.T) {
		a, b := newServer("a", "x"), newServer("b", "y")
		r := newRig(t, a, b)
		var clients []*client
		for range 5 {
			c := r.open()
			c.names(catalogue.Tools)
			clients = append(clients, c)
		}
		first := r.up.find(clients[0].id).items()
		for _, c := range clients[1:] {
			if r.up.find(c.id).items() != first {
				t.Error("two sessions with equal lists have two catalogues")
			}
		}
	})
}

func TestWhatNobodyHasAnyMoreIsForgotten(t *testing.T) {
	var in interned[int, [100]byte]
	kept := in.of(1, func() *[100]byte { return new([100]byte) })
	in.of(2, func() *[100]byte { return new([100]byte) })
	for deadline := time.Now().Add(10 * time.Second); in.len() != 1 && time.Now().Before(deadline); {
		runtime.GC()
	}
	if in.len() != 1 || in.of(1, func() *[100]byte { return new([100]byte) }) != kept {
		t.Errorf("%d values, want the one that somebody has", in.len())
	}
}

func TestFiltersAndNamesHoldForListsAndCalls(t *testing.T) {
	virtually(t, func(t *testing.T) {
		a, b := newServer("a", "x", "secret"), newServer("b", "x")
		r := newRig(t, a, b)
		r.define(func(g *leaseholdv1.Gateway) {
			g.Naming = &leaseholdv1.Naming{Mode: leaseholdv1.NamingMode_NAMING_MODE_KEEP}
			r.upstream("a").Tools = &leaseholdv1.ItemSelection{Exclude: []string{"sec*"}}
			r.upstream("b").Tools = &leaseholdv1.ItemSelection{Overrides: []*leaseholdv1.ItemOverride{{Name: "x", NewName: "other", NewDescription: "Another."}}}
		})
		c := r.open()
		wantSlice(t, "tools", c.names(catalogue.Tools), []string{"x", "other"})
		wantText(t, "kept", c.call("x"), `"text":"a x"`)
		wantText(t, "renamed", c.call("other"), `"text":"b x"`)
		hidden, unknown := c.call("secret"), c.call("nobody")
		wantText(t, "hidden", hidden, `"error":{"code":-32602,"message":"Unknown tool: secret"}`)
		wantText(t, "unknown", unknown, `"error":{"code":-32602,"message":"Unknown tool: nobody"}`)
		if a.heard("tools/call secret") != 0 {
			t.Error("a hidden tool was called")
		}
	})
}
