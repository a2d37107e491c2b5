package dataplane

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/leasehold/leasehold/dataplane/sessionid"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

const (
	// endAgain is how soon a wish that could not be carried out is tried again.
	endAgain = 2 * time.Second
	// endTogether bounds the orphans that are taken over to be ended at the same
	// time.
	endTogether = 64
)

// endOrphans carries out what operators and the control plane want ended:
// sessions of this worker, and those whose owner is dead and that fall to this
// worker.
func (w *worker) endOrphans(ctx context.Context) error {
	again := time.NewTicker(endAgain)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.endings:
		case <-again.C:
		}
		var group errgroup.Group
		group.SetLimit(endTogether)
		for _, ending := range w.world.Load().Endings {
			group.Go(func() error { w.end(ctx, ending); return nil })
		}
		group.Wait()
	}
}

// end carries out one wish, if it is this worker's to carry out.
func (w *worker) end(ctx context.Context, ending *leaseholdv1.Ending) {
	digest, err := sessionid.ParseDigest(ending.GetSession())
	if err != nil || w.table.End(digest, ending.GetReason()) {
		return
	}
	if err := w.router.EndOrphan(ctx, ending.GetGateway(), digest, ending.GetReason()); err != nil && ctx.Err() == nil {
		w.cfg.Logger.Warn("session not ended yet", "session", digest, "error", err)
	}
}
