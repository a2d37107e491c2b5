package chaos

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/leasehold/leasehold/test/internal/cluster"
)

// apart is a world in which any worker can be cut off from the control plane, and any
// two from each other.
var apart = plan{
	etcd: 1, controls: 1, workers: 3, ttl: 2 * time.Second, crossings: true,
	between: func(_, to string) bool { return to == "control0" },
}

// island is the workers of a world that are cut off from the control plane, and then
// also from the other workers.
type island struct {
	*world
	crew    *crew
	members map[*cluster.Worker]bool
	// calm is when all was as usual, cut when the island was cut off from the control
	// plane, parted when from the others, and well when all was as usual again.
	calm, cut, parted, well time.Time
}

// Every set of workers is cut off once from the control plane, and then from the other
// workers too; all of them at once from each other. Whoever has nothing to do with it
// notices nothing. All of them serve on while they reach each other.
func TestEverySetOfWorkersIsCutOff(t *testing.T) {
	w := start(t, apart)
	w.serve("island", w.ledger.URL(), "", "")
	crew := enlist(t, "island", w.Workers, 30)
	crew.work(crew.members, pace)
	for set := range 1 << len(w.Workers) {
		i := &island{world: w, crew: crew, members: map[*cluster.Worker]bool{}}
		for n, worker := range w.Workers {
			if set&(1<<n) != 0 {
				i.members[worker] = true
			}
		}
		if len(i.members) > 0 {
			i.pass()
		}
	}
	crew.rest()
	w.audit(crew, book{wander: true})
	w.leave(crew, nil)
}

// pass cuts an island off for a while, and checks what its clients and the others
// noticed.
func (i *island) pass() {
	i.t.Helper()
	i.crew.work(i.crew.more(i.Workers, 15), pace)
	i.settle()
	i.calm = time.Now()
	i.locate(i.crew)
	before := i.owned(i.crew)
	i.cut = time.Now()
	for worker := range i.members {
		i.links.of(i.t, worker.Name, "control0").stall(i.t)
	}
	i.let(5 * i.plan.ttl / 2)
	i.parted = time.Now()
	i.part()
	i.let(3 * i.plan.ttl / 2)
	for worker := range i.members {
		i.links.of(i.t, worker.Name, "control0").flow(i.t)
	}
	for _, c := range i.crossings {
		c.Heal()
	}
	i.settle()
	i.well = time.Now()
	i.let(pace)

	calls := only(i.crew.made(), func(c *call) bool { return c.end.After(i.cut) })
	during := only(calls, func(c *call) bool { return c.end.Before(i.parted) })
	i.t.Logf("%v cut off for %v: of %d calls %v; then from others too: %v", i, i.parted.Sub(i.cut).Round(time.Second), len(calls), tally(during),
		tally(only(calls, func(c *call) bool { return c.end.After(i.parted) })))
	i.expect(calls, i.excused)
	if len(i.members) < len(i.Workers) {
		maps.DeleteFunc(before, func(m *member, _ ownership) bool { return i.owns(m) })
	}
	i.same(fmt.Sprintf("after %v was cut off", i), before, i.owned(i.crew))
}

// part cuts the ways between the island and the others; if there are none, all ways.
func (i *island) part() {
	for _, from := range i.Workers {
		for _, to := range i.Workers {
			all := len(i.members) == len(i.Workers)
			if from != to && (all || i.members[from] != i.members[to]) {
				i.crossings[to.Name].Cut(from.Name)
			}
		}
	}
}

// owns reports whether the session of a member was on the island.
func (i *island) owns(m *member) bool {
	for worker := range i.members {
		if m.owner == worker.Name {
			return true
		}
	}
	return false
}

// excused reports whether a call may have had another outcome than an answer.
func (i *island) excused(c *call) bool {
	if c.begin.After(i.well) || c.outcome != unavailable && c.outcome != unknown {
		return false
	}
	switch {
	case c.begin.Before(i.calm): // it has waited since an island before
		return true
	case len(i.members) == len(i.Workers):
		return c.end.After(i.parted) // before that they have each other's word
	case i.members[c.front]:
		return true
	}
	// Others take the session over as soon as its owner's lease has ended; until then
	// they wait. Only what was in flight is cut.
	return i.owns(c.member) && c.outcome == unknown && c.begin.Before(i.cut.Add(i.plan.ttl+i.late()))
}

func (i *island) String() string {
	var names []string
	for _, worker := range i.Workers {
		if i.members[worker] {
			names = append(names, worker.Name)
		}
	}
	return strings.Join(names, ", ")
}

// A worker that knows no other does not serve on, so that others may take over from it
// at once. Two that know each other do; one that comes meanwhile, whom they cannot ask,
// takes nothing from them.
func TestWorkerThatIsAloneAndWorkerThatJoinsInAnOutage(t *testing.T) {
	p := apart
	p.workers = 1
	w := start(t, p)
	w.serve("few", w.ledger.URL(), "", "")
	crew := enlist(t, "few", w.Workers, 20)
	crew.work(crew.members, pace)
	cutOff := func(workers []*cluster.Worker, meanwhile func()) (cut time.Time) {
		w.settle()
		before := w.owned(crew)
		cut = time.Now()
		for _, worker := range workers {
			w.links.of(t, worker.Name, "control0").stall(t)
		}
		w.let(2 * w.plan.ttl)
		meanwhile()
		for _, worker := range workers {
			w.links.of(t, worker.Name, "control0").flow(t)
		}
		w.settle()
		w.let(pace)
		w.same("afterwards", before, w.owned(crew))
		return cut
	}

	var healed time.Time
	cut := cutOff(w.Workers, func() { healed = time.Now() })
	well := time.Now()
	w.expect(crew.made(), func(c *call) bool {
		return c.end.After(cut) && c.begin.Before(well) && (c.outcome == unavailable || c.outcome == unknown)
	})
	alone := only(crew.made(), func(c *call) bool { return c.begin.After(cut.Add(w.plan.ttl)) && c.end.Before(healed) })
	w.want("at a worker that is alone, without the control plane", alone, unavailable)

	if err := w.StartWorkers(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	both := w.Live()
	w.eventually(10*time.Second, func(ctx context.Context) error { return w.Applied(ctx, "few") })
	crew.target(both...)
	crew.work(crew.more(both, 20), pace)
	var joined []*call
	since := cutOff(both, func() {
		if err := w.StartWorkers(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		joiner := w.Others(both[0])[1]
		w.let(2 * w.plan.ttl) // it may take over by now, as far as it is concerned
		joined = crew.together(crew.members, func(int) order { return order{at: joiner} })()
	})
	crew.rest()
	w.want("at a worker that joined meanwhile", joined, unavailable)
	w.expect(only(crew.made(), func(c *call) bool { return c.begin.After(since) }), func(c *call) bool {
		return c.front != both[0] && c.front != both[1] && c.outcome == unavailable
	})
	w.opened(len(crew.members))
	w.audit(crew, book{})
	w.leave(crew, nil)
}
