package rpc

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/leasehold/leasehold/controlplane/publish"
	"github.com/leasehold/leasehold/controlplane/session"
	"github.com/leasehold/leasehold/controlplane/store"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

const (
	// requestTimeout bounds a call that only asks the store.
	requestTimeout = 10 * time.Second
	// waitTimeout bounds a call that waits for a session to end, or to be moved.
	waitTimeout = 15 * time.Second
	// ourMethods begins the names of the methods whose errors are ours.
	ourMethods = "/leasehold.v1."
)

// interceptor bounds, guards and logs every call, and turns errors into status.
type interceptor struct{ log hclog.Logger }

func (i interceptor) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (resp any, err error) {
	caller := ctx
	ctx, cancel := context.WithTimeout(ctx, timeout(info.FullMethod)+waitOf(req))
	defer cancel()
	err = i.guard(info.FullMethod, func() error {
		resp, err = handle(ctx, req)
		if errors.Is(err, context.DeadlineExceeded) && caller.Err() == nil && !waits(info.FullMethod) {
			// The bound is ours: it is the store that did not answer in time.
			err = fmt.Errorf("%w: %w", store.ErrUnavailable, err)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return shown(info.FullMethod, resp), nil
}

func (i interceptor) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	stream = shownStream{stream, info.FullMethod}
	return i.guard(info.FullMethod, func() error { return handle(srv, stream) })
}

func timeout(method string) time.Duration {
	switch {
	case method == leaseholdv1.GatewayService_InspectGateway_FullMethodName:
		return inspectTimeout
	case waits(method):
		return waitTimeout
	}
	return requestTimeout
}

// waits reports whether a method waits for others than the store.
func waits(method string) bool {
	return method == leaseholdv1.SessionService_TerminateSession_FullMethodName ||
		method == leaseholdv1.SessionService_MoveSession_FullMethodName ||
		method == leaseholdv1.GatewayService_InspectGateway_FullMethodName
}

// guard runs one call. A panic ends the call and nothing else.
func (i interceptor) guard(method string, call func() error) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			i.log.Error("call panicked", "method", method, "cause", fmt.Sprint(cause), "stack", string(debug.Stack()))
			err = toStatus(fmt.Errorf("panic: %v", cause))
		}
	}()
	cause := call()
	if cause == nil || !strings.HasPrefix(method, ourMethods) {
		return cause
	}
	err = toStatus(cause)
	switch status.Code(err) {
	case codes.Unavailable, codes.ResourceExhausted:
		if errors.Is(cause, publish.ErrStopped) || errors.Is(cause, errSlowReader) {
			i.log.Debug("stream was ended", "method", method, "cause", cause)
			return err
		}
		if errors.Is(cause, session.ErrHolding) { // it was said when that began
			i.log.Debug("call was held", "method", method, "cause", cause)
			return err
		}
		i.log.Warn("call was not served", "method", method, "cause", cause)
	case codes.Internal:
		i.log.Error("call failed", "method", method, "cause", cause)
	case codes.DeadlineExceeded:
		i.log.Warn("call was not served", "method", method, "cause", cause)
	case codes.PermissionDenied:
		i.log.Warn("call was refused", "method", method, "cause", cause)
	default:
		i.log.Debug("call was refused", "method", method, "cause", cause)
	}
	return err
}
