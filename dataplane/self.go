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
	w, incarnation := s.worker, s.Incarnation()
	return &leaseholdv1.ObserveLoadResponse{
		Incarnation: incarnation, Sessions: int32(w.table.Len()), Capacity: int32(w.cfg.MaxSessions), PinnedSessions: int32(w.table.Pinned()),
		Draining: w.control.Draining(), Power: s.Power(incarnation), ServingOn: s.ServingOn(),
	}
}
