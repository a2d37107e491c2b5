package control

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Claim records a new session of this worker and returns the record's revision.
// session.ErrRefused: it is held, has ended, or this worker is not alive. session.ErrUnavailable:
// the outcome is unknown; End makes sure that it does not matter.
func (c *Client) Claim(ctx context.Context, gateway, session string, record *leaseholdv1.SessionRecord) (int64, error) {
	resp, err := call(ctx, c, "Claim", &leaseholdv1.ClaimRequest{Gateway: gateway, Session: session, Record: record},
		leaseholdv1.ControlServiceClient.Claim)
	return resp.GetRevision(), err
}

// Resolve says who owns a session, and with measure for how long a living owner
// has not renewed its lease. openedBy is the worker that opened it, as its id says, or
// nil. session.ErrNoRecord: there is no record, and with openedBy there never will be.
// session.ErrUncertain: openedBy may have the session without a record. If it is alive,
// the answer names it as the owner and has no record.
func (c *Client) Resolve(ctx context.Context, gateway, session string, openedBy *leaseholdv1.Peer, measure bool) (*leaseholdv1.ResolveResponse, error) {
	return call(ctx, c, "Resolve", &leaseholdv1.ResolveRequest{Gateway: gateway, Session: session, OpenedBy: openedBy, MeasureOwner: measure},
		leaseholdv1.ControlServiceClient.Resolve)
}

// Reclaim makes this worker, as incarnation, the owner of a session whose owner
// resolved as dead. From an owner that resolved as superseded it needs no power.
// session.ErrStale or session.ErrRefused: resolve again. session.ErrUncertain: not yet,
// since the owner may serve on.
func (c *Client) Reclaim(ctx context.Context, gateway, session string, incarnation int64, resolved *leaseholdv1.ResolveResponse) (*leaseholdv1.ReclaimResponse, error) {
	return call(ctx, c, "Reclaim", &leaseholdv1.ReclaimRequest{
		Gateway: gateway, Session: session,
		Revision: resolved.GetRevision(), IncarnationRevision: resolved.GetIncarnationRevision(),
		Worker: c.cfg.Worker, Incarnation: incarnation, SupersededOnly: resolved.GetOwnerSuperseded(),
	}, leaseholdv1.ControlServiceClient.Reclaim)
}

// Save replaces the record that has the revision by another one of the same owner
// and epoch, and returns its new revision. session.ErrStale: it has changed since.
// session.ErrRefused: the session is not this worker's, or this worker is not alive.
// session.ErrUnavailable: the outcome is unknown.
func (c *Client) Save(ctx context.Context, gateway, session string, revision int64, record *leaseholdv1.SessionRecord) (int64, error) {
	resp, err := call(ctx, c, "Save", &leaseholdv1.SaveRequest{Gateway: gateway, Session: session, Revision: revision, Record: record},
		leaseholdv1.ControlServiceClient.Save)
	return resp.GetRevision(), err
}

// HandOver makes another living worker the owner of a session of this one, which has
// stopped dispatching for it. The request's worker is filled in. session.ErrStale: the
// record has changed since. session.ErrRefused: the session has ended, or one of the two
// is not alive. session.ErrUnavailable: the outcome is unknown; a Save at the same
// revision decides it.
func (c *Client) HandOver(ctx context.Context, request *leaseholdv1.HandOverRequest) (*leaseholdv1.HandOverResponse, error) {
	request.Worker = c.cfg.Worker
	return call(ctx, c, "HandOver", request, leaseholdv1.ControlServiceClient.HandOver)
}

// SetDraining tells everybody whether this worker drains, now and under whatever
// incarnation and lease it has later. session.ErrRefused: it is not alive; the others
// hear of it when it registers or re-adopts.
func (c *Client) SetDraining(ctx context.Context, draining bool) error {
	c.draining.Store(draining)
	_, err := call(ctx, c, "SetDraining", &leaseholdv1.SetDrainingRequest{
		Worker: c.cfg.Worker, Incarnation: c.authority.Incarnation(), Draining: draining,
	}, leaseholdv1.ControlServiceClient.SetDraining)
	return err
}

// End writes the session's tombstone, record or not. session.ErrStale: another worker
// owns the session, so that it is not this worker's to end.
func (c *Client) End(ctx context.Context, request *leaseholdv1.EndRequest) error {
	request.Worker = c.cfg.Worker
	_, err := call(ctx, c, "End", request, leaseholdv1.ControlServiceClient.End)
	return err
}

// KeyRingRevision returns the revision of a key ring that was the newest at some moment
// after the call was made. It makes one attempt.
func (c *Client) KeyRingRevision(ctx context.Context) (int64, error) {
	r := c.pick()
	c.calls.WithLabelValues("GetKeyRingRevision").Inc()
	resp, err := r.api.GetKeyRingRevision(ctx, &leaseholdv1.GetKeyRingRevisionRequest{})
	switch {
	case status.Code(err) == codes.Unimplemented: // a replica of an earlier version: it does all else
		return 0, err
	case err != nil:
		c.next(r)
		return 0, err
	}
	c.hear()
	return resp.GetRevision(), nil
}
