package chaos

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
	"github.com/leasehold/leasehold/test/internal/client"
	"github.com/leasehold/leasehold/test/internal/cluster"
	"github.com/leasehold/leasehold/test/internal/ledger"
)

const (
	// shortOutage is how long an outage lasts that shows no more than its beginning
	// and its end.
	shortOutage = 15 * time.Second
	// lapse is how long after a worker has died the others may serve on at most: they
	// have each other's word for a third of a lease at a time.
	lapse = 2 * time.Second
)

// Three outages of one world: all control planes and etcd members are away; etcd has
// no quorum; all are away and a worker dies meanwhile.
func TestOutage(t *testing.T) {
	const listeners = 40
	p := usual
	p.outage = max(10*time.Minute, *outage+time.Minute)
	w := start(t, p)
	w.serve("outage", w.ledger.URL()+ledger.Numbered, "", "")
	former := w.former()
	crew := enlist(t, "outage", w.Live(), crewSize)
	w.settle()
	crew.attend(crew.members[:listeners])
	w.listening(listeners)
	crew.work(crew.members, pace)

	w.outageOfAll(crew, former)
	w.outageOfQuorum(crew)
	w.undisturbed(crew)
	killed := w.outageWithADeath(crew)

	crew.halt()
	w.told(crew, crew.members[:listeners])
	crew.rest()
	w.opened(len(crew.members))
	w.audit(crew, book{told: crew.members[:listeners], killed: killed})
	w.leave(crew, nil)
}

// former returns a worker that was there, and has left.
func (w *world) former() *cluster.Worker {
	w.t.Helper()
	if err := w.StartWorkers(w.t.Context(), 1); err != nil {
		w.t.Fatal(err)
	}
	former := w.Workers[len(w.Workers)-1]
	w.eventually(10*time.Second, func(ctx context.Context) error { return w.Applied(ctx, "outage") })
	w.terminate(former)
	return former
}

// terminate stops a worker as it is stopped in earnest.
func (w *world) terminate(worker *cluster.Worker) {
	w.t.Helper()
	if err := worker.Signal(syscall.SIGTERM); err != nil {
		w.t.Fatal(err)
	}
	if code, err := worker.Wait(drainLimit); err != nil || code != 0 {
		w.t.Fatalf("%s, told to stop: exit code %d, %v", worker.Name, code, err)
	}
}

// outageOfAll has everything but the workers away: no request fails, no session moves,
// and those that are opened meanwhile are recorded later. A worker that starts
// meanwhile passes requests on, and opens no session.
func (w *world) outageOfAll(c *crew, former *cluster.Worker) {
	w.t.Helper()
	workers, before := w.Live(), w.owned(c)
	began := time.Now()
	w.Blackout()
	w.let(2 * w.plan.ttl)
	c.work(c.more(workers, 30), pace)
	if err := w.LaunchWorker(w.t.Context(), former); err != nil {
		w.t.Fatal(err)
	}
	w.passesOn(c, former)
	w.let(*outage - time.Since(began) - w.plan.ttl)
	c.work(c.more(workers, 30), pace)
	w.terminate(former)
	w.let(*outage - time.Since(began))
	w.returns("all were away", c, began)
	w.same("after all had been away", before, w.owned(c))
	w.durable(c)
	w.expect(c.made(), nil)
}

// outageOfQuorum has most etcd members away.
func (w *world) outageOfQuorum(c *crew) {
	w.t.Helper()
	before, began := w.owned(c), time.Now()
	majority := len(w.Etcd)/2 + 1
	for _, member := range w.Etcd[:majority] {
		member.Kill()
	}
	w.let(shortOutage)
	w.returns("etcd had no quorum", c, began)
	w.same("after etcd had no quorum", before, w.owned(c))
	w.expect(c.made(), nil)
}

// outageWithADeath has everything away and a worker die. Since nobody can tell that
// from its being cut off, requests are refused until the return; then the dead worker's
// sessions go on, and no other moves.
func (w *world) outageWithADeath(c *crew) map[int]span {
	w.t.Helper()
	w.locate(c)
	before, began := w.owned(c), time.Now()
	w.Blackout()
	w.let(2 * w.plan.ttl)
	victim := w.Live()[chance(w.t, "victim").IntN(len(w.Live()))]
	orphans := c.ownedBy(victim)
	c.target(w.Others(victim)...)
	killed := kill(victim)
	fenced := killed.end.Add(lapse + w.late())
	w.let(shortOutage - time.Since(began))
	returned := time.Now()
	w.returns("a worker died meanwhile", c, began)
	w.let(2 * time.Second)

	recovered := time.Now()
	c.halt()
	calls := only(c.made(), func(c *call) bool { return c.begin.After(began) })
	w.expect(calls, func(c *call) bool {
		inFlight := c.outcome == unknown && c.end.After(killed.begin) && c.begin.Before(fenced) // as the others stopped to serve on
		return brokenBy(c, victim, killed) || inFlight || c.outcome == unavailable && c.end.After(killed.begin) && c.begin.Before(recovered)
	})
	away := only(calls, func(c *call) bool { return c.begin.After(fenced) && c.end.Before(returned) })
	w.want("while a worker was dead and the control plane away", away, unavailable)
	w.t.Logf("while a worker was dead and the control plane away: %v, p50 %v, max %v", tally(away), percentile(away, 0.5), percentile(away, 1))
	w.expect(c.together(c.members, func(int) order { return order{} })(), nil)
	lost := map[*member]bool{}
	for _, m := range orphans {
		lost[m] = true
		delete(before, m)
	}
	after := w.owned(c)
	for m := range lost {
		delete(after, m)
	}
	w.same("after a worker had died while all were away", before, after)
	return map[int]span{victim.PID: killed}
}

// returns has everything come back, and waits until all is as usual.
func (w *world) returns(what string, c *crew, began time.Time) {
	w.t.Helper()
	away := time.Since(began)
	if err := w.EndBlackout(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	ready := time.Now()
	w.settle()
	w.let(time.Second)
	calls := only(c.made(), func(c *call) bool { return c.end.After(began) })
	w.t.Logf("%s for %v, as usual %v after the return; %d calls: %v, p50 %v, p99 %v, max %v", what, away.Round(time.Second),
		time.Since(ready).Round(100*time.Millisecond), len(calls), tally(calls), percentile(calls, 0.5), percentile(calls, 0.99), percentile(calls, 1))
}

// passesOn waits until a worker that started without the control plane passes requests
// on, and checks that it opens no session.
func (w *world) passesOn(c *crew, front *cluster.Worker) {
	w.t.Helper()
	w.eventually(20*time.Second, func(ctx context.Context) error {
		m := c.members[0]
		a := post(ctx, c.http, front.URL(c.gateway), m.session.Header(), "0", `{"jsonrpc":"2.0","id":0,"method":"ping"}`)
		if a.outcome != answered {
			return fmt.Errorf("%s does not pass a request on: %s: %w", front.Name, a.outcome, a.err)
		}
		return nil
	})
	w.want("at a worker that started meanwhile", c.together(c.members, func(int) order { return order{at: front} })(), answered)
	if a := post(w.t.Context(), c.http, front.URL(c.gateway), nil, "1", string(client.Initialize(1))); a.outcome != unavailable {
		w.t.Errorf("initialize at a worker that started without the control plane: %s: %v; want %s", a.outcome, a.err, unavailable)
	}
}

// ownership is who a session's record names.
type ownership struct {
	owner       string
	incarnation int64
	epoch       uint64
}

// owned reads the records of a crew's sessions.
func (w *world) owned(c *crew) map[*member]ownership {
	w.t.Helper()
	sessions := map[string]*leaseholdv1.Session{}
	w.eventually(10*time.Second, func(ctx context.Context) error {
		listed, err := w.Sessions(ctx, c.gateway)
		for _, s := range listed {
			sessions[s.GetName()] = s
		}
		return err
	})
	all := map[*member]ownership{}
	for _, m := range c.members {
		s := sessions[cluster.SessionName(c.gateway, m.session.ID)]
		all[m] = ownership{s.GetOwner(), s.GetIncarnation(), s.GetEpoch()}
	}
	return all
}

// same checks that sessions have the owners, under the same epochs, that they had.
func (w *world) same(when string, before, after map[*member]ownership) {
	w.t.Helper()
	moved := 0
	for m, was := range before {
		if is := after[m]; is != was {
			if moved++; moved <= 3 {
				w.t.Errorf("%s session %d is owned as %+v, before as %+v", when, m.number, is, was)
			}
		}
	}
	if moved > 0 {
		w.t.Errorf("%s %d of %d sessions are owned otherwise than before", when, moved, len(before))
	}
}

// durable waits until every session is recorded, and no worker has others.
func (w *world) durable(c *crew) {
	w.t.Helper()
	w.eventually(10*time.Second, func(ctx context.Context) error {
		for m, is := range w.owned(c) {
			if is.owner == "" {
				return fmt.Errorf("session %d is not recorded", m.number)
			}
		}
		registered, err := w.Registered(ctx)
		for _, worker := range registered {
			if n := worker.GetUndurableSessions(); n > 0 {
				err = fmt.Errorf("%s has %d sessions that are not recorded", worker.GetName(), n)
			}
		}
		return err
	})
}
