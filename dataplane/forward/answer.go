package forward

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/leasehold/leasehold/dataplane/sessionid"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Self is what this worker says of itself to others. It is safe for concurrent use.
type Self interface {
	// Await reports whether incarnation may dispatch now, or in a moment.
	Await(incarnation int64) bool
	// Witness says whether this worker could have taken sessions over, and when it
	// could next.
	Witness() *leaseholdv1.WitnessResponse
	// Load says how much this worker has to do.
	Load() *leaseholdv1.ObserveLoadResponse
}

// Knows makes the server answer what others ask of this worker. Call it before Serve.
func (s *Server) Knows(self Self) { s.self = self }

var errUnknown = status.Error(codes.Unimplemented, "this worker says nothing of itself")

// Witness implements leaseholdv1.PeerServiceServer.
func (s *Server) Witness(context.Context, *leaseholdv1.WitnessRequest) (*leaseholdv1.WitnessResponse, error) {
	if s.self == nil {
		return nil, errUnknown
	}
	return s.self.Witness(), nil
}

// Locate implements leaseholdv1.PeerServiceServer. A session that this worker may not
// dispatch for is not its own as far as it can tell.
func (s *Server) Locate(_ context.Context, r *leaseholdv1.LocateRequest) (*leaseholdv1.LocateResponse, error) {
	if n := len(r.GetSession()); n != len(sessionid.Digest{}) {
		return nil, status.Errorf(codes.InvalidArgument, "session: %d bytes, want %d", n, len(sessionid.Digest{}))
	}
	if s.self == nil {
		return nil, errUnknown
	}
	owned, ok := s.owner.Find(sessionid.Digest(r.GetSession()))
	if !ok || !s.self.Await(owned.Incarnation()) {
		return &leaseholdv1.LocateResponse{}, nil
	}
	return &leaseholdv1.LocateResponse{Owned: true, Incarnation: owned.Incarnation(), Epoch: owned.Epoch()}, nil
}

// ObserveLoad implements leaseholdv1.PeerServiceServer.
func (s *Server) ObserveLoad(context.Context, *leaseholdv1.ObserveLoadRequest) (*leaseholdv1.ObserveLoadResponse, error) {
	if s.self == nil {
		return nil, errUnknown
	}
	return s.self.Load(), nil
}
