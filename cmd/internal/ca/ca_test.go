package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/leasehold/leasehold/cmd/internal/trust"
)

func authority(t *testing.T, life time.Duration) (*Authority, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "certs")
	a, err := Init(dir, life)
	if err != nil {
		t.Fatal(err)
	}
	return a, dir
}

// issue issues a certificate and reads it back.
func issue(t *testing.T, a *Authority, r Request) *x509.Certificate {
	t.Helper()
	dir := t.TempDir()
	pair, err := a.Issue(r)
	if err != nil {
		t.Fatal(err)
	}
	cert, key := filepath.Join(dir, "one.crt"), filepath.Join(dir, "one.key")
	if err := pair.Write(cert, key); err != nil {
		t.Fatal(err)
	}
	read, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return read.Leaf
}

func TestACertificateSaysWhatWasAskedForAndNoMore(t *testing.T) {
	a, dir := authority(t, 1000*time.Hour)
	roots := x509.NewCertPool()
	roots.AddCert(a.cert)
	for _, role := range trust.Roles() {
		identity := trust.Identity{Role: trust.Role(role), Name: "one"}
		got := issue(t, a, Request{Identity: identity, DNS: []string{"one.example.com"}, IPs: []net.IP{net.IPv4(10, 0, 0, 1)}, Life: time.Hour})
		if who, err := trust.Identify(got); err != nil || who != identity {
			t.Errorf("%s: it is that of %v, %v", role, who, err)
		}
		if err := errors.Join(got.VerifyHostname("one.example.com"), got.VerifyHostname("10.0.0.1")); err != nil {
			t.Errorf("%s: %v", role, err)
		}
		if key, ok := got.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
			t.Errorf("%s: the key is %T, want ECDSA P-256", role, got.PublicKey)
		}
		if got.IsCA || got.KeyUsage != x509.KeyUsageDigitalSignature {
			t.Errorf("%s: it can sign certificates: %v, %v", role, got.IsCA, got.KeyUsage)
		}
		for usage, want := range map[x509.ExtKeyUsage]bool{x509.ExtKeyUsageClientAuth: true, x509.ExtKeyUsageServerAuth: role != "operator"} {
			_, err := got.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{usage}})
			if (err == nil) != want {
				t.Errorf("%s: good for usage %d: %v, want %v", role, usage, err, want)
			}
		}
		if left := time.Until(got.NotAfter); left > time.Hour || left < 50*time.Minute {
			t.Errorf("%s: it is good for %v, want an hour", role, left)
		}
	}
	if _, err := a.Issue(Request{Identity: trust.Identity{Role: "king", Name: "one"}, Life: time.Hour}); err == nil {
		t.Error("of an unknown role: got no error")
	}
	again, err := Open(dir)
	if err != nil || !again.cert.Equal(a.cert) {
		t.Errorf("the authority read back: %v", err)
	}
}

func TestACertificateDoesNotOutliveItsAuthority(t *testing.T) {
	a, _ := authority(t, time.Hour)
	got := issue(t, a, Request{Identity: trust.Identity{Role: trust.Worker, Name: "one"}, Life: 1000 * time.Hour})
	if !got.NotAfter.Equal(a.NotAfter()) {
		t.Errorf("it ends at %v, want %v as the authority does", got.NotAfter, a.NotAfter())
	}
	expired, _ := authority(t, time.Nanosecond)
	_, err := expired.Issue(Request{Identity: trust.Identity{Role: trust.Worker, Name: "one"}, Life: time.Hour})
	if err == nil || !strings.Contains(err.Error(), "the authority has expired") {
		t.Errorf("of an authority that has expired: got %v", err)
	}
}

func TestAnAuthorityIsNotReplaced(t *testing.T) {
	_, dir := authority(t, time.Hour)
	if _, err := Init(dir, time.Hour); !errors.Is(err, fs.ErrExist) {
		t.Errorf("got %v, want fs.ErrExist", err)
	}
	if err := os.Remove(CertFile(dir)); err != nil {
		t.Fatal(err)
	}
	if _, err := Init(dir, time.Hour); !errors.Is(err, fs.ErrExist) {
		t.Errorf("with its key alone: got %v, want fs.ErrExist", err)
	}
	if err := Remove(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := Init(dir, time.Hour); err != nil {
		t.Errorf("after it was removed: %v", err)
	}
}

func TestOnlyTheOwnerReadsTheFiles(t *testing.T) {
	a, dir := authority(t, time.Hour)
	pair, err := a.Issue(Request{Identity: trust.Identity{Role: trust.Worker, Name: "one"}, Life: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	cert, key := filepath.Join(dir, "one.crt"), filepath.Join(dir, "one.key")
	if err := os.WriteFile(key, nil, 0o644); err != nil { // is not what it stays with
		t.Fatal(err)
	}
	if err := pair.Write(cert, key); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 4 {
		t.Errorf("the directory has %d files, want 4", len(entries))
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has the mode %v, want 0600", entry.Name(), info.Mode())
		}
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory has the mode %v, %v; want 0700", info.Mode(), err)
	}
	if who, err := Holder(cert); err != nil || who.Name != "one" {
		t.Errorf("the holder: got %v, %v", who, err)
	}
	if who, err := Holder(filepath.Join(dir, "none.crt")); err != nil || who != (trust.Identity{}) {
		t.Errorf("the holder of no file: got %v, %v; want nobody", who, err)
	}
}
