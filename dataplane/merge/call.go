package merge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/session"
)

// tellTime bounds the telling of a part that it need not answer.
const tellTime = 5 * time.Second

// watched is a gate that remembers whether it was closed.
type watched struct {
	session.Gate // nil lets everything through
	refused      atomic.Bool
}

// Pass implements session.Gate.
func (w *watched) Pass() error {
	if w.Gate == nil {
		return nil
	}
	err := w.Gate.Pass()
	if err != nil {
		w.refused.Store(true)
	}
	return err
}

// call sends a request on to a part, as body, and returns the answer, of which what has
// to differ for the client does. An error is what the client's session is to deal with:
// its own gate was closed, or its own time is over. What is wrong with the part is an
// answer.
func (m *merged) call(ctx context.Context, r *request, p *part, body []byte, a asked) (*http.Response, error) {
	for again := false; ; {
		l, err := m.use(ctx, p)
		if err != nil {
			if next := m.successor(p); next != nil && next != p {
				p = next
				continue
			}
			if ctx.Err() != nil {
				return nil, fmt.Errorf("%w: %w", session.ErrNotSent, context.Cause(ctx))
			}
			return m.failed(r, p, err), nil
		}
		sending, cut := context.WithCancel(ctx)
		c := &inFlight{id: r.message.ID, link: l, cut: cut, gate: watched{Gate: r.Gate}}
		if !m.enter(c) {
			cut()
			return r.refuse(mcp.CodeLimit, fmt.Sprintf("the session has %d requests in flight, which is the bound", maxCalls)), nil
		}
		answer, lost, err := m.try(ctx, sending, r, c, body, a)
		if errors.Is(err, errOutdated) {
			if next := m.successor(p); next != nil {
				p = next
				continue
			}
			return m.failed(r, p, errOver), nil
		}
		if !lost {
			return answer, err
		}
		m.lose(l)
		own := &session.Request{Method: http.MethodPost, Body: body}
		if again || !own.Repeatable(m.definitionOf(l)) {
			return m.renewed(r, l), nil
		}
		again = true
	}
}

// try makes one attempt of a call, with a context that ends when the part is removed too.
// lost: the upstream had lost its session, and has not carried it out. errOutdated: it was
// not sent.
func (m *merged) try(ctx, sending context.Context, r *request, c *inFlight, body []byte, a asked) (answer *http.Response, lost bool, err error) {
	l := c.link
	over, gate := func() { m.leave(c) }, &c.gate
	header := maps.Clone(r.Header)
	l.name(header)
	d := &session.Dispatch{Upstream: l.upstream, Method: http.MethodPost, Header: header, Body: body, Address: l.address, Own: r.Own, Gate: gate}
	if r.Silence > 0 {
		d.Silence = m.definitionOf(l).ResponseTimeout
	}
	answer, err = m.up.do(sending, d)
	switch {
	case err == nil:
	case errors.Is(err, session.ErrReplicaGone):
		over()
		return nil, true, nil
	case errors.Is(err, errOutdated):
		over()
		return nil, false, err
	default:
		over()
		answer, err = m.unanswered(ctx, r, l, gate, err)
		return answer, false, err
	}
	if m.isLost(l, answer) {
		discard(answer)
		over()
		return nil, true, nil
	}
	if answer.StatusCode == http.StatusOK {
		l.proven.Store(true)
	}
	answer, err = m.passOn(ctx, r, l, answer, a, over)
	return answer, false, err
}

// unanswered deals with a call to which no answer came.
func (m *merged) unanswered(ctx context.Context, r *request, l *link, gate *watched, err error) (*http.Response, error) {
	switch {
	case gate.refused.Load():
		return nil, err
	case ctx.Err() != nil:
		return nil, err
	case errors.Is(err, session.ErrNotSent):
		return m.failed(r, l.part, err), nil
	}
	return refuse(http.StatusOK, m.unknown(r, l, err)), nil
}

// giveUp tells a part that nobody waits for its answer any more.
func (m *merged) giveUp(l *link, id []byte) {
	body := append(append([]byte(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":`), id...), `,"reason":"no answer in time"}}`...)
	m.up.spawn(func() {
		ctx, cancel := context.WithTimeout(m.up.work, tellTime)
		defer cancel()
		if err := m.tell(ctx, l, body, m); err != nil {
			m.log.Debug("upstream not told that it need not answer", "upstream", l.upstream.Name, "error", err)
		}
	})
}

// passOn returns an answer of a part as the client gets it. over is called when it has
// been read.
func (m *merged) passOn(ctx context.Context, r *request, l *link, answer *http.Response, a asked, over func()) (*http.Response, error) {
	if isEventStream(answer.Header) && answer.StatusCode == http.StatusOK {
		return m.relay(ctx, r, l, answer, a, over), nil
	}
	defer over()
	defer func(part io.Closer) { part.Close() }(answer.Body)
	if code := answer.StatusCode; code == http.StatusUnauthorized || code == http.StatusForbidden || code >= 300 && code < 400 ||
		code == http.StatusNotFound || code == http.StatusTooManyRequests || code >= 500 {
		return m.refused(r, l, statusOf(answer)), nil
	}
	body, err := readKnown(answer.Body, answer.ContentLength, session.MaxResponse)
	if err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		return refuse(http.StatusOK, m.unknown(r, l, err)), nil
	}
	if answer.StatusCode == http.StatusBadRequest && mcp.IsSessionLost(body) {
		// Of the part, which has not worked yet: the session as a whole is there.
		return m.refused(r, l, &statusError{status: answer.StatusCode}), nil
	}
	if mcp.IsResponse(body) {
		body = m.resultForClient(l, body, a)
	}
	delete(answer.Header, mcp.HeaderSessionID)
	answer.Body, answer.ContentLength = newWhole(body), int64(len(body))
	return answer, nil
}
