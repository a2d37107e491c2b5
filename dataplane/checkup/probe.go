package checkup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"time"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/session"
)

const (
	// endTime bounds the end of a probe's session.
	endTime = 2 * time.Second
	// maxAnswer bounds what a server may answer to a probe: initialize may come with
	// instructions.
	maxAnswer = 1 << 20
	// maxEvents bounds the events before an answer.
	maxEvents = 64
)

// visit is a probe's session at a server.
type visit struct {
	http     session.Upstream
	upstream *config.Upstream
	id       string // empty if the server gives none
	version  string
	address  string
}

// probe opens a session, asks for a sign of life, and ends the session whatever came
// of it. The error says why the server is not taken for one that works.
func (c *Checker) probe(ctx context.Context, u *config.Upstream) error {
	v := &visit{http: c.cfg.Upstream, upstream: u}
	defer v.end(ctx)
	ctx, cancel := context.WithTimeoutCause(ctx, u.Health.Timeout, fmt.Errorf("no answer within %v", u.Health.Timeout))
	defer cancel()
	if err := v.open(ctx); err != nil {
		return fmt.Errorf("initialize: %w", err)
	}
	if _, err := v.post(ctx, `{"jsonrpc":"2.0","id":"leasehold-2","method":"ping"}`); err != nil {
		return fmt.Errorf("ping: %w", err)
	}
	return nil
}

func (v *visit) open(ctx context.Context) error {
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) {
			if v.address == "" {
				v.address = info.Conn.RemoteAddr().String()
			}
		},
	})
	result, err := v.post(ctx, `{"jsonrpc":"2.0","id":"leasehold-1","method":"initialize","params":{"protocolVersion":"`+mcp.V20251125+
		`","capabilities":{},"clientInfo":{"name":"leasehold-health","version":"1"}}}`)
	if err != nil {
		return err
	}
	if v.version, err = mcp.ParseInitializeResult(result); err != nil {
		return err
	}
	if v.id == "" {
		v.address = ""
	}
	_, err = v.post(ctx, `{"jsonrpc":"2.0","method":"`+mcp.MethodInitialized+`"}`)
	return err
}

// post sends a message and returns the result of a request, nil of a notification.
func (v *visit) post(ctx context.Context, body string) ([]byte, error) {
	header := v.header()
	header["Content-Type"] = []string{"application/json"}
	header["Accept"] = []string{"application/json, text/event-stream"}
	answer, err := v.http.Do(ctx, &session.Dispatch{Upstream: v.upstream, Method: http.MethodPost, Header: header, Body: []byte(body), Address: v.address, Own: true})
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
		return nil, fmt.Errorf("the server answered HTTP %d", answer.StatusCode)
	case kind != mcp.KindRequest:
		return nil, nil
	}
	data, err := read(answer)
	if err != nil {
		return nil, because(ctx, err)
	}
	result, ok := mcp.Lookup(data, "result")
	if !ok {
		return nil, errors.New("the server answered without a result")
	}
	return result, nil
}

// because returns why a request failed: its time was over, or err.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// read returns the response in an answer: its body, or the first in its stream.
func read(answer *http.Response) ([]byte, error) {
	if kind, _, _ := strings.Cut(answer.Header.Get("Content-Type"), ";"); !strings.EqualFold(strings.TrimSpace(kind), "text/event-stream") {
		body, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer+1))
		if len(body) > maxAnswer {
			return nil, fmt.Errorf("the answer has more than %d bytes", maxAnswer)
		}
		return body, err
	}
	events := mcp.NewEventReader(answer.Body, maxAnswer)
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

func (v *visit) header() http.Header {
	h := http.Header{"User-Agent": {"leasehold"}}
	if v.id != "" {
		h[mcp.HeaderSessionID] = []string{v.id}
	}
	if v.version != "" {
		h[mcp.HeaderProtocolVersion] = []string{v.version}
	}
	return h
}

// end ends the session. Servers may not have that; nothing is said of how they work.
func (v *visit) end(ctx context.Context) {
	if v.id == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTime)
	defer cancel()
	answer, err := v.http.Do(ctx, &session.Dispatch{Upstream: v.upstream, Method: http.MethodDelete, Header: v.header(), Address: v.address, Own: true})
	if err == nil {
		io.Copy(io.Discard, io.LimitReader(answer.Body, maxAnswer)) // so that the connection can be used again
		answer.Body.Close()
	}
}
