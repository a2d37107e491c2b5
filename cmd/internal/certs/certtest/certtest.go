// Package certtest makes certificates for tests.
package certtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"testing"
	"time"
)

// Pair is a certificate that signs itself, and its key, both in PEM.
type Pair struct{ Cert, Key []byte }

// Make makes a pair of an authority, for 127.0.0.1 and localhost, valid for a day.
func Make(tb testing.TB, name string) Pair {
	tb.Helper()
	return MakeFor(tb, name, time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour))
}

// MakeFor is Make for another time.
func MakeFor(tb testing.TB, name string, from, until time.Time) Pair {
	tb.Helper()
	return sign(tb, name, from, until, true)
}

// Leaf is Make for a certificate that is not an authority's.
func Leaf(tb testing.TB, name string) Pair {
	tb.Helper()
	return sign(tb, name, time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour), false)
}

func sign(tb testing.TB, name string, from, until time.Time, authority bool) Pair {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    from, NotAfter: until,
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: authority, BasicConstraintsValid: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		tb.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		tb.Fatal(err)
	}
	return Pair{
		Cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}),
		Key:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}),
	}
}

// Write writes the pair over what is in the files, one after the other.
func (p Pair) Write(tb testing.TB, certFile, keyFile string) {
	tb.Helper()
	for path, data := range map[string][]byte{certFile: p.Cert, keyFile: p.Key} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			tb.Fatal(err)
		}
	}
}
