package session

import (
	"errors"
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
	// ErrLeaving is the cause with which the context of a client's GET ends when the
	// worker that it came to stops: the stream ends between two events, and the client
	// opens it again elsewhere.
	ErrLeaving = errors.New("this worker stops")
)

// Session is a client session that this worker owns, with its upstream session.
//
//	live ──close(reason)──▶ closing ── calls done or 5 s ──▶ upstream DELETE ──▶ tombstone ──▶ gone
//	  ├── hold ──▶ holding ──▶ moving ──give──▶ another worker's; answers to its calls still go by
//	  │                └─────────┴──release──▶ live
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
	revision    atomic.Int64  // of the record; 0 while it is not recorded
	lists       atomic.Uint32 // the Lists that the client has used
	version     string        // negotiated protocol version
	expires     time.Time
	up          atomic.Pointer[upstreamSession]
	proven      atomic.Bool // the upstream has answered a request of the session
	connected   bool        // it is a client's Connection, by which nobody can come back
	doubtful    atomic.Bool // it was not recorded when this worker was fenced: it waits for that

	completing atomic.Bool // its end is being completed, or was

	stood   atomic.Bool // the upstream has served a GET stream of the session
	fragile atomic.Bool // one of several upstreams is pinned: it is lost when the session moves

	recording sync.Mutex // held while the record is written anew; taken before mu

	mu        sync.Mutex // guards what follows
	reason    leaseholdv1.EndReason
	closing   bool
	dropped   bool
	idle      time.Duration
	lastUse   time.Time
	served    uint64 // requests begun
	calls     int
	away      int // calls whose clients are gone
	streams   int
	pumps     int
	stands    int // GET streams at the upstream
	gate      *gate
	given     *Moved               // whose the session is, once it was handed over
	cursor    string               // the upstream's id of the event that its next GET stream goes on after; empty for none
	exchanges exchange             // list head
	standing  *standing            // the upstream's GET stream; nil without one
	journal   *journal             // what clients may be sent again; nil without anything
	renewing  *renewal             // the opening of a new upstream session; nil without one
	announce  [][]byte             // events that the client is to get first on its next GET stream
	early     []byte               // what the upstream said on its GET stream before the next one
	asked     map[string]*exchange // requests of the upstream that wait for the client, by id
	quiet     chan struct{}        // closed when the last call of a closing session is done

	due   time.Time // guarded by table.mu, like what follows
	slot  int       // index in the table's heap, -1 outside
	again bool      // its end has to be completed when it is due

	knownAs string // the id by which Composite knows the session

	retired []*upstreamSession // to be ended: their settings are out of date; guarded by mu

	told bool // the upstream knows of the end; only for who completes it
}

// upstream returns what the session's upstream session was opened with; nil of an
// orphan that has none.
func (s *Session) upstream() *config.Upstream {
	if up := s.up.Load(); up != nil {
		return up.of
	}
	return nil
}

// Epoch returns which owner of the session this worker is.
func (s *Session) Epoch() uint64 { return s.epoch }

// Gateway returns the id of the session's gateway.
func (s *Session) Gateway() string { return s.gateway }

// Digest returns the session's digest.
func (s *Session) Digest() sessionid.Digest { return s.digest }

// Incarnation returns the incarnation of this worker that owns the session.
func (s *Session) Incarnation() int64 { return s.incarnation }

// graceLocked leaves the calls of a closing session some time.
func (s *Session) graceLocked() {
	grace := callGrace
	if s.reason == leaseholdv1.EndReason_END_REASON_CLIENT {
		grace = clientGrace
	}
	time.AfterFunc(grace, func() { s.cut(errEnded) })
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
	s.dropLogsLocked()
	s.openLocked()
	s.cutLocked(ErrLost, func(*exchange) bool { return true })
	s.dropUpstreamLocked()
}

// dropUpstreamLocked gives back what this worker has of the upstream session, which is
// not to be used here any more.
func (s *Session) dropUpstreamLocked() {
	if u := s.upstream(); u != nil && (u.Pinned() || u.Merged != nil) { // a buried orphan has none
		s.table.cfg.Upstream.Drop(u, s.up.Load().id)
	}
}

// Pass implements Gate: it lets requests out while this worker certainly owns the
// session, and waits for a moment if that has only just become uncertain. A session that
// is not recorded may have been taken for over while its worker was fenced: it waits until
// it is recorded after all.
func (s *Session) Pass() error {
	switch {
	case s.doubtful.Load() && s.revision.Load() == 0:
		return ErrFenced
	case s.table.cfg.Authority.Await(s.incarnation):
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
	if s.inUseLocked() {
		last = now
	}
	return &leaseholdv1.SessionActivity{
		LastUseTime: timestamppb.New(last), Calls: s.served, CallsInFlight: uint32(s.calls), Streams: uint32(s.streams),
	}
}

// inUseLocked reports whether a client waits for something: that holds the idle
// clock.
func (s *Session) inUseLocked() bool { return s.calls > s.away || s.streams > 0 }

// dueAt returns when the session is to be looked at, and the reason to end it if
// that is now.
func (s *Session) dueAt(now time.Time) (time.Time, leaseholdv1.EndReason) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !now.Before(s.expires) {
		return now, leaseholdv1.EndReason_END_REASON_EXPIRED
	}
	idleAt := s.lastUse.Add(s.idle)
	if s.inUseLocked() {
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
