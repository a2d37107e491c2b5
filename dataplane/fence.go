package dataplane

import (
	"context"
	"time"
)

// watchFence cuts what is under way when the worker's authority lapses: calls in
// flight are answered, and the sockets to upstreams are closed, without a DELETE,
// since other workers may soon go on with the same upstream sessions. New
// requests need no watching: each asks for itself.
func (w *worker) watchFence(ctx context.Context) error {
	ticker := time.NewTicker(healthTick)
	defer ticker.Stop()
	for held := false; ; {
		current := w.current()
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
