// Package upstream speaks streamable HTTP to MCP servers. It carries requests
// and answers as bytes: what they mean is the session's business.
//
// It is an HTTP/1.1 client of its own over net/http's parser. The transport of
// net/http runs two goroutines for each connection and hands every request and
// answer between them; here the goroutine that makes a request writes it and
// reads the answer, which halves what a call costs. And a request is never sent
// twice, on which that transport decides by itself.
package upstream

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync"
	"time"

	"github.com/leasehold/leasehold/dataplane/session"
)

// Bounds of a connection. There is none on how long an answer takes: a tool
// call may run for hours.
const (
	connectTimeout = 3 * time.Second
	tlsTimeout     = 5 * time.Second
	// idleTimeout is how long a connection is kept open while unused.
	idleTimeout = 90 * time.Second
	// idlePerHost bounds the connections kept open to one upstream while unused.
	idlePerHost = 512
	// maxHeaderBytes bounds the header of an answer.
	maxHeaderBytes = 64 << 10
	// readBuffer is how much is read at once.
	readBuffer = 4 << 10
)

// Client makes requests to upstreams over connections that all sessions of the
// worker share: a connection carries no session, a header does. Safe for
// concurrent use.
type Client struct {
	now     func() time.Time
	connect func(ctx context.Context, network, address string) (net.Conn, error)
	breaker *breaker

	mu   sync.Mutex         // guards idle
	idle map[string][]*conn // by scheme and host, the last used one last
}

// NewClient returns a client without connections.
func NewClient() *Client {
	dialer := &net.Dialer{Timeout: connectTimeout, KeepAlive: 15 * time.Second}
	return &Client{now: time.Now, connect: dialer.DialContext, breaker: newBreaker(time.Now), idle: make(map[string][]*conn)}
}

// Do sends one request and returns the answer, whose body the caller closes. It
// never follows a redirect and never sends a request twice. The end of ctx
// closes the connection. The error is session.ErrNotSent, or the outcome is unknown.
func (c *Client) Do(ctx context.Context, d *session.Dispatch) (*http.Response, error) {
	cn, err := c.take(ctx, d.URL)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", session.ErrNotSent, err)
	}
	if trace := httptrace.ContextClientTrace(ctx); trace != nil && trace.GotConn != nil {
		trace.GotConn(httptrace.GotConnInfo{Conn: cn.raw})
	}
	stop := context.AfterFunc(ctx, cn.interrupt)
	if d.Gate != nil {
		if err := d.Gate.Pass(); err != nil {
			stop()
			cn.net.Close()
			return nil, fmt.Errorf("%w: %w", session.ErrNotSent, err)
		}
	}
	response, err := cn.exchange(d.URL, d.Method, d.Header, d.Body)
	if err != nil {
		stop()
		cn.net.Close()
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return nil, err
	}
	response.Body = &answer{client: c, conn: cn, body: response.Body, stop: stop, reusable: !response.Close}
	return response, nil
}

// take returns a connection to target: the one that was used last, since it is
// the least likely to be closed, or a new one.
func (c *Client) take(ctx context.Context, target *url.URL) (*conn, error) {
	key := target.Scheme + "://" + target.Host
	for {
		cn := c.pop(key)
		if cn == nil {
			return c.open(ctx, target, key)
		}
		if time.Since(cn.since) < idleTimeout && cn.alive() {
			return cn, nil
		}
		cn.net.Close()
	}
}

func (c *Client) pop(key string) *conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	idle := c.idle[key]
	if len(idle) == 0 {
		return nil
	}
	cn := idle[len(idle)-1]
	idle[len(idle)-1] = nil
	c.idle[key] = idle[:len(idle)-1]
	return cn
}

// keep makes a connection available again, and closes those that nobody has
// used for too long.
func (c *Client) keep(cn *conn) {
	cn.since = time.Now()
	c.mu.Lock()
	idle := c.idle[cn.key]
	var old []*conn
	for len(idle) > 0 && (len(idle) >= idlePerHost || cn.since.Sub(idle[0].since) >= idleTimeout) {
		old, idle = append(old, idle[0]), idle[1:]
	}
	c.idle[cn.key] = append(idle, cn)
	c.mu.Unlock()
	for _, o := range old {
		o.net.Close()
	}
}

// CloseIdle closes the connections that no request uses and that have been
// unused for at least d.
func (c *Client) CloseIdle(d time.Duration) {
	var old []*conn
	now := time.Now()
	c.mu.Lock()
	for key, idle := range c.idle {
		for len(idle) > 0 && now.Sub(idle[0].since) >= d {
			old, idle = append(old, idle[0]), idle[1:]
		}
		if c.idle[key] = idle; len(idle) == 0 {
			delete(c.idle, key)
		}
	}
	c.mu.Unlock()
	for _, o := range old {
		o.net.Close()
	}
}

// Run closes unused connections in time until ctx ends, and all of them then.
func (c *Client) Run(ctx context.Context) error {
	ticker := time.NewTicker(idleTimeout / 3)
	defer ticker.Stop()
	defer c.CloseIdle(0)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			c.CloseIdle(idleTimeout)
		}
	}
}

// open makes a connection, unless too many in a row have failed.
func (c *Client) open(ctx context.Context, target *url.URL, key string) (*conn, error) {
	try, err := c.breaker.enter(key)
	if err != nil {
		return nil, err
	}
	began := c.now()
	cn, err := c.dial(ctx, target, key)
	switch {
	case err == nil:
		c.breaker.succeeded(key)
	case ctx.Err() != nil && c.now().Sub(began) < connectTimeout:
		c.breaker.gaveUp(key, try)
	default:
		c.breaker.failed(key, try, err)
	}
	return cn, err
}

func (c *Client) dial(ctx context.Context, target *url.URL, key string) (*conn, error) {
	port := target.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[target.Scheme]
	}
	raw, err := c.connect(ctx, "tcp", net.JoinHostPort(target.Hostname(), port))
	if err != nil {
		return nil, err
	}
	cn := &conn{net: raw, raw: raw, key: key, limit: unlimited}
	if target.Scheme == "https" {
		secure := tls.Client(raw, &tls.Config{ServerName: target.Hostname(), MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}})
		ctx, cancel := context.WithTimeout(ctx, tlsTimeout)
		defer cancel()
		if err := secure.HandshakeContext(ctx); err != nil {
			raw.Close()
			return nil, err
		}
		cn.net = secure
	}
	cn.reader = bufio.NewReaderSize(source{cn}, readBuffer)
	return cn, nil
}
