package pairs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/leasehold/leasehold/test/internal/cluster"
	"github.com/leasehold/leasehold/test/internal/poll"
)

// roundLimit is how long one round of all clients may take.
const roundLimit = 40 * time.Second

// several is the gateway that has all servers behind it, and one that is dead.
const several = "several"

// defineSeveral starts all servers and makes the gateway.
func defineSeveral(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	port, err := cluster.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	dead := target{Kind: "http", URL: fmt.Sprintf("http://127.0.0.1:%d/mcp", port)}
	definition := fmt.Sprintf("name: gateways/%s\nopen_timeout: 20s\nupstreams:\n- {name: dead, %s}\n", several, dead.upstream())
	for _, p := range parts() {
		definition += fmt.Sprintf("- {name: %s, %s}\n", p.name, p.start(t).upstream())
	}
	if _, err := c.CLI(t.Context(), definition, "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, func(ctx context.Context) error { return c.Applied(ctx, several) })
}

// travellers opens a session of each library at one worker. From then on it has
// two workers in turn.
func travellers(t *testing.T, c *cluster.Cluster, owner, other *cluster.Worker) (all []*traveller) {
	t.Helper()
	for _, l := range libraries(t) {
		if !slices.Contains([]string{"typescript-sdk", "go-sdk", "mcp-go"}, l.name) {
			continue
		}
		to, f := through(t, c, several)
		to.Roots = true
		f.use(owner.Listen)
		s, hello, err := l.connect(t.Context(), to)
		if err != nil {
			t.Fatalf("%s: %v", l.name, err)
		}
		v := &traveller{wholeSession: s.(wholeSession), library: l, front: f, greeting: hello, ids: map[string]string{}, states: map[string]int{}}
		if hello.Server != several {
			t.Errorf("%s: the server is called %q, want the gateway's id", l.name, hello.Server)
		}
		f.use(owner.Listen, other.Listen)
		all = append(all, v)
	}
	return all
}

// round has all clients go their round, and the inspector look at the gateway.
func round(t *testing.T, what string, all []*traveller) {
	t.Helper()
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), roundLimit)
	defer cancel()
	number := all[0].round + 1
	var group sync.WaitGroup
	for _, v := range all {
		group.Go(func() {
			if err := v.goRound(ctx); err != nil {
				t.Errorf("%s, %s: %v", v.library.name, what, err)
			}
		})
	}
	group.Go(func() {
		if err := inspect(ctx, all[0].front, number); err != nil {
			t.Errorf("inspector, %s: %v", what, err)
		}
	})
	group.Wait()
	t.Logf("%s: all clients have gone their round after %v", what, time.Since(began).Round(time.Millisecond))
	if t.Failed() {
		t.FailNow()
	}
}

// inspect lists something and calls a tool with the inspector, each in a session of its
// own.
func inspect(ctx context.Context, f *front, round int) (err error) {
	to := target{Kind: "http", URL: f.URL + "/gateways/" + several + "/mcp"}
	s, hello, err := connectInspector(ctx, to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close(ctx)) }()
	if hello.Server != several {
		return fmt.Errorf("the server is called %q, want the gateway's id", hello.Server)
	}
	kind := []string{"tools", "prompts", "resources"}[round%3]
	names, err := s.List(ctx, kind)
	if err != nil {
		return err
	}
	all := parts()
	for _, p := range all {
		want := map[string]string{"tools": p.named(p.tool), "prompts": p.named(p.prompt), "resources": p.at(p.resource)}[kind]
		if !slices.Contains(names, want) {
			return fmt.Errorf("%s are %v, want %s among them", kind, names, want)
		}
	}
	p := all[round%len(all)]
	text, err := s.Call(ctx, p.named(p.plain.tool), p.plain.args, nil)
	if err == nil && !strings.Contains(text, p.plain.want) {
		err = fmt.Errorf("%s says %q, want %q in it", p.named(p.plain.tool), text, p.plain.want)
	}
	return err
}

// move notes that the clients' sessions are about to have another owner. It returns
// what checks that they are told that tools may have changed.
func move(all []*traveller) (again func(t *testing.T)) {
	before := map[*traveller]int{}
	for _, v := range all {
		v.moved()
		before[v] = v.Told().count("tools changed")
	}
	return func(t *testing.T) {
		t.Helper()
		eventually(t, 20*time.Second, func(context.Context) error {
			for _, v := range all {
				if v.Told().count("tools changed") == before[v] {
					return fmt.Errorf("%s was not told that parts of its session were lost", v.library.name)
				}
			}
			return nil
		})
	}
}

// inFlight has each client make a call that goes on for a while.
func inFlight(t *testing.T, all []*traveller) (ends []<-chan error) {
	t.Helper()
	for _, p := range parts() {
		if p.name != "go-sdk" {
			continue
		}
		for _, v := range all {
			end, err := v.takeOff(t.Context(), p)
			if err != nil {
				t.Fatalf("%s: %v", v.library.name, err)
			}
			ends = append(ends, end)
		}
	}
	return ends
}

// ownedBy are the clients whose sessions a worker owns.
func ownedBy(t *testing.T, c *cluster.Cluster, w *cluster.Worker, all []*traveller) (owned []*traveller) {
	t.Helper()
	for _, v := range all {
		if _, owner := c.SessionOwner(t, several, v.greeting.ID); owner == w {
			owned = append(owned, v)
		}
	}
	return owned
}

func TestClientsUseSeveralServersAsOneWhoeverOwnsTheirSessions(t *testing.T) {
	needPackages(t)
	t.Parallel()
	c := cluster.Test(t, cluster.Config{
		Workers: 3, Race: true, WorkerArgs: []string{"--allow-stdio"}, ControlArgs: []string{"--lease-ttl", killTTL.String()},
	})
	first, second, third := c.Workers[0], c.Workers[1], c.Workers[2]
	defineSeveral(t, c)
	all := travellers(t, c, first, second)
	round(t, "at the first owner", all)
	if owned := ownedBy(t, c, first, all); len(owned) != len(all) {
		t.Errorf("the first worker owns %d sessions, want all %d", len(owned), len(all))
	}

	c.Settle(t)
	told := move(all)
	for _, v := range all {
		v.front.use(second.Listen, third.Listen)
	}
	landings := inFlight(t, all)
	first.Kill()
	told(t) // on the streams that they listen on, which are back by then
	round(t, "after the owner's death", all)
	for i, end := range landings {
		if err := <-end; err != nil {
			t.Errorf("%s: the call in flight when the owner died: %v", all[i].library.name, err)
		}
	}

	c.Settle(t)
	_, drained := c.SessionOwner(t, several, all[0].greeting.ID)
	told = move(ownedBy(t, c, drained, all))
	drain(t, c, drained, all)
	told(t)
	round(t, "after the next owner was drained", all)

	for _, v := range all {
		if err := v.Close(t.Context()); err != nil {
			t.Logf("%s: close: %v", v.library.name, err)
		}
		name := cluster.SessionName(several, v.greeting.ID)
		_, err := poll.Until(t.Context(), 15*time.Second, func(ctx context.Context) error {
			left, err := c.Sessions(ctx, several)
			for _, s := range left {
				if s.GetName() == name {
					err = errors.New("the session is there after its end")
				}
			}
			return err
		})
		if err != nil {
			t.Errorf("%s: %v", v.library.name, err)
		}
	}
}

// drain has a worker give all sessions away, and be a worker like any other again.
func drain(t *testing.T, c *cluster.Cluster, w *cluster.Worker, all []*traveller) {
	t.Helper()
	var id string
	eventually(t, 5*time.Second, func(ctx context.Context) error {
		registered, err := c.Registered(ctx)
		for _, one := range registered {
			if one.GetListenAddress() == w.Listen {
				id = strings.TrimPrefix(one.GetName(), "workers/")
				return nil
			}
		}
		return errors.Join(err, fmt.Errorf("%s is not registered", w.Name))
	})
	if _, err := c.CLI(t.Context(), "", "drain", "worker", id); err != nil {
		t.Fatal(err)
	}
	eventually(t, 35*time.Second, func(ctx context.Context) error {
		for _, v := range all {
			s, err := c.Session(ctx, several, v.greeting.ID)
			if err != nil {
				return err
			}
			if s.GetOwner() == "workers/"+id {
				return fmt.Errorf("%s, which drains, owns the session of %s", w.Name, v.library.name)
			}
		}
		return nil
	})
	if _, err := c.CLI(t.Context(), "", "undrain", "worker", id); err != nil {
		t.Fatal(err)
	}
}
