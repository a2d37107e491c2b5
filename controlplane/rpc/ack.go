package rpc

import (
	"strings"

	"github.com/leasehold/leasehold/controlplane/gateway"
	"github.com/leasehold/leasehold/controlplane/store"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Bounds of what is kept of a worker's acknowledgement.
const (
	maxRejections  = 100
	maxFieldBytes  = 256
	maxReasonBytes = 512
)

// ackOf returns what a worker acknowledges. What is beyond the bounds is cut off; of
// more rejections than may be, the first one that is left out bounds the revision
// that counts as applied.
func ackOf(req *leaseholdv1.WatchRequest) store.Ack {
	ack := store.Ack{Revision: req.GetAppliedRevision()}
	for _, r := range req.GetRejections() {
		id, ok := gateway.ParseName(r.GetGateway())
		if !ok {
			continue
		}
		if len(ack.Rejections) == maxRejections {
			ack.Revision = min(ack.Revision, r.GetRevision()-1)
			continue
		}
		ack.Rejections = append(ack.Rejections, store.Rejection{
			Gateway: id, Revision: r.GetRevision(), Serving: r.GetServingRevision(), Quarantined: r.GetQuarantined(),
			Field: clip(r.GetError().GetField(), maxFieldBytes), Reason: clip(r.GetError().GetReason(), maxReasonBytes),
		})
	}
	return ack
}

func clip(text string, most int) string { return strings.ToValidUTF8(text[:min(len(text), most)], "") }
