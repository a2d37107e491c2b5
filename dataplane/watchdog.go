package dataplane

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
)

const (
	// assumedTTL stands for the lease's TTL until the worker knows that.
	assumedTTL = 6 * time.Second
	// stuckAfter is how many probes in a row have to fail at least before the
	// worker counts as stuck, for a process that was paused in the middle of one
	// is not.
	stuckAfter = 2
)

// watchdog finds out whether the worker serves, by probing it time and again. A
// lease says that its worker is alive; without the watchdog, one whose listener
// or loop hangs would keep its lease, and with it sessions that nobody can use.
// It is slow to judge: a machine with too much to do is no reason to move
// sessions, since the others may have no less.
type watchdog struct {
	probe  func(context.Context) error
	ttl    func() time.Duration // of the lease; 0 if it is not known yet
	now    func() time.Time
	log    hclog.Logger
	failed prometheus.Counter

	mu       sync.Mutex // guards what follows
	failures int        // in a row
	since    time.Time  // when the first of them began
	why      error      // the last of them
	retired  bool
}

func newWatchdog(probe func(context.Context) error, ttl func() time.Duration, log hclog.Logger) *watchdog {
	return &watchdog{probe: probe, ttl: ttl, now: time.Now, log: log, failed: prometheus.NewCounter(prometheus.CounterOpts{
		Name: "leasehold_worker_probe_failures_total",
		Help: "Probes of this worker's own listeners that failed.",
	})}
}

func (d *watchdog) register(to prometheus.Registerer) error {
	if to == nil {
		return nil
	}
	if err := to.Register(d.failed); err != nil {
		return fmt.Errorf("register watchdog metrics: %w", err)
	}
	return nil
}

// lease returns the TTL that times are parts of.
func (d *watchdog) lease() time.Duration {
	if ttl := d.ttl(); ttl > 0 {
		return ttl
	}
	return assumedTTL
}

// Run probes at the pace of the renewals until ctx ends, and sooner again after a
// failure.
func (d *watchdog) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		ttl, began := d.lease(), d.now()
		attempt, cancel := context.WithTimeout(ctx, ttl/3)
		err := d.probe(attempt)
		cancel()
		if ctx.Err() != nil {
			return nil
		}
		d.note(began, err)
		if err != nil {
			timer.Reset(ttl / 60)
			continue
		}
		timer.Reset(ttl / 6)
	}
}

// note takes in what came of a probe.
func (d *watchdog) note(began time.Time, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil {
		d.failures = 0
		return
	}
	if d.failures == 0 {
		d.since = began
		d.log.Warn("this worker does not answer its own probe", "error", err)
	}
	d.failures++
	d.why = err
	d.failed.Inc()
}

// stuck returns nil, or why the worker does not serve: for more than half of a
// lease's TTL no probe has succeeded.
func (d *watchdog) stuck() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.retired || d.failures < stuckAfter || d.now().Sub(d.since) <= d.lease()/2 {
		return nil
	}
	return fmt.Errorf("stuck: this worker does not answer its own probes: %w", d.why)
}

// retire makes the watchdog content with everything: the worker stops, so that
// its listeners close while it still needs its lease.
func (d *watchdog) retire() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.retired = true
}
