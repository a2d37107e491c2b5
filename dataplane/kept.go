package dataplane

import (
	"errors"

	"github.com/leasehold/leasehold/dataplane/config"
)

// keep adds to state the gateways that are there but that the control plane cannot
// tell, as they were in the state before, which after a start is that on disk. The
// control plane then goes on to say what becomes of them, as of any other gateway.
func (w *worker) keep(state *config.State) {
	if len(state.Kept) == 0 {
		return
	}
	last := w.applied
	if last == nil {
		var err error
		if last, _, err = w.disk.Load(); err != nil {
			if !errors.Is(err, config.ErrNotKept) {
				w.cfg.Logger.Error("the last good configuration cannot be used", "error", err)
			}
			last = &config.State{}
		}
	}
	for _, name := range state.Kept {
		if state.Gateways[name] != nil {
			continue // a later part of the state has it
		}
		g := last.Gateways[name]
		if g == nil {
			w.cfg.Logger.Error("gateway cannot be served: the control plane cannot use its definition, and none is kept here", "gateway", name)
			continue
		}
		w.cfg.Logger.Warn("gateway is served by its last definition: the control plane cannot use the newest", "gateway", name, "revision", g.GetStatus().GetRevision())
		state.Gateways[name] = g
	}
}
