// Package ca is a small certificate authority in a directory, for those who have
// none: ECDSA P-256, one level, PEM files that only their owner reads. Whoever has
// its key is believed in everything, so it belongs on no machine that serves.
package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/leasehold/leasehold/cmd/internal/trust"
)

// How long certificates are good for by default.
const (
	DefaultLife     = 10 * 365 * 24 * time.Hour // the authority's own
	DefaultCertLife = 90 * 24 * time.Hour
)

// skew is how far clocks may be apart: a certificate is good from that long before
// it is made.
const skew = 5 * time.Minute

// Authority signs certificates. It is not changed after it was made, and is safe
// for concurrent use.
type Authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// CertFile is where the certificate of the authority in a directory is, which is
// what others need to believe it.
func CertFile(dir string) string { return filepath.Join(dir, "ca.crt") }

func keyFile(dir string) string { return filepath.Join(dir, "ca.key") }

// Init makes an authority in a directory, which it makes if it is not there. It
// returns an error that is fs.ErrExist if there is one: another in its place would
// make all of its certificates worthless.
func Init(dir string, life time.Duration) (*Authority, error) {
	for _, path := range []string{CertFile(dir), keyFile(dir)} {
		if _, err := os.Lstat(path); err == nil {
			return nil, fmt.Errorf("%s: %w", path, fs.ErrExist)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make an authority: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: "Leasehold CA " + now.UTC().Format("2006-01-02T15:04:05Z")},
		NotBefore:    now.Add(-skew), NotAfter: now.Add(life),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		IsCA:     true, BasicConstraintsValid: true, MaxPathLenZero: true,
	}
	pair, err := sign(template, template, key, key)
	if err != nil {
		return nil, fmt.Errorf("make an authority: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make an authority: %w", err)
	}
	if err := pair.Write(CertFile(dir), keyFile(dir)); err != nil {
		return nil, fmt.Errorf("make an authority: %w", err)
	}
	return Open(dir)
}

// Remove removes the authority in a directory, whole or in part; its certificates
// stay, and are worth nothing.
func Remove(dir string) error {
	for _, path := range []string{CertFile(dir), keyFile(dir)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the authority: %w", err)
		}
	}
	return nil
}

// Open reads the authority in a directory.
func Open(dir string) (*Authority, error) {
	pair, err := tls.LoadX509KeyPair(CertFile(dir), keyFile(dir))
	if err != nil {
		return nil, fmt.Errorf("read the authority: %w", err)
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	switch {
	case !ok:
		return nil, fmt.Errorf("read the authority: %s is not an ECDSA key", keyFile(dir))
	case !pair.Leaf.IsCA:
		return nil, fmt.Errorf("read the authority: %s is not an authority's certificate", CertFile(dir))
	}
	return &Authority{cert: pair.Leaf, key: key}, nil
}

// NotAfter is when the authority ends, and every certificate with it.
func (a *Authority) NotAfter() time.Time { return a.cert.NotAfter }

// Request says what a certificate is to be.
type Request struct {
	// Identity is whose it is.
	Identity trust.Identity
	// DNS and IPs are where its holder is reached. Processes of Leasehold do not
	// look at them, other programs do.
	DNS []string
	IPs []net.IP
	// Life is how long it is good for; the authority's own end comes first.
	Life time.Duration
}

// Issue makes a key and a certificate for it.
func (a *Authority) Issue(r Request) (Pair, error) {
	if err := r.Identity.Check(); err != nil {
		return Pair{}, fmt.Errorf("issue a certificate: %w", err)
	}
	now := time.Now()
	if !now.Before(a.cert.NotAfter) {
		return Pair{}, fmt.Errorf("issue a certificate: the authority has expired, at %s", a.cert.NotAfter.UTC().Format(time.RFC3339))
	}
	template := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{Organization: []string{string(r.Identity.Role)}, CommonName: r.Identity.Name},
		NotBefore:    now.Add(-skew), NotAfter: now.Add(r.Life),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: usages(r.Identity.Role), BasicConstraintsValid: true,
		DNSNames: r.DNS, IPAddresses: r.IPs,
	}
	template.URIs = append(template.URIs, r.Identity.URI())
	if template.NotAfter.After(a.cert.NotAfter) {
		template.NotAfter = a.cert.NotAfter
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, fmt.Errorf("issue a certificate: %w", err)
	}
	pair, err := sign(template, a.cert, key, a.key)
	if err != nil {
		return Pair{}, fmt.Errorf("issue a certificate: %w", err)
	}
	return pair, nil
}

// usages are what the holder does: operators call, all others are called too.
func usages(role trust.Role) []x509.ExtKeyUsage {
	if role == trust.Operator {
		return []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}
	return []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
}

// sign makes a certificate of the template for key.
func sign(template, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) (Pair, error) {
	cert, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		return Pair{}, err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Pair{}, err
	}
	return Pair{cert: cert, key: secret, NotAfter: template.NotAfter}, nil
}

// serial returns a serial number that no other certificate has.
func serial() *big.Int {
	var bytes [16]byte
	rand.Read(bytes[:]) // never fails
	bytes[0] &= 0x7f    // or it would take one byte more than some take
	return new(big.Int).SetBytes(bytes[:])
}
