package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/leasehold/leasehold/cmd/internal/ca"
	"github.com/leasehold/leasehold/cmd/internal/trust"
)

const (
	// devCertsDir is the authority's directory in the data directory.
	devCertsDir = "certs"
	// devCertLife is how long the certificates of `leasehold dev` are good for: for
	// longer than it runs. They are made anew at each start, the authority only
	// when its end comes near.
	devCertLife = 365 * 24 * time.Hour
)

// devTrust is what the parts of `leasehold dev` prove themselves with.
type devTrust struct {
	control  *trust.Files
	workers  []*trust.Files
	operator *trust.Files
}

func (d *dev) certsDir() string { return filepath.Join(d.dataDir, devCertsDir) }

// certify makes an authority in the data directory, unless there is one, and a
// certificate for each part, and for operators.
func (d *dev) certify(logger hclog.Logger) (_ *devTrust, err error) {
	authority, err := d.authority()
	if err != nil {
		return nil, err
	}
	issue := func(role trust.Role, name string) *trust.Files {
		files, issueErr := d.issue(authority, trust.Identity{Role: role, Name: name}, logger)
		err = errors.Join(err, issueErr)
		return files
	}
	made := &devTrust{control: issue(trust.ControlPlane, controlPlaneDir), operator: issue(trust.Operator, "operator")}
	for i := range d.workers {
		made.workers = append(made.workers, issue(trust.Worker, workerPart(i)))
	}
	return made, err
}

// authority opens the authority, or makes one where there is none that is good for
// as long as the certificates.
func (d *dev) authority() (*ca.Authority, error) {
	authority, err := ca.Open(d.certsDir())
	switch {
	case err == nil && time.Until(authority.NotAfter()) > devCertLife:
		return authority, nil
	case err == nil:
		err = ca.Remove(d.certsDir())
	case errors.Is(err, fs.ErrNotExist):
		err = ca.Remove(d.certsDir()) // a half of it may be there
	}
	if err != nil {
		return nil, err
	}
	return ca.Init(d.certsDir(), ca.DefaultLife)
}

func (d *dev) issue(authority *ca.Authority, identity trust.Identity, logger hclog.Logger) (*trust.Files, error) {
	pair, err := authority.Issue(ca.Request{
		Identity: identity, Life: devCertLife,
		DNS: []string{"localhost"}, IPs: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	})
	if err != nil {
		return nil, err
	}
	paths := trust.Paths{
		Authorities: ca.CertFile(d.certsDir()),
		Cert:        filepath.Join(d.certsDir(), identity.Name+".crt"),
		Key:         filepath.Join(d.certsDir(), identity.Name+".key"),
	}
	if err := pair.Write(paths.Cert, paths.Key); err != nil {
		return nil, fmt.Errorf("write the certificate of %s: %w", identity, err)
	}
	return trust.Load(paths, logger.Named("tls"), identity.Role)
}
