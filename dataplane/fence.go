package dataplane

import (
	"context"
	"time"

	"github.com/leasehold/leasehold/dataplane/session"
)

// watchFence cuts what is under way when the worker's authority has lapsed: calls in
// flight are answered, and the sockets to upstreams are closed, without a DELETE,
// since other workers may soon go on with the same upstream sessions. New
// requests need no watching: each asks for itself.
func (w *worker) watchFence(ctx context.Context) error {
	return watchFence(ctx, w.control.Authority(), func() {
		w.cfg.Logger.Warn("fenced: the lease is uncertain, requests in flight are cut", "sessions", w.table.Len())
		w.table.Fence()
		w.upstreams.http.CloseIdle(0)
	})
}

// watchFence calls cut each time when the authority has lapsed, unless it is back
// within a twelfth of the lease's TTL: in an outage there may be an instant between
// contact and the first permit, or between two of those. Nothing is dispatched and no
// answer passed on meanwhile, so that all that can happen is that an upstream works on
// a call for so much longer. No other worker can take over by then: contact ends a
// quarter of the TTL before the lease can.
func watchFence(ctx context.Context, authority session.Authority, cut func()) error {
	ticker := time.NewTicker(healthTick)
	defer ticker.Stop()
	for held := false; ; {
		incarnation := authority.Incarnation()
		holds := authority.Holds(incarnation)
		if held && !holds {
			if holds = authority.Await(incarnation); !holds {
				cut()
			}
		}
		held = holds
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}
