package dataplane

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/leasehold/leasehold/dataplane/config"
)

// apply makes a new state of the world the one that is served, but for gateways that
// cannot be served by it, which it returns.
func (w *worker) apply(state *config.State) ([]config.Rejection, error) {
	w.keep(state)
	previous := w.world.Load()
	next, err := w.quarantine.Compile(state, w.lastGood(previous))
	if err != nil {
		return nil, err
	}
	w.applied = state
	w.world.Set(next)
	if w.cfg.applied != nil {
		w.cfg.applied(next)
	}
	w.disk.Keep(w.quarantine.Kept(state, next))
	w.table.Reconcile(previous, next)
	w.logRejections(previous, next)
	addresses := make(map[string]bool, len(next.Members))
	for _, m := range next.Members {
		addresses[m.PeerAddress] = true
	}
	if _, member := next.Members[w.id]; member {
		// Otherwise the list is of a moment when the leases had run out, this
		// worker's too, and says nothing of who is really gone.
		for _, address := range w.control.PeerAddresses() {
			addresses[address] = true // though it is no member: it may be asked still
		}
		w.forwards.Retain(addresses)
	} else {
		w.control.Doubt()
	}
	if len(next.Endings) > 0 {
		select {
		case w.endings <- struct{}{}:
		default:
		}
	}
	return next.Rejections, nil
}

// lastGood returns what gateways are served by that a new state has unusable
// definitions of: by previous, or, when nothing was applied since the start, by what
// is on disk.
func (w *worker) lastGood(previous *config.Snapshot) *config.Snapshot {
	if previous.Revision > 0 {
		return previous
	}
	kept, _, err := w.disk.Load()
	if errors.Is(err, config.ErrNotKept) {
		return previous
	}
	var snapshot *config.Snapshot
	if err == nil {
		snapshot, err = w.quarantine.Recall(kept)
	}
	if err != nil {
		w.cfg.Logger.Warn("the configuration on disk cannot be used", "error", err)
		return previous
	}
	return snapshot
}

// logRejections says once of each definition that it is not served.
func (w *worker) logRejections(previous, next *config.Snapshot) {
	was := make(map[string]int64, len(previous.Rejections))
	for _, r := range previous.Rejections {
		was[r.Gateway] = r.Revision
	}
	for _, r := range next.Rejections {
		if was[r.Gateway] != r.Revision {
			facts := []any{"gateway", r.Gateway, "revision", r.Revision, "serving_revision", r.Serving, "field", r.Field, "reason", r.Reason, "quarantined", r.Quarantined}
			if r.Stack != "" {
				facts = append(facts, "stack", r.Stack)
			}
			w.cfg.Logger.Error("gateway rejected, serving on by its last good definition", facts...)
		}
		delete(was, r.Gateway)
	}
	for gateway := range was {
		w.cfg.Logger.Info("gateway is no longer rejected", "gateway", gateway)
	}
}

// registerRejected adds to the worker's metrics how many gateways it rejects.
func (w *worker) registerRejected(to prometheus.Registerer) error {
	if to == nil {
		return nil
	}
	err := to.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "leasehold_worker_gateways_rejected",
		Help: "Gateways whose newest definition this worker cannot apply. It serves them by the last one that it could.",
	}, func() float64 { return float64(len(w.world.Load().Rejections)) }))
	if err != nil {
		return fmt.Errorf("register metrics of the worker: %w", err)
	}
	return nil
}
