// Package duplex presents two-way channels of messages to MCP servers, such as a
// program's standard input and output, as sessions of a streamable HTTP server in
// this process. So whatever relays to such servers does not know the difference.
//
// A POST becomes a message of the channel; what the server sends comes back on the
// stream of the POST that it belongs to, or on the GET stream. DELETE ends the
// channel. The packages below are the channels.
package duplex

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/session"
)

// stopTime is how long channels may take to end when the worker stops.
const stopTime = 2 * time.Second

// Channel is a two-way channel of messages to one server, for one client session.
type Channel interface {
	// Send passes on the body of d, a message or a batch, once d's gate lets it.
	// session.ErrNotSent: it certainly was not sent. A *Refused: the server has
	// refused it. Any other error: nobody knows. Safe for concurrent use.
	Send(ctx context.Context, d *session.Dispatch) error
	// Receive waits for the next message of the server, which is valid until the
	// next call. An error is the channel's end, and is returned ever after. One
	// goroutine calls it, until it fails.
	Receive() ([]byte, error)
	// Close ends the channel without waiting: Receive fails soon. Safe for
	// concurrent use, and may be called again.
	Close()
	// Gone is closed once nothing of the channel is left but what Receive closes.
	Gone() <-chan struct{}
}

// Opener makes channels. It is safe for concurrent use.
type Opener interface {
	// Open makes a channel over which d, an initialize, can be sent. It fails as
	// Channel.Send does, and leaves nothing behind then.
	Open(ctx context.Context, d *session.Dispatch) (Channel, error)
}

// Upstream presents the channels of one kind. It implements session.Upstream: the
// session ids that it gives name channels. Safe for concurrent use.
type Upstream struct {
	opener Opener
	logger hclog.Logger

	mu      sync.Mutex // guards what follows
	links   map[string]*link
	stopped bool
	group   sync.WaitGroup // of the links' goroutines
}

// New returns an Upstream without channels; opener makes them.
func New(opener Opener, logger hclog.Logger) *Upstream {
	return &Upstream{opener: opener, logger: logger, links: make(map[string]*link)}
}

var errStopped = errors.New("this worker stops")

// Do implements session.Upstream. A request without a session id opens a channel.
// One for a channel that has ended is answered with 404.
func (u *Upstream) Do(ctx context.Context, d *session.Dispatch) (*http.Response, error) {
	id := d.Header.Get(mcp.HeaderSessionID)
	if id == "" {
		return answered(u.open(ctx, d))
	}
	l := u.find(id)
	if l == nil {
		return sessionNotFound(d), nil
	}
	switch d.Method {
	case http.MethodGet:
		return answered(l.listen(ctx, d))
	case http.MethodDelete:
		return answered(l.delete(ctx, d))
	}
	return answered(l.post(ctx, d))
}

// Drop implements session.Upstream: it ends a channel without waiting.
func (u *Upstream) Drop(_ *config.Upstream, id string) {
	if l := u.find(id); l != nil {
		l.channel.Close()
	}
}

// Run ends all channels once ctx ends, and waits until they have gone.
func (u *Upstream) Run(ctx context.Context) error {
	<-ctx.Done()
	u.mu.Lock()
	u.stopped = true
	for _, l := range u.links {
		l.channel.Close()
	}
	u.mu.Unlock()
	gone := make(chan struct{})
	go func() {
		u.group.Wait()
		close(gone)
	}()
	timer := time.NewTimer(stopTime)
	defer timer.Stop()
	select {
	case <-gone:
	case <-timer.C:
		u.logger.Error("channels did not end", "after", stopTime, "left", u.Len())
	}
	return nil
}

// Len returns the number of channels.
func (u *Upstream) Len() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.links)
}

func (u *Upstream) find(id string) *link {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.links[id]
}

// open opens a channel and sends the initialize over it.
func (u *Upstream) open(ctx context.Context, d *session.Dispatch) (*http.Response, error) {
	channel, err := u.opener.Open(ctx, d)
	if err != nil {
		return nil, err
	}
	l := newLink(channel, u.logger.With("upstream", d.Upstream.Name))
	id := newID()
	if !u.launch(id, l) {
		channel.Close()
		l.run()
		return nil, fmt.Errorf("%w: %w", session.ErrNotSent, errStopped)
	}
	answer, err := l.post(ctx, d)
	if err != nil {
		channel.Close()
		return nil, err
	}
	answer.Header.Set(mcp.HeaderSessionID, id)
	return answer, nil
}

// launch makes a link findable and runs it; false if the worker stops.
func (u *Upstream) launch(id string, l *link) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.stopped {
		return false
	}
	u.links[id] = l
	u.group.Go(func() {
		l.run()
		u.mu.Lock()
		defer u.mu.Unlock()
		delete(u.links, id)
	})
	return true
}

// newID returns an id that nobody can guess.
func newID() string {
	var id [16]byte
	rand.Read(id[:]) // never fails
	return hex.EncodeToString(id[:])
}
