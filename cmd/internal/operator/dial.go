// Package operator is how the operator's verbs reach the control plane, and how
// they tell people what it answered.
package operator

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
)

// reach is how long the control plane may take to accept a connection, all of
// its addresses together.
const reach = 3 * time.Second

// UnreachableError says that no replica of the control plane accepted a connection.
type UnreachableError struct {
	// Control are the addresses that were tried.
	Control []string
	// Err is why the last one failed.
	Err error
}

// Error names the addresses and what to check.
func (e *UnreachableError) Error() string {
	return fmt.Sprintf("cannot reach the control plane at %s: %v\n"+
		"check that `leasehold dev` or `leasehold controlplane` runs there, and the address: --control or $LEASEHOLD_CONTROL",
		strings.Join(e.Control, ", "), e.Err)
}

// Unwrap returns why the last address failed.
func (e *UnreachableError) Unwrap() error { return e.Err }

// Dial connects to the first of the control plane's addresses that accepts a
// connection. It takes at most three seconds to find that none does, which is
// an UnreachableError. The caller closes the connection.
func Dial(ctx context.Context, control []string) (*grpc.ClientConn, error) {
	var last error
	for _, addr := range control {
		conn, err := dialOne(ctx, addr, reach/time.Duration(len(control)))
		if err == nil {
			return conn, nil
		}
		last = err
	}
	return nil, &UnreachableError{Control: control, Err: last}
}

func dialOne(ctx context.Context, addr string, limit time.Duration) (*grpc.ClientConn, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	// gRPC does not say why it could not connect, so one connection is made
	// for the reason alone.
	probe, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, reason(err)
	}
	_ = probe.Close()
	conn, err := grpc.NewClient("passthrough:///"+addr,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		// Longer than limit, or its end would look like an answer that is no gRPC.
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: 2 * limit}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 3 * time.Second, PermitWithoutStream: true}),
	)
	if err != nil {
		return nil, err
	}
	conn.Connect()
	for {
		state := conn.GetState()
		switch state {
		case connectivity.Ready:
			return conn, nil
		case connectivity.TransientFailure, connectivity.Shutdown:
			_ = conn.Close()
			return nil, errors.New("what listens there does not speak gRPC (without TLS)")
		}
		if !conn.WaitForStateChange(ctx, state) {
			_ = conn.Close()
			return nil, errors.New("what listens there does not answer")
		}
	}
}

// reason leaves only what a person can act on.
func reason(err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Timeout() {
		return errors.New("no answer")
	}
	if errors.As(err, &op) {
		if text := op.Err.Error(); strings.HasPrefix(text, "connect: ") {
			return errors.New(strings.TrimPrefix(text, "connect: "))
		}
		return op.Err
	}
	return err
}
