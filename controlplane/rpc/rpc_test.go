package rpc

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/leasehold/leasehold/controlplane/gateway"
	"github.com/leasehold/leasehold/controlplane/session"
	"github.com/leasehold/leasehold/controlplane/store"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func TestToStatus(t *testing.T) {
	tests := []struct {
		err    error
		code   codes.Code
		reason string
	}{
		{session.ErrHeld, codes.FailedPrecondition, "HELD"},
		{session.ErrStale, codes.Aborted, "STALE"},
		{session.ErrEnded, codes.FailedPrecondition, "ENDED"},
		{session.ErrNotAlive, codes.FailedPrecondition, "NOT_ALIVE"},
		{session.ErrOwnerAlive, codes.FailedPrecondition, "OWNER_ALIVE"},
		{session.ErrTargetNotAlive, codes.FailedPrecondition, "TARGET_NOT_ALIVE"},
		{session.ErrOwnerUncertain, codes.FailedPrecondition, "OWNER_UNCERTAIN"},
		{session.ErrHolding, codes.Unavailable, "HOLDING"},
		{session.ErrWorkerAlive, codes.FailedPrecondition, "ALIVE"},
		{store.ErrTooManyPeers, codes.ResourceExhausted, "TOO_MANY_PEERS"},
		{session.ErrCondemned, codes.FailedPrecondition, "CONDEMNED"},
		{session.ErrLeaseLost, codes.NotFound, "LEASE_LOST"},
		{session.ErrForeign, codes.PermissionDenied, "NOT_YOUR_WORKER"},
		{errForbidden, codes.PermissionDenied, "ROLE_NOT_ALLOWED"},
		{session.ErrNotFound, codes.NotFound, "SESSION_NOT_FOUND"},
		{gateway.ErrETagMismatch, codes.Aborted, "ETAG_MISMATCH"},
		{gateway.Violations{{Field: "f", Description: "d"}}, codes.InvalidArgument, "INVALID_ARGUMENT"},
		{fmt.Errorf("%w: %w", gateway.ErrLocked, gateway.Violations{{Field: "f", Description: "d"}}), codes.FailedPrecondition, "SECRETS_LOCKED"},
		{store.ErrOtherRootKey, codes.FailedPrecondition, "OTHER_ROOT_KEY"},
		{store.ErrBusy, codes.ResourceExhausted, "TOO_MANY_WAITING"},
		{store.ErrUnavailable, codes.Unavailable, "STORE_UNAVAILABLE"},
		{store.ErrCompacted, codes.OutOfRange, "COMPACTED"},
		{store.ErrFutureRevision, codes.OutOfRange, "FUTURE_REVISION"},
		{fmt.Errorf("%w: %w", store.ErrUnavailable, context.DeadlineExceeded), codes.Unavailable, "STORE_UNAVAILABLE"},
		{context.DeadlineExceeded, codes.DeadlineExceeded, "DEADLINE_EXCEEDED"},
		{context.Canceled, codes.Canceled, "CANCELED"},
		{errors.New("etcdserver: secret"), codes.Internal, "INTERNAL"},
	}
	for _, tt := range tests {
		st := status.Convert(toStatus(fmt.Errorf("etcd txn /leasehold/v1/secret: %w", tt.err)))
		reason, retry := "", false
		for _, d := range st.Details() {
			switch d := d.(type) {
			case *errdetails.ErrorInfo:
				reason = d.Reason
			case *errdetails.RetryInfo:
				retry = d.RetryDelay.AsDuration() > 0
			}
		}
		if st.Code() != tt.code || reason != tt.reason {
			t.Errorf("%v: got %v %q, want %v %q", tt.err, st.Code(), reason, tt.code, tt.reason)
		}
		if retry != (tt.code == codes.Unavailable) {
			t.Errorf("%v: says when to retry: %v", tt.err, retry)
		}
		if strings.Contains(st.Message(), "secret") {
			t.Errorf("%v: the caller is told %q", tt.err, st.Message())
		}
	}
	if toStatus(nil) != nil {
		t.Error("no error has a status")
	}
}

func TestPanicEndsTheCallOnlyAndIsLogged(t *testing.T) {
	var out strings.Builder
	i := interceptor{log: hclog.New(&hclog.LoggerOptions{Output: &out})}
	info := &grpc.UnaryServerInfo{FullMethod: leaseholdv1.GatewayService_GetGateway_FullMethodName}
	_, err := i.unary(t.Context(), nil, info, func(context.Context, any) (any, error) { panic("the cause") })
	if status.Code(err) != codes.Internal || strings.Contains(err.Error(), "the cause") {
		t.Errorf("got %v, want INTERNAL without the cause", err)
	}
	if !strings.Contains(out.String(), "the cause") {
		t.Errorf("log has no cause: %s", out.String())
	}
	_, err = i.unary(t.Context(), nil, info, func(context.Context, any) (any, error) { return nil, errors.New("another cause") })
	if status.Code(err) != codes.Internal || !strings.Contains(out.String(), "another cause") {
		t.Errorf("got %v, log %s; want INTERNAL with the cause in the log", err, out.String())
	}
}

// That a replica holds is said once, and not for each of the reclaims that it refuses.
func TestAHeldCallIsNoNews(t *testing.T) {
	var out strings.Builder
	i := interceptor{log: hclog.New(&hclog.LoggerOptions{Output: &out, Level: hclog.Info})}
	info := &grpc.UnaryServerInfo{FullMethod: leaseholdv1.ControlService_Reclaim_FullMethodName}
	_, err := i.unary(t.Context(), nil, info, func(context.Context, any) (any, error) { return nil, session.ErrHolding })
	if status.Code(err) != codes.Unavailable || out.Len() > 0 {
		t.Errorf("got %v, log %q; want UNAVAILABLE and nothing in the log", err, out.String())
	}
}

func TestEveryCallIsBounded(t *testing.T) {
	i := interceptor{log: hclog.NewNullLogger()}
	for method, want := range map[string]bool{
		leaseholdv1.ControlService_Claim_FullMethodName:            false,
		leaseholdv1.SessionService_TerminateSession_FullMethodName: true,
		leaseholdv1.SessionService_MoveSession_FullMethodName:      true,
	} {
		_, err := i.unary(t.Context(), nil, &grpc.UnaryServerInfo{FullMethod: method}, func(ctx context.Context, _ any) (any, error) {
			deadline, ok := ctx.Deadline()
			if !ok || timeout(method) == waitTimeout != want {
				t.Errorf("%s: deadline %v, %v", method, deadline, ok)
			}
			return nil, nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

func FuzzPageToken(f *testing.F) {
	cur := newCursor("gateways", "labels.a:*")
	f.Add(cursor{Kind: "gateways", Scope: cur.Scope, After: "a"}.token())
	f.Add("e30")
	f.Fuzz(func(t *testing.T, token string) {
		var c check
		after := cur.after(&c, token, gateway.ValidID)
		if c.err() == nil && token != "" && !gateway.ValidID(after) {
			t.Errorf("token %q gives %q", token, after)
		}
	})
}
