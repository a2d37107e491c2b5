package dataplane_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/leasehold/leasehold/dataplane"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// selfSigned returns a certificate for 127.0.0.1 that is its own authority, and its
// key, in PEM.
func selfSigned(t *testing.T, name string) (certificate, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

func TestTLSFilesAreRotatedWithinASession(t *testing.T) {
	u := startUpstream(t)
	serverCertificate, serverKey := selfSigned(t, "server")
	pair, err := tls.X509KeyPair(serverCertificate, serverKey)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	shown := "" // by whom the server was asked last
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		shown = r.TLS.PeerCertificates[0].Subject.CommonName
		mu.Unlock()
		u.ServeHTTP(w, r)
	}))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAnyClientCert}
	s.StartTLS()
	t.Cleanup(s.Close)
	asker := func() string {
		mu.Lock()
		defer mu.Unlock()
		return shown
	}
	dir := t.TempDir()
	put := func(name string) {
		t.Helper()
		certificate, key := selfSigned(t, name)
		for file, content := range map[string][]byte{"ca.pem": serverCertificate, "tls.crt": certificate, "tls.key": key} {
			if err := os.WriteFile(filepath.Join(dir, file), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	put("one")
	p := startPlane(t)
	p.setUpstream("g", s.URL, func(u *leaseholdv1.Upstream) {
		u.Tls = &leaseholdv1.UpstreamTLS{
			Authorities: &leaseholdv1.UpstreamTLS_CaFile{CaFile: "ca.pem"},
			Certificate: &leaseholdv1.UpstreamTLS_CertificateFile{CertificateFile: "tls.crt"},
			PrivateKey:  &leaseholdv1.Secret{Source: &leaseholdv1.Secret_File{File: "tls.key"}},
		}
	})
	inDir := func(cfg *dataplane.Config) { cfg.CredentialsDir = dir }
	owner, front := startWorkerWith(t, p, inDir), startWorkerWith(t, p, inDir)
	c := newClient(t, "g")
	c.initialize(owner)
	if status, text := c.call(front); status != 200 || text != "1" || asker() != "one" {
		t.Fatalf("call: got %d %s, as %s", status, text, asker())
	}
	put("two")
	last := 1
	eventually(t, "the new certificate is used", func() bool {
		last++
		if status, text := c.call(front); status != 200 || text != fmt.Sprint(last) {
			t.Fatalf("call %d: got %d %s, want the same session", last, status, text)
		}
		return asker() == "two"
	})
	if resp, body := c.do(front, http.MethodDelete, ""); resp.StatusCode != http.StatusNoContent || asker() != "two" || u.live() != 0 {
		t.Errorf("DELETE: got %d %s, as %s, %d sessions left", resp.StatusCode, body, asker(), u.live())
	}
}
