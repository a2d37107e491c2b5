package observe

import (
	"context"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/leasehold/leasehold/controlplane/store"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Loads asks each of the members how much it has to do, all at the same time, and
// returns within a second what was answered. A member that does not answer, or is another
// incarnation by now, is left out.
func (o *Observer) Loads(ctx context.Context, members []store.Member) map[store.MemberKey]*leaseholdv1.ObserveLoadResponse {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var group errgroup.Group
	group.SetLimit(maxAtOnce)
	var mu sync.Mutex
	found := map[store.MemberKey]*leaseholdv1.ObserveLoadResponse{}
	for _, m := range members {
		group.Go(func() error {
			load, err := o.load(ctx, m)
			if err != nil || load.Incarnation != m.Incarnation {
				o.log.Debug("worker did not say how much it has to do", "worker", m.Worker, "error", err)
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			found[m.MemberKey] = load
			return nil
		})
	}
	_ = group.Wait() // none of them fails
	return found
}

func (o *Observer) load(ctx context.Context, m store.Member) (*leaseholdv1.ObserveLoadResponse, error) {
	c, err := o.conn(m)
	if err != nil {
		return nil, err
	}
	return leaseholdv1.NewPeerServiceClient(c).ObserveLoad(ctx, &leaseholdv1.ObserveLoadRequest{})
}
