package pairs

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
	"github.com/leasehold/leasehold/test/internal/cluster"
	"github.com/leasehold/leasehold/test/internal/npm"
	"github.com/leasehold/leasehold/test/internal/poll"
)

// libraries are all libraries of clients. What they need is stopped when the test
// is over.
func libraries(t *testing.T) []library {
	t.Helper()
	all := []library{
		{name: "go-sdk", connect: connectGoSDK},
		{name: "mcp-go", connect: connectMCPGo},
		{name: "inspector", connect: connectInspector, without: []string{"progress", "subscribe", "cancel"}},
	}
	for _, which := range []string{"sdk", "client"} {
		all = append(all, library{name: "typescript-" + which, connect: typeScript(t, which).connect})
	}
	return all
}

// typeScript starts a script with one of the clients of the TypeScript SDK.
func typeScript(t *testing.T, which string) *script {
	t.Helper()
	s, err := startScript(which)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.stop(); err != nil {
			t.Errorf("the script of %s: %v", which, err)
		}
		for _, trouble := range s.troubles {
			if t.Failed() && !strings.Contains(trouble, "unknown token") {
				t.Logf("%s: %.300s", which, trouble)
			}
		}
	})
	return s
}

// needPackages installs the npm packages unless those of the lock files are there.
func needPackages(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	for _, dir := range []string{packagesDir, inspectorDir} {
		if err := npm.Install(ctx, dir); err != nil {
			t.Fatal(err)
		}
	}
}

// define makes a gateway and waits until all workers have it.
func define(t *testing.T, c *cluster.Cluster, gateway string, upstream target) {
	t.Helper()
	definition := fmt.Sprintf("name: gateways/%s\nupstreams:\n- {name: upstream, %s}\n", gateway, upstream.upstream())
	if _, err := c.CLI(t.Context(), definition, "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, func(ctx context.Context) error { return c.Applied(ctx, gateway) })
}

// direct is the way from a client to a server without Leasehold.
func direct(t *testing.T, upstream target) (target, *front) {
	t.Helper()
	upstream.legacy = true
	if upstream.Kind == "stdio" {
		return upstream, nil
	}
	f := startFront(t, upstream.address())
	if upstream.Kind == "sse" {
		f.method = http.MethodGet // on which the answers come
	}
	return upstream.by(f), f
}

// through is the way by two workers in turn.
func through(t *testing.T, c *cluster.Cluster, gateway string) (target, *front) {
	t.Helper()
	var workers []string
	for _, w := range c.Live() {
		workers = append(workers, w.Listen)
	}
	f := startFront(t, workers...)
	return target{Kind: "http", URL: f.URL + "/gateways/" + gateway + "/mcp"}, f
}

func TestEveryClientDoesThroughLeaseholdWhatItDoesDirectly(t *testing.T) {
	needPackages(t)
	t.Parallel()
	c := cluster.Test(t, cluster.Config{Workers: 2, Race: true, WorkerArgs: []string{"--allow-stdio"}})
	upstreams := map[string]target{}
	for _, s := range servers {
		upstreams[s.name] = s.start(t)
		define(t, c, s.name, upstreams[s.name])
	}
	var runs sync.WaitGroup
	atOnce := make(chan struct{}, 5)
	for _, l := range libraries(t) {
		for _, s := range servers {
			pair := newPair(t, c, l, s, upstreams[s.name])
			runs.Go(func() {
				atOnce <- struct{}{}
				defer func() { <-atOnce }()
				pair.test(t, c)
			})
		}
	}
	runs.Wait()
}

// pair is a client and a server, on both ways.
type pair struct {
	alone, led *run
}

// newPair prepares a pair.
func newPair(t *testing.T, c *cluster.Cluster, l library, s counterpart, upstream target) pair {
	t.Helper()
	p := pair{&run{library: l, counterpart: s, directly: true}, &run{library: l, counterpart: s}}
	p.alone.to, p.alone.front = direct(t, upstream)
	p.led.to, p.led.front = through(t, c, s.name)
	return p
}

// test takes all steps on both ways and compares how they went.
func (p pair) test(t *testing.T, c *cluster.Cluster) {
	var directly, led map[string]error
	var ways sync.WaitGroup
	ways.Go(func() { directly = p.alone.all(t.Context()); p.alone.finish(t) })
	ways.Go(func() { led = p.led.all(t.Context()) })
	ways.Wait()
	judge(t, p.led.library.name, p.led.counterpart.name, directly, led)
	if sent := p.led.front.spread(); slices.Max(sent)-slices.Min(sent) > 1 || slices.Min(sent) < len(steps)/2 {
		t.Errorf("%s with %s: the workers had %v requests, want as many each", p.led.library.name, p.led.counterpart.name, sent)
	}
	p.led.finish(t)
	if p.led.greeting.ID == "" {
		return // it has no session that could be over
	}
	name := cluster.SessionName(p.led.counterpart.name, p.led.greeting.ID)
	// A session whose client left a call behind ends seconds later.
	_, err := poll.Until(t.Context(), 15*time.Second, func(ctx context.Context) error {
		left, err := c.Sessions(ctx, p.led.counterpart.name)
		if err == nil && slices.ContainsFunc(left, func(s *leaseholdv1.Session) bool { return s.GetName() == name }) {
			err = errors.New("the session is there after its end")
		}
		return err
	})
	if err != nil {
		t.Errorf("%s with %s: %v", p.led.library.name, p.led.counterpart.name, err)
	}
}

func TestLockFileNamesNoHost(t *testing.T) {
	if err := npm.CheckLock(inspectorDir); err != nil {
		t.Error(err)
	}
}
