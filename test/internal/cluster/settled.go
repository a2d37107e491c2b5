package cluster

import (
	"context"
	"fmt"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// The gauges that say whether sessions of a dead worker can be taken over: by a
// worker, and as far as a control plane is concerned.
const (
	power   = "leasehold_worker_power"
	holding = "leasehold_controlplane_holding"
)

// Settled returns nil if harm that is done now meets a cluster in its usual state:
// every worker that runs is registered, is recorded to know all others, and has been
// in contact for long enough to take over from them; no control plane holds that up.
// After a start that takes a lease and a half.
func (c *Cluster) Settled(ctx context.Context) error {
	for _, cp := range c.Control {
		if cp.Running() {
			if err := gauge(ctx, cp.Process, cp.Admin, holding, 0); err != nil {
				return err
			}
		}
	}
	live := c.Live()
	for _, w := range live {
		if err := gauge(ctx, w.Process, w.Admin, power, 1); err != nil {
			return err
		}
	}
	registered, err := c.Registered(ctx)
	if err != nil {
		return err
	}
	if len(registered) != len(live) {
		return fmt.Errorf("%d workers are registered, %d run", len(registered), len(live))
	}
	for _, each := range registered {
		if err := c.knowsOthers(ctx, each, registered); err != nil {
			return err
		}
	}
	return nil
}

// gauge returns nil if a process's gauge has a value.
func gauge(ctx context.Context, p *Process, admin, name string, want float64) error {
	m, err := Scrape(ctx, admin)
	if err != nil {
		return err
	}
	if samples := m.Of(name); len(samples) != 1 || m.Sum(name) != want {
		return fmt.Errorf("%s: %s is %v, want %v", p.Name, name, samples, want)
	}
	return nil
}

// knowsOthers returns nil if a worker is recorded to know all of the others, and
// nobody else.
func (c *Cluster) knowsOthers(ctx context.Context, w *leaseholdv1.Worker, all []*leaseholdv1.Worker) error {
	now, err := c.Worker(ctx, w.GetName())
	if err != nil {
		return err
	}
	known := map[string]bool{w.GetName(): true}
	for _, peer := range now.GetPeers() {
		known[peer] = true
	}
	for _, each := range all {
		if !known[each.GetName()] {
			return fmt.Errorf("%s is not recorded to know %s", w.GetName(), each.GetName())
		}
	}
	if len(known) != len(all) {
		return fmt.Errorf("%s is recorded to know %v, %d workers are registered", w.GetName(), now.GetPeers(), len(all))
	}
	return nil
}
