package etcd

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/leasehold/leasehold/controlplane/session"
	"github.com/leasehold/leasehold/controlplane/store"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

const (
	testTimeout = 20 * time.Second
	// testTTL is short, and far longer than any test takes.
	testTTL = time.Minute
	// unheld lets a store take over as soon as it has etcd.
	unheld time.Duration = -1
)

// server is shared: each test has sessions, workers and gateways of its own, and
// a test that counts has a server of its own.
var server *Server

func TestMain(m *testing.M) {
	if text := os.Getenv(memberEnv); text != "" {
		os.Exit(runMember(text))
	}
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "etcd-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if server, err = StartServer(context.Background(), ServerConfig{Dir: dir}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	server.Close()
	for deadline := time.Now().Add(testTimeout); code == 0; {
		// The members of a cluster give up their connections to each other slowly.
		if err = goleak.Find(); err == nil || time.Now().After(deadline) {
			break
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	t.Cleanup(cancel)
	return ctx
}

// ownServer starts a server for one test.
func ownServer(t testing.TB) *Server {
	t.Helper()
	s, err := StartServer(testContext(t), ServerConfig{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// newStore opens a store on the shared server and runs it for the test.
func newStore(t testing.TB) *Store { return openStore(t, server, nil) }

// runStore runs a store until the test is over, and closes it.
func runStore(t testing.TB, s *Store) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		s.Close()
	})
}

func openStore(t testing.TB, server *Server, metrics prometheus.Registerer) *Store {
	t.Helper()
	return openWith(t, server, ClientConfig{Metrics: metrics, Hold: unheld})
}

// openWith opens a store whose lease is testTTL, and runs it for the test.
func openWith(t testing.TB, server *Server, cfg ClientConfig) *Store {
	t.Helper()
	cfg.Endpoints, cfg.LeaseTTL = server.Endpoints(), testTTL
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	runStore(t, s)
	return s
}

var names atomic.Int64

// workerID and newSession return names that no other test uses.
func workerID() string { return fmt.Sprintf("%016x", names.Add(1)) }

func newSession() session.Key {
	return session.Key{Gateway: "test", Digest: fmt.Sprintf("%032x", names.Add(1))}
}

// alive is a registered worker.
type alive struct {
	id          string
	incarnation int64
	lease       int64
}

var someInfo = &leaseholdv1.WorkerInfo{PeerAddress: "127.0.0.1:1", Zone: "here", Capacity: 7}

func register(t testing.TB, s *Store) alive {
	t.Helper()
	w := alive{id: workerID()}
	incarnation, lease, err := s.Register(testContext(t), w.id, someInfo)
	if err != nil {
		t.Fatalf("register: %v", err)
	}
	w.incarnation, w.lease = incarnation, lease.ID
	return w
}

// kill makes the worker's lease expire.
func (w alive) kill(t testing.TB, s *Store) {
	t.Helper()
	if _, err := s.client.Revoke(testContext(t), clientv3.LeaseID(w.lease)); err != nil {
		t.Fatalf("revoke: %v", err)
	}
}

func (w alive) key() store.MemberKey {
	return store.MemberKey{Worker: w.id, Incarnation: w.incarnation}
}

func (w alive) record() *session.Record {
	return &session.Record{
		Worker:             w.id,
		Incarnation:        w.incarnation,
		Epoch:              1,
		Class:              leaseholdv1.Class_CLASS_RESUMABLE,
		ProtocolVersion:    "2025-11-25",
		ClientCapabilities: []byte("{}"),
		Upstreams:          []*leaseholdv1.UpstreamRecord{{Upstream: "u", SealedSessionId: []byte("sealed")}},
		CreateTime:         timestamppb.New(time.Unix(1_800_000_000, 0)),
		ExpireTime:         timestamppb.New(time.Unix(1_800_086_400, 0)),
	}
}

func (w alive) claim(t testing.TB, s *Store, key session.Key) int64 {
	t.Helper()
	revision, err := s.Claim(testContext(t), key, w.record())
	if err != nil {
		t.Fatalf("claim: %v", err)
	}
	return revision
}

func (w alive) end() session.End {
	return session.End{Worker: w.id, Incarnation: w.incarnation, Reason: leaseholdv1.EndReason_END_REASON_CLIENT, Time: time.Now()}
}

func resolve(t testing.TB, s *Store, key session.Key) *leaseholdv1.ResolveResponse {
	t.Helper()
	res, err := s.Resolve(testContext(t), key)
	if err != nil {
		t.Fatalf("resolve: %v", err)
	}
	return res
}

// taker is w asking for a session as it was resolved.
func (w alive) taker(res *leaseholdv1.ResolveResponse) session.Taker {
	return session.Taker{Worker: w.id, Incarnation: w.incarnation, Revision: res.Revision, IncarnationRevision: res.IncarnationRevision}
}

func exists(t testing.TB, s *Store, key string) bool {
	t.Helper()
	resp, err := s.client.Get(testContext(t), key, clientv3.WithCountOnly())
	if err != nil {
		t.Fatal(err)
	}
	return resp.Count > 0
}
