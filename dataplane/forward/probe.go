package forward

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Loop is what serves; it hangs when it does not turn.
type Loop interface {
	// Turn returns nil once the loop has gone round, or an error when it has not
	// until ctx ends.
	Turn(ctx context.Context) error
}

// Proves makes Probe ask whether loop turns. Call it before Serve.
func (s *Server) Proves(loop Loop) { s.loop = loop }

// Probe implements leaseholdv1.PeerServiceServer.
func (s *Server) Probe(ctx context.Context, _ *leaseholdv1.ProbeRequest) (*leaseholdv1.ProbeResponse, error) {
	if s.loop == nil {
		return nil, status.Error(codes.Unimplemented, "this worker has no loop to ask")
	}
	if err := s.loop.Turn(ctx); err != nil {
		return nil, status.Error(codes.DeadlineExceeded, err.Error())
	}
	return &leaseholdv1.ProbeResponse{}, nil
}

// Probe asks the server that listens at address, over a connection of its own,
// whether it serves. An established connection would not show that the listener
// takes no more of them. An unspecified address is this machine's. creds secure the
// connection; nil means plaintext. ErrCertificate: the listener is there, and shows a
// certificate that is not good.
func Probe(ctx context.Context, address net.Addr, creds credentials.TransportCredentials) error {
	seen := &seen{TransportCredentials: orPlaintext(creds)}
	conn, err := grpc.NewClient("passthrough:///"+address.String(),
		grpc.WithTransportCredentials(seen),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			var dialer net.Dialer
			return dialer.DialContext(ctx, address.Network(), address.String())
		}),
	)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = leaseholdv1.NewPeerServiceClient(conn).Probe(ctx, &leaseholdv1.ProbeRequest{})
	if err != nil && seen.bad.Load() {
		return fmt.Errorf("%w: %w", ErrCertificate, err)
	}
	return err
}

// ErrCertificate says that a listener shows a certificate that is not good, because
// it has expired or is of another authority.
var ErrCertificate = errors.New("the listener's certificate is not good")

// seen is credentials that note whether a server's certificate is not good.
type seen struct {
	credentials.TransportCredentials
	bad atomic.Bool
}

// ClientHandshake implements credentials.TransportCredentials.
func (s *seen) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := s.TransportCredentials.ClientHandshake(ctx, authority, raw)
	var bad *tls.CertificateVerificationError
	if errors.As(err, &bad) {
		s.bad.Store(true)
	}
	return conn, info, err
}

// Clone implements credentials.TransportCredentials.
func (s *seen) Clone() credentials.TransportCredentials { return s }
