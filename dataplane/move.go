package dataplane

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/leasehold/leasehold/dataplane/balance"
	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/forward"
	"github.com/leasehold/leasehold/dataplane/session"
	"github.com/leasehold/leasehold/dataplane/sessionid"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

const (
	// rebalanceEvery is how often a worker looks whether it owns more than its share.
	rebalanceEvery = 5 * time.Second
	// rebalanceRate is how many sessions a second it gives away then at most.
	rebalanceRate = 500
	// movesTogether is how many sessions change their owner at the same time.
	movesTogether = 32
	// callPatience is how long new requests of a session may wait for those in flight,
	// so that it can be handed over.
	callPatience = 200 * time.Millisecond
	// drainAgain is how soon sessions that were in use are tried again, at first.
	drainAgain = 100 * time.Millisecond
	// drainSlower is how much longer each time, up to drainSlowest.
	drainSlower  = 2
	drainSlowest = 2 * time.Second
	// loadTime bounds the question for another worker's load.
	loadTime = time.Second
	// nowTime is how long an operator's move waits for calls in flight.
	nowTime = 10 * time.Second
)

// Loads asks workers how much they have to do. Safe for concurrent use.
type Loads interface {
	// ObserveLoad asks the worker at address.
	ObserveLoad(ctx context.Context, address string) (*leaseholdv1.ObserveLoadResponse, error)
}

// mover hands sessions of this worker over to others: all of them when it drains, and
// otherwise what is beyond its share.
type mover struct {
	worker   string
	zone     string
	capacity int
	table    *session.Table
	world    *config.Holder
	loads    Loads
	away     func() bool
	log      hclog.Logger
	// timeout is how long after its beginning a drain leaves sessions that are in use
	// alone.
	timeout time.Duration
	running context.Context // ends when the worker stops, and hand-overs are not waited for any more

	pace *rate.Limiter // of rebalancing
}

// others returns the workers that take sessions and answer.
func (m *mover) others(ctx context.Context) []balance.Worker {
	ctx, cancel := context.WithTimeout(ctx, loadTime)
	defer cancel()
	var mu sync.Mutex // guards found
	var found []balance.Worker
	var group errgroup.Group
	group.SetLimit(movesTogether)
	for _, member := range m.world.Load().Members {
		if member.Worker == m.worker || member.Draining {
			continue
		}
		group.Go(func() error {
			load, err := m.loads.ObserveLoad(ctx, member.PeerAddress)
			if err != nil || load.GetDraining() || load.GetIncarnation() != member.Incarnation {
				m.log.Debug("worker takes no sessions now", "worker", member.Worker, "error", err)
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			found = append(found, balance.Worker{ID: member.Worker, Incarnation: member.Incarnation, Address: member.PeerAddress, Zone: member.Zone,
				Sessions: int(load.GetSessions()), Capacity: int(load.GetCapacity())})
			return nil
		})
	}
	group.Wait()
	return found
}

// Rebalance gives away what is beyond this worker's share, until ctx ends. Only idle
// sessions move.
func (m *mover) Rebalance(ctx context.Context, draining func() bool) error {
	ticker := time.NewTicker(rebalanceEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		if draining() || m.away() || len(m.world.Load().Members) < 2 {
			continue
		}
		others := m.others(ctx)
		load := m.table.Load()
		excess := balance.Excess(balance.Worker{Sessions: load.Sessions, Capacity: m.capacity}, others)
		if excess == 0 {
			continue
		}
		moved := m.giveAway(ctx, excess, balance.NewSpread(m.zone, others))
		m.log.Info("sessions handed over, since this worker owned more than its share", "sessions", moved, "of", load.Sessions)
	}
}

// giveAway hands over as many idle sessions, and returns how many it did.
func (m *mover) giveAway(ctx context.Context, most int, spread *balance.Spread) int {
	r := newRound(m, spread)
	idle := m.table.Movable(false)
	for _, s := range idle[:min(most, len(idle))] {
		if m.pace.Wait(ctx) != nil {
			break
		}
		r.move(ctx, s, 0, false)
	}
	r.wait()
	return r.moved
}

// Drain hands all sessions over, and returns once none is left that could be, or ctx
// has ended. Those in use are tried time and again. Near the timeout they are handed
// over though calls are in flight, whose answers this worker still passes on.
func (m *mover) Drain(ctx context.Context) {
	began, pause := time.Now(), drainAgain
	for {
		left, progress := m.drainOnce(ctx, time.Since(began) > m.timeout*5/6)
		if left == 0 || ctx.Err() != nil {
			return
		}
		if pause = min(pause*drainSlower, drainSlowest); progress {
			pause = drainAgain
		}
		wait(ctx, pause)
	}
}

// drainOnce tries each session once. It returns how many are left, and whether any
// was handed over.
func (m *mover) drainOnce(ctx context.Context, straggle bool) (left int, progress bool) {
	sessions := m.table.Movable(true)
	if len(sessions) == 0 || m.away() { // what begins while it is away is not decided, and serves nobody
		return len(sessions), false
	}
	others := m.others(ctx)
	if len(others) == 0 {
		return len(sessions), false
	}
	r := newRound(m, balance.NewSpread(m.zone, others))
	for _, s := range sessions {
		r.move(ctx, s, callPatience, straggle)
	}
	r.wait()
	return r.left, r.moved > 0
}

// MoveNow implements forward.Mover.
func (m *mover) MoveNow(ctx context.Context, gateway string, d sessionid.Digest, to string) (string, error) {
	s, ok := m.table.Find(d)
	if !ok || s.Gateway() != gateway {
		return "", session.ErrNoRecord
	}
	receiver, err := m.receiver(ctx, to)
	if err != nil {
		return "", err
	}
	// Not under the caller's context: once it began it has to be decided.
	ctx, cancel := context.WithTimeout(m.running, nowTime)
	defer cancel()
	for {
		err := m.table.HandOver(m.running, s, receiver, callPatience, false)
		if !errors.Is(err, session.ErrBusy) || ctx.Err() != nil {
			return receiver.Worker, err
		}
		wait(ctx, drainAgain)
	}
}

func (m *mover) receiver(ctx context.Context, to string) (session.Receiver, error) {
	if to == "" {
		next, ok := balance.NewSpread(m.zone, m.others(ctx)).Next()
		if !ok {
			return session.Receiver{}, errors.New("no other worker takes sessions now")
		}
		return receiver(next), nil
	}
	member, ok := m.world.Load().Members[to]
	switch {
	case !ok:
		return session.Receiver{}, fmt.Errorf("worker %s is not alive, as far as the session's owner knows", to)
	case member.Draining:
		return session.Receiver{}, fmt.Errorf("worker %s: %w", to, forward.ErrDraining)
	}
	return session.Receiver{Worker: member.Worker, Incarnation: member.Incarnation, Address: member.PeerAddress}, nil
}

func receiver(w balance.Worker) session.Receiver {
	return session.Receiver{Worker: w.ID, Incarnation: w.Incarnation, Address: w.Address}
}

// round is one attempt to hand sessions over, several at a time.
type round struct {
	mover *mover
	group errgroup.Group

	mu     sync.Mutex // guards what follows
	spread *balance.Spread
	moved  int
	left   int
}

func newRound(m *mover, spread *balance.Spread) *round {
	r := &round{mover: m, spread: spread}
	r.group.SetLimit(movesTogether)
	return r
}

// move hands one session over, or counts it as left.
func (r *round) move(ctx context.Context, s *session.Session, patience time.Duration, straggle bool) {
	r.mu.Lock()
	to, ok := r.spread.Next()
	r.mu.Unlock()
	if !ok || ctx.Err() != nil {
		r.count(false)
		return
	}
	r.group.Go(func() error {
		err := r.mover.table.HandOver(r.mover.running, s, receiver(to), patience, straggle)
		gone := err == nil || errors.Is(err, session.ErrLost)
		if !gone && !errors.Is(err, session.ErrBusy) {
			r.mover.log.Debug("session not handed over", "session", s.Digest(), "to", to.ID, "error", err)
			if !errors.Is(err, session.ErrPinned) && !errors.Is(err, session.ErrUndurable) {
				r.mu.Lock()
				r.spread.Refuse(to.ID) // for this round
				r.mu.Unlock()
			}
		}
		r.count(gone)
		return nil
	})
}

func (r *round) count(moved bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if moved {
		r.moved++
		return
	}
	r.left++
}

func (r *round) wait() { r.group.Wait() }

func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
