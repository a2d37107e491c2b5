package trust

import (
	"context"
	"crypto/x509"
	"fmt"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/credentials"

	"github.com/leasehold/leasehold/cmd/internal/certs"
)

// readEvery is how often the files are looked at.
const readEvery = time.Second

// Paths are three PEM files.
type Paths struct {
	// Authorities has the certificates of the authorities that are believed.
	Authorities string
	// Cert has the process's own certificate, and the chain to the authority if
	// there is one.
	Cert string
	// Key has the private key of Cert.
	Key string
}

// Files is what a process proves itself with, and whom it believes, as it is in
// files. Each handshake uses the newest that can be used, so that certificates and
// authorities are replaced without a failed call; connections that are there stay.
// Safe for concurrent use.
type Files struct {
	pair        *certs.Pair
	authorities *certs.Bundle
	logger      hclog.Logger
	refused     prometheus.Counter
	lines       lines
}

// Load reads the files. roles are what the certificate may be; none means that it
// needs no role, as for a server that is not ours.
func Load(paths Paths, logger hclog.Logger, roles ...Role) (*Files, error) {
	authorities, err := certs.LoadBundle(paths.Authorities, logger)
	if err != nil {
		return nil, err
	}
	pair, err := certs.Load(paths.Cert, paths.Key, logger, func(cert *x509.Certificate) error { return expect(cert, roles) })
	if err != nil {
		return nil, err
	}
	return &Files{
		pair: pair, authorities: authorities, logger: logger, lines: newLines(),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "leasehold_tls_refused_total",
			Help: "Connections to this process that failed to prove who they come from.",
		}),
	}, nil
}

// Run reads the files again each second until ctx ends, and warns of the end of
// the process's own certificate from 7 days before it.
func (f *Files) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return f.pair.Run(ctx, readEvery) })
	group.Go(func() error { return f.authorities.Run(ctx, readEvery) })
	return group.Wait()
}

// Register has the registry say when the process's own certificate ends; use says
// what it is for.
func (f *Files) Register(registry prometheus.Registerer, use string) error {
	return f.pair.Register(registry, use)
}

// RegisterServer has the registry count connections that were refused.
func (f *Files) RegisterServer(registry prometheus.Registerer) error {
	return registry.Register(f.refused)
}

// Server returns the credentials of a listener. They take who has a certificate
// of the authorities with a role, and refuse everybody else, with a line in the
// log. What a role may do is for the server to say: its calls' AuthInfo is a Peer.
func (f *Files) Server() credentials.TransportCredentials { return &server{files: f} }

// Client returns the credentials for dialing servers of a role. Whoever has a
// certificate of the authorities with that role is believed, whatever address it
// was reached at: a role is given to those who may be reached as such, and
// addresses change without certificates.
func (f *Files) Client(role Role) credentials.TransportCredentials {
	return &client{files: f, verify: func(_ string, leaf *x509.Certificate) error { return expect(leaf, []Role{role}) }}
}

// ClientOfHost returns the credentials for dialing servers that are not ours,
// which have a certificate of the authorities with the name, or the address, that
// they are dialled by.
func (f *Files) ClientOfHost() credentials.TransportCredentials {
	return &client{files: f, verify: func(host string, leaf *x509.Certificate) error { return leaf.VerifyHostname(host) }}
}

// expect says why a certificate is of none of roles; any will do if there are none.
func expect(cert *x509.Certificate, roles []Role) error {
	if len(roles) == 0 {
		return nil
	}
	identity, err := Identify(cert)
	if err != nil {
		return err
	}
	for _, role := range roles {
		if identity.Role == role {
			return nil
		}
	}
	return fmt.Errorf("the certificate is that of %s, want one with the role %s", identity, roles[0])
}
