package rpc

import (
	"context"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

const (
	// requestTimeout bounds a call that only asks the store.
	requestTimeout = 10 * time.Second
	// terminateTimeout bounds a call that waits for a session to end.
	terminateTimeout = 15 * time.Second
	// ourMethods begins the names of the methods whose errors are ours.
	ourMethods = "/leasehold.v1."
)

// interceptor bounds, guards and logs every call, and turns errors into status.
type interceptor struct{ log hclog.Logger }

func (i interceptor) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (resp any, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout(info.FullMethod))
	defer cancel()
	err = i.guard(info.FullMethod, func() error {
		resp, err = handle(ctx, req)
		return err
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

func (i interceptor) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	return i.guard(info.FullMethod, func() error { return handle(srv, stream) })
}

func timeout(method string) time.Duration {
	if method == leaseholdv1.SessionService_TerminateSession_FullMethodName {
		return terminateTimeout
	}
	return requestTimeout
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
	case codes.Internal:
		i.log.Error("call failed", "method", method, "cause", cause)
	case codes.Unavailable, codes.DeadlineExceeded, codes.ResourceExhausted:
		i.log.Warn("call was not served", "method", method, "cause", cause)
	default:
		i.log.Debug("call was refused", "method", method, "cause", cause)
	}
	return err
}
