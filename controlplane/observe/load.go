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
	return gather(ctx, o, members, func(ctx context.Context, c leaseholdv1.PeerServiceClient) (*leaseholdv1.ObserveLoadResponse, error) {
		return c.ObserveLoad(ctx, &leaseholdv1.ObserveLoadRequest{})
	})
}

// said is what a worker says, and as which incarnation.
type said interface{ GetIncarnation() int64 }

// gather asks each of the members, all at the same time, and returns within a second
// what was answered by those incarnations.
func gather[T said](ctx context.Context, o *Observer, members []store.Member, ask func(context.Context, leaseholdv1.PeerServiceClient) (T, error)) map[store.MemberKey]T {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var group errgroup.Group
	group.SetLimit(maxAtOnce)
	var mu sync.Mutex
	found := map[store.MemberKey]T{}
	for _, m := range members {
		group.Go(func() error {
			c, err := o.conn(m)
			if err != nil {
				return nil
			}
			answer, err := ask(ctx, leaseholdv1.NewPeerServiceClient(c))
			if err != nil || answer.GetIncarnation() != m.Incarnation {
				o.log.Debug("worker did not say what it was asked", "worker", m.Worker, "error", err)
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			found[m.MemberKey] = answer
			return nil
		})
	}
	_ = group.Wait() // none of them fails
	return found
}
