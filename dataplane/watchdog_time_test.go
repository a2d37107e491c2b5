package dataplane

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
)

// probed is a watchdog in a bubble, with probes in the hands of the test.
type probed struct {
	*watchdog
	hangs   atomic.Bool  // a probe gets no answer
	refused atomic.Bool  // a probe fails at once
	slow    atomic.Int64 // how long a probe takes that does not fail
	probes  atomic.Int32
}

const probedTTL = 6 * time.Second

func runWatchdog(t *testing.T, f func(*probed)) {
	synctest.Test(t, func(t *testing.T) {
		p := &probed{}
		p.watchdog = newWatchdog(func(ctx context.Context) error {
			p.probes.Add(1)
			if p.refused.Load() {
				return errors.New("connection refused")
			}
			answer := time.After(time.Duration(p.slow.Load()))
			if p.hangs.Load() {
				answer = nil
			}
			select {
			case <-answer:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}, func() time.Duration { return probedTTL }, hclog.NewNullLogger())
		ctx, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		group.Go(func() { p.Run(ctx) })
		f(p)
		cancel()
		group.Wait()
	})
}

// stuckAfter returns after what time the watchdog finds the worker stuck, or an
// hour if it does not.
func (p *probed) stuckAfter() time.Duration {
	began := time.Now()
	for p.stuck() == nil && time.Since(began) < time.Hour {
		time.Sleep(50 * time.Millisecond)
	}
	return time.Since(began)
}

func TestAWorkerIsStuckWhenNoProbeSucceededForHalfATTL(t *testing.T) {
	runWatchdog(t, func(p *probed) {
		time.Sleep(10*probedTTL + probedTTL/12)
		if n := p.probes.Load(); n != 61 {
			t.Errorf("probes in 10 TTLs: got %d, want 61: one each sixth", n)
		}
		p.refused.Store(true)
		if got := p.stuckAfter(); got < probedTTL/2 || got > probedTTL/2+probedTTL/6+time.Second {
			t.Errorf("refused: stuck after %v, want half of the TTL after the first failure", got)
		}
		p.refused.Store(false)
		time.Sleep(probedTTL / 30)
		if err := p.stuck(); err != nil {
			t.Errorf("after a success: got %v, want nil", err)
		}
		p.hangs.Store(true)
		if got := p.stuckAfter(); got < probedTTL/2 || got > probedTTL {
			t.Errorf("hanging: stuck after %v, want between a half and all of the TTL", got)
		}
	})
}

func TestSlowProbesAndASingleFailureLoseNoLease(t *testing.T) {
	runWatchdog(t, func(p *probed) {
		p.slow.Store(int64(probedTTL/3 - time.Millisecond))
		if got := p.stuckAfter(); got < time.Hour {
			t.Errorf("slow probes: stuck after %v, want never", got)
		}
		for range 10 {
			p.hangs.Store(true)
			for n := p.failureCount(); p.failureCount() == n; {
				time.Sleep(time.Millisecond)
			}
			p.hangs.Store(false)
			for p.failureCount() > 0 {
				if err := p.stuck(); err != nil {
					t.Fatalf("one failure in between: got %v, want nil", err)
				}
				time.Sleep(time.Millisecond)
			}
		}
	})
}

func (p *probed) failureCount() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failures
}

func TestAPauseOfTheProcessIsNotTakenForBeingStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ahead time.Duration
		d := newWatchdog(nil, func() time.Duration { return probedTTL }, hclog.NewNullLogger())
		d.now = func() time.Time { return time.Now().Add(ahead) }
		began := d.now()
		ahead = time.Hour // in the middle of a probe, which fails by that
		d.note(began, context.DeadlineExceeded)
		if err := d.stuck(); err != nil {
			t.Errorf("got %v, want nil until it has failed again", err)
		}
		d.note(d.now(), context.DeadlineExceeded)
		if err := d.stuck(); err == nil {
			t.Error("not stuck though no probe has succeeded for an hour")
		}
		d.retire()
		if err := d.stuck(); err != nil {
			t.Errorf("while the worker stops: got %v, want nil", err)
		}
	})
}
