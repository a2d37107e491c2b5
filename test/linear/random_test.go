package linear

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/leasehold/leasehold/test/internal/client"
	"github.com/leasehold/leasehold/test/internal/poll"
)

// clients is how many clients use sessions during the random run.
const clients = 24

// movers is how many sessions an operator moves at the same time meanwhile.
const movers = 3

// tally counts faults, and the calls in flight when they struck.
type tally struct {
	mu       sync.Mutex // guards all below
	faults   map[string]int
	inFlight int64
}

func (c *tally) add(fault string, inFlight int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults[fault]++
	c.inFlight += inFlight
}

func (c *tally) String() string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(c.faults)) {
		all = append(all, fmt.Sprintf("%s %d", name, c.faults[name]))
	}
	return strings.Join(all, ", ")
}

func TestOwnershipIsLinearizableUnderRandomFaults(t *testing.T) {
	seed := *seed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed %d: to repeat it, go test ./test/linear -run %s -args -seed %d", seed, t.Name(), seed)
	w := newWorld(t, size{etcd: 3, controls: 2, workers: 4, ttl: 3 * time.Second, race: true, mutant: *without})
	known := newOwners(w)
	w.tell(known.saw)
	l := &load{world: w, owners: known, quiet: map[string]chan struct{}{}}
	struck := &tally{faults: map[string]int{}}
	if err := w.settled(t.Context(), w.workers...); err != nil {
		t.Fatal(err)
	}
	torment(t, w, l, struck, seed)
	l.reached(t)
	v := w.judge(t)
	t.Logf("faults: %v; calls in flight at them: %d", struck, struck.inFlight)
	t.Logf("%d calls answered, %d not; %d dispatches, %d of unknown processes; %d operations, %d changes in the store",
		l.answered.Load(), l.failed.Load(), v.dispatches, v.strangers, len(v.operations), len(v.changes))
	t.Logf("in the store: %+v", v.progress)
	t.Logf("outcomes: %v", outcomes(v.operations))
	for _, found := range v.violations {
		t.Error(found)
	}
	for _, s := range l.lost {
		if !v.disowned(s) {
			t.Errorf("a client was told that %s is over, which nobody had ended", s.key)
		}
	}
	if t.Failed() {
		v.save(t, w)
	}
	v.madeProgress(t, struck)
}

// torment lets clients work and faults strike for the time of the run, and
// returns when all faults have passed.
func torment(t *testing.T, w *world, l *load, struck *tally, seed uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), *runFor)
	defer cancel()
	stream := uint64(0)
	random := func() *rand.Rand { stream++; return rand.New(rand.NewPCG(seed, 1000+stream)) }
	reclaims := &detour{}
	for _, wk := range w.workers {
		wk.use(careless(random(), reclaims))
	}
	var group sync.WaitGroup
	group.Go(func() { l.run(ctx, clients, seed) })
	saver := random()
	group.Go(func() { w.saver(ctx, l.owners, saver) })
	for range movers {
		mover := random()
		group.Go(func() { w.mover(ctx, l.owners, mover) })
	}
	strike := func(calm time.Duration, faults func(*nemesis) func() []fault) {
		n := &nemesis{world: w, load: l, reclaims: reclaims, random: random(), count: struck.add}
		group.Go(func() {
			if err := n.run(ctx, calm, faults(n)); err != nil {
				t.Error(err)
			}
		})
	}
	half := len(w.workers) / 2
	strike(time.Second, func(n *nemesis) func() []fault { return n.ofWorkers(w.workers[:half]) })
	strike(time.Second, func(n *nemesis) func() []fault { return n.ofWorkers(w.workers[half:]) })
	strike(6*time.Second, func(n *nemesis) func() []fault { return n.ofStore })
	group.Wait()
	for _, wk := range w.workers {
		wk.use(nil)
	}
}

// settled is how long a session may take to have an owner again once nothing is
// wrong any more.
const settled = 20 * time.Second

// reached checks that each session which nobody ended is served again now, at
// any worker.
func (l *load) reached(t *testing.T) {
	t.Helper()
	w, served := l.world, 0
	for i, s := range w.known() {
		if s.deleted != 0 || s.isOver() {
			continue
		}
		served++
		_, err := poll.Until(t.Context(), settled, func(ctx context.Context) error {
			resp, err := w.call(ctx, s, w.workers[i%len(w.workers)], "counter_value", "{}")
			if err == nil && resp.Status != http.StatusOK {
				err = &client.StatusError{Response: resp}
			}
			return err
		})
		if err != nil {
			t.Errorf("%s is not served after all faults have passed: %v", s.key, err)
		}
	}
	t.Logf("%d sessions that nobody ended are served", served)
}

// outcomes counts operations by method and outcome.
func outcomes(operations []operation) map[string]int {
	counts := map[string]int{}
	for _, op := range operations {
		counts[op.Method+" "+op.Outcome]++
	}
	return counts
}

// madeProgress checks that enough happened for the verdict to mean anything. A
// longer run must have more of everything.
func (v *verdict) madeProgress(t *testing.T, struck *tally) {
	t.Helper()
	share := min(10, float64(*runFor)/float64(time.Minute))
	for _, c := range []struct {
		what      string
		got, want int
	}{
		{"reclaims", v.reclaims, 12},
		{"re-adoptions", v.readoptions, 2},
		{"hand-overs", v.handOvers, 20},
		{"saves", v.saves, 50},
		{"saves of a record that had changed", outcomes(v.operations)[save+" STALE"], 3},
		{"ends", v.ends, 10},
		{"dispatches", v.dispatches, 200},
		{"calls in flight at a fault", int(struck.inFlight), 20},
		{"kinds of faults", len(struck.faults), 6},
	} {
		want := c.want
		if c.what != "kinds of faults" {
			want = int(float64(c.want) * share)
		}
		if c.got < want {
			t.Errorf("%s: got %d, want at least %d: too little happened to tell anything", c.what, c.got, want)
		}
	}
	if most := v.dispatches / 50; v.strangers > most {
		t.Errorf("%d requests reached the upstream from processes that could not be told, want at most %d", v.strangers, most)
	}
}
