package forward

import (
	"context"
	"net"

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
// connection; nil means plaintext.
func Probe(ctx context.Context, address net.Addr, creds credentials.TransportCredentials) error {
	conn, err := grpc.NewClient("passthrough:///"+address.String(),
		grpc.WithTransportCredentials(orPlaintext(creds)),
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
	return err
}
