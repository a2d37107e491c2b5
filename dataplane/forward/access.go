package forward

import (
	"context"
	"slices"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Caller is who makes a call, by the certificate of its connection.
type Caller interface {
	// Role is what the caller is: worker, controlplane, …
	Role() string
	// Name tells callers of one role apart.
	Name() string
}

// Roles that call.
const (
	roleWorker       = "worker"
	roleControlPlane = "controlplane"
)

// rules are the roles that may call each method of the listener. A method without
// a rule is for nobody. Workers believe each other in what they pass on: the
// principal of a forwarded request is the front's word.
var rules = map[string][]string{
	leaseholdv1.PeerService_Forward_FullMethodName:          {roleWorker},
	leaseholdv1.PeerService_Probe_FullMethodName:            {roleWorker},
	leaseholdv1.PeerService_HandOver_FullMethodName:         {roleWorker},
	leaseholdv1.PeerService_Witness_FullMethodName:          {roleWorker},
	leaseholdv1.PeerService_Locate_FullMethodName:           {roleWorker},
	leaseholdv1.PeerService_ObserveLoad_FullMethodName:      {roleWorker, roleControlPlane},
	leaseholdv1.PeerService_ObserveSessions_FullMethodName:  {roleControlPlane},
	leaseholdv1.PeerService_HandOverNow_FullMethodName:      {roleControlPlane},
	leaseholdv1.PeerService_ObserveUpstreams_FullMethodName: {roleControlPlane},
	leaseholdv1.PeerService_InspectNow_FullMethodName:       {roleControlPlane},
}

// access lets callers do what the rules say, and nothing else.
type access struct{ log hclog.Logger }

// secure are the options of a server that has callers prove who they are; without
// credentials there are none.
func secure(creds credentials.TransportCredentials, log hclog.Logger) []grpc.ServerOption {
	if creds == nil {
		return nil
	}
	a := access{log: log}
	return []grpc.ServerOption{grpc.Creds(creds), grpc.ChainUnaryInterceptor(a.unary), grpc.ChainStreamInterceptor(a.stream)}
}

func (a access) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	if err := a.admit(ctx, info.FullMethod); err != nil {
		return nil, err
	}
	return handle(ctx, req)
}

func (a access) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	if err := a.admit(stream.Context(), info.FullMethod); err != nil {
		return err
	}
	return handle(srv, stream)
}

// admit says why the caller may not call a method; what somebody tried who may
// not is logged.
func (a access) admit(ctx context.Context, method string) error {
	from, role, name := "unknown", "", ""
	if p, ok := grpcpeer.FromContext(ctx); ok {
		from = p.Addr.String()
		if caller, ok := p.AuthInfo.(Caller); ok {
			role, name = caller.Role(), caller.Name()
		}
	}
	if role != "" && slices.Contains(rules[method], role) {
		return nil
	}
	a.log.Warn("call was refused", "method", method, "role", role, "name", name, "from", from)
	return status.Error(codes.PermissionDenied, "the certificate's role may not call this")
}
