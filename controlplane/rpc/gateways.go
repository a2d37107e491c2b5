package rpc

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/leasehold/leasehold/controlplane/audit"
	"github.com/leasehold/leasehold/controlplane/gateway"
	"github.com/leasehold/leasehold/controlplane/publish"
	"github.com/leasehold/leasehold/controlplane/store"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// gateways implements GatewayService.
type gateways struct {
	leaseholdv1.UnimplementedGatewayServiceServer
	store    Store
	hub      *publish.Hub
	observer Observer
	watches  *watches
}

// CreateGateway implements GatewayService.
func (s *gateways) CreateGateway(ctx context.Context, req *leaseholdv1.CreateGatewayRequest) (*leaseholdv1.CreateGatewayResponse, error) {
	g := req.GetGateway()
	if g == nil {
		return nil, gateway.Validate(nil)
	}
	g = proto.CloneOf(g)
	violations := append(checkWait(req), nameIt(g, req.GetGatewayId())...)
	gateway.Retain(nil, g)
	gateway.Default(g)
	violations = append(violations, gateway.Validate(g)...)
	if err := violations.Err(); err != nil {
		return nil, err
	}
	if req.GetValidateOnly() {
		next, err := s.wouldCreate(ctx, g)
		if err != nil {
			return nil, err
		}
		audit.Of(ctx).Changed(nil, next)
		return &leaseholdv1.CreateGatewayResponse{Gateway: next}, nil
	}
	write, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	stored, err := s.store.CreateGateway(write, g)
	if err != nil {
		return nil, err
	}
	audit.Of(ctx).Changed(nil, stored)
	if err := awaitApplied(ctx, s.hub, req, stored.GetName(), stored.GetStatus()); err != nil {
		return nil, err
	}
	return &leaseholdv1.CreateGatewayResponse{Gateway: stored}, nil
}

// nameIt gives g the name that the request's id says.
func nameIt(g *leaseholdv1.Gateway, id string) gateway.Violations {
	if id == "" {
		return nil
	}
	name := gateway.Name(id)
	if g.Name != "" && g.Name != name {
		return gateway.Violations{{
			Field:       "gateway_id",
			Description: fmt.Sprintf("must agree with gateway.name; has %d bytes, the name's id is another", len(id)),
		}}
	}
	g.Name = name
	return nil
}

// GetGateway implements GatewayService.
func (s *gateways) GetGateway(ctx context.Context, req *leaseholdv1.GetGatewayRequest) (*leaseholdv1.GetGatewayResponse, error) {
	id, err := gatewayID("name", req.GetName())
	if err != nil {
		return nil, err
	}
	g, err := s.store.GetGateway(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := s.observe(ctx, id, g); err != nil {
		return nil, err
	}
	return &leaseholdv1.GetGatewayResponse{Gateway: g}, nil
}

func gatewayRule(name string) string {
	return fmt.Sprintf("must be gateways/{gateway} with an id of 1 to %d characters; has %d bytes", gateway.MaxIDLength, len(name))
}

func gatewayID(field, name string) (string, error) {
	id, ok := gateway.ParseName(name)
	if !ok {
		return "", invalid(field, gatewayRule(name))
	}
	return id, nil
}

// ListGateways implements GatewayService.
func (s *gateways) ListGateways(ctx context.Context, req *leaseholdv1.ListGatewaysRequest) (*leaseholdv1.ListGatewaysResponse, error) {
	var c check
	q := gateway.Query{Size: pageSize(&c, req.GetPageSize())}
	q.Filter = c.gatewayFilter(req.GetFilter())
	cur := newCursor("gateways", req.GetFilter())
	q.After = cur.after(&c, req.GetPageToken(), gateway.ValidID)
	if err := c.err(); err != nil {
		return nil, err
	}
	page, last, more, err := s.store.ListGateways(ctx, q)
	if err != nil {
		return nil, err
	}
	if kept := fitting(page); len(kept) < len(page) {
		page, more = kept, true
		last, _ = gateway.ParseName(page[len(page)-1].Name)
	}
	resp := &leaseholdv1.ListGatewaysResponse{Gateways: page}
	if more {
		cur.After = last
		resp.NextPageToken = cur.token()
	}
	return resp, nil
}

// WatchGateways implements GatewayService.
func (s *gateways) WatchGateways(req *leaseholdv1.WatchGatewaysRequest, stream grpc.ServerStreamingServer[leaseholdv1.WatchGatewaysResponse]) error {
	var c check
	c.notNegative("revision", req.GetRevision())
	f := c.gatewayFilter(req.GetFilter())
	if err := c.err(); err != nil {
		return err
	}
	return serveWatch(s.watches, stream, func(ctx context.Context, send func(*leaseholdv1.WatchGatewaysResponse) error) error {
		return s.store.WatchGateways(ctx, req.GetRevision(), f, func(c store.Change[*leaseholdv1.Gateway]) error {
			return send(&leaseholdv1.WatchGatewaysResponse{Type: c.Type, Gateway: c.Resource, Revision: c.Revision})
		})
	})
}

// fitting returns as much of page as a response may hold, at least one.
func fitting[M proto.Message](page []M) []M {
	size := 0
	for i, m := range page {
		if size += proto.Size(m); size > maxPageBytes && i > 0 {
			return page[:i]
		}
	}
	return page
}

// UpdateGateway implements GatewayService.
func (s *gateways) UpdateGateway(ctx context.Context, req *leaseholdv1.UpdateGatewayRequest) (*leaseholdv1.UpdateGatewayResponse, error) {
	change, mask := req.GetGateway(), req.GetUpdateMask()
	if change == nil {
		return nil, gateway.Validate(nil)
	}
	violations := append(checkWait(req), gateway.CheckMask(mask)...)
	id, err := gatewayID("gateway.name", change.GetName())
	if err != nil {
		violations = append(violations, gateway.Violation{Field: "gateway.name", Description: gatewayRule(change.GetName())})
	}
	if err := violations.Err(); err != nil {
		return nil, err
	}
	var before *leaseholdv1.Gateway
	apply := func(stored *leaseholdv1.Gateway) (*leaseholdv1.Gateway, error) {
		before = proto.CloneOf(stored)
		next := gateway.Apply(stored, change, mask)
		return next, gateway.Validate(next).Err()
	}
	if req.GetValidateOnly() {
		next, err := s.wouldUpdate(ctx, id, change.GetEtag(), apply)
		if err != nil {
			return nil, err
		}
		audit.Of(ctx).Changed(before, next)
		return &leaseholdv1.UpdateGatewayResponse{Gateway: next}, nil
	}
	write, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	stored, err := s.store.UpdateGateway(write, id, change.GetEtag(), apply)
	if err != nil {
		return nil, err
	}
	audit.Of(ctx).Changed(before, stored)
	if err := awaitApplied(ctx, s.hub, req, stored.GetName(), stored.GetStatus()); err != nil {
		return nil, err
	}
	return &leaseholdv1.UpdateGatewayResponse{Gateway: stored}, nil
}

// DeleteGateway implements GatewayService.
func (s *gateways) DeleteGateway(ctx context.Context, req *leaseholdv1.DeleteGatewayRequest) (*leaseholdv1.DeleteGatewayResponse, error) {
	id, err := gatewayID("name", req.GetName())
	if err != nil {
		return nil, err
	}
	if err := checkWait(req).Err(); err != nil {
		return nil, err
	}
	write, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	deleted, err := s.store.DeleteGateway(write, id, req.GetEtag())
	if err != nil {
		return nil, err
	}
	audit.Of(ctx).Deleted(deleted)
	if err := awaitApplied(ctx, s.hub, req, req.GetName(), &leaseholdv1.GatewayStatus{Revision: deleted.GetStatus().GetRevision()}); err != nil {
		return nil, err
	}
	return &leaseholdv1.DeleteGatewayResponse{}, nil
}
