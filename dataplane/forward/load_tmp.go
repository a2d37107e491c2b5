package forward

import (
	"context"

	"github.com/leasehold/leasehold/dataplane/session"
	"github.com/leasehold/leasehold/dataplane/sessionid"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Locate implements route.Locator.
func (c *Client) Locate(ctx context.Context, address string, d sessionid.Digest) (*session.Moved, error) {
	p, err := c.peer(address)
	if err != nil {
		return nil, err
	}
	resp, err := leaseholdv1.NewPeerServiceClient(p.conn).Locate(ctx, &leaseholdv1.LocateRequest{Session: d[:]})
	if err != nil || !resp.GetOwned() {
		return nil, err
	}
	return &session.Moved{Incarnation: resp.GetIncarnation(), Epoch: resp.GetEpoch()}, nil
}

// ObserveLoad asks a worker how much it has to do.
func (c *Client) ObserveLoad(ctx context.Context, address string) (*leaseholdv1.ObserveLoadResponse, error) {
	p, err := c.peer(address)
	if err != nil {
		return nil, err
	}
	return leaseholdv1.NewPeerServiceClient(p.conn).ObserveLoad(ctx, &leaseholdv1.ObserveLoadRequest{})
}

// Loaded says how much a worker has to do.
type Loaded interface {
	Load() *leaseholdv1.ObserveLoadResponse
}

// Loads is temporary.
func (s *Server) Loads(l Loaded) { s.loaded = l }

// ObserveLoad is temporary.
func (s *Server) ObserveLoad(context.Context, *leaseholdv1.ObserveLoadRequest) (*leaseholdv1.ObserveLoadResponse, error) {
	return s.loaded.Load(), nil
}

// Locate is temporary.
func (s *Server) Locate(_ context.Context, r *leaseholdv1.LocateRequest) (*leaseholdv1.LocateResponse, error) {
	found, ok := s.owner.Find(sessionid.Digest(r.GetSession()))
	if !ok {
		return &leaseholdv1.LocateResponse{}, nil
	}
	return &leaseholdv1.LocateResponse{Owned: true, Incarnation: found.Incarnation(), Epoch: found.Epoch()}, nil
}
