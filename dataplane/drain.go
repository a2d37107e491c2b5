package dataplane

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/leasehold/leasehold/dataplane/config"
)

// nobody is how long a worker that stops waits for another one to hand over to.
const nobody = time.Second

// drainer hands this worker's sessions over while an operator wants it to, and for good
// when the worker stops.
//
//	serving ──drain──▶ draining: not ready, no new sessions; idle sessions move, those in use when
//	   ▲                   │     their calls end; after the timeout pinned ones end
//	   └───── undrain ─────┘
type drainer struct {
	mover *mover
	world *config.Holder
	log   hclog.Logger
	// tell is told when draining begins and ends.
	tell    func(draining bool)
	timeout time.Duration

	draining atomic.Bool
}

// Draining reports whether this worker takes no sessions.
func (d *drainer) Draining() bool { return d.draining.Load() }

// wanted reports whether an operator wants the worker to drain. A list of members
// without this worker is of a moment when its lease was gone, and says nothing.
func (d *drainer) wanted() bool {
	self, ok := d.world.Load().Members[d.mover.worker]
	if !ok {
		return d.draining.Load()
	}
	return self.Draining
}

// others reports whether there is another worker that takes sessions.
func (d *drainer) others() bool {
	for _, member := range d.world.Load().Members {
		if member.Worker != d.mover.worker && !member.Draining {
			return true
		}
	}
	return false
}

// Run drains whenever an operator wants it, until ctx ends.
func (d *drainer) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		changed := d.world.Changed()
		if d.wanted() {
			d.drain(ctx)
			continue
		}
		select {
		case <-ctx.Done():
		case <-changed:
		}
	}
	return nil
}

// Finish drains for good. It returns once nothing is left that can be handed over,
// when the time is up, or when there has been nobody for a while to hand over to.
func (d *drainer) Finish(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	d.begin()
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.work(ctx)
	}()
	ticker := time.NewTicker(healthTick)
	defer ticker.Stop()
	for alone := 0; alone < int(nobody/healthTick); {
		select {
		case <-done:
			return
		case <-ticker.C:
		}
		if alone++; d.others() {
			alone = 0
		}
	}
	d.log.Warn("nobody to hand sessions over to", "sessions", d.mover.table.Load().Sessions)
	cancel()
	<-done
}

func (d *drainer) begin() {
	d.draining.Store(true)
	d.tell(true)
	d.log.Info("draining: sessions are handed over", "sessions", d.mover.table.Load().Sessions)
}

// drain drains until that is not wanted any more, or ctx ends.
func (d *drainer) drain(ctx context.Context) {
	d.begin()
	working, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.work(working)
	}()
	defer func() {
		stop()
		<-done
	}()
	for {
		changed := d.world.Changed()
		if !d.wanted() {
			d.draining.Store(false)
			d.tell(false)
			d.log.Info("not draining any more", "sessions", d.mover.table.Load().Sessions)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// work hands over what can be, ends what cannot once its time is up, and returns when
// nothing is left, or ctx has ended.
func (d *drainer) work(ctx context.Context) {
	deadline, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	moved := make(chan struct{})
	go func() {
		defer close(moved)
		d.mover.Drain(ctx)
	}()
	defer func() { <-moved }()
	if d.mover.table.Load().Pinned > 0 {
		<-deadline.Done()
		if deadline.Err() != context.DeadlineExceeded {
			return
		}
		d.log.Info("the drain's time is up: sessions that are pinned to this worker end", "sessions", d.mover.table.Load().Pinned)
		d.mover.table.EndPinned()
	}
	<-moved
	if ctx.Err() == nil {
		d.log.Info("drained")
	}
}
