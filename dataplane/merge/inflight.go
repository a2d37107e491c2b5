package merge

import (
	"bytes"
	"context"
	"slices"
)

// inFlight is a call that a part has.
type inFlight struct {
	id   []byte // the client's
	link *link
	cut  context.CancelFunc // ends it
	gate watched

	// Guarded by the session's mu:
	cancelled bool // by the client: it need not be answered
	over      bool
}

// keptCalls is how many calls there is room for while there are none.
const keptCalls = 8

// enter notes that a part has a call; false if there are too many.
func (m *merged) enter(c *inFlight) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.calls) >= maxCalls {
		return false
	}
	m.calls = append(m.calls, c)
	c.link.calls++
	return true
}

// leave notes that a call is over, if it was not before.
func (m *merged) leave(c *inFlight) {
	c.cut()
	m.mu.Lock()
	defer m.mu.Unlock()
	if c.over {
		return
	}
	c.over = true
	i := slices.Index(m.calls, c)
	m.calls = slices.Delete(m.calls, i, i+1)
	if len(m.calls) == 0 && cap(m.calls) > keptCalls {
		m.calls = nil
	}
	l := c.link
	if l.calls--; l.calls == 0 && l.quiet != nil {
		close(l.quiet)
		l.quiet = nil
	}
}

// callLocked returns the newest call with an id of the client's; nil if there is none.
func (m *merged) callLocked(id []byte) *inFlight {
	for _, c := range slices.Backward(m.calls) {
		if bytes.Equal(c.id, id) {
			return c
		}
	}
	return nil
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
	c := m.callLocked(id)
	if c == nil {
		return nil
	}
	c.cancelled = true
	return c.link
}

func (m *merged) isCancelled(r *request) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.callLocked(r.message.ID)
	return c != nil && c.cancelled
}
