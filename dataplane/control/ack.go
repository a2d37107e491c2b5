package control

import (
	"github.com/leasehold/leasehold/dataplane/config"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// maxRejections bounds the rejections in an acknowledgement.
const maxRejections = 100

// acknowledgement says that a state was applied but for some gateways, which are
// ordered by the revisions of their definitions. Of more than can be told the
// newest are left out, and it is not said that their revisions were applied.
func (c *Client) acknowledgement(incarnation, revision int64, rejections []config.Rejection) *leaseholdv1.WatchRequest {
	if len(rejections) > maxRejections {
		revision = min(revision, rejections[maxRejections].Revision-1)
		rejections = rejections[:maxRejections]
	}
	ack := &leaseholdv1.WatchRequest{Worker: c.cfg.Worker, Incarnation: incarnation, AppliedRevision: revision}
	for _, r := range rejections {
		ack.Rejections = append(ack.Rejections, &leaseholdv1.Rejection{
			Gateway: "gateways/" + r.Gateway, Revision: r.Revision, ServingRevision: r.Serving, Quarantined: r.Quarantined,
			Error: &leaseholdv1.ApplyError{Field: r.Field, Reason: r.Reason},
		})
	}
	return ack
}
