package conformance

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/leasehold/leasehold/test/internal/poll"
)

// The versions that probes speak.
const (
	current = "2025-11-25"
	older   = "2025-06-18"
	oldest  = "2025-03-26"
)

// probe is a question on which servers differ. Its answer is one line.
type probe struct {
	name string
	ask  func(ctx context.Context, a *asker) (string, error)
}

// Bodies of requests.
const (
	ping    = `{"jsonrpc":"2.0","id":7,"method":"ping"}`
	list    = `{"jsonrpc":"2.0","id":7,"method":"tools/list"}`
	unknown = `{"jsonrpc":"2.0","id":7,"method":"no/such"}`
	batch   = `[{"jsonrpc":"2.0","id":7,"method":"ping"},{"jsonrpc":"2.0","id":8,"method":"ping"}]`
	stray   = `{"jsonrpc":"2.0","id":"stray","result":{}}`
	event   = `{"jsonrpc":"2.0","method":"notifications/no-such"}`
	// discover is what a client of a version without sessions asks first.
	discover = `{"jsonrpc":"2.0","id":7,"method":"server/discover","params":{"_meta":{` +
		`"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"probe","version":"1"},` +
		`"io.modelcontextprotocol/clientCapabilities":{}}}}`
)

// probes are all questions.
var probes = []probe{
	{"request without session", outside(http.MethodPost, list, nil)},
	{"ping without session", outside(http.MethodPost, ping, nil)},
	{"request of an unknown session", outside(http.MethodPost, ping, header{"Mcp-Session-Id": "no-such-session"})},
	{"request after DELETE", afterDelete},
	{"GET of an unknown session", listening(func(string) header { return header{"Mcp-Session-Id": "no-such-session"} })},
	{"GET without session", listening(func(string) header { return nil })},
	{"GET", listening(ofSession)},
	{"second GET", secondGet},
	{"GET from an unknown event", listening(func(s string) header { return header{"Mcp-Session-Id": s, "Last-Event-ID": "no-such-event"} })},
	{"GET for JSON", listening(func(s string) header { return header{"Mcp-Session-Id": s, "Accept": "application/json"} })},
	{"DELETE", inside(current, http.MethodDelete, "", nil)},
	{"DELETE without session", outside(http.MethodDelete, "", nil)},
	{"DELETE of an unknown session", outside(http.MethodDelete, "", header{"Mcp-Session-Id": "no-such-session"})},
	{"PUT", outside(http.MethodPut, ping, nil)},
	{"accepts JSON only", inside(current, http.MethodPost, ping, header{"Accept": "application/json"})},
	{"accepts events only", inside(current, http.MethodPost, ping, header{"Accept": "text/event-stream"})},
	{"accepts anything", inside(current, http.MethodPost, ping, header{"Accept": "*/*"})},
	{"content type text/plain", inside(current, http.MethodPost, ping, header{"Content-Type": "text/plain"})},
	{"malformed JSON", inside(current, http.MethodPost, `{"jsonrpc":"2.0",`, nil)},
	{"batch", inside(current, http.MethodPost, batch, nil)},
	{"batch without version header", inside(current, http.MethodPost, batch, header{"Mcp-Protocol-Version": ""})},
	{"batch in a session of " + oldest, inside(oldest, http.MethodPost, batch, nil)},
	{"version header unknown", inside(current, http.MethodPost, ping, header{"Mcp-Protocol-Version": "1999-01-01"})},
	{"version header of another version", inside(current, http.MethodPost, ping, header{"Mcp-Protocol-Version": older})},
	{"no version header", inside(current, http.MethodPost, ping, header{"Mcp-Protocol-Version": ""})},
	{"initialize", initializeOf(current)},
	{"initialize of an unknown version", initializeOf("1999-01-01")},
	{"second initialize", inside(current, http.MethodPost, initializeBody(current), nil)},
	{"ping", inside(current, http.MethodPost, ping, nil)},
	{"tools/list", inside(current, http.MethodPost, list, nil)},
	{"unknown method", inside(current, http.MethodPost, unknown, nil)},
	{"unknown notification", inside(current, http.MethodPost, event, nil)},
	{"stray response", inside(current, http.MethodPost, stray, nil)},
	{"session id on a later answer", echoed},
	{"event ids of " + current, numbering(current)},
	{"event ids of " + older, numbering(older)},
	{"rest of a stream that was cut", rest},
	{"server/discover", outside(http.MethodPost, discover, header{"Mcp-Protocol-Version": "2026-07-28", "Mcp-Method": "server/discover"})},
	{"foreign Origin", outside(http.MethodPost, initializeBody(current), header{"Origin": "http://evil.example.com", "Mcp-Protocol-Version": ""})},
	{"foreign Host", outside(http.MethodPost, initializeBody(current), header{"Host": "evil.example.com", "Mcp-Protocol-Version": ""})},
}

// said makes an answer a line.
func said(got answer, err error) (string, error) { return got.String(), err }

// ofSession is the header of a request in a session.
func ofSession(session string) header {
	return header{"Mcp-Session-Id": session, "Mcp-Protocol-Version": current}
}

// outside sends a request without opening a session.
func outside(method, body string, changes header) func(context.Context, *asker) (string, error) {
	return func(ctx context.Context, a *asker) (string, error) {
		got, err := a.ask(ctx, method, body, jsonHeader("", current, changes))
		if got.session != "" {
			a.opened = append(a.opened, got.session)
		}
		return said(got, err)
	}
}

// inside sends a request in a fresh session.
func inside(version, method, body string, changes header) func(context.Context, *asker) (string, error) {
	return func(ctx context.Context, a *asker) (string, error) {
		session, _, err := a.open(ctx, version)
		if err != nil {
			return "", err
		}
		return said(a.ask(ctx, method, body, jsonHeader(session, version, changes)))
	}
}

// initializeOf asks for a session of a version.
func initializeOf(version string) func(context.Context, *asker) (string, error) {
	return outside(http.MethodPost, initializeBody(version), header{"Mcp-Protocol-Version": ""})
}

// afterDelete sends a request in a session that was ended.
func afterDelete(ctx context.Context, a *asker) (string, error) {
	session, _, err := a.open(ctx, current)
	if err != nil {
		return "", err
	}
	if _, err := a.ask(ctx, http.MethodDelete, "", ofSession(session)); err != nil {
		return "", err
	}
	return said(a.ask(ctx, http.MethodPost, ping, jsonHeader(session, current, nil)))
}

// listening opens a stream beside a fresh session, or in it.
func listening(fields func(session string) header) func(context.Context, *asker) (string, error) {
	return func(ctx context.Context, a *asker) (string, error) {
		session, _, err := a.open(ctx, current)
		if err != nil {
			return "", err
		}
		h := header{"Accept": "text/event-stream", "Mcp-Protocol-Version": current}
		for key, value := range fields(session) {
			h[key] = value
		}
		got, closeStream, err := a.listen(ctx, h)
		if closeStream != nil {
			closeStream()
		}
		return said(got, err)
	}
}

// secondGet opens a second stream in a session while there is one.
func secondGet(ctx context.Context, a *asker) (string, error) {
	session, _, err := a.open(ctx, current)
	if err != nil {
		return "", err
	}
	h := ofSession(session)
	h["Accept"] = "text/event-stream"
	first, closeFirst, err := a.listen(ctx, h)
	if err != nil {
		return "", err
	}
	defer closeFirst()
	if first.status != http.StatusOK {
		return "", fmt.Errorf("the first GET: %v", first)
	}
	second, closeSecond, err := a.listen(ctx, h)
	if closeSecond != nil {
		closeSecond()
	}
	return said(second, err)
}

// echoed says whether later answers name the session.
func echoed(ctx context.Context, a *asker) (string, error) {
	session, _, err := a.open(ctx, current)
	if err != nil {
		return "", err
	}
	got, err := a.ask(ctx, http.MethodPost, ping, jsonHeader(session, current, nil))
	switch got.session {
	case "":
		return "no", err
	case session:
		return "yes", err
	}
	return "another", err
}

// numbering says whether the events of an answer have ids, and whether the first
// one is there for its id alone.
func numbering(version string) func(context.Context, *asker) (string, error) {
	return func(ctx context.Context, a *asker) (string, error) {
		session, _, err := a.open(ctx, version)
		if err != nil {
			return "", err
		}
		got, err := a.ask(ctx, http.MethodPost, list, jsonHeader(session, version, nil))
		words := []string{got.kind}
		if got.kind == "sse" {
			switch got.numbered {
			case 0:
				words = append(words, "no ids")
			case got.events:
				words = append(words, "ids")
			default:
				words = append(words, "some ids")
			}
		}
		if got.primed {
			words = append(words, "primed")
		}
		return strings.Join(words, ", "), err
	}
}

// rest cuts the stream of a call at its first event with an id, and asks for what
// came after that.
func rest(ctx context.Context, a *asker) (string, error) {
	session, _, err := a.open(ctx, current)
	if err != nil {
		return "", err
	}
	last, err := a.cut(ctx, `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":`+a.slow+`}`, jsonHeader(session, current, nil))
	if err != nil || last == "" {
		return "no ids", err
	}
	var got answer
	_, err = poll.Until(ctx, askLimit, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		h := ofSession(session)
		h["Accept"], h["Last-Event-ID"] = "text/event-stream", last
		if got, err = a.ask(ctx, http.MethodGet, "", h); err != nil {
			return err // it has not said all yet, or says nothing
		}
		if got.status == http.StatusConflict || got.status == http.StatusOK && len(got.messages) == 0 {
			return errors.New(got.String()) // it has not seen yet that the stream was cut, or said nothing
		}
		return nil
	})
	return said(got, err)
}

// cut sends a request, reads its answer up to the first event with an id, and
// returns that id, empty if there was none.
func (a *asker) cut(ctx context.Context, body string, h header) (last string, err error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	resp, err := a.do(ctx, http.MethodPost, body, h)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if got := head(resp); got.status != http.StatusOK {
		return "", fmt.Errorf("the call: %v", got)
	}
	err = readEvents(resp.Body, func(id, _ string) bool {
		last = id
		return id == ""
	})
	return last, err
}
