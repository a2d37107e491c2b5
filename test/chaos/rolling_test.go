package chaos

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
	"github.com/leasehold/leasehold/test/internal/cluster"
	"github.com/leasehold/leasehold/test/internal/ledger"
)

// drainLimit is how long a worker may take to end once it is told to.
const drainLimit = 35 * time.Second

func TestRollingRestart(t *testing.T) {
	const listeners, long = 100, 5
	p := usual
	p.rebalance = true
	w := start(t, p)
	w.serve("rolling", w.ledger.URL()+ledger.Numbered, "", "")
	crew := enlist(t, "rolling", w.Workers, crewSize)
	w.locate(crew)
	w.settle()
	crew.attend(crew.members[:listeners])
	w.listening(listeners)
	balancer := w.balance(crew)
	began := time.Now()
	crew.work(crew.members, pace)
	w.let(2 * time.Second)

	w.drains(crew, w.pick())
	for i, old := range slices.Clone(w.Workers) {
		// Some sessions are in use for longer than a balancer takes to notice.
		busy := crew.together(crew.members[i*long:][:long], func(int) order { return order{ms: 8000, steps: 4} })
		w.running(long)
		took := w.replace(old, balancer)
		busy()
		t.Logf("%s ended %v after it was told to", old.Name, took.Round(time.Millisecond))
		w.let(time.Second)
	}
	crew.halt()
	lasted := time.Since(began)
	balancer.stop()
	w.told(crew, crew.members[:listeners])
	crew.rest()

	calls := crew.made()
	t.Logf("%d calls in %v, %.0f a second: p50 %v, p99 %v, max %v; streams were asked %d times to come back", len(calls), lasted.Round(time.Second),
		float64(len(calls))/lasted.Seconds(), percentile(calls, 0.5), percentile(calls, 0.99), percentile(calls, 1), crew.moved)
	w.expect(calls, nil)
	w.undisturbed(crew)
	w.opened(crewSize)
	w.locate(crew) // every session is there
	w.audit(crew, book{wander: true, told: crew.members[:listeners]})
	w.leave(crew, nil)
}

// drains has a worker give all of its sessions away, as an operator does, and take its
// share again.
func (w *world) drains(c *crew, worker *cluster.Worker) {
	w.t.Helper()
	_, id, _ := strings.Cut(w.registered(worker).GetName(), "/")
	if _, err := w.CLI(w.t.Context(), "", "drain", "worker", id); err != nil {
		w.t.Fatal(err)
	}
	took := w.eventually(drainLimit, func(ctx context.Context) error {
		if err := isReady(ctx, worker); err != errNotReady {
			return fmt.Errorf("%s, which drains, says of being ready: %v; want that it is not", worker.Name, err)
		}
		w.locate(c)
		if n := len(c.ownedBy(worker)); n > 0 {
			return fmt.Errorf("%s, which drains, owns %d sessions", worker.Name, n)
		}
		return nil
	})
	w.t.Logf("%s had given its sessions away after %v", worker.Name, took.Round(time.Millisecond))
	if _, err := w.CLI(w.t.Context(), "", "undrain", "worker", id); err != nil {
		w.t.Fatal(err)
	}
	w.eventually(evenSoon, func(ctx context.Context) error {
		return errors.Join(isReady(ctx, worker), w.even(ctx, c))
	})
}

// registered is a worker as the control plane knows it.
func (w *world) registered(worker *cluster.Worker) (found *leaseholdv1.Worker) {
	w.t.Helper()
	w.eventually(10*time.Second, func(ctx context.Context) error {
		workers, err := w.Registered(ctx)
		for _, each := range workers {
			if each.GetListenAddress() == worker.Listen {
				found = each
			}
		}
		if err == nil && found == nil {
			err = fmt.Errorf("%s is not registered", worker.Name)
		}
		return err
	})
	return found
}

// undisturbed checks that no listener's stream ended but as it may: when the listener
// was asked to come back, and could.
func (w *world) undisturbed(c *crew) {
	w.t.Helper()
	if n := len(c.breaks); n > 0 {
		w.t.Errorf("%d streams of clients broke or were refused, among them %s", n, c.breaks[0])
	}
}

// opened checks how many sessions were ever opened at the upstream.
func (w *world) opened(want int) {
	w.t.Helper()
	r, err := w.ledger.Summary(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	if r.Opened != want {
		w.t.Errorf("%d sessions were opened at the upstream, want %d: one for each client", r.Opened, want)
	}
}
