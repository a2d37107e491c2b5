package store

import leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"

// Worker is a worker as operators see it, alive or dead.
type Worker struct {
	// Member is the newest incarnation. Of one that is not alive only its key and
	// when it registered are known.
	Member
	// State says whether it serves.
	State leaseholdv1.WorkerState
	// Peers are those whom it is recorded to know.
	Peers []MemberKey
	// Takeover says who may take over from it; nil while it is alive.
	Takeover *leaseholdv1.Takeover
}

// Alive reports whether the worker holds its lease.
func (w Worker) Alive() bool {
	return w.State == leaseholdv1.WorkerState_WORKER_STATE_SERVING || w.State == leaseholdv1.WorkerState_WORKER_STATE_DRAINING
}

// Living returns a member as a worker.
func Living(m Member) Worker {
	w := Worker{Member: m, State: leaseholdv1.WorkerState_WORKER_STATE_SERVING}
	if m.Info.GetDraining() {
		w.State = leaseholdv1.WorkerState_WORKER_STATE_DRAINING
	}
	return w
}
