package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/leasehold/leasehold/test/internal/cluster"
	"github.com/leasehold/leasehold/test/internal/ledger"
	"github.com/leasehold/leasehold/test/internal/poll"
)

const (
	// calm is how long the world is left alone between two harms.
	calm = 2 * time.Second
	// turnover is how many sessions end and begin anew between two harms.
	turnover = 10
	// longSoak is from which length on a soak waits until processes have given back
	// what they keep for a while.
	longSoak = 2 * time.Minute
	// giveBack is how long that takes.
	giveBack = 200 * time.Second
	// connected is how many goroutines a process's connections from and to a worker
	// take, which were not there at first.
	connected = 8
	// memory is how much larger a process's heap may be then than at first.
	memory = 32 << 20
)

// harm is a fault that comes and goes.
type harm struct {
	name string
	// hurts are the outcomes that a call may have while it lasts.
	hurts []outcome
	// do does it and returns when it is over. It may say which worker suffers.
	do func(s *soaking) (*cluster.Worker, error)
}

// soaking is a soak under way.
type soaking struct {
	*world
	crew   *crew
	chance *rand.Rand
	book   book
	harms  []harmed
}

// harmed is a harm that was done.
type harmed struct {
	harm
	span
}

// harms are what a soak does, each as likely as the others.
var harms = []harm{
	{"a worker is killed and restarts", []outcome{unknown, broken}, (*soaking).restartWorker},
	{"a worker is killed and is away for longer than its lease", []outcome{unknown, broken}, (*soaking).loseWorker},
	{"a worker is stopped for longer than its lease", []outcome{unknown, unavailable, broken}, (*soaking).stopWorker},
	{"a worker is cut off from the others", []outcome{unknown, unavailable}, (*soaking).partWorker},
	{"a worker is cut off from the control planes", []outcome{unknown, unavailable}, (*soaking).isolateWorker},
	{"a control plane is killed", nil, (*soaking).restartControl},
	{"an etcd member is killed", nil, (*soaking).restartEtcd},
	{"an etcd member is stopped", nil, (*soaking).stopEtcd},
}

// worker is a worker to harm.
func (s *soaking) worker() *cluster.Worker { return s.Workers[s.chance.IntN(len(s.Workers))] }

func (s *soaking) restartWorker() (*cluster.Worker, error) {
	victim := s.worker()
	s.book.killed[victim.PID] = kill(victim)
	return victim, s.RestartWorker(s.t.Context(), victim)
}

func (s *soaking) loseWorker() (*cluster.Worker, error) {
	victim := s.worker()
	s.book.killed[victim.PID] = kill(victim)
	s.let(s.plan.ttl + 2*time.Second)
	return victim, s.RestartWorker(s.t.Context(), victim)
}

func (s *soaking) stopWorker() (*cluster.Worker, error) {
	victim := s.worker()
	s.book.stopped[victim.PID] = true
	s.crew.target(s.Others(victim)...)
	defer s.crew.target(s.Workers...)
	err := victim.Pause()
	s.let(2 * s.plan.ttl)
	return victim, errors.Join(err, victim.Resume())
}

func (s *soaking) partWorker() (*cluster.Worker, error) {
	victim := s.worker()
	link := s.links.of(s.t, cluster.Peers, victim.Name)
	link.stall(s.t)
	s.let(2 * s.plan.ttl)
	link.flow(s.t)
	return victim, nil
}

func (s *soaking) isolateWorker() (*cluster.Worker, error) {
	victim := s.worker()
	for _, cp := range s.Control {
		s.links.of(s.t, victim.Name, cp.Name).stall(s.t)
	}
	s.let(2 * s.plan.ttl)
	for _, cp := range s.Control {
		s.links.of(s.t, victim.Name, cp.Name).flow(s.t)
	}
	return victim, nil
}

func (s *soaking) restartControl() (*cluster.Worker, error) {
	victim := s.Control[s.chance.IntN(len(s.Control))]
	victim.Kill()
	s.let(s.plan.ttl)
	return nil, s.RestartControl(s.t.Context(), victim)
}

func (s *soaking) restartEtcd() (*cluster.Worker, error) {
	victim := s.chance.IntN(len(s.Etcd))
	s.Etcd[victim].Kill()
	s.let(s.plan.ttl)
	return nil, s.RestartEtcd(s.t.Context(), victim)
}

func (s *soaking) stopEtcd() (*cluster.Worker, error) {
	victim := s.Etcd[s.chance.IntN(len(s.Etcd))]
	err := victim.Pause()
	s.let(s.plan.ttl)
	return nil, errors.Join(err, victim.Resume())
}

func TestSoak(t *testing.T) {
	p := usual
	p.ttl, p.plain = 6*time.Second, true // the race detector takes memory of its own
	p.between = func(from, to string) bool { return true }
	w := start(t, p)
	w.serve("soak", w.ledger.URL(), "", "")
	s := &soaking{
		world: w, crew: enlist(t, "soak", w.Workers, crewSize), chance: chance(t, "harms"),
		book: book{wander: true, stopped: map[int]bool{}, killed: map[int]span{}},
	}
	w.settle()
	s.crew.work(s.crew.members, pace)
	began := time.Now()
	for n := 0; time.Since(began) < *soak; n++ {
		s.round(n)
	}
	s.let(calm)
	s.crew.rest()
	s.check()
}

// round does one harm, waits until the world has recovered, and replaces a few
// sessions.
func (s *soaking) round(n int) {
	s.t.Helper()
	s.let(calm)
	s.renew()
	h := harmed{harm: harms[s.chance.IntN(len(harms))], span: span{begin: time.Now()}}
	victim, err := h.do(s)
	if err != nil {
		s.t.Fatalf("%s: %v", h.name, err)
	}
	s.recover()
	h.end = time.Now()
	s.harms = append(s.harms, h)
	s.t.Logf("%v: %s (%s), %v until all is well", h.begin.Sub(s.crew.started).Round(time.Second), h.name, name(victim),
		h.end.Sub(h.begin).Round(100*time.Millisecond))
}

// name is a worker's name, if there is one.
func name(w *cluster.Worker) string {
	if w == nil {
		return "no worker"
	}
	return w.Name
}

// recover waits until every worker is registered and answers at every other.
func (s *soaking) recover() {
	s.t.Helper()
	s.eventually(s.plan.ttl+20*time.Second, func(ctx context.Context) error {
		workers, err := s.Registered(ctx)
		if err == nil && len(workers) != len(s.Workers) {
			err = fmt.Errorf("%d workers are registered, want %d", len(workers), len(s.Workers))
		}
		if err == nil {
			_, err = s.EtcdLeader(ctx)
		}
		return err
	})
	for _, m := range s.crew.members[:turnover] {
		for _, at := range s.Workers {
			s.eventually(s.plan.ttl+20*time.Second, func(ctx context.Context) error {
				if c := m.do(ctx, order{method: "ping", at: at}); c.outcome != answered {
					return fmt.Errorf("%v", c)
				}
				return nil
			})
		}
	}
}

// renew ends a few sessions and opens others.
func (s *soaking) renew() {
	s.t.Helper()
	passing := enlist(s.t, "soak", s.Workers, turnover)
	s.expect(passing.together(passing.members, func(int) order { return order{} })(), nil)
	passing.leave(nil)
	passing.http.CloseIdleConnections()
	s.crew.mu.Lock()
	defer s.crew.mu.Unlock()
	s.crew.calls = append(s.crew.calls, passing.calls...)
}

// check checks what there is to check in the end.
func (s *soaking) check() {
	s.t.Helper()
	calls := s.crew.made()
	s.t.Logf("%d harms; calls: %v", len(s.harms), tally(calls))
	s.expect(calls, s.excused)
	s.audit(s.crew, s.book)
	s.checkLive()
	s.leave(s.crew, nil)
	if *soak >= longSoak {
		s.checkGivenBack()
	}
}

// excused reports whether a call ran during a harm that explains its outcome.
func (s *soaking) excused(c *call) bool {
	return slices.ContainsFunc(s.harms, func(h harmed) bool {
		return c.end.After(h.begin) && c.begin.Before(h.end) && slices.Contains(h.hurts, c.outcome)
	})
}

// checkLive checks that Leasehold and the upstream have the same sessions.
func (s *soaking) checkLive() {
	s.t.Helper()
	_, err := poll.Until(s.t.Context(), 30*time.Second, func(ctx context.Context) error {
		ours, err := s.Sessions(ctx, "soak")
		if err != nil {
			return err
		}
		var theirs ledger.Report
		if theirs, err = s.ledger.Summary(ctx); err != nil {
			return err
		}
		if len(ours) != len(theirs.Live) || len(ours) != len(s.crew.members) {
			return fmt.Errorf("Leasehold has %d sessions, the upstream %d, the clients %d", len(ours), len(theirs.Live), len(s.crew.members))
		}
		return nil
	})
	if err != nil {
		s.t.Error(err)
	}
}

// checkGivenBack checks that every process is back to the goroutines, descriptors
// and memory of the beginning once its pools have emptied and it has collected
// its garbage, which an idle one does every two minutes.
func (s *soaking) checkGivenBack() {
	s.t.Helper()
	took, err := poll.Until(s.t.Context(), giveBack, func(context.Context) error {
		var errs []error
		for name, now := range s.usage() {
			before := s.before[name]
			if now.goroutines > before.goroutines+connected*float64(len(s.Workers))+slack || now.descriptors > before.descriptors+slack || now.heap > before.heap+memory {
				errs = append(errs, fmt.Errorf("%s has %v goroutines, %v descriptors and a heap of %.0f MB, at first %v, %v and %.0f",
					name, now.goroutines, now.descriptors, now.heap/1e6, before.goroutines, before.descriptors, before.heap/1e6))
			}
		}
		return errors.Join(errs...)
	})
	if err != nil {
		s.t.Error(err)
		for _, w := range s.Workers {
			syscall.Kill(w.PID, syscall.SIGQUIT) // its log then has what every goroutine does
		}
		return
	}
	s.t.Logf("everything was given back after %v", took.Round(time.Second))
}
