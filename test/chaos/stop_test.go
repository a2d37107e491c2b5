package chaos

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/leasehold/leasehold/test/internal/cluster"
)

// lately is how long after its last sign of life an owner is taken as there.
const lately = 20 * time.Millisecond

func TestStoppedWorkerSendsNothingOnceItGoesOn(t *testing.T) {
	const stop, zombies, hung = 20 * time.Second, 20, 20
	w := start(t, usual)
	w.serve("stop", w.ledger.URL(), "", "")
	crew := enlist(t, "stop", w.Workers, crewSize)
	w.locate(crew)
	crew.work(crew.members, pace)
	w.settle()
	before := w.incarnation(w.pick())

	victim := w.pick()
	others := w.Others(victim)
	orphans := crew.ownedBy(victim)
	crew.target(others...)
	inFlight := crew.silenced(orphans[zombies:zombies+hung], others)
	w.running(hung)
	stopped := time.Now()
	if err := victim.Pause(); err != nil {
		t.Fatal(err)
	}
	silent := time.Now().Add(lately + w.late())
	w.toldOf("in flight at the stop", inFlight(), stopped)
	w.let(w.plan.ttl + 3*time.Second - time.Since(stopped))
	// These are waiting for the worker when it goes on.
	waiting := crew.together(orphans[:zombies], func(int) order { return order{at: victim} })
	w.let(stop - time.Since(stopped))
	resumed := time.Now()
	if err := victim.Resume(); err != nil {
		t.Fatal(err)
	}
	late := waiting()
	w.eventually(w.plan.ttl+5*time.Second, func(ctx context.Context) error { return w.registeredAnew(ctx, victim, before) })
	crew.target(w.Workers...)
	w.let(3 * time.Second)
	crew.rest()

	next := firsts(only(crew.made(), func(c *call) bool { return c.member.owner == victim.Name && c.front != victim }), stopped)
	t.Logf("first calls of %d orphans: p50 %v, p99 %v; sent to the stopped worker: %v", len(next),
		percentile(next, 0.5), percentile(next, 0.99), tally(late))
	if got, want := percentile(next, 0.99), w.plan.ttl+grace+w.late(); got > want {
		t.Errorf("the orphans' next calls took %v at the 99th percentile, want at most %v", got, want)
	}
	w.expect(crew.made(), func(c *call) bool {
		switch {
		case c.begin.Before(silent) && c.end.After(stopped):
			// It was in flight at the worker, as its front or as the session's owner,
			// or sent to it just after it was last heard of.
			return c.front == victim || c.member.owner == victim.Name && c.outcome == unknown
		case c.front == victim && c.begin.Before(resumed):
			return c.outcome == unavailable // it had hung for longer than a request is held
		}
		return false
	})
	w.audit(crew, book{stopped: map[int]bool{victim.PID: true}})
	w.serves(victim)
	w.leave(crew, nil)
}

// An owner that goes on before its lease is over keeps its sessions; only what was
// in flight has an unknown outcome, which its clients need not wait for.
func TestCallsInFlightAtAStoppedOwnerAreToldSoAndMoveNothing(t *testing.T) {
	p := usual
	p.ttl = 12 * time.Second
	w := start(t, p)
	w.serve("paused", w.ledger.URL(), "", "")
	victim := w.pick()
	fronts := w.Others(victim)
	crew := enlist(t, "paused", []*cluster.Worker{victim}, crewSize/10)
	w.locate(crew)
	crew.target(fronts...)
	inFlight := crew.silenced(crew.members, fronts)
	w.running(len(crew.members))
	stopped := time.Now()
	if err := victim.Pause(); err != nil {
		t.Fatal(err)
	}
	w.toldOf("in flight at the stop", inFlight(), stopped)
	if err := victim.Resume(); err != nil {
		t.Fatal(err)
	}
	w.expect(crew.together(crew.members, func(int) order { return order{} })(), nil)
	w.unmoved(crew)
	w.audit(crew, book{})
	w.leave(crew, nil)
}

// serves checks that a worker opens sessions and owns them.
func (w *world) serves(worker *cluster.Worker) {
	w.t.Helper()
	crew := enlist(w.t, "stop", []*cluster.Worker{worker}, 3)
	w.locate(crew)
	w.expect(crew.together(crew.members, func(int) order { return order{} })(), nil)
	if own := crew.ownedBy(worker); len(own) != len(crew.members) {
		w.t.Errorf("%s owns %d of %d sessions that were opened there", worker.Name, len(own), len(crew.members))
	}
	crew.leave(nil)
	crew.http.CloseIdleConnections()
}

// incarnation is what a worker is registered as.
func (w *world) incarnation(worker *cluster.Worker) int64 {
	w.t.Helper()
	return w.registered(worker).GetIncarnation()
}

// registeredAnew returns nil if a worker is registered as another incarnation
// than before.
func (w *world) registeredAnew(ctx context.Context, worker *cluster.Worker, before int64) error {
	workers, err := w.Registered(ctx)
	if err != nil {
		return err
	}
	for _, each := range workers {
		if each.GetListenAddress() == worker.Listen && each.GetIncarnation() != before {
			return nil
		}
	}
	return fmt.Errorf("%s is not registered as a new incarnation", worker.Name)
}
