package chaos

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/leasehold/leasehold/test/internal/cluster"
)

const (
	// evenly is how many times the mean the worker with most sessions may have.
	evenly = 1.3
	// evenSoon is how soon new workers have their share.
	evenSoon = time.Minute
)

func TestScaleOut(t *testing.T) {
	const more, long = 3, 20
	p := usual
	p.rebalance = true
	w := start(t, p)
	w.serve("wide", w.ledger.URL(), "", "")
	crew := enlist(t, "wide", w.Workers, crewSize)
	w.locate(crew)
	balancer := w.balance(crew)
	crew.work(crew.members, pace)
	w.let(time.Second)

	began, first := time.Now(), len(w.Workers)
	// The book would say if a session moved while one of these is in flight, as its
	// client makes other calls meanwhile.
	busy := crew.together(crew.members[:long], func(int) order { return order{ms: 15_000, steps: 5} })
	if err := w.StartWorkers(t.Context(), more); err != nil {
		t.Fatal(err)
	}
	balancer.add(w.Workers[first:]...)
	w.eventually(evenSoon, func(ctx context.Context) error { return w.even(ctx, crew) })
	t.Logf("%d workers more had their share %v after they were started", more, time.Since(began).Round(time.Millisecond))
	busy()
	w.let(2 * time.Second)
	crew.rest()
	balancer.stop()

	calls := crew.made()
	t.Logf("%d calls: p50 %v, p99 %v, max %v", len(calls), percentile(calls, 0.5), percentile(calls, 0.99), percentile(calls, 1))
	w.expect(calls, nil)
	w.opened(crewSize)
	w.audit(crew, book{wander: true})
	w.leave(crew, nil)
}

// even returns nil if all workers own about as many sessions of a crew.
func (w *world) even(ctx context.Context, c *crew) error {
	sessions, err := w.Sessions(ctx, c.gateway)
	if err != nil {
		return err
	}
	owned, most := map[*cluster.Worker]int{}, 0
	for _, s := range sessions {
		owner, err := w.Owner(ctx, s)
		if err != nil {
			return err
		}
		owned[owner]++
		most = max(most, owned[owner])
	}
	if mean := float64(len(sessions)) / float64(len(w.Live())); float64(most) > evenly*mean {
		return fmt.Errorf("a worker owns %d of %d sessions, want at most %.0f", most, len(sessions), evenly*mean)
	}
	return nil
}
