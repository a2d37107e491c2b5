package control

import (
	"fmt"
	"testing"

	"github.com/leasehold/leasehold/dataplane/config"
)

func TestAnAcknowledgementNeverSaysThatARejectedRevisionWasApplied(t *testing.T) {
	c := &Client{cfg: Config{Worker: "w"}}
	for _, n := range []int{0, 1, maxRejections, maxRejections + 1, 3 * maxRejections} {
		var rejections []config.Rejection
		for i := range n {
			rejections = append(rejections, config.Rejection{Gateway: fmt.Sprint("g", i), Revision: int64(10 + i/2), Serving: 3, Field: "f", Reason: "r", Quarantined: i == 0})
		}
		ack := c.acknowledgement(7, 1000, rejections)
		if ack.GetWorker() != "w" || ack.GetIncarnation() != 7 || len(ack.GetRejections()) != min(n, maxRejections) {
			t.Errorf("%d rejections: got %v", n, ack)
		}
		for _, r := range rejections[len(ack.GetRejections()):] {
			if r.Revision <= ack.GetAppliedRevision() {
				t.Errorf("%d rejections: %s at %d is left out, and %d said to be applied", n, r.Gateway, r.Revision, ack.GetAppliedRevision())
			}
		}
		if n <= maxRejections && ack.GetAppliedRevision() != 1000 {
			t.Errorf("%d rejections: %d is said to be applied, want 1000", n, ack.GetAppliedRevision())
		}
	}
}
