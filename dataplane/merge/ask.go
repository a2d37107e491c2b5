package merge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/session"
)

// ownPrefix begins the ids of requests of ours, of which no client can know.
var ownPrefix = ownMark + newID() + "-"

// ownMark begins those of all workers.
const ownMark = "leasehold-"

var ownNumber atomic.Uint64

// ownID returns the id of a request of ours, as JSON.
func ownID() string { return `"` + ownPrefix + strconv.FormatUint(ownNumber.Add(1), 10) + `"` }

// answersUs reports whether an answer is to a request of ours, or of a worker that had
// the session before.
func answersUs(data []byte) bool {
	raw, _ := mcp.Lookup(data, "id")
	id, ok := mcp.Unquote(raw)
	return ok && len(id) > len(ownPrefix) && strings.HasPrefix(id, ownMark) && id[len(ownPrefix)-1] == '-'
}

// failure is a JSON-RPC error of an upstream.
type failure struct {
	code    int
	message string
	raw     []byte // the error, as it came
}

// Error returns it.
func (f *failure) Error() string { return fmt.Sprintf("%s (code %d)", f.message, f.code) }

// ForClient returns the same for a client.
func (f *failure) ForClient() string { return f.Error() }

// failureOf returns the error that a JSON-RPC answer is, if it is one.
func failureOf(body []byte) (f *failure, ok bool) {
	raw, ok := mcp.Lookup(body, "error")
	if !ok {
		return nil, false
	}
	f = &failure{raw: bytes.Clone(raw)}
	code, _ := mcp.Lookup(raw, "code")
	f.code, _ = strconv.Atoi(string(code))
	message, _ := mcp.Lookup(raw, "message")
	text, _ := mcp.Unquote(message)
	f.message = clip(text, 256)
	return f, true
}

// ask sends a request of ours over a link and returns the result. A *failure is the
// upstream's error.
func (m *merged) ask(ctx context.Context, l *link, method string, params []byte) ([]byte, error) {
	body := mcp.AppendQuoted(append(append([]byte(`{"jsonrpc":"2.0","id":`), ownID()...), `,"method":`...), method)
	if len(params) > 0 {
		body = append(append(body, `,"params":`...), params...)
	}
	answer, err := m.send(ctx, l, append(body, '}'), m)
	if err != nil {
		return nil, err
	}
	defer discard(answer)
	if m.isLost(l, answer) {
		m.lose(l)
		return nil, errLost
	}
	if answer.StatusCode == http.StatusOK {
		l.proven.Store(true)
	}
	if err := statusOf(answer); err != nil {
		return nil, err
	}
	read, err := readResponse(answer, func(data []byte) { m.heard(l, data) })
	if err != nil {
		return nil, err
	}
	if failure, failed := failureOf(read); failed {
		return nil, failure
	}
	result, ok := mcp.Lookup(read, "result")
	if !ok {
		return nil, errNotMCP
	}
	return result, nil
}

// tell sends a message of ours, or one that has to be sent on by itself, that needs no
// answer.
func (m *merged) tell(ctx context.Context, l *link, body []byte, gate session.Gate) error {
	answer, err := m.send(ctx, l, body, gate)
	if err != nil {
		return err
	}
	defer discard(answer)
	if m.isLost(l, answer) {
		m.lose(l)
		return errLost
	}
	return statusOf(answer)
}

// send sends a POST of ours over a link.
func (m *merged) send(ctx context.Context, l *link, body []byte, gate session.Gate) (*http.Response, error) {
	header := m.header(http.MethodPost)
	l.name(header)
	return m.up.do(ctx, &session.Dispatch{Upstream: l.upstream, Method: http.MethodPost, Header: header, Body: body,
		Address: l.address, Silence: m.definitionOf(l).ResponseTimeout, Own: true, Gate: gate})
}

var errLost = errors.New("has lost its session")

// isLost reports whether an answer says that the upstream does not know the session.
// The body of an HTTP 400 is read for that, and can be read again.
func (m *merged) isLost(l *link, answer *http.Response) bool {
	switch {
	case l.id == "":
		return false
	case answer.StatusCode == http.StatusNotFound:
		return true
	case answer.StatusCode != http.StatusBadRequest || answer.ContentLength > 64<<10 || !l.proven.Load():
		return false
	}
	body, err := readBody(answer.Body, 64<<10)
	answer.Body.Close()
	answer.Body = newWhole(body)
	return err == nil && mcp.IsSessionLost(body)
}
