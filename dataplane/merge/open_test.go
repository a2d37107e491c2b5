package merge

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/leasehold/leasehold/dataplane/catalogue"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func TestInitializeAnswersWithinItsTimeAndTheLateOneJoins(t *testing.T) {
	virtually(t, func(t *testing.T) {
		a, slow, dead := newServer("a", "x"), newServer("slow", "y"), newServer("dead", "z")
		slow.slow, dead.dead = 20*time.Second, errDown
		r := newRig(t, a, slow, dead)
		began := time.Now()
		c := r.open()
		if took := time.Since(began); took != 5*time.Second {
			t.Errorf("initialize took %v, want the 5 s that it waits", took)
		}
		s := c.listen("")
		wantSlice(t, "tools", c.names(catalogue.Tools), []string{"a_x"})
		wantSlice(t, "told before", s.messages(), nil)
		time.Sleep(16 * time.Second)
		got := s.messages()
		if !slices.Contains(got, changedTools) {
			t.Errorf("told when the slow one is there: got %q, want that tools have changed", got)
		}
		wantSlice(t, "tools then", c.names(catalogue.Tools), []string{"a_x", "slow_y"})
		wantText(t, "a call", c.call("slow_y"), `"text":"slow y"`)
		if slow.heard("notifications/initialized") != 1 {
			t.Errorf("the late one heard initialized %d times, want 1", slow.heard("notifications/initialized"))
		}
	})
}

func TestPartsOpenInParallelButNotMoreThanTenAtATime(t *testing.T) {
	virtually(t, func(t *testing.T) {
		var mu sync.Mutex
		now, most := 0, 0
		var servers []*server
		for i := range 25 {
			s := newServer(fmt.Sprintf("u%d", i), "x")
			s.slow = time.Second
			servers = append(servers, s)
		}
		r := newRig(t, servers...)
		// What they do together is seen from the outside.
		done := make(chan struct{})
		go func() {
			defer close(done)
			time.Sleep(50 * time.Millisecond)
			for range 40 {
				time.Sleep(100 * time.Millisecond)
				mu.Lock()
				now = 0
				for _, s := range servers {
					s.mu.Lock()
					now += s.opening
					s.mu.Unlock()
				}
				most = max(most, now)
				mu.Unlock()
			}
		}()
		began := time.Now()
		r.open()
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("25 parts of a second each took %v, want 3 s", took)
		}
		<-done
		if most != 10 {
			t.Errorf("%d at the same time, want 10", most)
		}
	})
}

func TestWithoutARequiredPartThereIsNoSessionAndNothingIsLeft(t *testing.T) {
	virtually(t, func(t *testing.T) {
		a, b, slow := newServer("a", "x"), newServer("b", "y"), newServer("slow", "z")
		b.dead, slow.slow = errDown, 8*time.Second
		r := newRig(t, a, b, slow)
		r.define(func(*leaseholdv1.Gateway) { r.upstream("b").Required = true })
		c, answer, err := r.initialize(t.Context())
		if err != nil || c.id != "" {
			t.Fatalf("got session %q, error %v, want an answer without a session", c.id, err)
		}
		wantText(t, "answer", answer, `"code":5020`, `a required upstream could not be opened: upstream \"b\" could not be reached`, `"upstream":"b"`)
		time.Sleep(time.Minute)
		synctest.Wait()
		for _, s := range []*server{a, slow} {
			if s.opens() != 1 || s.live() != 0 {
				t.Errorf("%s: opened %d, left %d; want 1 that is ended", s.name, s.opens(), s.live())
			}
		}
		if r.up.Len() != 0 {
			t.Errorf("%d sessions, want 0", r.up.Len())
		}
	})
}

func TestWithoutAnyPartTheErrorNamesEach(t *testing.T) {
	virtually(t, func(t *testing.T) {
		a, b, c := newServer("a"), newServer("b"), newServer("c")
		a.dead, b.version, c.slow = errDown, "2099-01-01", time.Minute
		r := newRig(t, a, b, c)
		_, answer, err := r.initialize(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		wantText(t, "answer", answer, `no upstream could be opened`, `upstream \"a\" could not be reached`, `upstream \"b\" speaks protocol version 2099-01-01 only`,
			`upstream \"c\" not open within 5s`)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if b.opens() != 1 || b.live() != 0 {
			t.Errorf("b: opened %d, left %d; want 1 that is ended", b.opens(), b.live())
		}
	})
}

func TestAnInitializeThatIsGivenUpLeavesNothing(t *testing.T) {
	virtually(t, func(t *testing.T) {
		a, slow := newServer("a"), newServer("slow")
		slow.slow = 3 * time.Second
		r := newRig(t, a, slow)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, _, err := r.initialize(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v, want why it was given up", err)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		for _, s := range r.servers {
			if s.opens() != 1 || s.live() != 0 {
				t.Errorf("%s: opened %d, left %d; want 1 that is ended", s.name, s.opens(), s.live())
			}
		}
	})
}

func TestALazyPartOpensOnceAtItsFirstUseForAllWhoWait(t *testing.T) {
	virtually(t, func(t *testing.T) {
		a, lazy := newServer("a", "x"), newServer("lazy", "y")
		r := newRig(t, a, lazy)
		r.define(func(*leaseholdv1.Gateway) { r.upstream("lazy").Lazy = true })
		r.open().names(catalogue.Tools) // from this one the worker knows what it has
		synctest.Wait()
		before := lazy.opens()
		lazy.set(func() { lazy.slow = 2 * time.Second })
		c := r.open()
		wantSlice(t, "tools", c.names(catalogue.Tools), []string{"a_x", "lazy_y"})
		synctest.Wait()
		if lazy.opens() != before {
			t.Fatalf("listing opened a lazy part")
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var group sync.WaitGroup
		for i := range 8 {
			group.Go(func() {
				ctx := ctx
				if i > 0 {
					ctx = t.Context()
				}
				answer, err := c.do(ctx, "POST", fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"lazy_y"}}`, 100+i))
				switch {
				case i == 0 && !errors.Is(err, context.DeadlineExceeded):
					t.Errorf("the one that was given up: got %v", err)
				case i > 0 && err != nil:
					t.Errorf("call %d: %v", i, err)
				case i > 0:
					wantText(t, "call", body(t, answer), `"text":"lazy y"`)
				}
			})
		}
		group.Wait()
		if lazy.opens() != before+1 {
			t.Errorf("8 first calls opened %d sessions, want 1", lazy.opens()-before)
		}
	})
}

func TestEachPartIsAskedWithTheClientsWordsAndUsedAtItsOwnVersion(t *testing.T) {
	virtually(t, func(t *testing.T) {
		a, old := newServer("a", "x"), newServer("old", "y")
		old.version = "2025-03-26"
		r := newRig(t, a, old)
		c, answer, err := r.initialize(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		wantText(t, "answer", answer, `"protocolVersion":"2025-11-25"`, `"serverInfo":{"name":"g","version":"1.2.3"}`,
			`"instructions":"## a\n\nUse a.\n\n## old\n\nUse old."`,
			`"tools":{"listChanged":true}`, `"prompts":{"listChanged":true}`, `"resources":{"subscribe":true,"listChanged":true}`, `"logging":{}`)
		for _, s := range r.servers {
			for _, one := range s.sessions {
				wantText(t, s.name, one.params, `"capabilities":{"roots":{"listChanged":true},"sampling":{}}`, `"clientInfo":{"name":"t","version":"1"}`)
			}
		}
		c.post(`{"jsonrpc":"2.0","method":"notifications/initialized"}`)
		wantText(t, "call", c.call("old_y"), `"text":"old y"`) // which checks the version
	})
}

func TestAPartThatRefusesInitializedIsEndedAndOpenedAgain(t *testing.T) {
	virtually(t, func(t *testing.T) {
		a, b := newServer("a", "x"), newServer("b", "y")
		refuses := true
		b.on = refuseInitialized(&refuses)
		r := newRig(t, a, b)
		c := r.open()
		synctest.Wait()
		if b.heard("DELETE") != 1 || b.live() != 0 {
			t.Errorf("b: %d DELETE, %d sessions; want it ended", b.heard("DELETE"), b.live())
		}
		wantText(t, "call meanwhile", c.call("b_y"), `"code":5020`, `"data":{"executed":"no","upstream":"b"}`)
		b.set(func() { refuses = false })
		time.Sleep(5 * time.Second)
		wantText(t, "call then", c.call("b_y"), `"text":"b y"`)
	})
}

func TestCapabilitiesAreTheUnionOfWhatWorks(t *testing.T) {
	all := []*offers{
		parseOffers([]byte(`{"capabilities":{"tools":{},"experimental":{"x":{"a":1},"y":{}},"tasks":{"list":{},"requests":{"tools":{"call":{}}}},"odd":[1, 2]}}`)),
		parseOffers([]byte(`{"capabilities":{"resources":{"subscribe":true},"completions":{},"experimental":{"x":{"b":2},"z":true},"tasks":{"cancel":{}},"odd":3}}`)),
	}
	got := string(union(nil, all))
	want := `{"tools":{"listChanged":true},"resources":{"subscribe":true,"listChanged":true},` +
		`"experimental":{"x":{"a":1},"y":{},"z":true},"tasks":{"list":{},"requests":{"tools":{"call":{}}},"cancel":{}},"odd":[1, 2],"completions":{}}`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if strings.Contains(string(union(nil, nil)), "tools") {
		t.Error("without parts there are capabilities")
	}
}
