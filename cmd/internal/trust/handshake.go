package trust

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"time"

	"google.golang.org/grpc/credentials"
)

const (
	// handshakeLimit bounds a handshake.
	handshakeLimit = 10 * time.Second
	// http2 is what is spoken over the connections.
	http2 = "h2"
)

// Peer is who is at the other end of a connection.
type Peer struct {
	credentials.CommonAuthInfo
	identity Identity
}

// AuthType implements credentials.AuthInfo.
func (Peer) AuthType() string { return "tls" }

// Role returns the role in the other end's certificate.
func (p Peer) Role() string { return string(p.identity.Role) }

// Name returns the name in the other end's certificate.
func (p Peer) Name() string { return p.identity.Name }

// base is what both kinds of credentials have in common.
type base struct{}

// Info implements credentials.TransportCredentials.
func (base) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// OverrideServerName implements credentials.TransportCredentials.
func (base) OverrideServerName(string) error { return errors.New("not supported") }

var errNotThisSide = errors.New("the credentials are for the other side of a connection")

// server is the credentials of a listener.
type server struct {
	base
	files *Files
}

// Clone implements credentials.TransportCredentials.
func (s *server) Clone() credentials.TransportCredentials { return s }

// ClientHandshake implements credentials.TransportCredentials.
func (s *server) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errNotThisSide
}

// ServerHandshake implements credentials.TransportCredentials.
func (s *server) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	var identity Identity
	conn := tls.Server(raw, &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{http2},
		Certificates:           []tls.Certificate{*s.files.pair.Certificate()},
		ClientAuth:             tls.RequireAndVerifyClientCert,
		ClientCAs:              s.files.authorities.Pool(),
		SessionTicketsDisabled: true, // each connection proves itself anew
		VerifyConnection: func(state tls.ConnectionState) (err error) {
			identity, err = Identify(state.PeerCertificates[0])
			return err
		},
	})
	if err := shake(context.Background(), conn); err != nil {
		s.files.refuse(raw.RemoteAddr(), err)
		return nil, nil, err
	}
	return secured{conn, raw}, peer(identity), nil
}

// client is the credentials for dialing.
type client struct {
	base
	files *Files
	// verify says why a certificate of the authorities is not that of the server
	// that was dialled as host.
	verify func(host string, leaf *x509.Certificate) error
}

// Clone implements credentials.TransportCredentials.
func (c *client) Clone() credentials.TransportCredentials { return c }

// ServerHandshake implements credentials.TransportCredentials.
func (c *client) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errNotThisSide
}

// ClientHandshake implements credentials.TransportCredentials.
func (c *client) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	host, _, err := net.SplitHostPort(authority)
	if err != nil {
		host = authority
	}
	var identity Identity
	conn := tls.Client(raw, &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{http2},
		ServerName: host,
		// Otherwise nothing would be shown to a server that names other authorities,
		// and it could not say what is wrong.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return c.files.pair.Certificate(), nil
		},
		InsecureSkipVerify: true, // VerifyConnection does it, with a role for a name
		VerifyConnection: func(state tls.ConnectionState) error {
			leaf := state.PeerCertificates[0]
			if err := c.files.chain(state.PeerCertificates); err != nil {
				return err
			}
			identity, _ = Identify(leaf) // verify says whether it is needed
			return c.verify(host, leaf)
		},
	})
	if err := shake(ctx, conn); err != nil {
		return nil, nil, err
	}
	return secured{conn, raw}, peer(identity), nil
}

// chain verifies that a server's certificate is one of the authorities'.
func (f *Files) chain(presented []*x509.Certificate) error {
	between := x509.NewCertPool()
	for _, cert := range presented[1:] {
		between.AddCert(cert)
	}
	_, err := presented[0].Verify(x509.VerifyOptions{
		Roots: f.authorities.Pool(), Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err != nil {
		return &tls.CertificateVerificationError{UnverifiedCertificates: presented, Err: err}
	}
	return nil
}

func shake(ctx context.Context, conn *tls.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, handshakeLimit)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		return err
	}
	if got := conn.ConnectionState().NegotiatedProtocol; got != http2 {
		return errors.New("the other end does not speak HTTP/2")
	}
	return nil
}

func peer(identity Identity) Peer {
	return Peer{CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}, identity: identity}
}

// secured is a connection that closes as its socket does, without the alert that
// TLS would send first: whoever looks at the other end's socket sees at once that
// it was closed, and a close never waits for one who does not read. What the alert
// would tell, that nothing was cut off, HTTP/2 tells by itself.
type secured struct {
	*tls.Conn
	raw net.Conn
}

// Close closes the socket.
func (c secured) Close() error { return c.raw.Close() }

// refuse counts and logs a handshake that failed. One who came and went without a
// word, as load balancers do to see whether a port is open, is not worth a line.
func (f *Files) refuse(from net.Addr, err error) {
	if errors.Is(err, io.EOF) {
		f.logger.Debug("connection was closed before its handshake", "from", from.String())
		return
	}
	f.refused.Inc()
	if f.lines.Allow() {
		f.logger.Warn("connection refused: the other end did not prove who it is", "from", from.String(), "error", err)
	}
}
