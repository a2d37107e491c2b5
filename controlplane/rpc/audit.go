package rpc

import (
	"context"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/leasehold/leasehold/controlplane/audit"
	"github.com/leasehold/leasehold/controlplane/gateway"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

const (
	// requestIDHeader is the metadata by which callers tell their calls apart.
	requestIDHeader = "x-request-id"
	// maxAudited bounds what a line has of what the caller says.
	maxAudited = 256
)

// looking begins the names of methods that change nothing.
var looking = []string{"Get", "List", "Watch", "Inspect"}

// changes reports whether a method is one by which operators change something: all of
// our services but what workers call, and the methods that only look.
func changes(method string) bool {
	if !strings.HasPrefix(method, ourMethods) || strings.HasPrefix(method, workersOnly) {
		return false
	}
	name := method[strings.LastIndexByte(method, '/')+1:]
	for _, prefix := range looking {
		if strings.HasPrefix(name, prefix) {
			return false
		}
	}
	return true
}

// auditor has each call that changes something in the audit log before it is answered,
// also one that is refused. While the log cannot be written nothing is changed.
type auditor struct{ log *audit.Log }

func (a auditor) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	if !changes(info.FullMethod) {
		return handle(ctx, req)
	}
	if err := a.log.Ready(); err != nil {
		return nil, toStatus(err)
	}
	e := newEntry(ctx, req, info.FullMethod)
	resp, err := handle(audit.With(ctx, e), req)
	e.Code, e.Reason = told(err)
	if failed := a.log.Write(e); failed != nil {
		return nil, toStatus(failed)
	}
	return resp, err
}

// newEntry returns what is known of a call when it comes.
func newEntry(ctx context.Context, req any, method string) *audit.Entry {
	e := &audit.Entry{Time: time.Now().UTC(), Method: method, Resource: cut(resource(req))}
	if ids := metadata.ValueFromIncomingContext(ctx, requestIDHeader); len(ids) > 0 {
		e.RequestID = cut(ids[0])
	}
	if p, ok := peer.FromContext(ctx); ok {
		e.Address = p.Addr.String()
		if caller, ok := p.AuthInfo.(Caller); ok {
			e.Role, e.Name = caller.Role(), caller.Name()
		}
	}
	if r, ok := req.(interface{ GetValidateOnly() bool }); ok {
		e.ValidateOnly = r.GetValidateOnly()
	}
	return e
}

// resource returns the name of what a request would change, as it says it.
func resource(req any) string {
	switch r := req.(type) {
	case interface{ GetName() string }:
		return r.GetName()
	case *leaseholdv1.CreateGatewayRequest:
		if r.GetGateway().GetName() == "" && r.GetGatewayId() != "" {
			return gateway.Name(r.GetGatewayId())
		}
		return r.GetGateway().GetName()
	case interface{ GetGateway() *leaseholdv1.Gateway }:
		return r.GetGateway().GetName()
	}
	return ""
}

// told returns the code and the reason that a caller gets with err.
func told(err error) (string, string) {
	st := status.Convert(err)
	for _, detail := range st.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return code.Code(st.Code()).String(), info.GetReason()
		}
	}
	return code.Code(st.Code()).String(), ""
}

func cut(s string) string { return s[:min(len(s), maxAudited)] }
