package chaos

import (
	"testing"
	"time"

	"github.com/leasehold/leasehold/test/internal/cluster"
)

// grace is how long after its owner's lease a session's next call may still take.
const grace = time.Second

// unaffected is how long a call may take at most that has nothing to do with what
// was broken, on a machine that is busy.
const unaffected = time.Second

func TestKilledWorkerLosesNoSession(t *testing.T) {
	const inFlight, repeatable = 20, 5
	w := start(t, usual)
	w.serve("kill", w.ledger.URL(), "repeatable_tools: [slow]", "")
	crew := enlist(t, "kill", w.Workers, crewSize)
	w.locate(crew)
	crew.work(crew.members, pace)
	crew.attend(crew.members[:crewSize/5])
	w.settle()

	victim := w.pick()
	others := w.Others(victim)
	orphans := crew.ownedBy(victim)
	at := func(i int) *cluster.Worker { return others[i%len(others)] }
	marks := crew.together(orphans[:inFlight], func(i int) order { return order{ms: 20_000, steps: 100 * (i % 2), at: at(i)} })
	repeats := crew.together(orphans[inFlight:inFlight+repeatable], func(i int) order { return order{tool: "slow", ms: 1500, at: at(i)} })
	w.running(inFlight + repeatable)
	killed := kill(victim)
	broken, repeated := marks(), repeats()
	w.let(w.plan.ttl + 3*time.Second)
	crew.rest()

	w.want("in flight at the kill", broken, unknown)
	for _, c := range broken {
		if after := c.end.Sub(killed.end); after > time.Second {
			t.Errorf("in flight at the kill: %v, answered %v after it, want at most 1s", c, after.Round(time.Millisecond))
		}
	}
	w.expect(repeated, nil)
	calls := crew.made()
	w.expect(calls, func(c *call) bool { return brokenBy(c, victim, killed) })
	next := firsts(only(calls, func(c *call) bool { return c.member.owner == victim.Name }), killed.end)
	rest := only(calls, func(c *call) bool {
		return c.member.owner != victim.Name && c.begin.After(killed.end) && c.front != victim
	})
	t.Logf("in flight: %v; first calls of %d orphans after the kill: p50 %v, p99 %v; %d calls of others: p99 %v; %d ends of streams",
		tally(broken), len(next), percentile(next, 0.5), percentile(next, 0.99), len(rest), percentile(rest, 0.99), len(crew.breaks))
	if got, want := percentile(next, 0.99), w.plan.ttl+grace+w.late(); got > want {
		t.Errorf("the orphans' next calls took %v at the 99th percentile, want at most %v", got, want)
	}
	if got := percentile(rest, 0.99); got > unaffected {
		t.Errorf("calls of other sessions took %v at the 99th percentile, want at most %v", got, unaffected)
	}
	w.audit(crew, book{killed: map[int]span{victim.PID: killed}})
	crew.target(others...)
	w.leave(crew, nil)
}

// kill kills a worker and returns when that was: no sooner than the beginning, and
// no later than the end.
func kill(victim *cluster.Worker) span { return killProcess(victim.Process) }

func killProcess(victim *cluster.Process) span {
	begin := time.Now()
	victim.Kill()
	return span{begin, time.Now()}
}

// brokenBy reports whether a call could not be answered because of the death of a
// worker: it was in flight at that worker, as its client's front or at its
// session's owner.
func brokenBy(c *call, victim *cluster.Worker, killed span) bool {
	if c.begin.After(killed.end) || c.end.Before(killed.begin) {
		return false
	}
	return c.outcome == unknown && c.member.owner == victim.Name || c.outcome == broken && c.front == victim
}

func TestKilledWorkerOfManySessionsLosesNone(t *testing.T) {
	const sessions = 2000
	p := usual
	p.plain, p.blind = true, true
	w := start(t, p)
	w.serve("many", w.ledger.URL(), "", "")
	crew := enlist(t, "many", w.Workers, sessions)
	w.locate(crew)
	crew.together(crew.members, func(int) order { return order{} })()
	w.settle()

	victim := w.pick()
	crew.target(w.Others(victim)...)
	orphans := crew.ownedBy(victim)
	victim.Kill()
	next := crew.together(orphans, func(int) order { return order{} })()
	// So many dials at once leave connections that no request used; the workers
	// close those about now, and a request could be under way on one.
	crew.http.CloseIdleConnections()
	crew.together(crew.members, func(int) order { return order{} })()
	t.Logf("%d sessions, %d of them orphans: first calls p50 %v, p99 %v, max %v", sessions, len(orphans),
		percentile(next, 0.5), percentile(next, 0.99), percentile(next, 1))
	w.expect(crew.made(), nil)
	if got, want := percentile(next, 0.99), w.plan.ttl+grace+w.late(); got > want {
		t.Errorf("the orphans' next calls took %v at the 99th percentile, want at most %v", got, want)
	}
	w.audit(crew, book{})
	w.leave(crew, nil)
}
