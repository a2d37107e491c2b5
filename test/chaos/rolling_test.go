package chaos

import (
	"slices"
	"testing"
	"time"

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
