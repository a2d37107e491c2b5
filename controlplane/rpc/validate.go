package rpc

import (
	"context"
	"errors"
	"fmt"

	"github.com/leasehold/leasehold/controlplane/gateway"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// errOnlyValidated ends a write at the point where it would be done.
var errOnlyValidated = errors.New("the request is only validated")

// wouldCreate returns what creating a valid gateway would store. It has no etag yet.
func (s *gateways) wouldCreate(ctx context.Context, g *leaseholdv1.Gateway) (*leaseholdv1.Gateway, error) {
	id, err := gatewayID("gateway.name", g.GetName())
	if err != nil {
		return nil, err
	}
	_, err = s.store.GetGateway(ctx, id)
	if err == nil {
		return nil, fmt.Errorf("create %s: %w", g.GetName(), gateway.ErrExists)
	}
	if !errors.Is(err, gateway.ErrNotFound) {
		return nil, err
	}
	return gateway.Definition(g), nil
}

// wouldUpdate returns what updating a gateway by change would store, with the etag
// of what is stored now. It goes the write's own way, and turns back where that
// would write.
func (s *gateways) wouldUpdate(ctx context.Context, id, etag string, change func(*leaseholdv1.Gateway) (*leaseholdv1.Gateway, error)) (*leaseholdv1.Gateway, error) {
	var next *leaseholdv1.Gateway
	_, err := s.store.UpdateGateway(ctx, id, etag, func(stored *leaseholdv1.Gateway) (*leaseholdv1.Gateway, error) {
		changed, err := change(stored)
		if err != nil {
			return nil, err
		}
		next = gateway.Definition(changed)
		next.Etag, next.CreateTime, next.UpdateTime = stored.GetEtag(), stored.GetCreateTime(), stored.GetUpdateTime()
		return nil, errOnlyValidated
	})
	if !errors.Is(err, errOnlyValidated) {
		return nil, err
	}
	return next, nil
}
