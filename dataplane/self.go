package dataplane

import (
	"github.com/leasehold/leasehold/dataplane/control"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// self is what the worker says of itself to others.
type self struct {
	*control.Authority
	worker *worker
}

// Load implements forward.Self.
func (s self) Load() *leaseholdv1.ObserveLoadResponse {
	w, incarnation, load := s.worker, s.Incarnation(), s.worker.table.Load()
	return &leaseholdv1.ObserveLoadResponse{
		Incarnation: incarnation, Sessions: int32(load.Sessions), Capacity: int32(w.mover.capacity), PinnedSessions: int32(load.Pinned),
		UndurableSessions: int32(load.Undurable), Draining: w.drains(), Power: s.Power(incarnation), ServingOn: s.ServingOn(),
	}
}
