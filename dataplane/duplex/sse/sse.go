// Package sse speaks to MCP servers of protocol version 2024-11-05: a GET opens a
// stream of events, whose first one says where to POST messages to; what the server
// says comes on the stream. The stream is the session.
package sse

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync/atomic"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/credential"
	"github.com/leasehold/leasehold/dataplane/duplex"
	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/session"
)

const (
	// maxMessage bounds a message, so that it fits an event of ours.
	maxMessage = session.MaxEvent - 64
	// maxAnswer bounds what is read of an answer that is passed on.
	maxAnswer = 64 << 10
	// maxBefore bounds the events before the one that names the endpoint.
	maxBefore = 16
)

var (
	errEnded  = errors.New("the session was ended")
	errClosed = errors.New("the server closed its stream")
)

// Dialer opens streams. It implements duplex.Opener, and is safe for concurrent
// use.
type Dialer struct{ http session.Upstream }

// NewDialer returns a Dialer whose requests http makes.
func NewDialer(http session.Upstream) *Dialer { return &Dialer{http} }

// Open implements duplex.Opener: it opens the server's stream and waits for its
// endpoint.
func (o *Dialer) Open(ctx context.Context, d *session.Dispatch) (duplex.Channel, error) {
	life, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })
	c := &channel{http: o.http, life: life, cancel: cancel, gone: make(chan struct{})}
	err := c.open(d)
	if !stop() && err == nil {
		err = context.Cause(ctx)
		c.body.Close()
	}
	if err != nil {
		cancel(err)
		return nil, err
	}
	return c, nil
}

// channel is a stream with its endpoint.
type channel struct {
	http     session.Upstream
	endpoint *config.Upstream
	address  string          // of the replica that has the stream
	life     context.Context // of the stream; it is the session
	cancel   context.CancelCauseFunc
	body     io.ReadCloser
	events   *mcp.EventReader
	caller   atomic.Pointer[[]string] // the caller's field, as the newest message had it
	ended    error                    // what Receive returns for ever
	gone     chan struct{}
}

func (c *channel) open(d *session.Dispatch) error {
	ctx := httptrace.WithClientTrace(c.life, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { c.address = info.Conn.RemoteAddr().String() },
	})
	header := clean(d.Header)
	delete(header, "Content-Type")
	header.Set("Accept", "text/event-stream")
	answer, err := c.http.Do(ctx, &session.Dispatch{Upstream: d.Upstream, Method: http.MethodGet, Header: header, Own: d.Own, Gate: d.Gate})
	if err != nil {
		return err
	}
	c.body = answer.Body
	if err := c.begin(answer, d.Upstream); err != nil {
		c.body.Close()
		return err
	}
	return nil
}

// begin reads the stream as far as its endpoint.
func (c *channel) begin(answer *http.Response, u *config.Upstream) error {
	if answer.StatusCode != http.StatusOK {
		return refusal(answer)
	}
	if kind, _, _ := strings.Cut(answer.Header.Get("Content-Type"), ";"); !strings.EqualFold(strings.TrimSpace(kind), "text/event-stream") {
		return errors.New("the server did not answer with a stream of events")
	}
	c.events = mcp.NewEventReader(c.body, maxMessage)
	for range maxBefore {
		event, err := c.events.Next()
		if err != nil {
			return fmt.Errorf("read the stream's endpoint: %w", err)
		}
		data := event.Data(nil)
		switch {
		case event.Partial, len(data) == 0:
		case event.Name() != "endpoint":
			return errors.New("the stream does not begin with its endpoint")
		default:
			return c.setEndpoint(u, string(data))
		}
	}
	return fmt.Errorf("the stream did not name its endpoint in %d events", maxBefore)
}

// setEndpoint makes reference, as the server gave it, the URL to POST to. It is on
// the server itself: nobody else is to get what clients say.
func (c *channel) setEndpoint(u *config.Upstream, reference string) error {
	endpoint, err := u.URL.Parse(strings.TrimSpace(reference))
	if err != nil {
		return fmt.Errorf("the stream's endpoint (%d bytes) is no URL", len(reference))
	}
	if origin(endpoint) != origin(u.URL) || endpoint.User != nil {
		return errors.New("the stream's endpoint is not where the stream is")
	}
	endpoint.Fragment, endpoint.RawFragment = "", ""
	own := *u
	own.URL = endpoint
	c.endpoint = &own
	return nil
}

// origin returns scheme, host and port of a URL.
func origin(u *url.URL) string {
	scheme, port := strings.ToLower(u.Scheme), u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[scheme]
	}
	return scheme + "://" + strings.ToLower(u.Hostname()) + ":" + port
}

// clean returns the header fields for a server that knows neither sessions nor
// versions in headers.
func clean(h http.Header) http.Header {
	own := maps.Clone(h)
	for name := range own {
		if strings.HasPrefix(name, "Mcp-") || name == mcp.HeaderLastEventID {
			delete(own, name)
		}
	}
	return own
}

// clean returns the header fields of a message. One of the worker's own carries
// the caller's field, if that is passed on, as the newest message of the client did.
func (c *channel) clean(d *session.Dispatch) http.Header {
	own := clean(d.Header)
	if c.endpoint.Credential == nil || c.endpoint.Credential.CallerHeader == "" {
		return own
	}
	name := credential.CallerField(c.endpoint.Credential.CallerHeader)
	if !d.Own {
		values := own[name]
		c.caller.Store(&values)
		return own
	}
	if values := c.caller.Load(); values != nil && len(*values) > 0 {
		own[name] = *values
	}
	return own
}

// refusal passes on what the server answered instead.
func refusal(answer *http.Response) error {
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil {
		return err
	}
	return duplex.RefuseWith(answer, body)
}

// Send implements duplex.Channel.
func (c *channel) Send(ctx context.Context, d *session.Dispatch) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(c.life, func() { cancel(errEnded) })
	defer stop()
	answer, err := c.http.Do(ctx, &session.Dispatch{
		Upstream: c.endpoint, Method: http.MethodPost, Header: c.clean(d), Body: d.Body, Address: c.address, Own: d.Own, Gate: d.Gate})
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode < 200 || answer.StatusCode > 299 {
		return refusal(answer)
	}
	if answer.ContentLength >= 0 && answer.ContentLength <= maxAnswer {
		io.Copy(io.Discard, answer.Body) // so that the connection can be used again
	}
	return nil
}

// Receive implements duplex.Channel.
func (c *channel) Receive() ([]byte, error) {
	for c.ended == nil {
		event, err := c.events.Next()
		if err != nil {
			c.end(err)
			break
		}
		data := event.Data(nil)
		if event.Partial || len(data) == 0 || event.Name() == "endpoint" {
			continue
		}
		return data, nil
	}
	return nil, c.ended
}

// end notes why the stream has ended.
func (c *channel) end(err error) {
	switch {
	case c.life.Err() != nil:
		err = errEnded
	case err == io.EOF:
		err = errClosed
	}
	c.ended = err
	c.cancel(err)
	c.body.Close()
	close(c.gone)
}

// Close implements duplex.Channel.
func (c *channel) Close() { c.cancel(errEnded) }

// Gone implements duplex.Channel.
func (c *channel) Gone() <-chan struct{} { return c.gone }
