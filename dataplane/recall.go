package dataplane

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/leasehold/leasehold/dataplane/config"
)

// recall makes the worker a front, from the configuration in its data directory, when
// the control plane cannot be reached at its start: requests go to the owners that
// were members then, and sessions are opened elsewhere. It returns the revision of
// what it serves, or 0 if there is nothing to serve.
func (w *worker) recall() int64 {
	state, saved, err := w.disk.Load()
	if errors.Is(err, config.ErrNotKept) {
		w.cfg.Logger.Warn("nothing can be served without the control plane", "error", err)
		return 0
	}
	var next *config.Snapshot
	if err == nil {
		next, err = w.quarantine.Recall(state)
	}
	if err != nil {
		w.cfg.Logger.Error("the last good configuration cannot be used, nothing can be served without the control plane", "error", err)
		return 0
	}
	w.cfg.Logger.Warn("serving as a front from the last good configuration, without the control plane",
		"revision", state.Revision, "age", time.Since(saved).Round(time.Second))
	w.ttl.Store(int64(state.TTL))
	w.world.Set(next)
	w.recalled.Store(true)
	return state.Revision
}

// registerRecalled adds to the worker's metrics whether it is such a front.
func (w *worker) registerRecalled(to prometheus.Registerer) error {
	if to == nil {
		return nil
	}
	err := to.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "leasehold_worker_front_only",
		Help: "1 while this worker has not reached the control plane since its start, and serves as a front from the configuration in its data directory.",
	}, func() float64 {
		if w.recalled.Load() {
			return 1
		}
		return 0
	}))
	if err != nil {
		return fmt.Errorf("register metrics of the worker: %w", err)
	}
	return nil
}
