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
	"google.golang.org/grpc/credentials"
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
// connection, with creds or, if they are nil, in plaintext. It takes at most three seconds to find that none does, which is
// an UnreachableError. The caller closes the connection.
func Dial(ctx context.Context, control []string, creds credentials.TransportCredentials) (*grpc.ClientConn, error) {
	var last error
	for _, addr := range control {
		conn, err := dialOne(ctx, addr, creds, reach/time.Duration(len(control)))
		if err == nil {
			return conn, nil
		}
		last = err
	}
	return nil, &UnreachableError{Control: control, Err: last}
}

func dialOne(ctx context.Context, addr string, creds credentials.TransportCredentials, limit time.Duration) (*grpc.ClientConn, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	// gRPC does not say why it could not connect, so one connection is made
	// for the reason alone.
	if err := probe(ctx, addr, creds); err != nil {
		return nil, err
	}
	secure, mode := creds, "over TLS"
	if creds == nil {
		secure, mode = insecure.NewCredentials(), "without TLS"
	}
	conn, err := grpc.NewClient("passthrough:///"+addr,
		grpc.WithTransportCredentials(secure),
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
			return nil, fmt.Errorf("what listens there does not speak gRPC (%s)", mode)
		}
		if !conn.WaitForStateChange(ctx, state) {
			_ = conn.Close()
			return nil, errors.New("what listens there does not answer")
		}
	}
}

// probe makes a connection and returns why that fails. A server tells what it has
// against a certificate when the client takes the handshake for done, so the first
// byte that it says is waited for.
func probe(ctx context.Context, addr string, creds credentials.TransportCredentials) error {
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return reason(err)
	}
	defer raw.Close()
	if creds == nil {
		return nil
	}
	defer context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })()
	conn, _, err := creds.ClientHandshake(ctx, addr, raw)
	if err == nil {
		defer conn.Close()
		_, err = conn.Read(make([]byte, 1))
	}
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("no connection over TLS: %w", err)
	}
	return nil // if it was too slow, the connection that counts will be too
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

// Secure returns the credentials for a connection. It is asked for each one, since who
// follows the control plane for long may outlive a certificate. Nil means plaintext.
type Secure func() (credentials.TransportCredentials, error)

func (s Secure) dial(ctx context.Context, addresses []string) (*grpc.ClientConn, error) {
	if s == nil {
		return Dial(ctx, addresses, nil)
	}
	creds, err := s()
	if err != nil {
		return nil, err
	}
	return Dial(ctx, addresses, creds)
}
