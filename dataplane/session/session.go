package session

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/sessionid"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// MaxBody bounds the body of a request.
const MaxBody = 4 << 20

// Bounds of one session.
const (
	// MaxCalls bounds the requests of a session in flight.
	MaxCalls = 256
	// MaxStreams bounds the GET streams of a session.
	MaxStreams = 8
)

// Causes with which a request's context ends before its client is done.
var (
	errEnded = errors.New("session ended")
	// ErrLost says that this worker is no longer the session's owner.
	ErrLost = errors.New("session ownership lost")
	// ErrFenced says that this worker's lease is uncertain: it may be the owner no
	// longer, and does not act until it knows.
	ErrFenced = errors.New("the owner's lease is uncertain")
)

// Session is a client session that this worker owns, with its upstream session.
//
//	live ──close(reason)──▶ closing ── calls done or 5 s ──▶ upstream DELETE ──▶ tombstone ──▶ gone
//	  ├── fence (the lease is uncertain): what is in flight is cut, the session stays
//	  └── drop (ownership lost): everything is cut at once, nothing is sent upstream
//
// A session that is not live refuses every request. Safe for concurrent use.
type Session struct {
	table       *Table
	gateway     string
	digest      sessionid.Digest
	epoch       uint64
	incarnation int64
	principal   [32]byte
	upstream    *config.Upstream
	upstreamID  string // the upstream's session id; empty if it gave none
	address     string // of the replica that has the upstream session; empty if it gave no id
	version     string // negotiated protocol version
	expires     time.Time
	proven      atomic.Bool // the upstream has answered a request of the session

	mu        sync.Mutex // guards what follows
	reason    leaseholdv1.EndReason
	closing   bool
	dropped   bool
	idle      time.Duration
	lastUse   time.Time
	served    uint64 // requests begun
	calls     int
	streams   int
	exchanges exchange      // list head
	quiet     chan struct{} // closed when the last call of a closing session is done

	due   time.Time // guarded by table.mu, like what follows
	slot  int       // index in the table's heap, -1 outside
	again bool      // its end has to be completed when it is due

	told bool // the upstream knows of the end; only for who completes it
}

// exchange is one request in flight, in the list of its session.
type exchange struct {
	prev, next *exchange
	cancel     context.CancelCauseFunc
	stream     bool
	ids        [][]byte // of its requests
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

// Epoch returns which owner of the session this worker is.
func (s *Session) Epoch() uint64 { return s.epoch }

// Incarnation returns the incarnation of this worker that owns the session.
func (s *Session) Incarnation() int64 { return s.incarnation }

// refusal says why a request cannot begin; the zero value lets it.
type refusal uint8

const (
	admitted refusal = iota
	refusedEnded
	refusedLost
	refusedCalls
	refusedStreams
	refusedDuplicate
)

// begin admits a request and notes how to cut it.
func (s *Session) begin(x *exchange) refusal {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.dropped:
		return refusedLost
	case s.closing:
		return refusedEnded
	case x.stream && s.streams >= MaxStreams:
		return refusedStreams
	case !x.stream && s.calls >= MaxCalls:
		return refusedCalls
	case s.inFlight(x):
		return refusedDuplicate
	}
	s.served++
	if x.stream {
		s.streams++
	} else {
		s.calls++
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
	now := s.table.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	x.prev.next, x.next.prev = x.next, x.prev
	s.lastUse = now
	if x.stream {
		s.streams--
	} else {
		s.calls--
	}
	if s.quiet != nil && s.calls == 0 && s.streams == 0 {
		close(s.quiet)
		s.quiet = nil
	}
}

// close makes the session refuse requests and cuts its streams; calls go on. It
// reports whether this call did it: then the caller completes the end.
func (s *Session) close(reason leaseholdv1.EndReason) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing || s.dropped {
		return false
	}
	s.closing, s.reason = true, reason
	s.told = reason == leaseholdv1.EndReason_END_REASON_UPSTREAM_LOST
	s.quiet = make(chan struct{})
	s.cutLocked(errEnded, func(x *exchange) bool { return x.stream })
	if s.calls == 0 && s.streams == 0 {
		close(s.quiet)
		s.quiet = nil
	} else {
		time.AfterFunc(callGrace, func() { s.cut(errEnded) })
	}
	return true
}

func (s *Session) isDropped() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dropped
}

func (s *Session) isClosing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closing
}

// drop forgets a session that others may own now: every request is cut.
func (s *Session) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropped = true
	s.cutLocked(ErrLost, func(*exchange) bool { return true })
	if s.upstream.Pinned() {
		s.table.cfg.Upstream.Drop(s.upstream, s.upstreamID)
	}
}

// Pass implements Gate: it lets requests out while this worker certainly owns the
// session.
func (s *Session) Pass() error {
	switch {
	case s.table.cfg.Authority.Holds(s.incarnation):
		return nil
	case s.incarnation != s.table.cfg.Authority.Incarnation():
		return ErrLost
	}
	return ErrFenced
}

// cut ends the requests in flight.
func (s *Session) cut(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cutLocked(cause, func(*exchange) bool { return true })
}

func (s *Session) cutLocked(cause error, which func(*exchange) bool) {
	for x := s.exchanges.next; x != nil && x != &s.exchanges; x = x.next {
		if which(x) {
			x.cancel(cause)
		}
	}
}

// Activity returns how the session is used now.
func (s *Session) Activity() *leaseholdv1.SessionActivity {
	now := s.table.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	last := s.lastUse
	if s.calls > 0 || s.streams > 0 {
		last = now
	}
	return &leaseholdv1.SessionActivity{
		LastUseTime: timestamppb.New(last), Calls: s.served, CallsInFlight: uint32(s.calls), Streams: uint32(s.streams),
	}
}

// dueAt returns when the session is to be looked at, and the reason to end it if
// that is now.
func (s *Session) dueAt(now time.Time) (time.Time, leaseholdv1.EndReason) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !now.Before(s.expires) {
		return now, leaseholdv1.EndReason_END_REASON_EXPIRED
	}
	idleAt := s.lastUse.Add(s.idle)
	if s.calls > 0 || s.streams > 0 {
		idleAt = now.Add(s.idle) // a request in flight holds the idle clock
	}
	if !now.Before(idleAt) {
		return now, leaseholdv1.EndReason_END_REASON_IDLE
	}
	if s.expires.Before(idleAt) {
		return s.expires, leaseholdv1.EndReason_END_REASON_UNSPECIFIED
	}
	return idleAt, leaseholdv1.EndReason_END_REASON_UNSPECIFIED
}
