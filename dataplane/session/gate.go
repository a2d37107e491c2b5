package session

import (
	"context"
	"errors"
	"fmt"
	"time"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Times of a session that changes its owner.
const (
	// heldAtMost is how long a request waits for a session that is being handed over
	// before it is told to come again.
	heldAtMost = 5 * time.Second
	// longDispatched is how long ago a call was sent to the upstream for this worker
	// to go on with its answer though the session has another owner.
	longDispatched = time.Second
)

var (
	// ErrPinned says that a session cannot have another owner: what it is made of is
	// in this worker, or is its client's connection.
	ErrPinned = errors.New("the session ends with its worker")
	// ErrBusy says that calls were in flight all the time, or that the session is
	// being handed over or ended already.
	ErrBusy = errors.New("the session is in use")
	// ErrUndurable says that a session is not recorded yet.
	ErrUndurable = errors.New("the session is not recorded yet")

	// errHanding says that a request was not dispatched, since the session is about
	// to have another owner.
	errHanding = errors.New("the session is being handed over")
)

// Moved says that a session was handed over, and to whom. As an error of Serve it
// means that nothing was written, and that the request was not dispatched.
type Moved struct {
	Worker      string
	Incarnation int64
	Epoch       uint64
}

// Error says where the session is.
func (m *Moved) Error() string {
	return fmt.Sprintf("the session was handed over to worker %s under epoch %d", m.Worker, m.Epoch)
}

// gate keeps the requests of a session back while it is handed over.
//
//	holding: new requests wait, those in flight go on ── none left ──▶ moving: nothing is dispatched
//	   └── too many, or the session ends: opened                         └── given away, or not: opened
type gate struct {
	opened chan struct{} // closed when requests need not wait any more
	quiet  chan struct{} // closed when no call is in flight
	still  chan struct{} // closed when, moving, no client has a stream either
	stream *standing     // goes on until the next owner is certain, moving
	calm   bool          // quiet is closed
	ended  bool          // still is closed
	moving bool
}

// hold keeps new requests back, waits for those in flight and then keeps the session
// from dispatching anything, until release or give. ErrBusy: something was still in
// flight after patience. ErrLost: it ends, or is another worker's. With straggle, calls that were dispatched long ago may go
// on: only their answers are still to come.
func (s *Session) hold(ctx context.Context, patience time.Duration, straggle bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.dropped || s.given != nil:
		return ErrLost
	case s.closing:
		return fmt.Errorf("%w: %w", ErrLost, errEnded)
	case s.gate != nil:
		return ErrBusy
	case s.revision.Load() == 0:
		return ErrUndurable
	case !straggle && s.longCallLocked():
		return ErrBusy // no use in keeping others waiting
	}
	g := &gate{opened: make(chan struct{}), quiet: make(chan struct{}), still: make(chan struct{})}
	s.gate = g
	s.calmLocked()
	if !g.calm {
		s.mu.Unlock()
		timer := time.NewTimer(patience)
		select {
		case <-g.quiet:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		s.mu.Lock()
	}
	switch {
	case s.dropped:
		s.openLocked()
		return ErrLost
	case s.closing:
		s.openLocked()
		return fmt.Errorf("%w: %w", ErrLost, errEnded)
	case g.calm || straggle && s.longDispatchedLocked():
		g.moving = true
		s.calmLocked()
		return nil
	}
	s.openLocked()
	return ErrBusy
}

// calmLocked notes what is no longer in flight.
func (s *Session) calmLocked() {
	g := s.gate
	if g == nil {
		return
	}
	if !g.calm && s.calls == 0 && s.pumps == 0 {
		g.calm = true
		close(g.quiet)
	}
	if g.moving && !g.ended && s.streams == 0 {
		g.ended = true
		close(g.still)
	}
}

// longDispatchedLocked reports whether all that is in flight was sent long ago.
func (s *Session) longDispatchedLocked() bool {
	if s.pumps > 0 {
		return false
	}
	now := time.Now().UnixNano()
	for x := s.exchanges.next; x != nil && x != &s.exchanges; x = x.next {
		sent := x.sent.Load()
		if x.kind == aCall && (sent == 0 || now-sent < int64(longDispatched)) {
			return false
		}
	}
	return true
}

// longCallLocked reports whether a call was sent long ago.
func (s *Session) longCallLocked() bool {
	now := time.Now().UnixNano()
	for x := s.exchanges.next; x != nil && x != &s.exchanges; x = x.next {
		if sent := x.sent.Load(); x.kind == aCall && sent != 0 && now-sent > int64(longDispatched) {
			return true
		}
	}
	return false
}

// openLocked lets the requests that wait go on.
func (s *Session) openLocked() {
	if s.gate != nil {
		close(s.gate.opened)
		s.gate = nil
	}
}

// movingLocked reports whether the session may not dispatch, since it is about to be
// another worker's, or is.
func (s *Session) movingLocked() bool {
	return s.given != nil || s.gate != nil && s.gate.moving
}

func (s *Session) isMoving() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.movingLocked()
}

// admit is begin for a client's request, which waits while the session is handed
// over.
func (s *Session) admit(ctx context.Context, x *exchange) refusal {
	for {
		s.mu.Lock()
		verdict := s.beginLocked(x)
		g := s.gate
		s.mu.Unlock()
		if verdict != refusedHeld {
			return verdict
		}
		if !g.wait(ctx) {
			return refusedHeld
		}
	}
}

// admitEnd is admit for a DELETE, which is no exchange.
func (s *Session) admitEnd(ctx context.Context) refusal {
	s.mu.Lock()
	verdict, g := admitted, s.gate
	switch {
	case s.given != nil:
		verdict = refusedGiven
	case s.dropped:
		verdict = refusedLost
	case s.closing:
		verdict = refusedEnded
	}
	s.mu.Unlock()
	if verdict == admitted && g != nil && !g.wait(ctx) {
		return refusedHeld
	}
	return verdict
}

// wait returns true once requests need not wait any more, or false when this one has
// waited long enough.
func (g *gate) wait(ctx context.Context) bool {
	timer := time.NewTimer(heldAtMost)
	defer timer.Stop()
	select {
	case <-g.opened:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

// release makes a session that was held live again. state is what was to be passed on,
// if clients' streams have ended for it.
func (s *Session) release(state *leaseholdv1.HandOverState) {
	s.mu.Lock()
	s.openLocked()
	s.mu.Unlock()
	s.listenAgain(state)
	// What changed meanwhile found no session to end.
	s.table.follow(s)
}
