package merge

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/session"
)

// partStream is one GET at a part.
type partStream struct {
	listener *listener
	link     *link
	after    string        // the last event id
	hint     time.Duration // when to come back, as the part has it
	spoke    bool          // it said something
}

// run makes the request and passes on what comes. It reports whether there is any use
// in another.
func (s *partStream) run(ctx context.Context, r *reading) (again bool) {
	m, l := s.listener.of, s.link
	header := m.header(http.MethodGet)
	l.name(header)
	if s.after != "" {
		header[mcp.HeaderLastEventID] = []string{s.after}
	}
	answer, err := m.up.do(ctx, &session.Dispatch{
		Upstream: l.upstream, Method: http.MethodGet, Header: header, Address: l.address, Own: true, Gate: m})
	if err != nil {
		if errors.Is(err, session.ErrReplicaGone) {
			m.lose(l)
			return false
		}
		return true
	}
	defer answer.Body.Close()
	switch code := answer.StatusCode; {
	case code == http.StatusOK && isEventStream(answer.Header):
	case code == http.StatusNotFound && l.id != "" && m.hasStood(l):
		m.lose(l)
		return false
	case code == http.StatusConflict, code == http.StatusTooManyRequests, code >= 500 && code != http.StatusNotImplemented,
		code == http.StatusUnauthorized, code == http.StatusForbidden:
		return true
	case s.after != "":
		s.after = "" // it does not know the event any more
		return true
	default:
		m.mute(l)
		return false
	}
	if !m.stands(s.listener, l, r) {
		return false
	}
	defer m.standsNoMore(l, r)
	events := mcp.NewEventReader(answer.Body, session.MaxEvent)
	for {
		event, err := events.Next()
		if err != nil {
			return true
		}
		if !event.Partial && !s.pass(event) {
			return false
		}
	}
}

// pass passes an event on.
func (s *partStream) pass(event mcp.Event) bool {
	ls, l := s.listener, s.link
	if wait, ok := event.Retry(); ok {
		s.hint = min(wait, listenAgainMost)
	}
	id, named := event.ID()
	if named {
		s.after = id
	}
	data := event.Data(nil)
	if len(data) == 0 {
		return !named || ls.note(l, id)
	}
	s.spoke = true
	messages, _ := ls.of.messages(l, data, asked{nothing: true})
	for i, message := range messages {
		var of *string
		if named && i == len(messages)-1 {
			of = &id
		}
		if !ls.push(l, of, message) {
			return false
		}
	}
	return len(messages) > 0 || !named || ls.note(l, id)
}

func (m *merged) hasStood(l *link) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return l.stood
}

// mute notes that a part has no stream to listen on.
func (m *merged) mute(l *link) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l.silent = true
}

// stands notes that the stream of a part is there. What may have changed before is
// fetched again when it is needed. False: it is not wanted any more.
func (m *merged) stands(ls *listener, l *link, r *reading) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := l.part
	if p.now != l || ls.reading[l] != r {
		return false
	}
	l.stood, r.there = true, true
	for k := range p.watched {
		if l.offers.lists[k] && !p.watched[k] {
			p.fetched[k] = time.Time{}
		}
	}
	return true
}

// standsNoMore notes that it is gone: what it told of is to be asked for again.
func (m *merged) standsNoMore(l *link, r *reading) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r.there = false
	if p := l.part; p.now == l {
		for k := range p.watched {
			p.watched[k] = p.watched[k] && !l.offers.lists[k]
		}
	}
}
