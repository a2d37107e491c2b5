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
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/dial"
	"github.com/leasehold/leasehold/dataplane/material"
	"github.com/leasehold/leasehold/dataplane/session"
)

// Bounds of a connection. There is none on how long an answer takes: a tool
// call may run for hours. How long the upstream may say nothing meanwhile is the
// request's to say.
const (
	connectTimeout = dial.ConnectTimeout
	tlsTimeout     = 5 * time.Second
	// headerTimeout is how long an upstream may say nothing to a request that does
	// not say: a notification, or the end of a session. A stream that a client
	// listens on may be silent for ever.
	headerTimeout = time.Minute
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
	now      func() time.Time
	connect  func(ctx context.Context, network, address string) (net.Conn, error)
	breaker  *breaker
	material *material.Store
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
	secure  *secure // nil for plain HTTP
}

// secure is how TLS is spoken.
type secure struct {
	config *tls.Config // nil for the defaults
	// name tells the settings from others; empty for the defaults.
	name string
}

// key names the place. Connections of one upstream to an address are not another
// one's, whose certificates may differ, nor those of earlier certificates.
func (p place) key() string {
	key := p.target.Scheme + "://" + p.target.Host + " at " + p.address
	if p.secure != nil && p.secure.name != "" {
		key += " with TLS settings " + p.secure.name
	}
	return key
}

// of reports whether the place is one of u's, with any certificates.
func (p place) of(u *config.Upstream) bool {
	if u.URL == nil || p.target.Scheme != u.URL.Scheme || p.target.Host != u.URL.Host {
		return false
	}
	own := u.TLS != nil
	if p.secure == nil || p.secure.name == "" {
		return !own
	}
	return own && strings.HasPrefix(p.secure.name, settingsOf(u))
}

// settingsOf begins the name of u's TLS settings.
func settingsOf(u *config.Upstream) string { return fmt.Sprintf("%x/", u.Fingerprint[:4]) }

// secureFor returns how TLS is spoken to an upstream now; nil for plain HTTP.
func (c *Client) secureFor(u *config.Upstream) (*secure, error) {
	switch {
	case u.URL.Scheme != "https":
		return nil, nil
	case u.TLS == nil:
		return &secure{}, nil
	}
	settings, serial, err := c.material.Of(u).TLS()
	if err != nil {
		return nil, err
	}
	return &secure{settings, settingsOf(u) + serial}, nil
}

// NewClient returns a client without connections. It connects by dialer, and shows
// upstreams what material has for them.
func NewClient(dialer *dial.Dialer, material *material.Store) *Client {
	return &Client{now: time.Now, connect: dialer.DialContext, breaker: newBreaker(time.Now), material: material,
		replicas: newReplicas(time.Now, dialer.Resolve), idle: make(map[string][]*conn)}
}

// Do sends one request, with what its upstream is to be shown, and returns the
// answer, whose body the caller closes. It never follows a redirect, and sends a
// request twice only if the upstream refused the access token of the first, with
// 401. The end of ctx closes the connection. Of a ClientTrace it calls GetConn, once it
// has what the upstream is shown, ConnectStart, TLSHandshakeStart and GotConn. The error is session.ErrNotSent, or
// the outcome is unknown.
func (c *Client) Do(ctx context.Context, d *session.Dispatch) (*http.Response, error) {
	shown := c.material.Of(d.Upstream)
	for again := false; ; again = true {
		carried, err := shown.Carry(ctx, d.Header, d.Upstream.URL, d.Own)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", session.ErrNotSent, err)
		}
		response, err := c.send(ctx, d, carried)
		if err != nil {
			return nil, err
		}
		if again || !shown.Again(carried, response.StatusCode) {
			shown.Note(d.Method, d.Header, response.Header, d.Own)
			return response, nil
		}
		response.Body.Close()
	}
}

// send sends one request once.
func (c *Client) send(ctx context.Context, d *session.Dispatch, carried material.Carried) (*http.Response, error) {
	secure, err := c.secureFor(d.Upstream)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", session.ErrNotSent, err)
	}
	trace := httptrace.ContextClientTrace(ctx)
	if trace != nil && trace.GetConn != nil {
		trace.GetConn(d.Upstream.URL.Host)
	}
	cn, err := c.reach(ctx, d, secure)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", session.ErrNotSent, err)
	}
	if trace != nil && trace.GotConn != nil {
		trace.GotConn(httptrace.GotConnInfo{Conn: cn.raw})
	}
	silence := d.Silence
	if silence == 0 && d.Method != http.MethodGet {
		silence = headerTimeout
	}
	cn.listen(silence)
	stop := context.AfterFunc(ctx, cn.interrupt)
	if d.Gate != nil {
		if err := d.Gate.Pass(); err != nil {
			stop()
			cn.net.Close()
			return nil, fmt.Errorf("%w: %w", session.ErrNotSent, err)
		}
	}
	response, err := cn.exchange(carried.URL, d.Method, carried.Header, d.Body)
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
func (c *Client) Drop(u *config.Upstream, id string) { c.material.Of(u).Forget(id) }

// reach returns a connection to the address that d names, or to any of its
// upstream's that can be connected to.
func (c *Client) reach(ctx context.Context, d *session.Dispatch, secure *secure) (*conn, error) {
	if d.Address != "" {
		cn, err := c.take(ctx, place{d.Upstream.URL, d.Address, connectTimeout, secure})
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
		if cn, err = c.take(ctx, place{d.Upstream.URL, address, timeout, secure}); err == nil || ctx.Err() != nil {
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
	report, err := c.breaker.enter(p, key)
	if err != nil {
		return nil, err
	}
	began := c.now()
	cn, err := c.dial(ctx, p, key)
	if ctx.Err() != nil && err != nil && c.now().Sub(began) < p.timeout || errors.As(err, new(*dial.Refused)) {
		report(errGaveUp)
	} else {
		report(err)
	}
	return cn, err
}

func (c *Client) dial(ctx context.Context, p place, key string) (*conn, error) {
	raw, err := c.connectTo(ctx, p)
	if err != nil {
		return nil, err
	}
	cn := &conn{net: raw, raw: raw, key: key, limit: unlimited}
	if p.secure != nil {
		config := p.secure.config
		if config == nil {
			config = &tls.Config{ServerName: p.target.Hostname(), MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
		}
		secure := tls.Client(raw, config)
		ctx, cancel := context.WithTimeout(ctx, tlsTimeout)
		defer cancel()
		if trace := httptrace.ContextClientTrace(ctx); trace != nil && trace.TLSHandshakeStart != nil {
			trace.TLSHandshakeStart()
		}
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
