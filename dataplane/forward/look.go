package forward

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Looker tells operators how the upstreams of gateways are.
type Looker interface {
	// Upstreams says what is known of the upstreams of a gateway.
	Upstreams(gateway string) *leaseholdv1.ObserveUpstreamsResponse
	// Inspect connects to the upstreams of a gateway and says what it finds. It waits for
	// a moment for the definition of that revision. ErrUnknownGateway, ErrTooMany.
	Inspect(ctx context.Context, gateway string, revision int64) (*leaseholdv1.InspectNowResponse, error)
}

var (
	// ErrUnknownGateway says that a worker does not know a gateway.
	ErrUnknownGateway = errors.New("this worker does not know the gateway")
	// ErrTooMany says that a worker makes as many inspections as it may.
	ErrTooMany = errors.New("this worker makes as many inspections as it may at a time")
)

// Looks says who tells operators how upstreams are. It is called before Serve.
func (s *Server) Looks(l Looker) { s.looker = l }

// ObserveUpstreams implements leaseholdv1.PeerServiceServer.
func (s *Server) ObserveUpstreams(_ context.Context, r *leaseholdv1.ObserveUpstreamsRequest) (*leaseholdv1.ObserveUpstreamsResponse, error) {
	return s.looker.Upstreams(r.GetGateway()), nil
}

// InspectNow implements leaseholdv1.PeerServiceServer.
func (s *Server) InspectNow(ctx context.Context, r *leaseholdv1.InspectNowRequest) (*leaseholdv1.InspectNowResponse, error) {
	found, err := s.looker.Inspect(ctx, r.GetGateway(), r.GetRevision())
	switch {
	case err == nil:
		return found, nil
	case errors.Is(err, ErrUnknownGateway):
		return nil, withReason(codes.FailedPrecondition, "NOT_APPLIED", err)
	case errors.Is(err, ErrTooMany):
		return nil, withReason(codes.ResourceExhausted, "TOO_MANY_INSPECTIONS", err)
	}
	return nil, status.FromContextError(err).Err()
}
