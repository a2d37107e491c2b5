// Package client is a stateful MCP client that sends each request to whatever
// URL the caller names, which no SDK's client can: that is how a test shows
// that any worker serves any session. It hides nothing of HTTP.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"
)

// Version is the protocol version the client asks for.
const Version = "2025-11-25"

// accept is what a client has to accept at a POST.
const accept = "application/json, text/event-stream"

// shared is used by all clients; it keeps enough connections to not dial anew
// for every request of a busy test.
var shared = &http.Client{Transport: &http.Transport{
	MaxIdleConnsPerHost: 256,
	IdleConnTimeout:     time.Minute,
}}

// Response is an HTTP answer, read to its end.
type Response struct {
	// Status is the HTTP status code.
	Status int
	// Header are the header fields.
	Header http.Header
	// Body is the body.
	Body []byte
}

// RPCError is the error member of a JSON-RPC response.
type RPCError struct {
	// Code is the error's code.
	Code int `json:"code"`
	// Message is the error's text.
	Message string `json:"message"`
	// Data is what else the server said.
	Data json.RawMessage `json:"data"`
}

// Envelope is a JSON-RPC response.
type Envelope struct {
	// ID is the id as it came.
	ID json.RawMessage `json:"id"`
	// Result is the result as it came.
	Result json.RawMessage `json:"result"`
	// Error is set if the request failed.
	Error *RPCError `json:"error"`
}

// Envelope reads the body as a JSON-RPC response.
func (r Response) Envelope() (Envelope, error) {
	var e Envelope
	if err := json.Unmarshal(r.Body, &e); err != nil {
		return e, fmt.Errorf("status %d, body %.200q: %w", r.Status, r.Body, err)
	}
	return e, nil
}

// StatusError is an answer that is not the expected one.
type StatusError struct {
	// Response is the answer.
	Response Response
}

// Error says what came instead.
func (e *StatusError) Error() string {
	return fmt.Sprintf("status %d, body %.300q", e.Response.Status, e.Response.Body)
}

// Session is one MCP session. It is safe for concurrent use.
type Session struct {
	// ID is the session id.
	ID string
	// Protocol is the negotiated protocol version.
	Protocol string

	next atomic.Int64
}

// Open initializes a session at url, the notification included.
func Open(ctx context.Context, url string) (*Session, error) {
	resp, err := Do(ctx, http.MethodPost, url, nil, Initialize(1))
	if err != nil {
		return nil, fmt.Errorf("initialize: %w", err)
	}
	s := &Session{ID: resp.Header.Get("Mcp-Session-Id"), Protocol: Version}
	if resp.Status != http.StatusOK || s.ID == "" {
		return nil, fmt.Errorf("initialize: %w", &StatusError{resp})
	}
	s.next.Store(1)
	resp, err = s.Do(ctx, http.MethodPost, url, []byte(`{"jsonrpc":"2.0","method":"notifications/initialized"}`))
	if err != nil {
		return nil, fmt.Errorf("initialized: %w", err)
	}
	if resp.Status != http.StatusAccepted {
		return nil, fmt.Errorf("initialized: %w", &StatusError{resp})
	}
	return s, nil
}

// Initialize returns the body of an initialize request.
func Initialize(id int) []byte {
	return fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%d,"method":"initialize","params":{"protocolVersion":%q,`+
		`"capabilities":{},"clientInfo":{"name":"leasehold-test","version":"1"}}}`, id, Version)
}

// Header returns the header fields of the session's requests.
func (s *Session) Header() http.Header {
	return http.Header{"Mcp-Session-Id": {s.ID}, "Mcp-Protocol-Version": {s.Protocol}}
}

// Do sends one request of the session to url.
func (s *Session) Do(ctx context.Context, method, url string, body []byte) (Response, error) {
	return Do(ctx, method, url, s.Header(), body)
}

// Call calls a tool at url and returns its text. It checks that the answer
// carries the request's id.
func (s *Session) Call(ctx context.Context, url, tool, arguments string) (string, error) {
	id := s.next.Add(1)
	if arguments == "" {
		arguments = "{}"
	}
	resp, err := s.Do(ctx, http.MethodPost, url, fmt.Appendf(nil,
		`{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":%q,"arguments":%s}}`, id, tool, arguments))
	if err != nil {
		return "", fmt.Errorf("call %s: %w", tool, err)
	}
	if resp.Status != http.StatusOK {
		return "", fmt.Errorf("call %s: %w", tool, &StatusError{resp})
	}
	text, err := resultText(resp, id)
	if err != nil {
		return "", fmt.Errorf("call %s: %w", tool, err)
	}
	return text, nil
}

// Increment calls counter_increment and returns the counter.
func (s *Session) Increment(ctx context.Context, url string) (int, error) {
	text, err := s.Call(ctx, url, "counter_increment", "")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(text)
}

// Close ends the session with a DELETE at url.
func (s *Session) Close(ctx context.Context, url string) error {
	resp, err := s.Do(ctx, http.MethodDelete, url, nil)
	if err != nil {
		return fmt.Errorf("delete session: %w", err)
	}
	if resp.Status != http.StatusOK && resp.Status != http.StatusNoContent {
		return fmt.Errorf("delete session: %w", &StatusError{resp})
	}
	return nil
}

// resultText takes the text out of a tool's result.
func resultText(resp Response, id int64) (string, error) {
	envelope, err := resp.Envelope()
	if err != nil {
		return "", err
	}
	if string(envelope.ID) != strconv.FormatInt(id, 10) {
		return "", fmt.Errorf("the answer has id %s, the request %d", envelope.ID, id)
	}
	if envelope.Error != nil {
		return "", fmt.Errorf("error %d: %s", envelope.Error.Code, envelope.Error.Message)
	}
	var result struct {
		Content []struct {
			Text string `json:"text"`
		} `json:"content"`
	}
	if err := json.Unmarshal(envelope.Result, &result); err != nil {
		return "", err
	}
	if len(result.Content) != 1 {
		return "", errors.New("the result does not have one content")
	}
	return result.Content[0].Text, nil
}

// answerLimit is when Do gives up. No answer of a test takes nearly as long.
const answerLimit = 30 * time.Second

// Do sends one request and reads the answer to its end. A POST has the header
// fields that MCP asks for, unless header has others.
func Do(ctx context.Context, method, url string, header http.Header, body []byte) (Response, error) {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	resp, err := Stream(ctx, method, url, header, body)
	if err != nil {
		return Response{}, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return Response{}, fmt.Errorf("read answer: %w", err)
	}
	return Response{Status: resp.StatusCode, Header: resp.Header, Body: answer}, nil
}

// Stream sends one request like Do and returns when the answer begins. The
// caller closes its body.
func Stream(ctx context.Context, method, url string, header http.Header, body []byte) (*http.Response, error) {
	var reader io.Reader
	if body != nil {
		reader = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, url, reader)
	if err != nil {
		return nil, err
	}
	switch method {
	case http.MethodPost:
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Accept", accept)
	case http.MethodGet:
		req.Header.Set("Accept", "text/event-stream")
	}
	for name, values := range header {
		req.Header[name] = values
	}
	if host := header.Get("Host"); host != "" {
		req.Host = host
	}
	return shared.Do(req)
}
