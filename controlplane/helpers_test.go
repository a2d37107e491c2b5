package controlplane_test

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/leasehold/leasehold/controlplane"
	"github.com/leasehold/leasehold/controlplane/etcd"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testTimeout bounds everything that a test waits for.
const testTimeout = 20 * time.Second

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	t.Cleanup(cancel)
	return ctx
}

// replica is a control plane that runs in this process.
type replica struct {
	address  string
	ready    chan error // what Health was told
	ended    chan error // what Run returned
	stop     func() error
	gateways leaseholdv1.GatewayServiceClient
	sessions leaseholdv1.SessionServiceClient
	workers  leaseholdv1.WorkerServiceClient
	control  leaseholdv1.ControlServiceClient
	conn     *grpc.ClientConn
}

// start runs a control plane and waits until it is ready.
func start(t testing.TB, cfg controlplane.Config) *replica {
	t.Helper()
	r := launch(t, cfg)
	select {
	case err := <-r.ready:
		if err != nil {
			t.Fatalf("health said %v, want ready", err)
		}
	case <-testContext(t).Done():
		t.Fatal("control plane did not get ready")
	}
	return r
}

// launch runs a control plane; the test's end stops it.
func launch(t testing.TB, cfg controlplane.Config) *replica {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &replica{address: lis.Addr().String(), ready: make(chan error, 100), ended: make(chan error, 1)}
	cfg.Listener = lis
	cfg.Health = func(err error) { r.ready <- err }
	if cfg.Logger == nil {
		cfg.Logger = hclog.New(&hclog.LoggerOptions{Output: t.Output(), Level: hclog.Warn})
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	var result error
	go func() {
		defer close(done)
		result = controlplane.Run(ctx, cfg)
		r.ended <- result
	}()
	r.stop = func() error {
		cancel()
		<-done
		return result
	}
	t.Cleanup(func() { _ = r.stop() })
	r.dial(t)
	return r
}

func (r *replica) dial(t testing.TB) {
	t.Helper()
	conn, err := grpc.NewClient(r.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	r.conn = conn
	r.gateways = leaseholdv1.NewGatewayServiceClient(conn)
	r.sessions = leaseholdv1.NewSessionServiceClient(conn)
	r.workers = leaseholdv1.NewWorkerServiceClient(conn)
	r.control = leaseholdv1.NewControlServiceClient(conn)
}

// unheld lets a replica take over as soon as it has etcd.
const unheld time.Duration = -1

// embedded is the config of a plane with an etcd of its own.
func embedded(t testing.TB) controlplane.Config {
	return controlplane.Config{EmbeddedEtcd: true, DataDir: t.TempDir(), LeaseTTL: 2 * time.Second, Hold: unheld}
}

// startEtcd starts an etcd that several replicas share.
func startEtcd(t testing.TB) *etcd.Server {
	t.Helper()
	server, err := etcd.StartServer(testContext(t), etcd.ServerConfig{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	return server
}

func counter(id string) *leaseholdv1.Gateway {
	return &leaseholdv1.Gateway{
		Name:      "gateways/" + id,
		Upstreams: []*leaseholdv1.Upstream{{Name: "counter", Url: "http://127.0.0.1:9000/mcp"}},
	}
}

func (r *replica) create(t testing.TB, g *leaseholdv1.Gateway) *leaseholdv1.Gateway {
	t.Helper()
	resp, err := r.gateways.CreateGateway(testContext(t), &leaseholdv1.CreateGatewayRequest{Gateway: g})
	if err != nil {
		t.Fatalf("create %s: %v", g.Name, err)
	}
	return resp.Gateway
}

// register registers a worker and returns its incarnation and lease.
func (r *replica) register(t testing.TB, worker string) *leaseholdv1.RegisterResponse {
	t.Helper()
	resp, err := r.control.Register(testContext(t), &leaseholdv1.RegisterRequest{
		Worker: worker,
		Info:   &leaseholdv1.WorkerInfo{PeerAddress: "127.0.0.1:1", ListenAddress: "127.0.0.1:2", Version: "test", Capacity: 7},
	})
	if err != nil {
		t.Fatalf("register %s: %v", worker, err)
	}
	return resp
}

// claim claims a session for a worker.
func (r *replica) claim(t testing.TB, gateway, digest, worker string, incarnation int64) int64 {
	t.Helper()
	resp, err := r.control.Claim(testContext(t), &leaseholdv1.ClaimRequest{
		Gateway: gateway,
		Session: digest,
		Record: &leaseholdv1.SessionRecord{
			Worker: worker, Incarnation: incarnation, Epoch: 1, Class: leaseholdv1.Class_CLASS_RESUMABLE,
			CreateTime: timestamppb.Now(), ExpireTime: timestamppb.New(time.Now().Add(time.Hour)),
		},
	})
	if err != nil {
		t.Fatalf("claim %s: %v", digest, err)
	}
	return resp.Revision
}
