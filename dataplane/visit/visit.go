// Package visit has sessions of a worker's own at upstreams, by which it finds out
// how they are. No client sees them, and none of a client's is used.
package visit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
	"time"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/session"
)

const (
	// endTime bounds the end of a session.
	endTime = 2 * time.Second
	// maxEvents bounds the events before an answer.
	maxEvents = 64
	// maxRefusal bounds what is read of the words of a refusal.
	maxRefusal = 4 << 10
)

// Config says where a visit goes. All fields are required.
type Config struct {
	// Upstream is visited, over HTTP.
	Upstream *config.Upstream
	HTTP     session.Upstream
	// Client is how the visitor calls itself.
	Client string
	// MaxAnswer bounds what the server may answer, in bytes.
	MaxAnswer int
}

// Visit is a session at an upstream. It is for one goroutine. End it whatever comes of
// it.
type Visit struct {
	cfg     Config
	id      string // empty if the server gives none
	version string
	address string
	asked   int
}

// New returns a visit that has not begun.
func New(cfg Config) *Visit { return &Visit{cfg: cfg} }

// StatusError is an HTTP answer that is no success.
type StatusError struct {
	Status int
	// Refusal is why this worker does not run the upstream's program, in its own words;
	// what servers say is not in it.
	Refusal string
}

// Error implements error.
func (e *StatusError) Error() string {
	if e.Refusal != "" {
		return e.Refusal
	}
	return fmt.Sprintf("the server answered HTTP %d", e.Status)
}

// AnswerError is a JSON-RPC error that a server answered with. Its text is not kept: it
// may repeat what the server was sent.
type AnswerError struct{ Code int }

// Error implements error.
func (e *AnswerError) Error() string {
	return fmt.Sprintf("the server answered with the JSON-RPC error %d", e.Code)
}

// HasID reports whether the server gave the session an id.
func (v *Visit) HasID() bool { return v.id != "" }

// Version returns the version that was negotiated; empty if none was.
func (v *Visit) Version() string { return v.version }

// Open begins the session and returns the result of initialize. The error is a
// *StatusError, an *AnswerError, or why there was no answer.
func (v *Visit) Open(ctx context.Context) ([]byte, error) {
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) {
			if v.address == "" {
				v.address = info.Conn.RemoteAddr().String()
			}
		},
	})
	result, err := v.Ask(ctx, mcp.MethodInitialize, `{"protocolVersion":"`+mcp.V20251125+`","capabilities":{},"clientInfo":{"name":"`+v.cfg.Client+`","version":"1"}}`)
	if err != nil {
		return nil, err
	}
	if v.version, err = mcp.ParseInitializeResult(result); err != nil {
		return nil, err
	}
	if v.id == "" {
		v.address = ""
	}
	_, err = v.post(ctx, v.header(), `{"jsonrpc":"2.0","method":"`+mcp.MethodInitialized+`"}`)
	return result, err
}

// Ask makes a request in the session and returns its result. params is JSON, empty for
// none.
func (v *Visit) Ask(ctx context.Context, method, params string) ([]byte, error) {
	return v.post(ctx, v.header(), v.request(method, params))
}

// Discover asks the server, without the session, for the versions that it supports. It
// is for streamable HTTP only.
func (v *Visit) Discover(ctx context.Context) ([]byte, error) {
	header := http.Header{"User-Agent": userAgent, mcp.HeaderProtocolVersion: {mcp.V20260728}, mcp.HeaderMethod: {mcp.MethodDiscover}}
	return v.post(ctx, header, v.request(mcp.MethodDiscover, `{"_meta":{"`+mcp.MetaProtocolVersion+`":"`+mcp.V20260728+
		`","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":"`+v.cfg.Client+`","version":"1"}}}`))
}

func (v *Visit) request(method, params string) string {
	v.asked++
	if params != "" {
		params = `,"params":` + params
	}
	return `{"jsonrpc":"2.0","id":"leasehold-` + strconv.Itoa(v.asked) + `","method":"` + method + `"` + params + `}`
}

// post sends a message and returns the result of a request, nil of a notification.
func (v *Visit) post(ctx context.Context, header http.Header, body string) ([]byte, error) {
	header["Content-Type"] = []string{"application/json"}
	header["Accept"] = []string{"application/json, text/event-stream"}
	answer, err := v.cfg.HTTP.Do(ctx, &session.Dispatch{Upstream: v.cfg.Upstream, Method: http.MethodPost, Header: header, Body: []byte(body), Address: v.address, Own: true})
	if err != nil {
		return nil, because(ctx, err)
	}
	defer answer.Body.Close()
	if id := answer.Header.Get(mcp.HeaderSessionID); id != "" && v.version == "" {
		v.id = id
	}
	kind, _ := mcp.KindOf([]byte(body))
	switch {
	case answer.StatusCode < 200 || answer.StatusCode > 299:
		return nil, v.refused(answer)
	case kind != mcp.KindRequest:
		return nil, nil
	}
	data, err := v.read(answer)
	if err != nil {
		return nil, because(ctx, err)
	}
	if code, ok := mcp.Lookup(data, "error", "code"); ok {
		n, _ := strconv.Atoi(string(code))
		return nil, &AnswerError{Code: n}
	}
	result, ok := mcp.Lookup(data, "result")
	if !ok {
		return nil, errors.New("the server answered without a result")
	}
	return result, nil
}

// refused returns why a request was. Where the upstream is a program, the words are this
// worker's.
func (v *Visit) refused(answer *http.Response) error {
	refusal := &StatusError{Status: answer.StatusCode}
	if v.cfg.Upstream.Program != nil {
		body, _ := io.ReadAll(io.LimitReader(answer.Body, maxRefusal))
		text, _ := mcp.Lookup(body, "error", "message")
		refusal.Refusal, _ = mcp.Unquote(text)
	}
	return refusal
}

// because returns why a request failed: its time was over, or err.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// read returns the response in an answer: its body, or the first in its stream.
func (v *Visit) read(answer *http.Response) ([]byte, error) {
	if kind, _, _ := strings.Cut(answer.Header.Get("Content-Type"), ";"); !strings.EqualFold(strings.TrimSpace(kind), "text/event-stream") {
		body, err := io.ReadAll(io.LimitReader(answer.Body, int64(v.cfg.MaxAnswer)+1))
		if len(body) > v.cfg.MaxAnswer {
			return nil, fmt.Errorf("the answer has more than %d bytes", v.cfg.MaxAnswer)
		}
		return body, err
	}
	events := mcp.NewEventReader(answer.Body, v.cfg.MaxAnswer)
	for range maxEvents {
		event, err := events.Next()
		if err != nil {
			return nil, err
		}
		if data := event.Data(nil); mcp.IsResponse(data) {
			return bytes.Clone(data), nil
		}
	}
	return nil, fmt.Errorf("no answer in %d events", maxEvents)
}

var userAgent = []string{"leasehold"}

func (v *Visit) header() http.Header {
	h := http.Header{"User-Agent": userAgent}
	if v.id != "" {
		h[mcp.HeaderSessionID] = []string{v.id}
	}
	if v.version != "" {
		h[mcp.HeaderProtocolVersion] = []string{v.version}
	}
	return h
}

// End ends the session, also if ctx is over, within 2 s. The error is a *StatusError, or
// why there was no answer; without an id there is nothing to end.
func (v *Visit) End(ctx context.Context) error {
	if v.id == "" {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), endTime, fmt.Errorf("no answer within %v", endTime))
	defer cancel()
	answer, err := v.cfg.HTTP.Do(ctx, &session.Dispatch{Upstream: v.cfg.Upstream, Method: http.MethodDelete, Header: v.header(), Address: v.address, Own: true})
	if err != nil {
		return because(ctx, err)
	}
	defer answer.Body.Close()
	io.Copy(io.Discard, io.LimitReader(answer.Body, maxRefusal)) // so that the connection can be used again
	if answer.StatusCode < 200 || answer.StatusCode > 299 {
		return &StatusError{Status: answer.StatusCode}
	}
	return nil
}
