package merge

import (
	"context"
	"net/http"
	"time"

	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/session"
)

// callGrace is how long calls of a part that is removed may go on.
const callGrace = 5 * time.Second

// delete ends the session: all parts at the same time.
func (m *merged) delete(ctx context.Context, d *session.Dispatch) (*http.Response, error) {
	if err := d.LetOut(); err != nil {
		return nil, err
	}
	m.up.take(m.id)
	ctx, cancel := context.WithTimeout(ctx, endTime)
	defer cancel()
	each(m.end(), func(l *link) error {
		m.endWithin(ctx, l, d.Gate)
		return nil
	})
	answer := mcp.NewAnswer(http.StatusNoContent)
	answer.Body = http.NoBody
	return answer, nil
}

// retire ends the link of a part that is removed, or that connects elsewhere now: once
// its calls are over, but not much later in any case. What goes on then is cut.
func (m *merged) retire(l *link) {
	m.mu.Lock()
	var quiet chan struct{}
	if l.calls > 0 {
		quiet = make(chan struct{})
		l.quiet = quiet
	}
	m.mu.Unlock()
	m.up.spawn(func() {
		if quiet != nil {
			timer := time.NewTimer(callGrace)
			defer timer.Stop()
			select {
			case <-quiet:
			case <-timer.C:
			case <-m.up.work.Done():
			}
		}
		m.endLink(l, m)
		m.cut(l)
		m.up.cfg.Inner.Drop(l.upstream, l.id)
	})
}

// endLink ends an upstream session with DELETE, if there is one. gate may be nil:
// nobody else can have it then.
func (m *merged) endLink(l *link, gate session.Gate) {
	if l.id == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(m.up.work), endTime)
	defer cancel()
	m.endWithin(ctx, l, gate)
}

func (m *merged) endWithin(ctx context.Context, l *link, gate session.Gate) {
	if l.id == "" {
		return
	}
	header := m.header(http.MethodDelete)
	l.name(header)
	answer, err := m.up.cfg.Inner.Do(ctx, &session.Dispatch{
		Upstream: l.upstream, Method: http.MethodDelete, Header: header, Address: l.address, Own: true, Gate: gate})
	if err != nil {
		m.log.Warn("upstream session not ended", "upstream", l.upstream.Name, "error", err)
		return
	}
	defer discard(answer)
	if code := answer.StatusCode; code >= 300 && code != http.StatusNotFound && code != http.StatusMethodNotAllowed {
		m.log.Warn("upstream refused to end its session", "upstream", l.upstream.Name, "status", code)
	}
}
