package store

import (
	"slices"

	"github.com/leasehold/leasehold/controlplane/session"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Ack is what a worker says of the newest state that it has.
type Ack struct {
	// Revision is the newest one that it has applied, but for Rejections.
	Revision int64
	// Rejections are all the gateways whose newest definition as of Revision it cannot
	// apply.
	Rejections []Rejection
}

// Same reports whether two acknowledgements say the same.
func (a Ack) Same(b Ack) bool {
	return a.Revision == b.Revision && slices.Equal(a.Rejections, b.Rejections)
}

// Rejection is a gateway whose newest definition a worker cannot apply.
type Rejection struct {
	// Gateway is its id.
	Gateway string `json:"gateway"`
	// Revision is that of the definition.
	Revision int64 `json:"revision"`
	// Serving is the revision of the definition that is served instead; 0 for none.
	Serving int64 `json:"serving,omitempty"`
	// Field and Reason say why.
	Field  string `json:"field,omitempty"`
	Reason string `json:"reason,omitempty"`
	// Quarantined says that the worker crashed when it applied it.
	Quarantined bool `json:"quarantined,omitempty"`
}

// rejection returns what a member says of a gateway, if it rejects its newest
// definition.
func (a Ack) rejection(gateway string) (Rejection, bool) {
	i := slices.IndexFunc(a.Rejections, func(r Rejection) bool { return r.Gateway == gateway })
	if i < 0 {
		return Rejection{}, false
	}
	return a.Rejections[i], true
}

// Ack returns what the member acknowledged.
func (m Member) Ack() Ack { return Ack{m.AppliedRevision, m.Rejections} }

// Made returns what a member has made of the definition that a gateway has since
// revision.
func (m Member) Made(gateway string, revision int64) *leaseholdv1.GatewayWorker {
	made := &leaseholdv1.GatewayWorker{Worker: session.WorkerName(m.Worker), State: leaseholdv1.ApplyState_APPLY_STATE_PENDING}
	r, rejects := m.Ack().rejection(gateway)
	switch {
	case rejects && r.Revision >= revision && r.Serving < revision:
		made.State, made.Revision = leaseholdv1.ApplyState_APPLY_STATE_REJECTED, r.Serving
		if r.Quarantined {
			made.State = leaseholdv1.ApplyState_APPLY_STATE_QUARANTINED
		}
		made.Error = &leaseholdv1.ApplyError{Field: r.Field, Reason: r.Reason}
	case m.AppliedRevision >= revision:
		made.State, made.Revision = leaseholdv1.ApplyState_APPLY_STATE_APPLIED, revision
	case rejects:
		made.Revision = r.Serving
	}
	return made
}

// Made returns what members have made of the definition that a gateway has since
// revision, in their order.
func Made(members []Member, gateway string, revision int64) []*leaseholdv1.GatewayWorker {
	all := make([]*leaseholdv1.GatewayWorker, len(members))
	for i, m := range members {
		all[i] = m.Made(gateway, revision)
	}
	return all
}

// Fill completes a gateway's status with what the living members have made of its
// definition.
func Fill(status *leaseholdv1.GatewayStatus, gateway string, members []Member) {
	status.Workers = Made(members, gateway, status.GetRevision())
	status.WorkersTotal, status.WorkersApplied = int32(len(members)), 0
	for _, w := range status.Workers {
		if w.GetState() == leaseholdv1.ApplyState_APPLY_STATE_APPLIED {
			status.WorkersApplied++
		}
	}
}

// Rejects reports whether a worker cannot serve by a definition.
func Rejects(w *leaseholdv1.GatewayWorker) bool {
	return w.GetState() == leaseholdv1.ApplyState_APPLY_STATE_REJECTED || w.GetState() == leaseholdv1.ApplyState_APPLY_STATE_QUARANTINED
}

// OnlyRejecting leaves those workers in a status that reject the definition.
func OnlyRejecting(status *leaseholdv1.GatewayStatus) {
	status.Workers = slices.DeleteFunc(status.Workers, func(w *leaseholdv1.GatewayWorker) bool { return !Rejects(w) })
}

// Rejected returns the ids of the gateways that members reject.
func Rejected(members *Table[MemberKey, Member]) map[string]bool {
	ids := make(map[string]bool)
	for _, m := range members.Entries {
		for _, r := range m.Rejections {
			ids[r.Gateway] = true
		}
	}
	return ids
}
