package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/sessionid"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Times of a hand-over.
const (
	// offerTime bounds the offer to the receiver.
	offerTime = 2 * time.Second
	// grantTime bounds the grant, with the receiver's taking the session up.
	grantTime = 2 * time.Second
	// outcomeTime is how long one attempt to learn the outcome takes at most.
	outcomeTime = 5 * time.Second
	// lastEvents is how long the streams of clients may take to write what there is.
	lastEvents = time.Second
	// askAgain is how long to wait before the next attempt.
	askAgain = 100 * time.Millisecond
	// maxUpstreamCursor bounds an event id of an upstream that is recorded.
	maxUpstreamCursor = 1024
	// comeBack is when a client whose stream ended is asked to open it again.
	comeBack = 100 * time.Millisecond
)

// Receivers offers sessions to other workers. It is safe for concurrent use.
type Receivers interface {
	// Offer returns once the receiver keeps a place for the session, under the epoch
	// that follows. An error says why it does not.
	Offer(ctx context.Context, to Receiver, gateway string, session sessionid.Digest, epoch uint64) (Offered, error)
}

// Receiver is a worker that a session is handed over to.
type Receiver struct {
	Worker      string
	Incarnation int64
	Address     string
}

// Offered is an offer that was taken: Send, Grant; or Withdraw at any point.
type Offered interface {
	// Send passes on what the session needs beside its record, and returns once the
	// receiver has it.
	Send(ctx context.Context, replays []*leaseholdv1.HandOverReplay, state *leaseholdv1.HandOverState) error
	// Grant tells the receiver that the record names it, and returns once it has
	// taken the session up. late is what the upstream has said on its GET stream
	// meanwhile.
	Grant(ctx context.Context, record *leaseholdv1.SessionRecord, revision int64, late []byte) error
	// Withdraw tells the receiver that the session stays where it is.
	Withdraw()
}

// HandOver makes another worker the owner of a session of this one. It waits up to
// patience for calls in flight, while requests that come wait too; with straggle,
// calls in flight go on here though the session has another owner then. nil: the
// other worker has the session. ErrLost: this worker has it no more, or ends it. Any other error: it
// is this worker's still, and serves; ErrBusy and ErrPinned say why.
//
// The order is that of the rules: nothing is dispatched from before the hand-over is
// sent until its outcome is known, and an outcome that is not known is decided by a
// write: the hand-over once more, or a save of the same record, whichever comes
// first. So a message that comes late changes nothing.
func (t *Table) HandOver(ctx context.Context, s *Session, to Receiver, patience time.Duration, straggle bool) error {
	if s.pinned() {
		return ErrPinned
	}
	if err := s.hold(ctx, patience, straggle); err != nil {
		return err
	}
	s.recording.Lock()
	defer s.recording.Unlock()
	began := time.Now()
	err := t.handOver(ctx, s, to)
	if err == nil || errors.Is(err, ErrLost) {
		t.metrics.handed.Observe(time.Since(began).Seconds())
	}
	return err
}

// pinned reports whether the session ends with its worker.
func (s *Session) pinned() bool { return s.connected || s.upstream() != nil && s.upstream().Pinned() }

// handOver hands over a session that dispatches nothing any more.
func (t *Table) handOver(ctx context.Context, s *Session, to Receiver) error {
	if changed := t.hasChanged(s); changed || s.up.Load().several() { // what was lost does not count as a change
		if err := t.saveParts(ctx, s); err != nil {
			t.againChanged(s)
			s.release(nil)
			return fmt.Errorf("record the session's upstreams: %w", err)
		}
	}
	offered, state, err := t.prepareReceiver(ctx, s, to)
	if err != nil {
		s.keepLate(s.leaveStream())
		s.release(state)
		return fmt.Errorf("offer to worker %s: %w", to.Worker, err)
	}
	record, revision, err := t.decide(ctx, s, to)
	late := s.leaveStream()
	switch {
	case err == nil:
		t.give(s, &Moved{Worker: to.Worker, Incarnation: to.Incarnation, Epoch: record.GetEpoch()})
	case errors.Is(err, ErrLost):
		offered.Withdraw()
		t.forget(s)
		return err
	default:
		offered.Withdraw()
		s.keepLate(late)
		s.release(state)
		return err
	}
	grantCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), grantTime)
	defer cancel()
	if err := offered.Grant(grantCtx, record, revision, late); err != nil {
		// The receiver learns it from the record, when somebody asks for the session.
		t.cfg.Logger.Warn("hand-over not confirmed", "session", s.digest, "to", to.Worker, "error", err)
	}
	return nil
}

// prepareReceiver passes on all that the receiver needs. Clients' streams end then; the
// state is nil if they did not.
func (t *Table) prepareReceiver(ctx context.Context, s *Session, to Receiver) (Offered, *leaseholdv1.HandOverState, error) {
	ctx, cancel := context.WithTimeout(ctx, offerTime)
	defer cancel()
	offered, err := t.cfg.Receivers.Offer(ctx, to, s.gateway, s.digest, s.epoch+1)
	if err != nil {
		return nil, nil, err
	}
	replays, state := s.endStreams(ctx)
	err = s.Pass()
	if err == nil {
		err = offered.Send(ctx, replays, state)
	}
	if err != nil {
		offered.Withdraw()
	}
	return offered, state, err
}

// decide has the hand-over recorded. nil: it is. ErrLost: the session is neither the
// receiver's nor this worker's. Any other error: it is this worker's. It returns only
// once one of them is certain, or the session was dropped.
func (t *Table) decide(ctx context.Context, s *Session, to Receiver) (*leaseholdv1.SessionRecord, int64, error) {
	resp, refused := t.recordOwner(ctx, s, to)
	if refused == nil {
		return resp.GetRecord(), resp.GetRevision(), nil
	}
	if errors.Is(refused, ErrNoRoom) { // which is final: there was no attempt before it
		return nil, 0, fmt.Errorf("hand over to worker %s: %w", to.Worker, refused)
	}
	// Even another refusal is not final: an attempt before it may still be on its way, and
	// find the receiver alive.
	t.cfg.Logger.Warn("hand-over not recorded", "session", s.digest, "to", to.Worker, "error", refused)
	for !s.isDropped() && ctx.Err() == nil {
		resolved, err := t.keep(ctx, s)
		record := resolved.GetRecord()
		switch {
		case err == nil && isOwner(record, t.cfg.Worker, s.incarnation, s.epoch):
			return nil, 0, fmt.Errorf("hand over to worker %s: %w", to.Worker, refused)
		case err == nil && isOwner(record, to.Worker, to.Incarnation, s.epoch+1):
			return record, resolved.GetRevision(), nil
		case err == nil, errors.Is(err, ErrNoRecord):
			return nil, 0, fmt.Errorf("%w: its record has changed", ErrLost)
		}
		pause(ctx, askAgain) // the control plane is away, or this worker's lease gone
	}
	return nil, 0, ErrLost
}

// recordOwner asks for the receiver to be recorded as the session's owner in the place
// of this worker.
func (t *Table) recordOwner(ctx context.Context, s *Session, to Receiver) (*leaseholdv1.HandOverResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, outcomeTime)
	defer cancel()
	return t.cfg.Records.HandOver(ctx, &leaseholdv1.HandOverRequest{
		Gateway: s.gateway, Session: s.digest.String(), Revision: s.revision.Load(), Worker: t.cfg.Worker, Incarnation: s.incarnation,
		To: &leaseholdv1.Peer{Worker: to.Worker, Incarnation: to.Incarnation}, EventCursors: s.cursors(),
	})
}

// keep reads the session's record and, if it still names this worker, saves it as it is:
// nothing changes but its revision, so that an earlier hand-over can have no effect any
// more. An error says that nothing is certain yet.
func (t *Table) keep(ctx context.Context, s *Session) (*leaseholdv1.ResolveResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, outcomeTime)
	defer cancel()
	resolved, err := t.cfg.Records.Resolve(ctx, s.gateway, s.digest.String(), nil, false)
	if err != nil || !isOwner(resolved.GetRecord(), t.cfg.Worker, s.incarnation, s.epoch) {
		return resolved, err
	}
	revision, err := t.cfg.Records.Save(ctx, s.gateway, s.digest.String(), resolved.GetRevision(), resolved.GetRecord())
	if err == nil {
		s.revision.Store(revision)
	}
	return resolved, err
}

// isOwner reports whether a record names a worker as the owner under an epoch.
func isOwner(record *leaseholdv1.SessionRecord, worker string, incarnation int64, epoch uint64) bool {
	return record.GetEnd() == nil && record.GetWorker() == worker && record.GetIncarnation() == incarnation && record.GetEpoch() == epoch
}

// give forgets a session that another worker owns now. What is in flight still has
// its answers passed on here.
func (t *Table) give(s *Session, to *Moved) {
	t.moved.Add(s.digest, to)
	t.mu.Lock()
	t.removeLocked(s)
	s.mu.Lock()
	s.given = to
	if s.calls > 0 {
		t.straggling[s] = struct{}{}
	}
	s.dropLogsLocked()
	s.openLocked()
	s.dropUpstreamLocked()
	s.mu.Unlock()
	t.mu.Unlock()
	t.cfg.Logger.Debug("session handed over", "gateway", s.gateway, "session", s.digest, "epoch", to.Epoch, "to", to.Worker)
}

// forget drops a session that is somebody else's.
func (t *Table) forget(s *Session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.removeLocked(s)
	s.drop()
}

// Moved returns who this worker handed a session over to, as far as it remembers.
func (t *Table) Moved(d sessionid.Digest) (*Moved, bool) { return t.moved.Get(d) }

// endStreams ends the streams of clients, which come back to the next owner, and that
// of the upstream, if what it says in between is not lost. It returns what the next owner needs beside the record.
func (s *Session) endStreams(ctx context.Context) ([]*leaseholdv1.HandOverReplay, *leaseholdv1.HandOverState) {
	state := &leaseholdv1.HandOverState{}
	s.mu.Lock()
	st := s.standing
	s.cutLocked(errHanding, func(x *exchange) bool { return x.kind == aStream && x.resumes })
	if s.gate == nil { // the session was dropped meanwhile
		s.mu.Unlock()
		return nil, state
	}
	still := s.gate.still
	s.mu.Unlock()
	stays := false // until the next owner is certain
	if st != nil {
		state.Listening, state.Unnumbered = st.handOver()
		stays = state.Listening && state.Unnumbered
	}
	timer := time.NewTimer(lastEvents)
	defer timer.Stop()
	select {
	case <-still:
	case <-timer.C:
	case <-ctx.Done():
	}
	s.mu.Lock()
	s.cutLocked(errHanding, func(x *exchange) bool { return x.kind == aStream }) // of clients that do not read
	if s.gate != nil && stays {
		s.gate.stream = st
	}
	s.mu.Unlock()
	if st != nil && !stays {
		<-st.done
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if st != nil {
		s.cursor = st.lastWritten()
	}
	state.Idle, state.Lists = durationpb.New(max(0, s.table.now().Sub(s.lastUse))), uint32(s.lists.Load())
	if len(s.announce) > 0 { // the receiver says as much
		state.Listening, state.Unnumbered = true, true
	}
	for id, on := range s.asked {
		if on == nil {
			state.Asked = append(state.Asked, []byte(id))
		}
	}
	return s.journal.parts(), state
}

// leaveStream ends the upstream's GET stream, if that has not ended with those of the
// clients, and returns what has come on it since.
func (s *Session) leaveStream() []byte {
	s.mu.Lock()
	var st *standing
	if s.gate != nil {
		st = s.gate.stream
	}
	s.mu.Unlock()
	if st == nil {
		return nil
	}
	return st.leave()
}

// keepLate has the next GET stream begin with what came on the one before.
func (s *Session) keepLate(events []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.early = events
}

// cursors returns where the next owner goes on: the id of the last event of the
// upstream's GET stream that went to a client, by the upstream's name.
func (s *Session) cursors() map[string]string {
	s.mu.Lock()
	cursor := s.cursor
	s.mu.Unlock()
	if cursor == "" || len(cursor) > maxUpstreamCursor {
		return nil
	}
	if up := s.up.Load(); up.several() {
		return s.table.cfg.Composite.Cursors(up.id, cursor)
	}
	return map[string]string{s.upstream().Name: cursor}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// farewell is the last event of a client's stream: when to come back, and, to a client
// that knows what that means, an id to come back by.
func (s *Session) farewell(id []byte) []byte {
	event := fmt.Appendf(nil, "retry: %d\n", comeBack.Milliseconds())
	if len(id) == 0 || !mcp.AtLeast(s.version, mcp.V20251125) {
		return append(event, '\n')
	}
	return mcp.AppendPriming(event, id)
}

// Movable returns the sessions that could be handed over, and lose nothing by it unless
// all are asked for: first those of which nothing is
// in flight, then those with streams, then those with calls; of each, those that have not
// been used for longest first.
func (t *Table) Movable(all bool) []*Session {
	t.mu.RLock()
	type candidate struct {
		session *Session
		busy    int
		lastUse time.Time
	}
	found := make([]candidate, 0, len(t.sessions))
	for _, s := range t.sessions {
		if s.pinned() || !all && s.fragile.Load() {
			continue
		}
		s.mu.Lock()
		if !s.closing && !s.dropped {
			busy := min(s.streams, 1)
			if s.calls > 0 {
				busy = 2
			}
			found = append(found, candidate{s, busy, s.lastUse})
		}
		s.mu.Unlock()
	}
	t.mu.RUnlock()
	slices.SortFunc(found, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.busy, b.busy), a.lastUse.Compare(b.lastUse))
	})
	sessions := make([]*Session, len(found))
	for i, c := range found {
		sessions[i] = c.session
	}
	return sessions
}

// EndPinned ends the sessions that cannot be handed over, since the worker drains.
func (t *Table) EndPinned() {
	t.mu.RLock()
	var pinned []*Session
	for _, s := range t.sessions {
		if s.pinned() {
			pinned = append(pinned, s)
		}
	}
	t.mu.RUnlock()
	for _, s := range pinned {
		t.End(s.digest, leaseholdv1.EndReason_END_REASON_WORKER_DRAINED)
	}
}
