package pairs

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/leasehold/leasehold/test/internal/cluster"
	"github.com/leasehold/leasehold/test/internal/poll"
)

// killTTL is the lease's TTL where owners are killed.
const killTTL = 3 * time.Second

// survivors are the pairs whose sessions outlive their owner here: by client, the
// server.
var survivors = map[string]string{"typescript-sdk": "everything", "go-sdk": "go-sdk", "mcp-go": "mcp-go"}

// survivor is a session on its way through its owner's death.
type survivor struct {
	*run
	upstream string     // the session's id upstream
	call     chan error // what came of the call in flight
}

func TestSessionsGoOnWhenTheirOwnerIsKilled(t *testing.T) {
	needPackages(t)
	t.Parallel()
	c := cluster.Test(t, cluster.Config{Workers: 3, Race: true, ControlArgs: []string{"--lease-ttl", killTTL.String()}})
	owner := c.Workers[0]
	var all []*survivor
	for _, l := range libraries(t) {
		for _, s := range servers {
			if survivors[l.name] == s.name {
				define(t, c, s.name, s.start(t))
				all = append(all, &survivor{run: &run{library: l, counterpart: s}, call: make(chan error, 1)})
			}
		}
	}
	if len(all) != len(survivors) {
		t.Fatalf("there are %d pairs, want %d", len(all), len(survivors))
	}
	c.Settle(t)
	each(t, all, func(s *survivor, ctx context.Context) error { return s.begin(ctx, t, c, owner) })
	for _, s := range all { // updates that came before do not count
		for len(s.Updated()) > 0 {
			<-s.Updated()
		}
	}
	owner.Kill()
	each(t, all, (*survivor).goOn)
	for _, s := range all {
		if _, now := c.SessionOwner(t, s.counterpart.name, s.greeting.ID); now == owner {
			t.Errorf("%s with %s: the dead worker owns the session", s.library.name, s.counterpart.name)
		}
		s.finish(t)
	}
}

// What the servers that forget listeners do without Leasehold.
func TestServersThatForgetListenersDoSoDirectly(t *testing.T) {
	needPackages(t)
	t.Parallel()
	for _, s := range servers[:1] {
		if !s.forgetsListeners {
			t.Fatalf("%s does not forget listeners", s.name)
		}
		r := &run{library: library{name: "typescript-sdk", connect: typeScript(t, "sdk").connect}, counterpart: s, directly: true}
		r.to, r.front = direct(t, s.start(t))
		r.front.method = http.MethodGet
		r.front.cutNext(broken)
		if err := r.initialize(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := r.hearsOfUpdates(t.Context()); err != nil {
			t.Fatal(err)
		}
		// It updates every 5 s, of which the first may come while nobody listens.
		if cuts, err := r.front.disarm(), r.hears(t.Context()); cuts != 1 || err == nil {
			t.Errorf("%s: %d listeners were cut, and the one that came back heard of an update: %v; want one, and none", s.name, cuts, err == nil)
		}
		r.finish(t)
	}
}

// each calls f for all sessions at once and waits for them; the test ends there if
// one of them failed.
func each(t *testing.T, all []*survivor, f func(*survivor, context.Context) error) {
	t.Helper()
	var group sync.WaitGroup
	for _, s := range all {
		group.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), stepLimit)
			defer cancel()
			if err := f(s, ctx); err != nil {
				t.Errorf("%s with %s: %v", s.library.name, s.counterpart.name, err)
			}
		})
	}
	group.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// begin opens the session at one worker and has all of them serve it from then on.
// It returns while a call is in flight.
func (s *survivor) begin(ctx context.Context, t *testing.T, c *cluster.Cluster, owner *cluster.Worker) (err error) {
	s.to, s.front = through(t, c, s.counterpart.name)
	whole := s.front.use(owner.Listen)
	if err := s.initialize(ctx); err != nil {
		return err
	}
	s.front.use(whole...)
	if err := s.Subscribe(ctx, s.uri); err != nil {
		return err
	}
	if s.upstream, err = s.state(ctx, s.states[0]); err != nil {
		return err
	}
	said := s.front.messages()
	go func() { s.call <- s.calls(context.WithoutCancel(ctx), s.slower, func() {}) }()
	_, err = poll.Until(ctx, 10*time.Second, func(context.Context) error {
		if s.front.messages() == said {
			return errors.New("the call has said nothing")
		}
		return nil
	})
	s.front.remove(owner.Listen)
	return err
}

// state calls the tool that says in what state the session is, and returns the id
// by which the server knows the session.
func (s *survivor) state(ctx context.Context, want *regexp.Regexp) (string, error) {
	text, err := s.Call(ctx, s.stateful, map[string]any{}, nil)
	if err != nil {
		return "", err
	}
	found := want.FindStringSubmatch(text)
	if found == nil {
		return "", fmt.Errorf("%s says %q, want %v", s.stateful, text, want)
	}
	return found[1], nil
}

// goOn checks after the owner's death that the session goes on where it was.
func (s *survivor) goOn(ctx context.Context) error {
	if err := s.lists(ctx, "tools", s.tool); err != nil {
		return err
	}
	fails, because := expected(s.library.name, s.counterpart.name, "resume a broken stream")
	if err := <-s.call; (err != nil) != fails.through {
		return fmt.Errorf("the call in flight ended with %v (want it to fail: %v %s)", err, fails.through, because)
	}
	if !s.forgetsListeners {
		if err := s.calls(ctx, s.touch, nil); err != nil {
			return err
		}
		if err := s.hears(ctx); err != nil {
			return err
		}
	}
	id, err := s.state(ctx, s.states[1])
	if err == nil && id != s.upstream {
		err = fmt.Errorf("the server knows the session as %s, before it was %s", id, s.upstream)
	}
	return err
}
