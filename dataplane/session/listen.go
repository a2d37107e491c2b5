package session

import (
	"context"
	"net/http"
	"slices"
	"sync"

	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/replay"
)

// serveGet serves a client's GET: it listens to what the upstream says beside its
// answers, or comes back for the rest of a stream that broke.
func (s *Session) serveGet(ctx context.Context, w http.ResponseWriter, r *Request, x *exchange) error {
	var from cursor
	if last := r.Header[mcp.HeaderLastEventID]; len(last) > 0 && last[0] != "" {
		from = s.parseCursor(last[0])
		// Another worker may have to serve the request after all, and needs the field.
		again := *r
		again.Header = r.Header.Clone()
		r = &again
		delete(r.Header, mcp.HeaderLastEventID)
	}
	var kept *entry
	switch from.kind {
	case kindPost:
		s.resuming(x)
		s.cutAway(from.id)
		r.Header[mcp.HeaderLastEventID] = []string{from.id}
		return s.dispatch(ctx, w, r, x)
	case kindReplay:
		if kept = s.findEntry(from); kept != nil && kept.isCall {
			s.resuming(x)
			return s.sendAgain(ctx, w, kept, from.number)
		}
		if from.request != nil {
			s.sendLost(w, from.request)
			return nil
		}
	}
	err := s.listen(ctx, w, r, from, kept)
	for err == errOutdated {
		if err = s.current(ctx, w, r); err == nil {
			err = s.listen(ctx, w, r, cursor{}, nil)
		}
	}
	if err == errAnswered {
		return nil
	}
	if err == errRenewed {
		err = s.listen(ctx, w, r, cursor{}, nil)
	}
	if err == errRenewed {
		s.answerRenewed(w, r)
		return nil
	}
	return err
}

// resuming notes that a client's stream goes on with events of an earlier one.
func (s *Session) resuming(x *exchange) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x.resumes = true
}

// cutAway cuts the calls whose clients are gone and of which the upstream keeps
// the events: it does not let a stream go on twice. The client that comes back after
// an event with this id of the upstream is gone from there, known or not.
func (s *Session) cutAway(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cutLocked(errClientGone, func(x *exchange) bool { return x.kept.Load() && (x.away || slices.Contains(x.given, id)) })
}

// listen attaches the client to the session's GET stream at the upstream, which it
// opens if need be. kept is what the client may have missed a part of, or nil.
func (s *Session) listen(ctx context.Context, w http.ResponseWriter, r *Request, from cursor, kept *entry) error {
	for {
		st, own, verdict := s.stand(r, &from)
		switch verdict {
		case admitted:
		case refusedLost:
			return ErrLost
		case refusedHeld, refusedGiven:
			return errHanding
		case refusedOutdated:
			return errOutdated
		default:
			if err := s.Pass(); err != nil {
				return err
			}
			s.refuse(w, r, verdict)
			return nil
		}
		select {
		case <-st.opened:
		case <-ctx.Done():
			s.leaveStanding(st)
			return s.answerFailure(ctx, w, r, st.up, context.Cause(ctx))
		}
		if !st.begun && own && !st.givenUp() {
			return s.notStanding(ctx, w, r, st)
		}
		if !st.begun {
			continue // the one who opened it says why; perhaps it is different by now
		}
		if l := s.attach(st, kept, from.number); l != nil {
			s.serveListener(ctx, w, st, l)
			return nil
		}
	}
}

// attach adds a client's stream to st. What the client is to be told of a new
// upstream session comes first. It returns nil if st is over.
func (s *Session) attach(st *standing, kept *entry, number uint64) *listener {
	l := &listener{wake: make(chan struct{}, 1)}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, event := range s.announce {
		l.push(event)
	}
	if !st.attach(l, kept, number) {
		return nil
	}
	s.announce = nil
	return l
}

// stand returns the session's GET stream at the upstream, and whether this call
// began it. One that is open already is no good for a client that wants it from
// an earlier event on, unless that is kept here.
func (s *Session) stand(r *Request, from *cursor) (st *standing, own bool, verdict refusal) {
	s.mu.Lock()
	old := s.standing
	if old != nil && from.kind != kindGet {
		s.mu.Unlock()
		return old, false, admitted
	}
	s.standing = nil
	s.mu.Unlock()
	if old != nil {
		old.replace()
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	st = &standing{session: s, header: r.Header.Clone(), opened: make(chan struct{}), done: make(chan struct{}),
		exchange: &exchange{session: s, kind: aStanding, cancel: cancel}}
	st.changed = sync.NewCond(&st.mu)
	s.mu.Lock()
	if s.standing != nil && from.kind == kindGet {
		s.mu.Unlock()
		cancel(nil)
		return s.stand(r, from) // another one that is no good
	}
	defer s.mu.Unlock()
	if s.standing != nil {
		cancel(nil)
		return s.standing, false, admitted
	}
	if st.up = s.up.Load(); st.up.over {
		cancel(nil)
		return nil, false, refusedOutdated
	}
	// From here on it does not change without ending the stream.
	st.up.name(st.header)
	goOn := s.cursor
	if from.kind == kindGet {
		goOn = from.id
	}
	if goOn != "" {
		st.header[mcp.HeaderLastEventID] = []string{goOn}
		st.written = goOn
	}
	if verdict := s.beginLocked(st.exchange); verdict != admitted {
		cancel(nil)
		return nil, false, verdict
	}
	from.kind = 0 // what follows comes from the upstream
	s.standing, s.cursor = st, ""
	st.early, s.early = s.early, nil
	s.table.pumps.Go(func() { st.run(ctx) })
	return st, true, admitted
}

// forgetStanding makes room for another GET stream at the upstream.
func (s *Session) forgetStanding(st *standing) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.standing == st {
		s.standing = nil
	}
}

// leaveStanding ends a stream that is being opened if nobody else waits for it.
func (s *Session) leaveStanding(st *standing) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if len(st.listeners) == 0 && !st.attached {
		st.overLocked(nil)
	}
}

// notStanding answers a client for which the upstream has no stream.
func (s *Session) notStanding(ctx context.Context, w http.ResponseWriter, r *Request, st *standing) error {
	if st.err != nil {
		return s.answerFailure(ctx, w, r, st.up, st.err)
	}
	defer st.answer.Body.Close()
	return s.relay(ctx, w, r, st.exchange, st.up, st.answer)
}

// serveListener writes on a client's stream until the client is gone or there is
// nothing more to come.
func (s *Session) serveListener(ctx context.Context, w http.ResponseWriter, st *standing, l *listener) {
	copyRelayed(w.Header(), st.answer.Header)
	w.Header()["X-Accel-Buffering"] = []string{"no"}
	w.WriteHeader(http.StatusOK)
	out := startStream(w, s.table.cfg.KeepAlive, nil)
	defer out.stop()
	out.flush()
	var rest []queued
	defer func() {
		st.detach(l, rest)
		s.standingLost()
	}()
	for {
		var over bool
		rest, over = st.take(l)
		for len(rest) > 0 {
			if ctx.Err() != nil || s.Pass() != nil || out.write(rest[0].raw, len(rest) == 1) != nil {
				return
			}
			st.wrote(rest[0])
			rest = rest[1:]
		}
		if over {
			return
		}
		select {
		case <-l.wake:
		case <-ctx.Done():
			return
		}
	}
}

// standingLost sees to it that the upstream does not wait for ever for a client
// that listens no more.
func (s *Session) standingLost() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wayLostLocked(nil) {
		s.refuseLaterLocked(nil)
	}
}

// sendAgain sends the events of a call that follow a number, those that are still
// to come included. The request that made the call gets them no more, nor does one
// that came back before.
func (s *Session) sendAgain(ctx context.Context, w http.ResponseWriter, entry *entry, after uint64) error {
	reader := s.beginReading(entry, after)
	defer s.endReading(entry)
	beginEvents(w)
	out := startStream(w, s.table.cfg.KeepAlive, nil)
	defer out.stop()
	out.flush()
	for {
		events, more, err := entry.log.After(after)
		if err != nil {
			if request := entry.request; err == replay.ErrGone && request != nil {
				out.write(s.lostEvent(request), true)
			}
			return nil
		}
		if !s.take(entry, reader, after+uint64(len(events))) {
			return nil
		}
		for i, event := range events {
			if err := s.Pass(); err != nil || out.write(event, i == len(events)-1) != nil {
				return nil
			}
			after++
		}
		if more == nil {
			continue
		}
		select {
		case <-more:
		case <-ctx.Done():
			return nil
		}
	}
}

// beginReading notes that a request is sent a call's events again, those after a
// number, and returns which one it is. Others get them no more.
func (s *Session) beginReading(e *entry, after uint64) (reader int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.exchange != nil {
		e.exchange.muted.Store(true)
		e.exchange.readers++
	}
	e.reader++
	e.taken = after
	return e.reader
}

func (s *Session) endReading(e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if x := e.exchange; x != nil {
		if x.readers--; !x.over && s.wayLostLocked(x) {
			s.refuseLaterLocked(x)
		}
	}
	e.changed()
}

// sendLost ends a stream of which nothing is kept, here or any more: what became of
// the request is unknown.
func (s *Session) sendLost(w http.ResponseWriter, request []byte) {
	beginEvents(w)
	w.Write(s.lostEvent(request))
}

func (s *Session) lostEvent(request []byte) []byte {
	r := &Request{Method: http.MethodPost, IDs: [][]byte{request}}
	return r.UnknownEvent(s.upstream().Name, s.epoch, "the events that followed are no longer kept")
}

// beginEvents begins an answer that is a stream of events of our own.
func beginEvents(w http.ResponseWriter) {
	h := w.Header()
	h["Content-Type"] = []string{"text/event-stream"}
	h["Cache-Control"] = []string{"no-cache, no-transform"}
	h["X-Accel-Buffering"] = []string{"no"}
	w.WriteHeader(http.StatusOK)
}
