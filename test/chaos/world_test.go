package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/leasehold/leasehold/test/internal/cluster"
	"github.com/leasehold/leasehold/test/internal/crossing"
	"github.com/leasehold/leasehold/test/internal/ledger"
	"github.com/leasehold/leasehold/test/internal/poll"
)

// plan says what a world is made of.
type plan struct {
	etcd, controls, workers int
	// ttl is the workers' lease.
	ttl time.Duration
	// plain builds the product without the race detector.
	plain bool
	// blind has the upstream not look whose a connection is, which takes it longer
	// the more there are.
	blind bool
	// rebalance has workers give away what is more than their share.
	rebalance bool
	// outage is for how long workers may serve on without the control plane; 0 leaves
	// that to the product.
	outage time.Duration
	// crossings stand between each two workers.
	crossings bool
	// between says between which parts there is a link; nil means nowhere.
	between func(from, to string) bool
}

// usual is the world of most tests.
var usual = plan{etcd: 3, controls: 2, workers: 3, ttl: 3 * time.Second}

// pace is the pause between two calls of a client, on average.
const pace = 600 * time.Millisecond

// crewSize is how many clients a usual world has.
const crewSize = 200

// world is a running Leasehold, an upstream behind it, and what can be done to them.
type world struct {
	*cluster.Cluster
	t     *testing.T
	plan  plan
	links *links
	// crossings are where workers reach each other, by name, if the plan has them.
	crossings map[string]*crossing.Crossing
	late      func() time.Duration // what the machine was late by at most
	ledger    ledger.Remote
	// upstream is the ledger's process.
	upstream *cluster.Process
	before   map[string]usage
	mu       sync.Mutex // guards crossings while workers start
}

// start starts a world with one upstream. When the test is over everything ends;
// a data race or a panic in any process makes it red, and if it is red the logs
// stay where they are.
func start(t *testing.T, p plan) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "leasehold-chaos-"+strings.ReplaceAll(t.Name(), "/", "-")+"-")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, plan: p, links: newLinks(), crossings: map[string]*crossing.Crossing{}, late: watchMachine(t)}
	begin := time.Now()
	args := []string{"--lease-ttl", p.ttl.String()}
	if p.outage > 0 {
		args = append(args, "--max-outage", p.outage.String())
	}
	w.Cluster, err = cluster.Start(t.Context(), cluster.Config{
		EtcdMembers: p.etcd, ControlPlanes: p.controls, Workers: p.workers, Race: !p.plain, Dir: dir,
		ControlArgs: args, Rebalance: p.rebalance, Via: w.via,
	})
	if err != nil {
		t.Fatalf("%v; the logs are in %s", err, dir)
	}
	t.Cleanup(func() { w.end(dir) })
	if w.ledger, w.upstream, err = w.StartLedger(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p.blind {
		if err := w.ledger.Know(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("seed %d; ready after %v", *seed, time.Since(begin).Round(time.Millisecond))
	return w
}

// via puts a link between two parts if there is to be one.
func (w *world) via(from, to, address string) (string, error) {
	if w.plan.crossings && from == cluster.Peers {
		return w.cross(to, address)
	}
	if w.plan.between == nil || !w.plan.between(from, to) {
		return address, nil
	}
	return w.links.add(from, to, address)
}

// cross puts a crossing before the listener of a worker.
func (w *world) cross(to, address string) (string, error) {
	c, err := crossing.New(address, cluster.NameOf)
	if err != nil {
		return "", err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.crossings[to] = c
	return c.Address(), nil
}

// end ends a world.
func (w *world) end(dir string) {
	w.Close()
	w.links.close()
	for _, c := range w.crossings {
		c.Close()
	}
	for _, fault := range w.Faults() {
		w.t.Error(fault)
	}
	if w.t.Failed() {
		busy, _ := os.ReadFile("/proc/loadavg")
		w.t.Logf("the machine's load is %s; it was late by %v at most", strings.TrimSpace(string(busy)), w.late())
		removeData(dir)
		w.t.Logf("run it again with -seed %d; the logs of all processes are in %s", *seed, dir)
		return
	}
	os.RemoveAll(dir)
}

// removeData removes the data directories in dir, so that the logs remain: an etcd
// member takes hundreds of megabytes.
func removeData(dir string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() {
			os.RemoveAll(filepath.Join(dir, e.Name()))
		}
	}
}

// serve puts a gateway in front of an upstream and waits until all workers have
// it. extra are more fields of the upstream and session of the session policy, as
// YAML in flow style without braces.
func (w *world) serve(gateway, url, extra, session string) {
	w.t.Helper()
	if extra != "" {
		extra = ", " + extra
	}
	_, err := w.CLI(w.t.Context(), fmt.Sprintf("name: gateways/%s\nupstreams:\n- {name: upstream, url: %q, transport: STREAMABLE_HTTP%s}\nsession: {%s}\n",
		gateway, url, extra, session), "apply", "-f", "-")
	if err != nil {
		w.t.Fatal(err)
	}
	w.eventually(10*time.Second, func(ctx context.Context) error { return w.Applied(ctx, gateway) })
	w.before = w.usage()
}

// eventually waits for a state that another process brings about.
func (w *world) eventually(limit time.Duration, check func(context.Context) error) time.Duration {
	w.t.Helper()
	took, err := poll.Until(w.t.Context(), limit, check)
	if err != nil {
		w.t.Fatal(err)
	}
	return took
}

// settle waits until the world is in its usual state, so that harm has the effects
// that it usually has.
func (w *world) settle() {
	w.t.Helper()
	w.eventually(4*w.plan.ttl+10*time.Second, w.Settled)
}

// let lets time pass while the crew works.
func (w *world) let(d time.Duration) {
	w.t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-w.t.Context().Done():
		w.t.Fatal(w.t.Context().Err())
	}
}

// running waits until the upstream has at least n calls under way.
func (w *world) running(n int) {
	w.t.Helper()
	w.eventually(10*time.Second, func(ctx context.Context) error {
		r, err := w.ledger.Summary(ctx)
		if err == nil && r.Running < n {
			err = fmt.Errorf("%d calls are under way, want %d", r.Running, n)
		}
		return err
	})
}

// locate finds out who owns the sessions of a crew.
func (w *world) locate(c *crew) {
	w.t.Helper()
	listed, err := w.Sessions(w.t.Context(), c.gateway)
	if err != nil {
		w.t.Fatal(err)
	}
	owners := map[string]string{}
	for _, s := range listed {
		owner, err := w.Owner(w.t.Context(), s)
		if err != nil {
			w.t.Fatal(err)
		}
		owners[s.GetName()] = owner.Name
	}
	for _, m := range c.members {
		m.owner = owners[cluster.SessionName(c.gateway, m.session.ID)]
		if m.owner == "" {
			w.t.Fatalf("session %d is not among the %d of the gateway", m.number, len(listed))
		}
	}
}

// pick is one of the workers.
func (w *world) pick() *cluster.Worker {
	return w.Workers[chance(w.t, "pick").IntN(len(w.Workers))]
}

// audit checks what a crew that rests and the upstream wrote down. It may be
// given more to know.
func (w *world) audit(c *crew, b book) {
	w.t.Helper()
	w.idle()
	r, err := w.ledger.Take(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	b.blind = b.blind || w.plan.blind
	b.calls, b.members, b.entries = c.made(), c.members, append(b.entries, r.Entries...)
	if found := b.problems(); len(found) > 0 {
		w.t.Errorf("%d things are not as they must be, among them:\n%s", len(found), strings.Join(found[:min(10, len(found))], "\n"))
	}
}

// idle waits until the upstream has no call under way.
func (w *world) idle() {
	w.t.Helper()
	w.eventually(patience, func(ctx context.Context) error {
		r, err := w.ledger.Summary(ctx)
		if err == nil && r.Running > 0 {
			err = fmt.Errorf("%d calls are still under way", r.Running)
		}
		return err
	})
}

// expect checks that every call was answered, or is one for which allowed says
// that its outcome was to be expected.
func (w *world) expect(calls []*call, allowed func(*call) bool) {
	w.t.Helper()
	var bad []string
	for _, c := range calls {
		if c.outcome != answered && (allowed == nil || !allowed(c)) {
			bad = append(bad, c.String())
		}
	}
	if len(bad) > 0 {
		w.t.Errorf("%d of %d requests failed, among them:\n%s", len(bad), len(calls), strings.Join(bad[:min(8, len(bad))], "\n"))
	}
}

// want checks that all of some calls had one outcome; what says when they were
// made.
func (w *world) want(what string, calls []*call, want outcome) {
	w.t.Helper()
	bad := only(calls, func(c *call) bool { return c.outcome != want })
	if len(bad) > 0 {
		w.t.Errorf("%s: %d of %d calls were not %q, among them %v", what, len(bad), len(calls), want, bad[0])
	}
}

// soon checks that all of some calls were over within a limit.
func (w *world) soon(what string, calls []*call, limit time.Duration) {
	w.t.Helper()
	limit += w.late()
	slow := only(calls, func(c *call) bool { return c.took() > limit })
	if len(slow) > 0 {
		w.t.Errorf("%s: %d of %d calls took more than %v, among them %v", what, len(slow), len(calls), limit, slow[0])
	}
}

// leave ends all sessions of a crew, and checks that nothing is left of them: no
// session at the upstream, and no goroutine or descriptor in any process.
func (w *world) leave(c *crew, over func(*member) bool) {
	w.t.Helper()
	c.leave(over)
	_, err := poll.Until(w.t.Context(), 10*time.Second, func(ctx context.Context) error {
		r, err := w.ledger.Summary(ctx)
		if err == nil && len(r.Live) > 0 {
			err = fmt.Errorf("the upstream has %d sessions left", len(r.Live))
		}
		return err
	})
	if err != nil {
		w.t.Error(err)
	}
	c.http.CloseIdleConnections()
	w.leakless(len(c.members))
}

// usage is what a process uses; heap is how large it may grow before it is
// collected, which is twice what was in use the last time.
type usage struct{ goroutines, descriptors, heap float64 }

// usage reads what every process of ours that runs uses.
func (w *world) usage() map[string]usage {
	w.t.Helper()
	all := map[string]usage{}
	read := func(p *cluster.Process, admin string) {
		if !p.Running() {
			return
		}
		m, err := cluster.Scrape(w.t.Context(), admin)
		if err != nil {
			w.t.Fatal(err)
		}
		all[p.Name] = usage{m.Sum("go_goroutines"), m.Sum("process_open_fds"), m.Sum("go_memstats_next_gc_bytes")}
	}
	for _, cp := range w.Control {
		read(cp.Process, cp.Admin)
	}
	for _, worker := range w.Workers {
		read(worker.Process, worker.Admin)
	}
	return all
}

// What a process may keep for a while once it is idle: connections to upstreams
// wait for 90 seconds to be used again, one for each client that was busy at the
// same time as others, and one for a call that goes on without its client; streams to other workers wait for a minute, 64 to each, and
// take two goroutines at both ends.
const (
	keptStreams = 64 * 2 * 2
	slack       = 20
)

// leakless checks that no process has more goroutines and descriptors than when
// the world began, but for what it keeps for a while.
func (w *world) leakless(clients int) {
	w.t.Helper()
	peers := float64(len(w.Live()) - 1)
	_, err := poll.Until(w.t.Context(), 10*time.Second, func(context.Context) error {
		var errs []error
		for name, now := range w.usage() {
			before, known := w.before[name]
			if !known {
				continue
			}
			if now.goroutines > before.goroutines+peers*keptStreams+slack || now.descriptors > before.descriptors+2*float64(clients)+slack {
				errs = append(errs, fmt.Errorf("%s has %v goroutines and %v descriptors, at first %v and %v",
					name, now.goroutines, now.descriptors, before.goroutines, before.descriptors))
			}
		}
		return errors.Join(errs...)
	})
	if err != nil {
		w.t.Error(err)
	}
}

// percentile returns the p-th part of the sorted durations of calls.
func percentile(calls []*call, p float64) time.Duration {
	if len(calls) == 0 {
		return 0
	}
	took := make([]time.Duration, len(calls))
	for i, c := range calls {
		took[i] = c.took()
	}
	slices.Sort(took)
	return took[min(len(took)-1, int(p*float64(len(took))))].Round(time.Millisecond)
}

// tally counts calls by outcome.
func tally(calls []*call) map[outcome]int {
	counts := map[outcome]int{}
	for _, c := range calls {
		counts[c.outcome]++
	}
	return counts
}

// only are the calls for which keep is true.
func only(calls []*call, keep func(*call) bool) []*call {
	var kept []*call
	for _, c := range calls {
		if keep(c) {
			kept = append(kept, c)
		}
	}
	return kept
}

// firsts are the first calls of each member that begin at or after a time.
func firsts(calls []*call, since time.Time) []*call {
	first := map[*member]*call{}
	for _, c := range calls {
		if f := first[c.member]; !c.begin.Before(since) && (f == nil || c.begin.Before(f.begin)) {
			first[c.member] = c
		}
	}
	var list []*call
	for _, c := range first {
		list = append(list, c)
	}
	return list
}
