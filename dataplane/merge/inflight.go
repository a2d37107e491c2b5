package merge

import (
	"context"
)

// inFlight is a call that a part has.
type inFlight struct {
	link      *link
	cut       context.CancelFunc // ends it
	cancelled bool               // by the client: it need not be answered
}

// enter notes that a part has a call; false if there are too many.
func (m *merged) enter(r *request, c *inFlight) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.calls) >= maxCalls {
		return false
	}
	if m.calls == nil {
		m.calls = make(map[string]*inFlight)
	}
	m.calls[string(r.message.ID)] = c
	c.link.calls++
	return true
}

// leave notes that a call is over.
func (m *merged) leave(r *request, c *inFlight) {
	c.cut()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.calls[string(r.message.ID)] == c {
		delete(m.calls, string(r.message.ID))
	}
	if len(m.calls) == 0 {
		m.calls = nil
	}
	l := c.link
	if l.calls--; l.calls == 0 && l.quiet != nil {
		close(l.quiet)
		l.quiet = nil
	}
}

// cut ends the calls that a link has.
func (m *merged) cut(l *link) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.calls {
		if c.link == l {
			c.cut()
		}
	}
}

// cancel notes that the client does not want an answer any more, and returns the part
// that has the call; nil if none has.
func (m *merged) cancel(id []byte) *link {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.calls[string(id)]
	if c == nil {
		return nil
	}
	c.cancelled = true
	return c.link
}

func (m *merged) isCancelled(r *request) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.calls[string(r.message.ID)]
	return c != nil && c.cancelled
}
