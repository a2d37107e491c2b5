package merge

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"

	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/session"
)

// resume goes on with a stream of a part after an event.
func (m *merged) resume(ctx context.Context, d *session.Dispatch, p *part, id string) (*http.Response, error) {
	l, err := m.use(ctx, p)
	if err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%w: %w", session.ErrNotSent, context.Cause(ctx))
		}
		return noStream(p.of.nameOf(p), reason(err)), nil
	}
	header := maps.Clone(d.Header)
	l.name(header)
	header[mcp.HeaderLastEventID] = []string{id}
	answer, err := m.up.do(ctx, &session.Dispatch{
		Upstream: l.upstream, Method: http.MethodGet, Header: header, Address: l.address, Own: d.Own, Gate: d.Gate})
	switch {
	case errors.Is(err, errOutdated):
		return noStream(l.upstream.Name, reason(err)), nil
	case err != nil:
		return nil, err
	case answer.StatusCode == http.StatusOK && isEventStream(answer.Header):
		return m.relay(ctx, nil, l, answer, asked{nothing: true}, func() {}), nil
	case answer.StatusCode == http.StatusConflict:
		return answer, nil // the session tries again
	}
	defer discard(answer)
	if m.isLost(l, answer) {
		m.lose(l)
	}
	return noStream(l.upstream.Name, reason(&statusError{status: answer.StatusCode})), nil
}

func (m *merged) nameOf(p *part) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return p.upstream.Name
}

func noStream(name, why string) *http.Response {
	answer := refuse(http.StatusMethodNotAllowed, &mcp.Error{Code: mcp.CodeUpstream, Data: notExecuted(name),
		Message: fmt.Sprintf("upstream %q has no stream to go on with: it %s", name, why)})
	answer.Header["Allow"] = []string{"POST, DELETE"}
	return answer
}
