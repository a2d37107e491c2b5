package certs

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"

	"github.com/leasehold/leasehold/cmd/internal/certs/certtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// limit bounds what the test waits for.
const limit = 10 * time.Second

// server is a TLS server that only shakes hands.
func server(t *testing.T, pair *Pair) string {
	t.Helper()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", pair.Config())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	watched, served := make(chan error, 1), make(chan struct{})
	go func() { watched <- pair.Run(ctx, time.Millisecond) }()
	go func() {
		defer close(served)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_ = conn.(*tls.Conn).Handshake()
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() {
		cancel()
		_ = listener.Close()
		<-served
		if err := <-watched; !errors.Is(err, context.Canceled) {
			t.Errorf("Run ended with %v", err)
		}
	})
	return listener.Addr().String()
}

// shown returns the name in the certificate that a server shows.
func shown(t *testing.T, addr string, config *tls.Config) (string, error) {
	t.Helper()
	config.InsecureSkipVerify = true // the test looks at the certificate itself
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: limit}, "tcp", addr, config)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].Subject.CommonName, nil
}

// await waits until a server shows the certificate of that name. No handshake
// on the way may fail.
func await(t *testing.T, addr, want string) {
	t.Helper()
	for deadline := time.Now().Add(limit); ; {
		got, err := shown(t, addr, &tls.Config{})
		if err != nil {
			t.Fatal(err)
		}
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the certificate is %q, want %q", got, want)
		}
	}
}

func TestANewPairIsShownAndAHalfWrittenOneNever(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	first, second := certtest.Make(t, "first"), certtest.Make(t, "second")
	first.Write(t, cert, key)
	logged := make(chan string, 64)
	pair, err := Load(cert, key, hclog.New(&hclog.LoggerOptions{Output: lines(logged)}))
	if err != nil {
		t.Fatal(err)
	}
	addr := server(t, pair)
	await(t, addr, "first")
	for name, bad := range map[string]func() error{
		"certificate cut":      func() error { return os.WriteFile(cert, second.Cert[:len(second.Cert)/2], 0o600) },
		"certificate empty":    func() error { return os.WriteFile(cert, nil, 0o600) },
		"certificate gone":     func() error { return os.Remove(cert) },
		"key of another":       func() error { return os.WriteFile(key, second.Key, 0o600) },
		"key cut":              func() error { return os.WriteFile(key, first.Key[:20], 0o600) },
		"certificate too long": func() error { return os.WriteFile(cert, make([]byte, maxSize+1), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			if err := bad(); err != nil {
				t.Fatal(err)
			}
			expectLog(t, logged, "the last good pair stays")
			if got, err := shown(t, addr, &tls.Config{}); err != nil || got != "first" {
				t.Errorf("with bad files: got %q, %v; want the first certificate", got, err)
			}
			// Put back, and changed for a moment, so that the next case starts anew.
			second.Write(t, cert, key)
			await(t, addr, "second")
			first.Write(t, cert, key)
			await(t, addr, "first")
			for len(logged) > 0 {
				<-logged
			}
		})
	}
}

func TestABadPairIsToldOnce(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	first := certtest.Make(t, "first")
	first.Write(t, cert, key)
	var log strings.Builder
	pair, err := Load(cert, key, hclog.New(&hclog.LoggerOptions{Output: &log}))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // it is told again once it was good in between
		if err := os.WriteFile(cert, []byte("no PEM"), 0o600); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			pair.look()
		}
		first.Write(t, cert, key)
		pair.look()
	}
	if got := strings.Count(log.String(), "the last good pair stays"); got != 2 {
		t.Errorf("told %d times, want twice:\n%s", got, log.String())
	}
}

func TestVersionsBefore12AreRefused(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	certtest.Make(t, "one").Write(t, cert, key)
	pair, err := Load(cert, key, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	addr := server(t, pair)
	for version, ok := range map[uint16]bool{tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		if _, err := shown(t, addr, &tls.Config{MinVersion: version, MaxVersion: version}); (err == nil) != ok {
			t.Errorf("%s: got %v, want it accepted: %v", tls.VersionName(version), err, ok)
		}
	}
}

func TestLoadNamesTheFile(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	certtest.Make(t, "one").Write(t, cert, key)
	for name, c := range map[string]struct{ cert, key, want string }{
		"no certificate": {filepath.Join(dir, "none"), key, "read certificate: open " + filepath.Join(dir, "none")},
		"no key":         {cert, filepath.Join(dir, "none"), "read private key: open " + filepath.Join(dir, "none")},
		"key no PEM":     {cert, cert, cert},
	} {
		if _, err := Load(c.cert, c.key, hclog.NewNullLogger()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q in it", name, err, c.want)
		}
	}
}

// expectLog waits for a line of the log.
func expectLog(t *testing.T, logged <-chan string, want string) {
	t.Helper()
	timeout := time.After(limit)
	for {
		select {
		case line := <-logged:
			if strings.Contains(line, want) {
				return
			}
		case <-timeout:
			t.Fatalf("%q was not logged", want)
		}
	}
}

// lines is a writer that hands on what is written.
type lines chan<- string

func (l lines) Write(data []byte) (int, error) {
	select {
	case l <- string(data):
	default: // the test has seen enough
	}
	return len(data), nil
}
