package chaos

import (
	"testing"
	"time"

	"github.com/leasehold/leasehold/test/internal/cluster"
)

// toldAtOnce is how long a front may take to say so, once it knows that an owner is
// alive and out of reach: a second, and what a busy machine adds.
const toldAtOnce = 1500 * time.Millisecond

// toldOfSilence is how long what is in flight at an owner that falls silent may go
// on: 3 s, and what a busy machine adds.
const toldOfSilence = 4 * time.Second

// learning is how long fronts may take to find out that an owner which they
// cannot reach is alive.
const learning = 5 * time.Second

func TestPartitionBetweenWorkersIsToldAtOnceAndMovesNothing(t *testing.T) {
	const hung = 20
	p := usual
	p.between = func(from, _ string) bool { return from == cluster.Peers }
	w := start(t, p)
	w.serve("parted", w.ledger.URL(), "", "")
	crew := enlist(t, "parted", w.Workers, crewSize)
	w.locate(crew)
	crew.work(crew.members, pace)
	w.let(2 * time.Second)

	owner := w.pick()
	fronts := w.Others(owner)
	own := crew.ownedBy(owner)
	inFlight := crew.silenced(own[hung:2*hung], fronts)
	w.running(hung)
	cut := time.Now()
	link := w.links.of(t, cluster.Peers, owner.Name)
	link.stall(t)
	w.toldOf("in flight at the cut", inFlight(), cut)
	w.let(learning)
	learned := time.Now()
	w.let(2 * w.plan.ttl)
	// What arrives at the owner itself is served.
	direct := crew.together(own[:hung], func(int) order { return order{at: owner} })()
	healed := time.Now()
	link.flow(t)
	w.let(3 * time.Second)
	recovered := time.Now()
	w.let(2 * time.Second)
	crew.rest()

	w.expect(direct, nil)
	calls := crew.made()
	w.expect(calls, func(c *call) bool {
		return c.member.owner == owner.Name && c.front != owner && c.end.After(cut) && c.begin.Before(recovered) &&
			(c.outcome == unavailable || c.outcome == unknown)
	})
	parted := only(calls, func(c *call) bool {
		return c.member.owner == owner.Name && c.front != owner && c.begin.After(learned) && c.end.Before(healed)
	})
	first := firsts(only(calls, func(c *call) bool { return c.member.owner == owner.Name && c.front != owner }), cut)
	t.Logf("while parted: %v, p50 %v, max %v; the first after the cut: %v, max %v", tally(parted),
		percentile(parted, 0.5), percentile(parted, 1), tally(first), percentile(first, 1))
	if len(parted) == 0 {
		t.Error("no front was asked for a session of the owner that it could not reach")
	}
	w.want("while parted", parted, unavailable)
	w.soon("while parted", parted, toldAtOnce)
	w.unmoved(crew)
	w.audit(crew, book{})
	crew.target(fronts...)
	w.leave(crew, nil)
}

// A front that asks who owns a session, because its id does not say so any more,
// must find out as well that the owner can be reached again.
func TestPartitionHealsForSessionsThatHadMoved(t *testing.T) {
	p := usual
	p.between = func(from, _ string) bool { return from == cluster.Peers }
	w := start(t, p)
	w.serve("moved", w.ledger.URL(), "", "")
	first := w.pick()
	crew := enlist(t, "moved", []*cluster.Worker{first}, crewSize)
	w.settle()
	killed := kill(first)
	others := w.Others(first)
	crew.target(others...)
	w.expect(crew.together(crew.members, func(int) order { return order{} })(), nil)
	w.locate(crew)
	owner, front := others[0], others[1]
	own := crew.ownedBy(owner)
	crew.target(front)
	crew.work(own, pace)

	link := w.links.of(t, cluster.Peers, owner.Name)
	link.stall(t)
	w.let(learning + 2*time.Second)
	parted := crew.together(own, func(int) order { return order{} })()
	link.flow(t)
	healed := time.Now()
	w.let(3 * time.Second)
	recovered := time.Now()
	w.let(2 * time.Second)
	crew.rest()

	w.want("while parted", parted, unavailable)
	after := only(crew.made(), func(c *call) bool { return c.begin.After(recovered) })
	t.Logf("%d sessions had moved; since the partition healed: %v", len(own),
		tally(only(crew.made(), func(c *call) bool { return c.begin.After(healed) })))
	w.want("3s after the partition had healed", after, answered)
	w.unmoved(crew)
	w.audit(crew, book{killed: map[int]span{first.PID: killed}})
	crew.target(others...)
	w.leave(crew, nil)
}

// silenced has some members make long calls at fronts, every second one with
// events, whose owner is about to fall silent.
func (c *crew) silenced(members []*member, fronts []*cluster.Worker) (wait func() []*call) {
	return c.together(members, func(i int) order {
		return order{ms: 10_000, steps: 50 * (i % 2), at: fronts[i%len(fronts)]}
	})
}

// toldOf checks that clients were told soon after a silence began that the outcome
// of their calls is unknown.
func (w *world) toldOf(what string, calls []*call, silent time.Time) {
	w.t.Helper()
	w.want(what, calls, unknown)
	limit, most := toldOfSilence+w.late(), time.Duration(0)
	for _, c := range calls {
		most = max(most, c.end.Sub(silent))
	}
	w.t.Logf("%s: %v, the last %v after the silence began", what, tally(calls), most.Round(time.Millisecond))
	if most > limit {
		w.t.Errorf("%s: the last was told after %v, want at most %v", what, most, limit)
	}
}

// unmoved checks that all sessions of a crew are where they were.
func (w *world) unmoved(c *crew) {
	w.t.Helper()
	was := map[*member]string{}
	for _, m := range c.members {
		was[m] = m.owner
	}
	w.locate(c)
	moved := 0
	for _, m := range c.members {
		if m.owner != was[m] {
			moved++
		}
	}
	if moved > 0 {
		w.t.Errorf("%d of %d sessions moved, want none", moved, len(c.members))
	}
}
