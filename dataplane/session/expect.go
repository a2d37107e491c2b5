package session

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/sessionid"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// reattach is how long the upstream's GET stream is kept open for clients that are to
// come back after a hand-over.
const reattach = 30 * time.Second

// maxReplayed bounds, in bytes, what one session may bring along.
const maxReplayed = maxEntries * (1 << 20)

// Expected is a session that another worker hands over to this one: a place in the
// table, and what the session needs beside its record. Its methods are called by one
// goroutine.
type Expected struct {
	table   *Table
	gateway string
	digest  sessionid.Digest
	epoch   uint64
	size    int
	place   bool // in the table; guarded by table.mu, like what follows
	taken   bool // the session is being taken up with what came for it

	replays []*leaseholdv1.HandOverReplay
	state   *leaseholdv1.HandOverState // nil until all is there
	late    []byte                     // what the upstream said on its GET stream after that
}

// ErrExpected says that another worker is handing the session over already.
var ErrExpected = errors.New("the session is being handed over by another worker already")

// Expect keeps a place for a session that is to be handed over to this worker as
// incarnation. ErrFull, ErrExpected, ErrFenced or ErrLost: it cannot be.
func (t *Table) Expect(incarnation int64, gateway string, d sessionid.Digest, epoch uint64) (*Expected, error) {
	switch {
	case incarnation != t.cfg.Authority.Incarnation():
		return nil, ErrLost
	case !t.cfg.Authority.Holds(incarnation):
		return nil, ErrFenced
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.expected[d] != nil:
		return nil, ErrExpected
	case len(t.sessions)+t.opening >= t.cfg.Max:
		return nil, fmt.Errorf("%d sessions: %w", t.cfg.Max, ErrFull)
	}
	t.opening++
	e := &Expected{table: t, gateway: gateway, digest: d, epoch: epoch, place: true}
	t.expected[d] = e
	return e, nil
}

// Digest returns the session's digest.
func (e *Expected) Digest() sessionid.Digest { return e.digest }

// Add takes a part of what is kept of the session's streams.
func (e *Expected) Add(part *leaseholdv1.HandOverReplay) error {
	for _, event := range part.GetEvents() {
		e.size += len(event)
	}
	if e.size > maxReplayed {
		return fmt.Errorf("replays: more than %d bytes", maxReplayed)
	}
	e.replays = append(e.replays, part)
	return nil
}

// Complete says that all parts are there.
func (e *Expected) Complete(state *leaseholdv1.HandOverState) {
	e.table.mu.Lock()
	defer e.table.mu.Unlock()
	e.state = state
}

// Late takes what the upstream has said on its GET stream since that was passed on.
func (e *Expected) Late(events []byte) {
	e.table.mu.Lock()
	defer e.table.mu.Unlock()
	e.late = events
}

// Withdraw gives the place back: the session does not come, or came by another way.
func (e *Expected) Withdraw() {
	e.table.mu.Lock()
	defer e.table.mu.Unlock()
	e.withdrawLocked()
}

func (e *Expected) withdrawLocked() {
	if e.place {
		e.place = false
		e.table.opening--
		delete(e.table.expected, e.digest)
	}
}

// Granted takes the session up: the record names this worker since revision. A grant
// that comes late or twice is refused, with ErrStale.
func (e *Expected) Granted(record *leaseholdv1.SessionRecord, revision int64) error {
	t := e.table
	if record.GetWorker() != t.cfg.Worker || record.GetIncarnation() != t.cfg.Authority.Incarnation() || record.GetEpoch() != e.epoch {
		return fmt.Errorf("%w: the record is of worker %s, incarnation %d, epoch %d", ErrStale, record.GetWorker(), record.GetIncarnation(), record.GetEpoch())
	}
	if s, ok := t.Find(e.digest); ok {
		if s.epoch == e.epoch {
			return nil // a request was quicker, and had it looked up
		}
		return fmt.Errorf("%w: this worker owns the session under epoch %d", ErrStale, s.epoch)
	}
	t.mu.Lock()
	current := e.place
	if moved, ok := t.moved.Get(e.digest); ok && moved.Epoch >= e.epoch {
		current = false // it was here, and has gone on
	}
	if current {
		t.opening++ // Adopt uses it
	}
	t.mu.Unlock()
	if !current {
		return fmt.Errorf("%w: the session was here before", ErrStale)
	}
	_, err := t.Adopt(e.gateway, e.digest, record, revision)
	return err
}

// takeExpected returns what came for a session beside its record, and gives the place
// back that was kept for it; nil if nothing did. It reports false while the session is
// being taken up with that already: one without it must not be quicker. Call tookUp
// after it.
func (t *Table) takeExpected(s *Session) (e *Expected, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e = t.expected[s.digest]
	switch {
	case e == nil || e.epoch != s.epoch:
		return nil, true
	case e.taken:
		return nil, false
	}
	e.taken = true
	if e.place {
		e.place = false
		t.opening--
	}
	return e, true
}

// tookUp forgets what takeExpected returned.
func (t *Table) tookUp(e *Expected) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e != nil && t.expected[e.digest] == e {
		delete(t.expected, e.digest)
	}
}

// wasHandedOver reports whether the record's owner has the session by a hand-over.
func wasHandedOver(record *leaseholdv1.SessionRecord) bool {
	events := record.GetEvents()
	return len(events) > 0 && events[len(events)-1].GetType() == leaseholdv1.SessionEventType_SESSION_EVENT_TYPE_HANDED_OVER
}

// takeUp makes the session what it was at its former owner. It is called before the
// session can be found, and returns its state there. from may be nil: what came beside
// the record is lost then.
func (s *Session) takeUp(from *Expected, record *leaseholdv1.SessionRecord) *leaseholdv1.HandOverState {
	if !record.GetMerged() { // otherwise the parts have theirs
		s.cursor = record.GetUpstreams()[0].GetEventCursor()
	}
	if from == nil || from.state == nil {
		return nil
	}
	s.lastUse = s.table.now().Add(-from.state.GetIdle().AsDuration())
	s.lists.Store(from.state.GetLists())
	s.stood.Store(from.state.GetListening())
	s.early = from.late
	s.restore(from.replays)
	for _, id := range from.state.GetAsked() {
		if len(s.asked) < maxAsked && isID(id) {
			if s.asked == nil {
				s.asked = make(map[string]*exchange)
			}
			s.asked[string(id)] = nil
		}
	}
	return from.state
}

// listenAgain opens the upstream's GET stream anew, if clients listened and what comes
// before they are back would be lost; they are told that lists may have changed
// meanwhile. Otherwise their streams begin where they ended. What the upstream asked is
// refused if nobody comes back for it.
func (s *Session) listenAgain(state *leaseholdv1.HandOverState) {
	if state.GetListening() && state.GetUnnumbered() {
		s.mu.Lock()
		s.announce = Lists(s.lists.Load()).changed()
		s.mu.Unlock()
		header := http.Header{"Accept": {"text/event-stream"}, "User-Agent": userAgent, mcp.HeaderProtocolVersion: {s.version}}
		if st, own, verdict := s.stand(&Request{Method: http.MethodGet, Header: header}, &cursor{}); verdict == admitted && own {
			st.await(reattach)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuseLaterLocked(nil)
	for x := s.exchanges.next; x != nil && x != &s.exchanges; x = x.next {
		if x.kind == aCall && s.wayLostLocked(x) {
			s.refuseLaterLocked(x)
		}
	}
}

// await keeps the stream open for a while for a client that is to come.
func (st *standing) await(most time.Duration) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.over || len(st.listeners) > 0 {
		return
	}
	st.attached = true
	st.closer = time.AfterFunc(most, st.closeDeserted)
}
