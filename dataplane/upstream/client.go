// Package upstream speaks streamable HTTP to MCP servers. It carries requests
// and answers as bytes: what they mean is the session's business.
package upstream

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"time"
)

// Bounds of a connection. There is none on how long an answer takes: a tool
// call may run for hours.
const (
	connectTimeout = 3 * time.Second
	tlsTimeout     = 5 * time.Second
	idleTimeout    = 90 * time.Second
	// idlePerHost bounds the connections kept open to one upstream while unused.
	idlePerHost = 512
	// maxHeaderBytes bounds the header of an answer.
	maxHeaderBytes = 64 << 10
)

// ErrNotSent says that a request certainly did not reach the upstream: no
// connection could be made.
var ErrNotSent = errors.New("upstream not reached")

// Client makes requests to upstreams over connections that all sessions of the
// worker share: a connection carries no session, a header does. Safe for
// concurrent use.
type Client struct {
	transport *http.Transport
}

// NewClient returns a client without connections.
func NewClient() *Client {
	dialer := &net.Dialer{Timeout: connectTimeout, KeepAlive: 15 * time.Second}
	return &Client{&http.Transport{
		DialContext:            dialer.DialContext,
		TLSHandshakeTimeout:    tlsTimeout,
		MaxIdleConnsPerHost:    idlePerHost,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: maxHeaderBytes,
		DisableCompression:     true, // bytes stay bytes
		ReadBufferSize:         4 << 10,
		WriteBufferSize:        4 << 10,
	}}
}

// Do sends one request and returns the answer's head; the caller closes the
// body. It never follows a redirect and never sends a request twice. The header
// map is used as it is and must not be changed until the answer is closed. The
// error is ErrNotSent, or the outcome is unknown.
func (c *Client) Do(ctx context.Context, target *url.URL, method string, header http.Header, body []byte) (*http.Response, error) {
	request := &http.Request{
		Method: method, URL: target, Host: target.Host, Header: header,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}
	if len(body) > 0 {
		request.Body = io.NopCloser(bytes.NewReader(body))
		request.ContentLength = int64(len(body))
	}
	response, err := c.transport.RoundTrip(request.WithContext(ctx))
	if err != nil {
		if dial := (*net.OpError)(nil); errors.As(err, &dial) && dial.Op == "dial" {
			return nil, errors.Join(ErrNotSent, err)
		}
		return nil, err
	}
	return response, nil
}

// WithAddress returns a context under which Do notes the network address that
// answers.
func WithAddress(ctx context.Context, address *string) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { *address = info.Conn.RemoteAddr().String() },
	})
}

// CloseIdle closes the connections that no request uses.
func (c *Client) CloseIdle() { c.transport.CloseIdleConnections() }
