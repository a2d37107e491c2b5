package observe

import (
	"context"
	"fmt"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"

	"github.com/leasehold/leasehold/controlplane/gateway"
	"github.com/leasehold/leasehold/controlplane/store"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Upstreams asks each of the members how the upstreams of a gateway are, all at the same
// time, and returns within a second what was answered. A member that does not answer, or
// is another incarnation by now, is left out.
func (o *Observer) Upstreams(ctx context.Context, members []store.Member, id string) map[store.MemberKey]*leaseholdv1.ObserveUpstreamsResponse {
	return gather(ctx, o, members, func(ctx context.Context, c leaseholdv1.PeerServiceClient) (*leaseholdv1.ObserveUpstreamsResponse, error) {
		return c.ObserveUpstreams(ctx, &leaseholdv1.ObserveUpstreamsRequest{Gateway: id})
	})
}

// inspectRefusals are what a worker's reasons mean.
var inspectRefusals = map[string]error{
	"NOT_APPLIED":          gateway.ErrUnknownThere,
	"TOO_MANY_INSPECTIONS": gateway.ErrInspecting,
}

// Inspect makes a member inspect a gateway. It returns gateway's ErrUnknownThere,
// ErrInspecting or ErrNobodyInspects, or ctx's error.
func (o *Observer) Inspect(ctx context.Context, m store.Member, req *leaseholdv1.InspectNowRequest) (*leaseholdv1.InspectNowResponse, error) {
	c, err := o.conn(m)
	if err != nil {
		return nil, err
	}
	found, err := leaseholdv1.NewPeerServiceClient(c).InspectNow(ctx, req)
	switch {
	case err == nil:
		return found, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && inspectRefusals[info.Reason] != nil {
			return nil, fmt.Errorf("worker %s: %w", m.Worker, inspectRefusals[info.Reason])
		}
	}
	return nil, fmt.Errorf("worker %s: %w: %w", m.Worker, gateway.ErrNobodyInspects, err)
}
