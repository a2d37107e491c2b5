package merge

import (
	"context"
	"maps"
	"net/http"
	"sync"

	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/session"
)

// respond passes the client's answer on to the part that asked. One to nobody is
// ignored, as servers do.
func (m *merged) respond(ctx context.Context, r *request) (*http.Response, error) {
	name, id, ok := unmarkRaw(r.message.ID)
	if !ok {
		return accepted(), nil
	}
	return m.pass(ctx, r, m.linkOf(name), forPart(name, r.body, id))
}

// linkOf returns the link of a part that is open; nil if it is not.
func (m *merged) linkOf(name string) *link {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := m.partLocked(name); p != nil {
		return p.now
	}
	return nil
}

// pass sends a part what needs no answer, as the client's own request.
func (m *merged) pass(ctx context.Context, r *request, l *link, body []byte) (*http.Response, error) {
	if l == nil {
		return accepted(), nil
	}
	gate := &watched{Gate: r.Gate}
	header := maps.Clone(r.Header)
	l.name(header)
	answer, err := m.up.do(ctx, &session.Dispatch{
		Upstream: l.upstream, Method: http.MethodPost, Header: header, Body: body, Address: l.address, Own: r.Own, Gate: gate})
	switch {
	case err != nil && (gate.refused.Load() || ctx.Err() != nil):
		return nil, err
	case err != nil:
		m.log.Warn("upstream not told", "upstream", l.upstream.Name, "error", err)
		return accepted(), nil
	}
	defer discard(answer)
	switch err := statusOf(answer); {
	case m.isLost(l, answer):
		m.lose(l)
	case err != nil:
		m.log.Warn("upstream not told", "upstream", l.upstream.Name, "error", err)
	}
	return accepted(), nil
}

// notify passes a notification of the client on to whom it concerns.
func (m *merged) notify(ctx context.Context, r *request) (*http.Response, error) {
	switch r.message.Method {
	case mcp.MethodInitialized:
		return m.notifyInitialized(ctx, r)
	case mcp.MethodCancelled:
		return m.pass(ctx, r, m.cancel(r.param("requestId")), r.body)
	case mcp.MethodProgress:
		name, token, ok := unmarkRaw(r.param("progressToken"))
		if !ok {
			return accepted(), nil
		}
		return m.pass(ctx, r, m.linkOf(name), r.splice([][]string{{"params", "progressToken"}}, func(int, []byte) []byte { return token }))
	}
	return m.passToAll(ctx, r, m.open())
}

// passToAll passes a notification on to several parts. One that is slow is not waited
// for for long.
func (m *merged) passToAll(ctx context.Context, r *request, links []*link) (*http.Response, error) {
	if err := r.Dispatch.LetOut(); err != nil {
		return nil, err
	}
	m.tellAll(ctx, links, r, func(l *link, err error) {
		m.log.Warn("upstream not told", "upstream", l.upstream.Name, "method", r.message.Method, "error", err)
	})
	return accepted(), nil
}

// tellAll sends what needs no answer to several parts, and calls failed for those that
// did not take it.
func (m *merged) tellAll(ctx context.Context, links []*link, r *request, failed func(*link, error)) {
	bounded, cancel := context.WithTimeout(ctx, tellTime)
	defer cancel()
	gate := &watched{Gate: r.Gate}
	for i, err := range each(links, func(l *link) error { return m.tell(bounded, l, r.body, gate) }) {
		if err != nil && ctx.Err() == nil && !gate.refused.Load() {
			failed(links[i], err)
		}
	}
}

// notifyInitialized passes on that the client is ready. A part that does not take that
// is of no use: its session is ended, and it is opened anew.
func (m *merged) notifyInitialized(ctx context.Context, r *request) (*http.Response, error) {
	m.mu.Lock()
	m.initialized = true
	var links []*link
	for _, l := range m.openLocked() {
		if !l.told {
			l.told = true
			links = append(links, l)
		}
	}
	m.mu.Unlock()
	if err := r.Dispatch.LetOut(); err != nil {
		m.untell(links)
		return nil, err
	}
	m.tellAll(ctx, links, r, func(l *link, err error) {
		m.log.Warn("upstream refused "+mcp.MethodInitialized, "upstream", l.upstream.Name, "error", err)
		m.replace(l)
	})
	return accepted(), nil
}

func (m *merged) untell(links []*link) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, l := range links {
		l.told = false
	}
}

// replace ends a link that is of no use, and has its part opened anew.
func (m *merged) replace(l *link) {
	m.mu.Lock()
	p := l.part
	if p.now == l {
		p.now, p.failed = nil, errNotMCP
		m.unlistenLocked(l)
	}
	m.mu.Unlock()
	m.up.spawn(func() { m.endLink(l, m) })
	m.up.reopen(p)
}

// each calls f for all links at the same time, and returns what it returned.
func each(links []*link, f func(*link) error) []error {
	errs := make([]error, len(links))
	if len(links) == 1 {
		errs[0] = f(links[0])
		return errs
	}
	var group sync.WaitGroup
	for i, l := range links {
		group.Go(func() { errs[i] = f(l) })
	}
	group.Wait()
	return errs
}

// heard is what a part said where nobody waits for it: it goes out on the client's GET.
func (m *merged) heard(l *link, data []byte) {
	messages, _ := m.messages(l, data, asked{nothing: true})
	m.mu.Lock()
	listening := m.listener
	m.mu.Unlock()
	if listening == nil {
		m.log.Debug("upstream said something that nobody can be told", "upstream", l.upstream.Name, "messages", len(messages))
		return
	}
	listening.announce(messages)
}
