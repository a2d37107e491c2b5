package etcd

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

// contact is when etcd last answered this replica, and whether the replica holds.
//
//	without etcd ──an answer──▶ holding ──its time is over──▶ in contact
//	      ▲                        │                             │
//	      └──── no answer for longer than a lease ───────────────┘
//
// A replica begins without etcd. While it holds, nothing is taken over through it from
// an owner that may still run: workers whose leases ended while etcd, or all replicas,
// were away come back first. It is safe for concurrent use.
type contact struct {
	lease   time.Duration // without an answer for longer than this it was lost
	length  time.Duration // of the hold; 0 for none
	log     hclog.Logger
	holding prometheus.Gauge
	now     func() time.Time // a clock that nobody sets

	mu       sync.Mutex // guards what follows
	answered time.Time  // zero, which is long ago, before the first answer
	losses   int        // how often it was lost; it begins with one
	until    time.Time  // when the hold ends; zero when it does not hold
}

// heard notes an answer.
func (c *contact) heard() {
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endLocked(now)
	if now.Sub(c.answered) > c.lease {
		c.losses++
		c.beginLocked(now)
	}
	c.answered = now
}

func (c *contact) beginLocked(now time.Time) {
	if c.length == 0 {
		return
	}
	if c.until.IsZero() {
		c.holding.Inc()
	}
	c.until = now.Add(c.length)
	c.log.Info("reclaims are held, so that workers come back first", "for", c.length)
}

// endLocked ends the hold when its time is over.
func (c *contact) endLocked(now time.Time) {
	if c.until.IsZero() || now.Before(c.until) {
		return
	}
	c.until = time.Time{}
	c.holding.Dec()
	c.log.Info("reclaims are no longer held")
}

// held returns for how long the replica still holds; 0 if it does not. Before etcd has
// answered at all there is nothing to be held.
func (c *contact) held() time.Duration {
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endLocked(now)
	if c.until.IsZero() || noHold {
		return 0
	}
	return c.until.Sub(now)
}

// lost returns how often etcd was lost.
func (c *contact) lost() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.losses
}

// quiet reports whether there was no answer for d.
func (c *contact) quiet(d time.Duration) bool {
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	return now.Sub(c.answered) >= d
}

// leave says that the replica is gone.
func (c *contact) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.until.IsZero() {
		c.until = time.Time{}
		c.holding.Dec()
	}
}

// unary hears the answers to all requests but those that a member can give without
// the others.
func (c *contact) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	err := invoke(ctx, method, req, reply, cc, opts...)
	if err == nil && (strings.HasPrefix(method, "/etcdserverpb.KV/") || strings.HasPrefix(method, "/etcdserverpb.Lease/")) {
		c.heard()
	}
	return err
}

// pulsesPerLease is how often a lease etcd is asked at least, so that a replica of which
// nobody wants anything does not take that for a loss of etcd.
const pulsesPerLease = 6

// pulse asks etcd for nearly nothing when nothing else was asked for a while, until ctx
// ends.
func (s *Store) pulse(ctx context.Context) {
	pause := s.ttl / pulsesPerLease
	for ctx.Err() == nil {
		wait(ctx, pause)
		s.contact.held() // says when the hold is over
		if s.contact.quiet(pause) {
			s.beat(ctx, s.ttl/2)
		}
	}
}

// beat makes one such request. That it failed is told by what is asked for otherwise.
func (s *Store) beat(ctx context.Context, limit time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	_, _ = s.get(ctx, "pulse", RingKey, clientv3.WithCountOnly())
}
