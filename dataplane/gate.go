package dataplane

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/leasehold/leasehold/dataplane/checkup"
	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/duplex"
	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/session"
)

// gate lets requests through to upstreams that work and have room for them, by what
// the newest definition says: sessions may be older. Sessions can be ended in any
// case. It implements session.Upstream.
type gate struct {
	next   session.Upstream
	world  *config.Holder
	health *checkup.Checker

	mu       sync.Mutex // guards requests
	requests map[string]int
}

func newGate(next session.Upstream, world *config.Holder, health *checkup.Checker) *gate {
	return &gate{next: next, world: world, health: health, requests: make(map[string]int)}
}

// Do implements session.Upstream.
func (g *gate) Do(ctx context.Context, d *session.Dispatch) (*http.Response, error) {
	if d.Method == http.MethodDelete {
		return g.next.Do(ctx, d)
	}
	u := g.newest(d.Upstream)
	if err := g.health.Check(u); err != nil {
		return nil, fmt.Errorf("%w: %w", session.ErrNotSent, err)
	}
	if u.MaxRequests == 0 || !isRequest(d) {
		return g.next.Do(ctx, d)
	}
	key := u.Gateway + "/" + u.Name
	if !g.enter(key, u.MaxRequests) {
		refused := duplex.Refuse(d, http.StatusServiceUnavailable, mcp.CodeUnavailable, fmt.Sprintf(
			"upstream %q has %d requests of this worker in flight, which is its bound (max_concurrent_requests)", u.Name, u.MaxRequests)).Answer
		refused.Header.Set("Retry-After", "1")
		return refused, nil
	}
	answer, err := g.next.Do(ctx, d)
	if err != nil {
		g.leave(key)
		return nil, err
	}
	answer.Body = &counted{ReadCloser: answer.Body, done: sync.OnceFunc(func() { g.leave(key) })}
	return answer, nil
}

// Drop implements session.Upstream.
func (g *gate) Drop(u *config.Upstream, id string) { g.next.Drop(u, id) }

// newest returns an upstream as its definition has it now, or as it was if that is
// gone or connects elsewhere.
func (g *gate) newest(u *config.Upstream) *config.Upstream {
	now := g.world.Load().Gateways[u.Gateway]
	if now == nil || u.Merged != nil {
		return u
	}
	for _, upstream := range now.Real() {
		if upstream.Name == u.Name && upstream.Fingerprint == u.Fingerprint {
			return upstream
		}
	}
	return u
}

// isRequest reports whether d waits for an answer: notifications and answers do not,
// nor does a stream that a client listens on.
func isRequest(d *session.Dispatch) bool {
	if d.Method != http.MethodPost {
		return false
	}
	kind, _ := mcp.KindOf(d.Body)
	return kind == mcp.KindRequest
}

func (g *gate) enter(key string, most int) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.requests[key] >= most {
		return false
	}
	g.requests[key]++
	return true
}

func (g *gate) leave(key string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.requests[key]--; g.requests[key] == 0 {
		delete(g.requests, key)
	}
}

// counted is the body of an answer: its request is in flight until it is closed.
type counted struct {
	io.ReadCloser
	done func()
}

// Close implements io.Closer.
func (c *counted) Close() error {
	defer c.done()
	return c.ReadCloser.Close()
}

// Buffered returns how many bytes can be read without waiting, as far as is known.
func (c *counted) Buffered() int {
	if b, ok := c.ReadCloser.(interface{ Buffered() int }); ok {
		return b.Buffered()
	}
	return 0
}
