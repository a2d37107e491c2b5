package trust_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"
	"google.golang.org/grpc/credentials"

	"github.com/leasehold/leasehold/cmd/internal/ca"
	"github.com/leasehold/leasehold/cmd/internal/trust"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// limit bounds what a test waits for.
const limit = 10 * time.Second

// authority is one in a directory of its own.
type authority struct {
	*ca.Authority
	t   *testing.T
	dir string
}

func newAuthority(t *testing.T, life time.Duration) *authority {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "ca")
	made, err := ca.Init(dir, life)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{Authority: made, t: t, dir: dir}
}

// issue writes a certificate and returns where it is.
func (a *authority) issue(role trust.Role, name string, life time.Duration) trust.Paths {
	a.t.Helper()
	paths := trust.Paths{Authorities: ca.CertFile(a.dir), Cert: filepath.Join(a.dir, name+".crt"), Key: filepath.Join(a.dir, name+".key")}
	a.renew(paths, role, name, life)
	return paths
}

// renew replaces a certificate.
func (a *authority) renew(paths trust.Paths, role trust.Role, name string, life time.Duration) {
	a.t.Helper()
	pair, err := a.Issue(ca.Request{
		Identity: trust.Identity{Role: role, Name: name}, Life: life,
		DNS: []string{"localhost"}, IPs: []net.IP{net.IPv4(127, 0, 0, 1)},
	})
	if err == nil {
		err = pair.Write(paths.Cert, paths.Key)
	}
	if err != nil {
		a.t.Fatal(err)
	}
}

func load(t *testing.T, paths trust.Paths, log io.Writer, roles ...trust.Role) *trust.Files {
	t.Helper()
	files, err := trust.Load(paths, hclog.New(&hclog.LoggerOptions{Output: log, Level: hclog.Info}), roles...)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// end is one end of a connection.
type end struct {
	conn net.Conn
	peer credentials.AuthInfo
	err  error
}

// meet has two kinds of credentials shake hands over a real socket and exchange a
// byte, as only then a client knows what the server has against it.
func meet(t *testing.T, server, client credentials.TransportCredentials) (s, c end) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	served := make(chan end, 1)
	go func() {
		raw, err := listener.Accept()
		if err != nil {
			served <- end{err: err}
			return
		}
		var e end
		if e.conn, e.peer, e.err = server.ServerHandshake(raw); e.err != nil {
			raw.Close()
		} else {
			_, e.err = e.conn.Write([]byte("s"))
		}
		served <- e
	}()
	raw, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if c.conn, c.peer, c.err = client.ClientHandshake(ctx, listener.Addr().String(), raw); c.err == nil {
		_, c.err = io.ReadFull(c.conn, make([]byte, 1))
	} else {
		raw.Close()
	}
	s = <-served
	if s.conn != nil {
		t.Cleanup(func() { s.conn.Close() })
	}
	return s, c
}

// said is a log that may be read while it is written.
type said struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

func TestBothEndsLearnWhoTheOtherIs(t *testing.T) {
	a := newAuthority(t, time.Hour)
	plane := load(t, a.issue(trust.ControlPlane, "cp-1", time.Hour), io.Discard, trust.ControlPlane)
	worker := load(t, a.issue(trust.Worker, "w.1", time.Hour), io.Discard, trust.Worker)
	s, c := meet(t, plane.Server(), worker.Client(trust.ControlPlane))
	if s.err != nil || c.err != nil {
		t.Fatalf("server %v, client %v", s.err, c.err)
	}
	if got := s.peer.(trust.Peer); got.Role() != "worker" || got.Name() != "w.1" {
		t.Errorf("the server sees %s %s, want worker w.1", got.Role(), got.Name())
	}
	if got := c.peer.(trust.Peer); got.Role() != "controlplane" || got.Name() != "cp-1" {
		t.Errorf("the client sees %s %s, want controlplane cp-1", got.Role(), got.Name())
	}
	if err := credentials.CheckSecurityLevel(s.peer, credentials.PrivacyAndIntegrity); err != nil {
		t.Errorf("the connection: %v", err)
	}
}

func TestWhoDoesNotProveItselfIsRefusedWithALineInTheLog(t *testing.T) {
	a, other := newAuthority(t, time.Hour), newAuthority(t, time.Hour)
	expired := a.issue(trust.Worker, "expired", time.Nanosecond)
	stranger := other.issue(trust.Worker, "stranger", time.Hour)
	stranger.Authorities = ca.CertFile(a.dir) // it believes us, we do not believe it
	for name, c := range map[string]struct {
		client credentials.TransportCredentials
		want   string
	}{
		"expired":           {load(t, expired, io.Discard).Client(trust.ControlPlane), "expired"},
		"another authority": {load(t, stranger, io.Discard).Client(trust.ControlPlane), "unknown authority"},
		"no certificate":    {credentials.NewTLS(&tls.Config{InsecureSkipVerify: true}), "didn't provide a certificate"},
		"TLS 1.2":           {credentials.NewTLS(&tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}), "unsupported versions"},
		"no role":           {withoutRole(t, a), "has no role"},
		"not HTTP/2":        {spoken{"imap"}, "unsupported application protocols"},
	} {
		log := &said{}
		plane := load(t, a.issue(trust.ControlPlane, "cp", time.Hour), log, trust.ControlPlane)
		s, client := meet(t, plane.Server(), c.client)
		if s.err == nil || client.err == nil {
			t.Errorf("%s: server %v, client %v; want it refused", name, s.err, client.err)
		}
		if got := log.String(); !strings.Contains(got, "connection refused: the other end did not prove who it is") || !strings.Contains(got, c.want) {
			t.Errorf("%s: logged %q, want %q in it", name, got, c.want)
		}
	}
}

// withoutRole is a client with a certificate of the authority that says nothing of
// a role.
func withoutRole(t *testing.T, a *authority) credentials.TransportCredentials {
	t.Helper()
	authority, err := tls.LoadX509KeyPair(ca.CertFile(a.dir), filepath.Join(a.dir, "ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(a.issue(trust.Worker, "w", time.Hour).Cert, filepath.Join(a.dir, "w.key"))
	if err != nil {
		t.Fatal(err)
	}
	template := *pair.Leaf
	template.URIs = []*url.URL{{Scheme: "spiffe", Host: "example.com", Path: "/worker"}}
	der, err := x509.CreateCertificate(nil, &template, authority.Leaf, pair.Leaf.PublicKey, authority.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return credentials.NewTLS(&tls.Config{
		InsecureSkipVerify: true, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: pair.PrivateKey}},
	})
}

// spoken is a client that speaks another protocol.
type spoken struct{ protocol string }

func (s spoken) ClientHandshake(ctx context.Context, _ string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{s.protocol}})
	return conn, nil, conn.HandshakeContext(ctx)
}
func (spoken) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.ErrUnsupported
}
func (spoken) Info() credentials.ProtocolInfo            { return credentials.ProtocolInfo{} }
func (s spoken) Clone() credentials.TransportCredentials { return s }
func (spoken) OverrideServerName(string) error           { return nil }

func TestAServerOfAnotherRoleIsNotBelieved(t *testing.T) {
	a, other := newAuthority(t, time.Hour), newAuthority(t, time.Hour)
	client := load(t, a.issue(trust.Operator, "alice", time.Hour), io.Discard, trust.Operator).Client(trust.ControlPlane)
	foreign := other.issue(trust.ControlPlane, "cp", time.Hour)
	foreign.Authorities = ca.CertFile(a.dir)
	for name, c := range map[string]struct {
		paths trust.Paths
		want  string
	}{
		"a worker":          {a.issue(trust.Worker, "w", time.Hour), "that of worker w, want one with the role controlplane"},
		"an operator":       {a.issue(trust.Operator, "bob", time.Hour), "incompatible key usage"},
		"expired":           {a.issue(trust.ControlPlane, "old", time.Nanosecond), "expired"},
		"another authority": {foreign, "unknown authority"},
	} {
		s, got := meet(t, load(t, c.paths, io.Discard).Server(), client)
		if got.err == nil || !strings.Contains(got.err.Error(), c.want) || s.err == nil {
			t.Errorf("%s: got %v, want %q in it", name, got.err, c.want)
		}
	}
}

func TestAServerThatIsNotOursIsKnownByItsHost(t *testing.T) {
	a := newAuthority(t, time.Hour)
	client := load(t, a.issue(trust.ControlPlane, "cp", time.Hour), io.Discard).ClientOfHost()
	server := load(t, a.issue(trust.Etcd, "etcd-1", time.Hour), io.Discard)
	if s, c := meet(t, server.Server(), client); s.err != nil || c.err != nil {
		t.Errorf("by its address: server %v, client %v", s.err, c.err)
	}
	elsewhere, err := a.Issue(ca.Request{Identity: trust.Identity{Role: trust.Etcd, Name: "etcd-1"}, Life: time.Hour, DNS: []string{"etcd-1"}})
	if err != nil {
		t.Fatal(err)
	}
	paths := trust.Paths{Authorities: ca.CertFile(a.dir), Cert: filepath.Join(a.dir, "etcd-1.crt"), Key: filepath.Join(a.dir, "etcd-1.key")}
	if err := elsewhere.Write(paths.Cert, paths.Key); err != nil {
		t.Fatal(err)
	}
	if _, c := meet(t, load(t, paths, io.Discard).Server(), client); c.err == nil || !strings.Contains(c.err.Error(), "127.0.0.1") {
		t.Errorf("with another name: got %v, want the address in it", c.err)
	}
}

func TestACertificateOfAnotherRoleIsNotTakenForOnesOwn(t *testing.T) {
	a := newAuthority(t, time.Hour)
	paths := a.issue(trust.Worker, "w", time.Hour)
	if _, err := trust.Load(paths, hclog.NewNullLogger(), trust.ControlPlane); err == nil || !strings.Contains(err.Error(), "worker w") {
		t.Errorf("got %v, want an error that says whose it is", err)
	}
}

func TestEachHandshakeUsesTheNewestFiles(t *testing.T) {
	a, next := newAuthority(t, time.Hour), newAuthority(t, time.Hour)
	planePaths, workerPaths := a.issue(trust.ControlPlane, "cp", time.Hour), a.issue(trust.Worker, "w", time.Hour)
	bundle := filepath.Join(t.TempDir(), "bundle.crt")
	planePaths.Authorities, workerPaths.Authorities = bundle, bundle
	believe := func(authorities ...*authority) {
		t.Helper()
		var all []byte
		for _, one := range authorities {
			data, err := os.ReadFile(ca.CertFile(one.dir))
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, data...)
		}
		if err := os.WriteFile(bundle+".new", all, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(bundle+".new", bundle); err != nil {
			t.Fatal(err)
		}
	}
	believe(a)
	plane, worker := load(t, planePaths, io.Discard, trust.ControlPlane), load(t, workerPaths, io.Discard, trust.Worker)
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	for _, files := range []*trust.Files{plane, worker} {
		group.Go(func() { _ = files.Run(ctx) })
	}
	defer group.Wait()
	defer cancel()
	server, client := plane.Server(), worker.Client(trust.ControlPlane)
	// until shakes hands until done says so; none of the handshakes may fail.
	until := func(what string, done func() bool) {
		t.Helper()
		for deadline := time.Now().Add(limit); !done(); {
			if s, c := meet(t, server, client); s.err != nil || c.err != nil {
				t.Fatalf("%s: server %v, client %v", what, s.err, c.err)
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: not within %v", what, limit)
			}
		}
	}
	probe := func(by *authority, name string) func() bool {
		paths := by.issue(trust.Worker, name, time.Hour)
		pair, err := tls.LoadX509KeyPair(paths.Cert, paths.Key)
		if err != nil {
			t.Fatal(err)
		}
		client := credentials.NewTLS(&tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{pair}})
		return func() bool {
			s, c := meet(t, server, client)
			return s.err == nil && c.err == nil
		}
	}
	old, renewed := probe(a, "old"), probe(next, "renewed")
	if !old() || renewed() {
		t.Fatal("to begin with: want the first authority believed, and no other")
	}
	believe(a, next)
	paths := next.issue(trust.ControlPlane, "another", time.Hour)
	paths.Authorities = bundle
	another := load(t, paths, io.Discard).Server()
	until("both ends believe both", func() bool {
		s, c := meet(t, another, client)
		return renewed() && s.err == nil && c.err == nil
	})
	next.renew(planePaths, trust.ControlPlane, "cp", time.Hour)
	next.renew(workerPaths, trust.Worker, "w", time.Hour)
	showsNext := func() bool {
		pair, err := tls.LoadX509KeyPair(planePaths.Cert, planePaths.Key)
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Equal(shownBy(t, server), pair.Certificate[0])
	}
	until("the new certificate is shown", showsNext)
	believe(next)
	until("the first authority is not believed any more", func() bool { return !old() })
	if !renewed() {
		t.Error("at the end the second authority is not believed")
	}
}

// shownBy returns the certificate that a server shows.
func shownBy(t *testing.T, server credentials.TransportCredentials) []byte {
	t.Helper()
	var shown []byte
	meet(t, server, credentials.NewTLS(&tls.Config{InsecureSkipVerify: true, VerifyConnection: func(s tls.ConnectionState) error {
		shown = s.PeerCertificates[0].Raw
		return nil
	}}))
	return shown
}

func TestACloseIsSeenOnTheSocketAtOnce(t *testing.T) {
	a := newAuthority(t, time.Hour)
	plane := load(t, a.issue(trust.ControlPlane, "cp", time.Hour), io.Discard)
	worker := load(t, a.issue(trust.Worker, "w", time.Hour), io.Discard)
	s, c := meet(t, plane.Server(), worker.Client(trust.ControlPlane))
	if s.err != nil || c.err != nil {
		t.Fatalf("server %v, client %v", s.err, c.err)
	}
	if err := s.conn.Close(); err != nil {
		t.Fatal(err)
	}
	// An alert of TLS would come first, and could be taken for life.
	if n, err := c.conn.(interface{ NetConn() net.Conn }).NetConn().Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("got %d bytes and %v, want the end", n, err)
	}
}

func TestOnLoopbackPlaintextIsAnOperatorWhereThatIsTaken(t *testing.T) {
	a := newAuthority(t, time.Hour)
	plane := load(t, a.issue(trust.ControlPlane, "cp", time.Hour), io.Discard).ServerForLocals()
	s, _ := meet(t, plane, plaintext{})
	if got, ok := s.peer.(trust.Peer); s.err != nil || !ok || got.Role() != "operator" || got.Name() != "local" {
		t.Errorf("plaintext: got %+v, %v; want operator local", s.peer, s.err)
	}
	all := make([]byte, 3)
	if _, err := io.ReadFull(s.conn, all); err != nil || string(all) != "PRI" {
		t.Errorf("the server reads %q, %v; want all that was sent", all, err)
	}
	worker := load(t, a.issue(trust.Worker, "w", time.Hour), io.Discard)
	s, c := meet(t, plane, worker.Client(trust.ControlPlane))
	if s.err != nil || c.err != nil || s.peer.(trust.Peer).Role() != "worker" {
		t.Errorf("TLS: got %+v, server %v, client %v; want a worker", s.peer, s.err, c.err)
	}
}

// plaintext is a client without TLS.
type plaintext struct{ spoken }

func (plaintext) ClientHandshake(_ context.Context, _ string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	_, err := raw.Write([]byte("PRI"))
	return raw, nil, err
}

func TestACertificateSaysOnceAndExactlyWhoItsHolderIs(t *testing.T) {
	parse := func(raw string) *url.URL {
		u, err := url.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	for _, c := range []struct {
		uris []string
		want string // empty: refused
	}{
		{[]string{"leasehold://worker/w-1"}, "worker w-1"},
		{[]string{"spiffe://example.com/x", "leasehold://operator/alice"}, "operator alice"},
		{nil, ""},
		{[]string{"spiffe://example.com/worker"}, ""},
		{[]string{"leasehold://worker/a", "leasehold://operator/a"}, ""},
		{[]string{"leasehold://worker/a", "leasehold://worker/a"}, ""},
		{[]string{"leasehold://king/a"}, ""},
		{[]string{"leasehold://worker"}, ""},
		{[]string{"leasehold://worker/"}, ""},
		{[]string{"leasehold://worker/a/b"}, ""},
		{[]string{"leasehold://worker//a"}, ""},
		{[]string{"leasehold://worker/A"}, ""},
		{[]string{"leasehold://worker:1/a"}, ""},
		{[]string{"leasehold://u@worker/a"}, ""},
		{[]string{"leasehold://worker/a?b"}, ""},
		{[]string{"leasehold://worker/a#b"}, ""},
		{[]string{"leasehold:worker/a"}, ""},
		{[]string{"leasehold://worker/" + strings.Repeat("a", 64)}, ""},
	} {
		cert := &x509.Certificate{}
		for _, raw := range c.uris {
			cert.URIs = append(cert.URIs, parse(raw))
		}
		got, err := trust.Identify(cert)
		if (err == nil) != (c.want != "") || err == nil && got.String() != c.want {
			t.Errorf("%v: got %v, %v; want %q", c.uris, got, err, c.want)
		}
	}
}

func TestStrangersCannotFillTheLog(t *testing.T) {
	a := newAuthority(t, time.Hour)
	log := &said{}
	plane := load(t, a.issue(trust.ControlPlane, "cp", time.Hour), log)
	for range 50 {
		meet(t, plane.Server(), spoken{"http/1.1"})
	}
	if got := strings.Count(log.String(), "connection refused"); got < 20 || got > 40 {
		t.Errorf("50 refusals within moments made %d lines, want about 20", got)
	}
}
