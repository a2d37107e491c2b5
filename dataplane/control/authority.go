package control

import (
	"sync/atomic"
	"time"
)

// Authority is a worker's permission to talk to upstreams, which lasts as long
// as its lease certainly does. It is safe for concurrent use.
type Authority struct {
	now      func() time.Duration
	deadline atomic.Int64 // on now's clock, in nanoseconds; 0 is never
	holder   atomic.Int64 // the incarnation that holds it
}

// Incarnation returns the worker's incarnation, or 0 before it registered.
func (a *Authority) Incarnation() int64 { return a.holder.Load() }

// Holds reports whether incarnation may dispatch now.
func (a *Authority) Holds(incarnation int64) bool {
	return incarnation != 0 && a.holder.Load() == incarnation && (noFence || int64(a.now()) < a.deadline.Load())
}

// extend moves the deadline: sent is when the acknowledged request left, so that
// the worker's idea of its lease is never longer than the lease.
func (a *Authority) extend(incarnation int64, sent, ttl time.Duration) {
	if fenceFromReply {
		sent = a.now()
	}
	a.holder.Store(incarnation)
	a.deadline.Store(int64(sent + ttl - ttl/4))
}

// suspend takes the permission away until it is extended again: the lease is
// known to be gone.
func (a *Authority) suspend() { a.deadline.Store(0) }

// revoke takes the permission away for good, before the lease is given back.
func (a *Authority) revoke() {
	a.deadline.Store(0)
	a.holder.Store(0)
}
