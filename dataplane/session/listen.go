package session

import (
	"context"
	"net/http"
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
	}
	delete(r.Header, mcp.HeaderLastEventID)
	var kept *entry
	switch from.kind {
	case kindPost:
		s.cutAway()
		r.Header[mcp.HeaderLastEventID] = []string{from.id}
		return s.dispatch(ctx, w, r, x)
	case kindReplay:
		if kept = s.findEntry(from); kept != nil && kept.exchange != nil {
			return s.sendAgain(ctx, w, kept, from.number)
		}
		if from.request != nil {
			s.sendLost(w, from.request)
			return nil
		}
	}
	err := s.listen(ctx, w, r, from, kept)
	if err == errRenewed {
		err = s.listen(ctx, w, r, cursor{}, nil)
	}
	if err == errRenewed {
		s.answerRenewed(w, r)
		return nil
	}
	return err
}

// cutAway cuts the calls whose clients are gone and of which the upstream keeps
// the events: it does not let a stream go on twice.
func (s *Session) cutAway() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cutLocked(errClientGone, func(x *exchange) bool { return x.away && x.named.Load() })
}

// listen attaches the client to the session's GET stream at the upstream, which it
// opens if need be. kept is what the client may have missed a part of, or nil.
func (s *Session) listen(ctx context.Context, w http.ResponseWriter, r *Request, from cursor, kept *entry) error {
	for {
		st, own, verdict := s.stand(r, &from)
		if verdict != admitted {
			s.refuse(w, r, verdict)
			return nil
		}
		select {
		case <-st.opened:
		case <-ctx.Done():
			s.leaveStanding(st)
			return moving(ctx, nil)
		}
		if !st.begun && own {
			return s.notStanding(ctx, w, r, st)
		}
		if !st.begun {
			continue // the one who opened it says why; perhaps it is different by now
		}
		l := &listener{wake: make(chan struct{}, 1)}
		for _, event := range s.announcements() {
			l.push(event)
		}
		if st.attach(l, kept, from.number) {
			s.serveListener(ctx, w, st, l)
			return nil
		}
	}
}

// announcements returns what the client is to be told first, once.
func (s *Session) announcements() [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	events := s.announce
	s.announce = nil
	return events
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
	up := s.up.Load()
	header := r.Header.Clone()
	up.name(header)
	if from.kind == kindGet {
		header[mcp.HeaderLastEventID] = []string{from.id}
		from.kind = 0 // what follows comes from the upstream
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	st = &standing{session: s, header: header, address: up.address, opened: make(chan struct{}), done: make(chan struct{}),
		exchange: &exchange{session: s, kind: aPump, cancel: cancel}}
	st.changed = sync.NewCond(&st.mu)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.standing != nil {
		cancel(nil)
		return s.standing, false, admitted
	}
	if verdict := s.beginLocked(st.exchange); verdict != admitted {
		cancel(nil)
		return nil, false, verdict
	}
	s.standing = st
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
	if len(st.listeners) == 0 {
		st.overLocked(nil)
	}
}

// notStanding answers a client for which the upstream has no stream.
func (s *Session) notStanding(ctx context.Context, w http.ResponseWriter, r *Request, st *standing) error {
	if st.err != nil {
		return s.answerFailure(ctx, w, r, s.up.Load(), st.err)
	}
	defer st.answer.Body.Close()
	if st.answer.StatusCode == http.StatusConflict {
		mcp.WriteUnavailable(w, nil, "the upstream still holds an earlier stream of the session")
		return nil
	}
	return s.relay(ctx, w, r, st.exchange, s.up.Load(), st.answer)
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
	var rest [][]byte
	defer func() {
		st.detach(l, rest)
		s.standingLost()
	}()
	for {
		var over bool
		rest, over = st.take(l)
		for len(rest) > 0 {
			if ctx.Err() != nil || out.write(rest[0], len(rest) == 1) != nil {
				return
			}
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
// to come included. The request that made the call gets them no more.
func (s *Session) sendAgain(ctx context.Context, w http.ResponseWriter, entry *entry, after uint64) error {
	call := entry.exchange
	call.muted.Store(true)
	s.read(call, +1)
	defer s.read(call, -1)
	s.beginEvents(w)
	out := startStream(w, s.table.cfg.KeepAlive, nil)
	defer out.stop()
	out.flush()
	for {
		events, more, err := entry.log.After(after)
		if err != nil {
			if request := entry.request(); err == replay.ErrGone && request != nil {
				out.write(s.lostEvent(request), true)
			}
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

// read counts the requests that are sent a call's events again.
func (s *Session) read(x *exchange, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if x.readers += n; !x.over && s.wayLostLocked(x) {
		s.refuseLaterLocked(x)
	}
}

// sendLost ends a stream of which nothing is kept, here or any more: what became of
// the request is unknown.
func (s *Session) sendLost(w http.ResponseWriter, request []byte) {
	s.beginEvents(w)
	w.Write(s.lostEvent(request))
}

func (s *Session) lostEvent(request []byte) []byte {
	r := &Request{Method: http.MethodPost, IDs: [][]byte{request}}
	return r.UnknownEvent(s.upstream.Name, s.epoch, "the events that followed are no longer kept")
}

func (s *Session) beginEvents(w http.ResponseWriter) {
	h := w.Header()
	h["Content-Type"] = []string{"text/event-stream"}
	h["Cache-Control"] = []string{"no-cache, no-transform"}
	h["X-Accel-Buffering"] = []string{"no"}
	w.WriteHeader(http.StatusOK)
}
