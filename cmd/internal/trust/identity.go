// Package trust is how the processes of one Leasehold know each other: by mutual
// TLS 1.3 under an authority of their own, with what a process is, its role, in its
// certificate. Listeners and dialers of the planes get it as gRPC credentials.
package trust

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// Role is what the holder of a certificate may be to others.
type Role string

// The roles.
const (
	// Operator uses the API for operators.
	Operator Role = "operator"
	// Worker serves clients, and other workers.
	Worker Role = "worker"
	// ControlPlane serves operators and workers, and asks workers.
	ControlPlane Role = "controlplane"
	// Etcd serves etcd's own clients and peers. It opens nothing of ours: it is for
	// those who have no other authority for etcd.
	Etcd Role = "etcd"
)

// Roles returns the roles' names.
func Roles() []string {
	return []string{string(Operator), string(Worker), string(ControlPlane), string(Etcd)}
}

// scheme is that of the URI that says who the holder of a certificate is.
const scheme = "leasehold"

// Identity is who the holder of a certificate is. A certificate says it in one
// subject alternative name, the URI leasehold://ROLE/NAME, such as
// leasehold://worker/worker-1. Names of any other kind do not matter.
type Identity struct {
	Role Role
	// Name tells holders of one role apart. Certificates with the same role and
	// name are the same holder's: a renewed one is as good as the one before.
	Name string
}

// maxName bounds a name.
const maxName = 63

var validName = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]*[a-z0-9])?$`)

// Check says what is wrong with an identity, or returns nil.
func (i Identity) Check() error {
	if !slices.Contains(Roles(), string(i.Role)) {
		return fmt.Errorf("role %q is none of %s", i.Role, strings.Join(Roles(), ", "))
	}
	if len(i.Name) > maxName || !validName.MatchString(i.Name) {
		return fmt.Errorf("name %q is not 1 to %d lower-case letters, digits, dots, dashes and underscores, with a letter or digit at both ends", i.Name, maxName)
	}
	return nil
}

// String returns the role and the name.
func (i Identity) String() string { return string(i.Role) + " " + i.Name }

// URI returns what a certificate says of the identity.
func (i Identity) URI() *url.URL {
	return &url.URL{Scheme: scheme, Host: string(i.Role), Path: "/" + i.Name}
}

// Identify returns who the holder of a certificate is. A certificate that says
// so twice is nobody's.
func Identify(cert *x509.Certificate) (Identity, error) {
	var ours []*url.URL
	for _, uri := range cert.URIs {
		if uri.Scheme == scheme {
			ours = append(ours, uri)
		}
	}
	switch len(ours) {
	case 0:
		return Identity{}, errors.New("the certificate has no role: no URI leasehold://ROLE/NAME among its names")
	case 1:
	default:
		return Identity{}, fmt.Errorf("the certificate has %d URIs leasehold://ROLE/NAME among its names, want one", len(ours))
	}
	identity := Identity{Role: Role(ours[0].Host), Name: strings.TrimPrefix(ours[0].Path, "/")}
	if err := identity.Check(); err != nil {
		return Identity{}, fmt.Errorf("the certificate has the URI %s: %w", ours[0], err)
	}
	if *ours[0] != *identity.URI() {
		return Identity{}, fmt.Errorf("the certificate has the URI %s, want %s and nothing else in it", ours[0], identity.URI())
	}
	return identity, nil
}
