package merge

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptrace"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/session"
)

// dial opens an upstream session: with first, the client's own initialize, or, if that
// is nil, with what the client said then. Whatever fails after the upstream named its
// session ends that.
func (m *merged) dial(ctx context.Context, p *part, upstream *config.Upstream, first *session.Dispatch, gate session.Gate) (*link, error) {
	l := &link{part: p, upstream: upstream}
	d := &session.Dispatch{Upstream: upstream, Method: http.MethodPost, Gate: gate, Own: true}
	if first != nil {
		d.Header, d.Body, d.Own = first.Header.Clone(), first.Body, first.Own
	} else {
		d.Header, d.Body = m.header(http.MethodPost), initialize(&m.client, ownID())
	}
	answer, err := m.up.do(withAddress(ctx, &l.address), d)
	if err != nil {
		return nil, err
	}
	defer discard(answer)
	l.id = answer.Header.Get(mcp.HeaderSessionID)
	if err := m.read(l, answer); err != nil {
		m.endLink(l, nil)
		return nil, err
	}
	return l, nil
}

// read reads the answer to initialize.
func (m *merged) read(l *link, answer *http.Response) error {
	if err := statusOf(answer); err != nil {
		return err
	}
	body, err := readResponse(answer, func([]byte) {})
	if err != nil {
		return err
	}
	if failure, failed := failureOf(body); failed {
		return failure
	}
	result, ok := mcp.Lookup(body, "result")
	if !ok {
		return errNotMCP
	}
	if l.version, err = mcp.ParseInitializeResult(result); err != nil {
		return err
	}
	if !mcp.IsStateful(l.version) {
		return &unspoken{clip(l.version, 32)}
	}
	if l.id == "" {
		l.address = ""
	}
	l.offers = m.up.sharing.offers(parseOffers(result))
	return nil
}

// withAddress returns a context under which a request notes the network address that
// answers it.
func withAddress(ctx context.Context, address *string) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { *address = info.Conn.RemoteAddr().String() },
	})
}

var errNotMCP = errors.New("the answer is not one of the protocol")

// unspoken says that an upstream wants a protocol version that is not spoken.
type unspoken struct{ version string }

// Error names it.
func (e *unspoken) Error() string { return e.ForClient() }

// ForClient returns the same for a client.
func (e *unspoken) ForClient() string {
	return fmt.Sprintf("speaks protocol version %s only", e.version)
}

// name puts what names the upstream session into a header.
func (l *link) name(h http.Header) {
	delete(h, mcp.HeaderSessionID)
	if l.id != "" {
		h[mcp.HeaderSessionID] = []string{l.id}
	}
	h[mcp.HeaderProtocolVersion] = []string{l.version}
}

var initializedMessage = []byte(`{"jsonrpc":"2.0","method":"` + mcp.MethodInitialized + `"}`)

// catchUp tells a link that is to join the session what its client has said to the
// others.
func (m *merged) catchUp(ctx context.Context, l *link, gate session.Gate) error {
	m.mu.Lock()
	tell := m.initialized && !l.told
	level := m.level
	uris := m.subscriptionsLocked(l.upstream.Name)
	m.mu.Unlock()
	if !tell {
		return nil
	}
	if err := m.tell(ctx, l, initializedMessage, gate); err != nil {
		return fmt.Errorf("%s: %w", mcp.MethodInitialized, err)
	}
	m.mu.Lock()
	l.told = true
	m.mu.Unlock()
	// What follows is of use, but the session is there without it too.
	if len(level) > 0 && l.offers.logging {
		if _, err := m.ask(ctx, l, mcp.MethodSetLevel, append(append([]byte(`{"level":`), level...), '}')); err != nil {
			m.log.Warn("log level not set", "upstream", l.upstream.Name, "error", err)
		}
	}
	for _, uri := range uris {
		if _, err := m.ask(ctx, l, mcp.MethodResourcesSubscribe, append(mcp.AppendQuoted([]byte(`{"uri":`), uri), '}')); err != nil {
			m.log.Warn("subscription not renewed", "upstream", l.upstream.Name, "error", err)
		}
	}
	return nil
}
