package chaos

import (
	"context"
	"testing"
	"time"

	"github.com/leasehold/leasehold/test/internal/cluster"
)

func TestKilledControlPlaneFailsNoRequest(t *testing.T) {
	w := start(t, usual)
	w.serve("replica", w.ledger.URL(), "", "")
	crew := enlist(t, "replica", w.Workers, crewSize)
	w.locate(crew)
	crew.work(crew.members, pace)
	crew.attend(crew.members[:crewSize/5])
	opener := w.openEvery(crew, 50*time.Millisecond)
	w.let(2 * time.Second)

	victim := w.Control[chance(t, "victim").IntN(len(w.Control))]
	killed := time.Now()
	victim.Kill()
	// Longer than a lease: workers that could not renew would be fenced by now.
	w.let(w.plan.ttl + 2*time.Second)
	opened := opener()
	crew.rest()

	w.expect(crew.made(), nil)
	if len(crew.breaks) > 0 {
		t.Errorf("%d streams of clients ended, among them %s", len(crew.breaks), crew.breaks[0])
	}
	var during []*call
	for _, o := range opened {
		if o.outcome != answered {
			t.Errorf("a session was not opened %v after the kill: %s: %v", o.begin.Sub(killed), o.outcome, o.err)
		}
		if o.end.After(killed) {
			during = append(during, o)
		}
	}
	t.Logf("%d calls; %d sessions opened since the kill of %s: p50 %v, p99 %v, max %v", len(crew.made()), len(during),
		victim.Name, percentile(during, 0.5), percentile(during, 0.99), percentile(during, 1))
	if got := percentile(during, 0.99); got > time.Second {
		slow := only(during, func(c *call) bool { return c.took() > time.Second })
		t.Errorf("new sessions took %v at the 99th percentile, want at most 1s; the kill was at %v; slow were %v",
			got, killed.Sub(crew.started).Round(time.Millisecond), slow)
	}
	w.audit(crew, book{})
	w.leave(crew, nil)
}

// openEvery opens a session at one worker after the other each interval, without
// waiting for the one before. The function that it returns stops that, waits for
// the rest and returns how they went. The sessions are the crew's.
func (w *world) openEvery(c *crew, interval time.Duration) (stop func() []*call) {
	ctx, cancel := context.WithCancel(w.t.Context())
	first, workers := len(c.members), *c.targets.Load()
	var begun []*opening
	c.group.Go(func() {
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		for n := first; ; n++ {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				begun = append(begun, c.openLater(n, workers[n%len(workers)]))
			}
		}
	})
	return func() []*call {
		cancel()
		c.rest()
		var calls []*call
		for _, o := range begun {
			<-o.done
			calls = append(calls, o.call)
			if o.member != nil {
				c.members = append(c.members, o.member)
			}
		}
		return calls
	}
}

// opening is a session that is being opened.
type opening struct {
	done   chan struct{} // closed when what follows is set
	member *member       // nil if it failed
	call   *call
}

// openLater begins to open a session.
func (c *crew) openLater(number int, at *cluster.Worker) *opening {
	o := &opening{done: make(chan struct{}), call: &call{
		member: &member{crew: c, number: number}, front: at, tag: "initialize", begin: time.Now(), outcome: answered,
	}}
	go func() {
		defer close(o.done)
		o.member, o.call.err = c.open(c.t.Context(), number, at)
		o.call.end = time.Now()
		if o.call.err != nil {
			o.call.outcome = broken
		}
	}()
	return o
}
