package chaos

import (
	"testing"
	"time"
)

func TestWorkerThatRestartsOnItsDirectoryGoesOnAtOnce(t *testing.T) {
	// Nobody can have waited for the lease of the worker that was killed.
	const ttl, soon = 15 * time.Second, 3 * time.Second
	p := usual
	p.ttl = ttl
	w := start(t, p)
	w.serve("again", w.ledger.URL(), "", "")
	crew := enlist(t, "again", w.Workers, crewSize)
	w.locate(crew)
	crew.work(crew.members, pace)
	w.let(2 * time.Second)

	victim := w.pick()
	pid, killed := victim.PID, kill(victim)
	if err := w.RestartWorker(t.Context(), victim); err != nil {
		t.Fatal(err)
	}
	ready := time.Now()
	w.let(soon + 2*time.Second)
	crew.rest()

	calls := crew.made()
	w.expect(calls, func(c *call) bool { return brokenBy(c, victim, killed) })
	orphans := only(calls, func(c *call) bool { return c.member.owner == victim.Name })
	next := firsts(orphans, killed.end)
	last := ready
	for _, c := range next {
		if c.end.After(last) {
			last = c.end
		}
	}
	t.Logf("ready %v after the kill; first calls of %d orphans: p50 %v, max %v; the last %v after the worker was ready",
		ready.Sub(killed.end).Round(time.Millisecond), len(next), percentile(next, 0.5), percentile(next, 1), last.Sub(ready).Round(time.Millisecond))
	if last.Sub(ready) > soon {
		t.Errorf("the last orphan was served %v after the worker was ready, want at most %v; the lease is %v", last.Sub(ready), soon, ttl)
	}
	w.audit(crew, book{killed: map[int]span{pid: killed}})
	w.leave(crew, nil)
}
