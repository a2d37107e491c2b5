package material

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/leasehold/leasehold/dataplane/credential"
)

// authority makes certificates.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	a.certificate, a.key = makeCertificate(t, template, template, nil)
	return a
}

func makeCertificate(t *testing.T, template, parent *x509.Certificate, signer *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if signer == nil {
		signer = key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return certificate, key
}

// pem returns the authority's own certificate.
func (a *authority) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.certificate.Raw}))
}

// issue returns a certificate and its key as PEM.
func (a *authority) issue(t *testing.T, name string) (certificate, key string) {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	made, private := makeCertificate(t, template, a.certificate, a.key)
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: made.Raw})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// handshake connects settings with a server that wants a certificate of clients,
// and returns what the server saw of it.
func handshake(t *testing.T, clients, servers *authority, most uint16, config *tls.Config) (client string, version uint16, err error) {
	t.Helper()
	certificate, key := servers.issue(t, "mcp.test")
	pair, err := tls.X509KeyPair([]byte(certificate), []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	server := &tls.Config{Certificates: []tls.Certificate{pair}, MaxVersion: most}
	if clients != nil {
		server.ClientAuth, server.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
		server.ClientCAs.AddCert(clients.certificate)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	states := make(chan tls.ConnectionState, 1)
	go func() {
		there, err := listener.Accept()
		if err != nil {
			close(states)
			return
		}
		defer there.Close()
		c := tls.Server(there, server)
		if c.Handshake() == nil {
			c.Write([]byte("x"))
		}
		states <- c.ConnectionState()
		io.Copy(io.Discard, there) // so that the client reads all before the end
	}()
	here, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c := tls.Client(here, config)
	if err = c.Handshake(); err == nil {
		_, err = c.Read(make([]byte, 1))
	}
	here.Close()
	got := <-states
	if len(got.PeerCertificates) > 0 {
		client = got.PeerCertificates[0].Subject.CommonName
	}
	return client, got.Version, err
}

func TestTLSSettingsVerifyTheServerAndShowTheCertificate(t *testing.T) {
	s := newTestStore(t, asIs)
	servers, clients := newAuthority(t), newAuthority(t)
	certificate, key := clients.issue(t, "worker")
	trusts := credential.Document{Inline: servers.pem()}
	for name, tt := range map[string]struct {
		tls  credential.TLS
		host string
		most uint16
		want string // the certificate that the server sees, or
		err  string // why there is no connection
	}{
		"pair":                {credential.TLS{Authorities: trusts, Certificate: credential.Document{Inline: certificate}, PrivateKey: inline(key)}, "mcp.test", 0, "worker", ""},
		"another host":        {credential.TLS{Authorities: trusts, Certificate: credential.Document{Inline: certificate}, PrivateKey: inline(key)}, "other.test", 0, "", "valid for mcp.test, not other.test"},
		"server name":         {credential.TLS{Authorities: trusts, ServerName: "mcp.test", Certificate: credential.Document{Inline: certificate}, PrivateKey: inline(key)}, "other.test", 0, "worker", ""},
		"another authority":   {credential.TLS{Authorities: credential.Document{Inline: clients.pem()}}, "mcp.test", 0, "", "unknown authority"},
		"system's authority":  {credential.TLS{}, "mcp.test", 0, "", "unknown authority"},
		"no certificate":      {credential.TLS{Authorities: trusts}, "mcp.test", 0, "", "certificate required"},
		"too old a version":   {credential.TLS{Authorities: trusts, MinVersion: tls.VersionTLS13}, "mcp.test", tls.VersionTLS12, "", "protocol version"},
		"older than anything": {credential.TLS{Authorities: trusts}, "mcp.test", tls.VersionTLS11, "", "protocol version"},
	} {
		t.Run(name, func(t *testing.T) {
			config, _, err := (&settings{tls: &tt.tls, host: tt.host}).get(s.Store)
			if err != nil {
				t.Fatal(err)
			}
			got, _, err := handshake(t, clients, servers, tt.most, config)
			if tt.err == "" && (err != nil || got != tt.want) || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
				t.Errorf("got %q, %v; want %q, …%s…", got, err, tt.want, tt.err)
			}
		})
	}
}

func TestRotatedFilesAreUsedOnceTheyBelongTogether(t *testing.T) {
	s := newTestStore(t, asIs)
	servers, clients := newAuthority(t), newAuthority(t)
	put := func(certificate, key string) {
		t.Helper()
		if certificate != "" {
			s.write(t, "tls.crt", certificate)
		}
		if key != "" {
			s.write(t, "tls.key", key)
		}
		s.later()
	}
	s.write(t, "ca.pem", servers.pem())
	one, oneKey := clients.issue(t, "one")
	put(one, oneKey)
	files := &settings{host: "mcp.test", tls: &credential.TLS{
		Authorities: credential.Document{File: "ca.pem"}, Certificate: credential.Document{File: "tls.crt"}, PrivateKey: credential.Value{File: "tls.key"}}}
	var serial string
	want := func(client string, changed bool) {
		t.Helper()
		config, now, err := files.get(s.Store)
		if err != nil {
			t.Fatal(err)
		}
		if got, _, err := handshake(t, clients, servers, 0, config); err != nil || got != client || (now != serial) != changed {
			t.Errorf("got %q, %v, and the settings changed: %t; want %q and %t", got, err, now != serial, client, changed)
		}
		serial = now
	}
	want("one", true)
	want("one", false)
	two, twoKey := clients.issue(t, "two")
	put(two, "")
	want("one", false) // half a rotation
	want("one", false)
	if n := strings.Count(s.log.String(), "settings not changed"); n != 1 {
		t.Errorf("complaints: got %d, want 1: %s", n, s.log.String())
	}
	put("", twoKey)
	want("two", true)
	os.Remove(filepath.Join(s.dir, "tls.key"))
	s.later()
	want("two", false)
	servers = newAuthority(t)
	put("", twoKey)
	s.write(t, "ca.pem", servers.pem())
	s.later()
	want("two", true)
	s.write(t, "ca.pem", "nonsense")
	s.later()
	want("two", false)
	if _, _, err := (&settings{tls: files.tls, host: "mcp.test"}).get(s.Store); !isMissing(err) {
		t.Errorf("settings that never were good: got %v, want a refusal", err)
	}
}
