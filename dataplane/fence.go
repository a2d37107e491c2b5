package dataplane

import (
	"context"
	"time"
)

// watchFence cuts what is under way when the worker's authority has lapsed: calls in
// flight are answered, and the sockets to upstreams are closed, without a DELETE,
// since other workers may soon go on with the same upstream sessions. New
// requests need no watching: each asks for itself.
//
// An authority that comes back within a twelfth of the lease's TTL cuts nothing: in an
// outage there may be an instant between contact and the first permit, or between two
// of those. Nothing is dispatched and no answer passed on meanwhile, so that all that
// can happen is that an upstream works on a call for so much longer. No other worker
// can take over by then: contact ends a quarter of the TTL before the lease can.
func (w *worker) watchFence(ctx context.Context) error {
	ticker := time.NewTicker(healthTick)
	defer ticker.Stop()
	authority := w.control.Authority()
	for held := false; ; {
		current := w.current()
		if held && !current {
			current = authority.Await(authority.Incarnation())
		}
		if held && !current {
			w.cfg.Logger.Warn("fenced: the lease is uncertain, requests in flight are cut", "sessions", w.table.Len())
			w.table.Fence()
			w.upstreams.http.CloseIdle(0)
		}
		held = current
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}
