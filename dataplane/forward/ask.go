package forward

import (
	"context"

	"google.golang.org/grpc"

	"github.com/leasehold/leasehold/dataplane/session"
	"github.com/leasehold/leasehold/dataplane/sessionid"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// ask makes a call of its own to the worker at address, over the connection that
// carries requests: it waits for none of them, since each has a stream of its own. It
// fails at once when there is no connection and none can be made now.
func ask[Req, Resp any](ctx context.Context, c *Client, address string, request Req,
	do func(leaseholdv1.PeerServiceClient, context.Context, Req, ...grpc.CallOption) (Resp, error)) (answer Resp, err error) {
	p, err := c.peer(address)
	if err != nil {
		return answer, err
	}
	p.carries.Add(1) // so that a connection on which nothing comes is given up
	defer p.carries.Add(-1)
	if answer, err = do(leaseholdv1.NewPeerServiceClient(p.conn), ctx, request); err == nil {
		p.sees()
	}
	return answer, err
}

// Witness asks the worker at address whether it could have taken sessions over, and
// when it could next. It implements control.Witnesses.
func (c *Client) Witness(ctx context.Context, address string, request *leaseholdv1.WitnessRequest) (*leaseholdv1.WitnessResponse, error) {
	return ask(ctx, c, address, request, leaseholdv1.PeerServiceClient.Witness)
}

// Locate returns who owns a session, without the worker's id, if that is the worker at
// address, and nil otherwise. It implements route.Locator.
func (c *Client) Locate(ctx context.Context, address string, d sessionid.Digest) (*session.Moved, error) {
	resp, err := ask(ctx, c, address, &leaseholdv1.LocateRequest{Session: d[:]}, leaseholdv1.PeerServiceClient.Locate)
	if err != nil || !resp.GetOwned() {
		return nil, err
	}
	return &session.Moved{Incarnation: resp.GetIncarnation(), Epoch: resp.GetEpoch()}, nil
}

// ObserveLoad asks the worker at address how much it has to do.
func (c *Client) ObserveLoad(ctx context.Context, address string) (*leaseholdv1.ObserveLoadResponse, error) {
	return ask(ctx, c, address, &leaseholdv1.ObserveLoadRequest{}, leaseholdv1.PeerServiceClient.ObserveLoad)
}
