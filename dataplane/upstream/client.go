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

	"github.com/leasehold/leasehold/dataplane/config"
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

// keepAlive finds out within 15 s that the other end of a connection is gone
// without a word, however long its answer may take.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 3 * time.Second, Count: 3}

// Client makes requests to upstreams over connections that all sessions of the
// worker share: a connection carries no session, a header does. Safe for
// concurrent use.
type Client struct {
	now     func() time.Time
	connect func(ctx context.Context, network, address string) (net.Conn, error)
	breaker *breaker
	// replicas finds the addresses of upstreams.
	replicas *replicas

	mu   sync.Mutex         // guards idle
	idle map[string][]*conn // by place, the last used one last
}

// place is one address of an upstream.
type place struct {
	target  *url.URL
	address string // host:port
	timeout time.Duration
}

// key names the place. Connections of one upstream to an address are not another
// one's, whose certificates may differ.
func (p place) key() string { return p.target.Scheme + "://" + p.target.Host + " at " + p.address }

// NewClient returns a client without connections. lookup finds the addresses of
// upstreams; nil asks the system.
func NewClient(lookup Lookup) *Client {
	dialer := &net.Dialer{Timeout: connectTimeout, KeepAliveConfig: keepAlive}
	return &Client{now: time.Now, connect: dialer.DialContext, breaker: newBreaker(time.Now), replicas: newReplicas(time.Now, lookup), idle: make(map[string][]*conn)}
}

// Do sends one request and returns the answer, whose body the caller closes. It
// never follows a redirect and never sends a request twice. The end of ctx
// closes the connection. The error is session.ErrNotSent, or the outcome is unknown.
func (c *Client) Do(ctx context.Context, d *session.Dispatch) (*http.Response, error) {
	cn, err := c.reach(ctx, d)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", session.ErrNotSent, err)
	}
	if trace := httptrace.ContextClientTrace(ctx); trace != nil && trace.GotConn != nil {
		trace.GotConn(httptrace.GotConnInfo{Conn: cn.raw})
	}
	cn.listen(d.Silence)
	stop := context.AfterFunc(ctx, cn.interrupt)
	if d.Gate != nil {
		if err := d.Gate.Pass(); err != nil {
			stop()
			cn.net.Close()
			return nil, fmt.Errorf("%w: %w", session.ErrNotSent, err)
		}
	}
	response, err := cn.exchange(d.Upstream.URL, d.Method, d.Header, d.Body)
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

// Drop implements session.Upstream: a session here is not a connection, and goes on
// elsewhere.
func (c *Client) Drop(*config.Upstream, string) {}

// reach returns a connection to the address that d names, or to any of its
// upstream's that can be connected to.
func (c *Client) reach(ctx context.Context, d *session.Dispatch) (*conn, error) {
	if d.Address != "" {
		cn, err := c.take(ctx, place{d.Upstream.URL, d.Address, connectTimeout})
		if err != nil && c.replicas.gone(ctx, d.Upstream.URL, d.Address) {
			return nil, fmt.Errorf("%w: %w", session.ErrReplicaGone, err)
		}
		return cn, err
	}
	addresses, err := c.replicas.of(ctx, d.Upstream.URL)
	if err != nil {
		return nil, err
	}
	for i, address := range addresses {
		timeout := connectTimeout
		if i < len(addresses)-1 {
			timeout = connectTimeout / 3
		}
		var cn *conn
		if cn, err = c.take(ctx, place{d.Upstream.URL, address, timeout}); err == nil || ctx.Err() != nil {
			return cn, err
		}
	}
	return nil, err
}

// take returns a connection to a place: the one that was used last, since it is
// the least likely to be closed, or a new one.
func (c *Client) take(ctx context.Context, p place) (*conn, error) {
	key := p.key()
	for {
		cn := c.pop(key)
		if cn == nil {
			return c.open(ctx, p, key)
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
func (c *Client) open(ctx context.Context, p place, key string) (*conn, error) {
	try, err := c.breaker.enter(key)
	if err != nil {
		return nil, err
	}
	began := c.now()
	cn, err := c.dial(ctx, p, key)
	switch {
	case err == nil:
		c.breaker.succeeded(key)
	case ctx.Err() != nil && c.now().Sub(began) < p.timeout:
		c.breaker.gaveUp(key, try)
	default:
		c.breaker.failed(key, try, err)
	}
	return cn, err
}

func (c *Client) dial(ctx context.Context, p place, key string) (*conn, error) {
	raw, err := c.connectTo(ctx, p)
	if err != nil {
		return nil, err
	}
	cn := &conn{net: raw, raw: raw, key: key, limit: unlimited}
	if p.target.Scheme == "https" {
		secure := tls.Client(raw, &tls.Config{ServerName: p.target.Hostname(), MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}})
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

func (c *Client) connectTo(ctx context.Context, p place) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	return c.connect(ctx, "tcp", p.address)
}
