package canary

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/leasehold/leasehold/test/internal/canary"
)

// envName is the variable that has the workers' own secret.
const envName = "LEASEHOLD_SECRET_CANARY"

// secrets are the values that are looked for, by the names under which they are
// reported.
type secrets struct {
	set    canary.Set
	values map[string]string
}

// of returns the value of that name, which it makes.
func (s *secrets) of(name string) string {
	if s.values[name] == "" {
		s.add(name, canary.New())
	}
	return s.values[name]
}

func (s *secrets) add(name, value string) {
	if s.values == nil {
		s.values = map[string]string{}
	}
	s.values[name] = value
	s.set.Add(name, value)
}

// addKey adds a private key: its number, and the lines of its PEM.
func (s *secrets) addKey(t *testing.T, name string, text []byte) {
	t.Helper()
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatalf("%s is no PEM", name)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	own, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		t.Fatalf("%s is a %T", name, key)
	}
	number, err := own.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	s.set.Add(name, string(number))
	for _, line := range strings.Split(string(text), "\n") {
		if len(line) >= canary.MinBytes && !strings.HasPrefix(line, "-") {
			s.set.Add(name, line)
		}
	}
}

// addCluster adds the keys of a cluster: the root key and those of certificates.
func (s *secrets) addCluster(t *testing.T, dir, certs string) {
	t.Helper()
	digits, err := os.ReadFile(filepath.Join(dir, rootKey))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.TrimSpace(string(digits))
	raw, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal("the root key is not in hexadecimal digits")
	}
	s.add("root key", text)
	s.add("root key's bytes", string(raw))
	keys, err := filepath.Glob(filepath.Join(certs, "*.key"))
	if err != nil || len(keys) < 4 {
		t.Fatalf("certificates' keys: %q, %v", keys, err)
	}
	for _, path := range keys {
		key, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		s.addKey(t, "key of "+filepath.Base(path), key)
	}
}

// certificate makes a certificate that is its own authority, and its key, as PEM.
func certificate(t *testing.T) (certificate, key []byte, pool *x509.CertPool) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a worker"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	pool = x509.NewCertPool()
	pool.AppendCertsFromPEM(certificatePEM(der))
	return certificatePEM(der), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded}), pool
}

func certificatePEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
