package session

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// exchangeKind is what an exchange is for.
type exchangeKind uint8

const (
	aCall     exchangeKind = iota // a client's POST
	aStream                       // a client's GET
	aPump                         // this worker's own, for which nobody waits
	aStanding                     // the GET at the upstream
)

// exchange is one request in flight, in the list of its session. As a Gate it lets
// the request out while this worker certainly owns the session and somebody waits
// for the answer.
//
// A call goes on when its client is gone, since a broken connection cancels
// nothing: the client may come back for the answer.
type exchange struct {
	prev, next *exchange
	session    *Session
	client     context.Context // ends when the client is gone; nil without a client
	cancel     context.CancelCauseFunc
	kind       exchangeKind
	ids        [][]byte     // of its requests
	named      atomic.Bool  // the client was given an event id, by which it can come back
	kept       atomic.Bool  // the upstream keeps its events
	muted      atomic.Bool  // the client gets its events by another request, or not at all
	sent       atomic.Int64 // when it was let out to the upstream, in Unix nanoseconds; 0 before

	cancelled atomic.Bool // by the client, which wants no answer any more

	up *upstreamSession // under which it is dispatched; nil if that does not matter

	// Guarded by session.mu:
	using   bool // it was let out to up
	over    bool
	away    bool     // the client is gone, and the call goes on
	resumes bool     // the stream goes on with events of an earlier one
	readers int      // requests that are being sent its events again
	given   []string // the newest event ids of the upstream that went to the client
}

// errClientGone says that nobody waits for an answer any more.
var errClientGone = errors.New("the client is gone")

// Pass implements Gate.
func (x *exchange) Pass() error {
	if x.client != nil && x.client.Err() != nil {
		return errClientGone
	}
	if err := x.session.Pass(); err != nil {
		return err
	}
	x.session.mu.Lock()
	defer x.session.mu.Unlock()
	if x.session.movingLocked() {
		return errHanding
	}
	if err := x.useLocked(); err != nil {
		return err
	}
	x.sent.Store(time.Now().UnixNano())
	return nil
}

// unasked is a session as the Gate of what its upstream sends of its own accord: it
// lets requests out while this worker certainly owns the session and keeps it.
type unasked Session

// Pass implements Gate.
func (u *unasked) Pass() error {
	s := (*Session)(u)
	if err := s.Pass(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.dropped, s.given != nil:
		return ErrLost
	case s.movingLocked():
		return errHanding
	}
	return nil
}

// shares reports whether a request of other has the id of one of x.
func (x *exchange) shares(other *exchange) bool {
	for _, id := range other.ids {
		if slices.ContainsFunc(x.ids, func(own []byte) bool { return bytes.Equal(own, id) }) {
			return true
		}
	}
	return false
}

// refusal says why a request cannot begin; the zero value lets it.
type refusal uint8

const (
	admitted refusal = iota
	refusedEnded
	refusedLost
	refusedCalls
	refusedStreams
	refusedDuplicate
	refusedHeld
	refusedGiven
	refusedOutdated // only of a GET stream
)

// begin admits a request and notes how to cut it.
func (s *Session) begin(x *exchange) refusal {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.beginLocked(x)
}

func (s *Session) beginLocked(x *exchange) refusal {
	switch {
	case s.given != nil:
		return refusedGiven
	case s.dropped:
		return refusedLost
	case s.closing:
		return refusedEnded
	case s.gate != nil && (s.gate.moving || x.kind == aCall || x.kind == aStream):
		return refusedHeld
	case x.kind == aStream && s.streams >= MaxStreams:
		return refusedStreams
	case x.kind == aCall && s.calls >= MaxCalls:
		return refusedCalls
	case s.inFlight(x):
		return refusedDuplicate
	}
	switch x.kind {
	case aCall:
		s.served++
		s.calls++
	case aStream:
		s.served++
		s.streams++
	case aPump:
		s.pumps++
	case aStanding:
		s.stands++
	}
	head := &s.exchanges
	if head.next == nil {
		head.next, head.prev = head, head
	}
	x.prev, x.next = head, head.next
	head.next.prev = x
	head.next = x
	return admitted
}

// inFlight reports whether a request with an id of x's is in flight: its answer
// could not be told from x's.
func (s *Session) inFlight(x *exchange) bool {
	if len(x.ids) == 0 {
		return false
	}
	for other := s.exchanges.next; other != nil && other != &s.exchanges; other = other.next {
		if other.shares(x) {
			return true
		}
	}
	return false
}

// finish ends what begin admitted; the idle time counts from here.
func (s *Session) finish(x *exchange) {
	if s.finishOne(x, s.table.now()) {
		s.table.forgetStraggler(s)
	}
}

// finishOne is finish. It reports whether x was the last request of a session that
// is another worker's.
func (s *Session) finishOne(x *exchange, now time.Time) (last bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x.over = true
	x.usedLocked()
	x.prev.next, x.next.prev = x.next, x.prev
	// What is kept of a call keeps it in memory, but not others with it, or its body.
	x.prev, x.next, x.ids, x.client, x.given = nil, nil, nil, nil, nil
	s.forgetLocked(x)
	switch {
	case x.kind == aPump:
		s.pumps--
	case x.kind == aStanding:
		s.stands--
	case x.kind == aStream:
		s.streams--
		s.lastUse = now
	case x.away:
		s.calls--
		s.away--
	default:
		s.calls--
		s.lastUse = now
	}
	s.calmLocked()
	if s.quiet != nil && s.inFlightLocked() == 0 {
		close(s.quiet)
		s.quiet = nil
	}
	return s.given != nil && s.calls == 0
}

func (s *Session) inFlightLocked() int { return s.calls + s.streams + s.pumps + s.stands }

// maxGiven bounds the event ids of a call that are remembered.
const maxGiven = 32

// gave notes an event id of the upstream that goes to a call's client.
func (s *Session) gave(x *exchange, id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(x.given) == maxGiven {
		x.given = append(x.given[:0], x.given[1:]...)
	}
	x.given = append(x.given, id)
}

// leave notes that the client of a call is gone. The call goes on, and holds the
// session's idle clock no longer.
func (s *Session) leave(x *exchange) {
	now := s.table.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if x.over {
		return
	}
	x.away, s.lastUse = true, now
	s.away++
	s.refuseLaterLocked(x)
}

// act runs f, which speaks to the upstream without a client that waits. Its context
// ends with the session, and when that is another worker's, perhaps.
func (s *Session) act(f func(ctx context.Context)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.actLocked(f)
}

func (s *Session) actLocked(f func(ctx context.Context)) error {
	ctx, cancel := context.WithCancelCause(context.Background())
	x := &exchange{session: s, kind: aPump, cancel: cancel}
	switch s.beginLocked(x) {
	case refusedLost, refusedGiven:
		return ErrLost
	case refusedHeld:
		return errHanding
	case refusedEnded:
		return errEnded
	}
	s.table.pumps.Go(func() {
		defer s.finish(x)
		defer cancel(nil)
		f(ctx)
	})
	return nil
}

// close makes the session refuse requests and cuts its streams; calls go on. It
// reports whether this call did it: then the caller completes the end. A session that
// is being handed over does not close: whoever owns it then ends it.
func (s *Session) close(reason leaseholdv1.EndReason) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing || s.dropped || s.movingLocked() {
		return false
	}
	s.closing, s.reason = true, reason
	s.told = reason == leaseholdv1.EndReason_END_REASON_UPSTREAM_LOST
	s.quiet = make(chan struct{})
	s.cutLocked(errEnded, func(x *exchange) bool { return x.kind != aCall })
	s.dropLogsLocked()
	s.openLocked()
	if s.inFlightLocked() == 0 {
		close(s.quiet)
		s.quiet = nil
		return true
	}
	s.graceLocked()
	return true
}
