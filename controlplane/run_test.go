package controlplane_test

import (
	"crypto/sha256"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/leasehold/leasehold/controlplane"
	"github.com/leasehold/leasehold/controlplane/etcd"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func TestRunIsReadySoonAndStopsWithinFiveSeconds(t *testing.T) {
	began := time.Now()
	cfg := embedded(t)
	told := make(chan []string, 10)
	cfg.EtcdReady = func(endpoints []string) { told <- endpoints }
	r := start(t, cfg)
	if len(told) != 1 {
		t.Fatalf("told %d times that etcd is ready, want once", len(told))
	}
	if urls := <-told; len(urls) != 1 || !strings.HasPrefix(urls[0], "http://127.0.0.1:") || strings.HasSuffix(urls[0], ":0") {
		t.Errorf("etcd is at %v, want its URL", urls)
	}
	if took := time.Since(began); took > 10*time.Second { // on a busy machine
		t.Errorf("ready after %s, want it within a second or two", took)
	}
	r.create(t, counter("one"))
	r.register(t, "00000000000000aa")
	began = time.Now()
	if err := r.stop(); err != nil {
		t.Errorf("Run returned %v, want nil", err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("stopped after %s, want at most 5 s", took)
	}
}

func TestRestartOnTheSameDataKeepsGateways(t *testing.T) {
	cfg := embedded(t)
	r := start(t, cfg)
	want := r.create(t, counter("kept"))
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	r = start(t, cfg)
	got, err := r.gateways.GetGateway(testContext(t), &leaseholdv1.GetGatewayRequest{Name: "gateways/kept"})
	if err != nil {
		t.Fatal(err)
	}
	if got.Gateway.Etag != want.Etag || got.Gateway.Upstreams[0].Url != want.Upstreams[0].Url {
		t.Errorf("after restart got %v, want %v", got.Gateway, want)
	}
}

// writeRootKey writes a root key file with the key of that name.
func writeRootKey(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "root.key")
	if err := os.WriteFile(path, fmt.Appendf(nil, "%x\n", sha256.Sum256([]byte(name))), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// external is the config of a replica on an etcd that others use too.
func external(server *etcd.Server, rootKey string) controlplane.Config {
	return controlplane.Config{EtcdEndpoints: server.Endpoints(), RootKeyFile: rootKey, Hold: unheld}
}

func TestReplicasShareOneKeyRing(t *testing.T) {
	server := startEtcd(t)
	root := writeRootKey(t, "0a")
	rings := make([]*leaseholdv1.KeyRing, 2)
	for i := range rings {
		r := start(t, external(server, root))
		rings[i] = r.watch(t, workerA, 1).next().KeyRing
	}
	if len(rings[0].GetKeys()) != 1 || !proto.Equal(rings[0], rings[1]) {
		t.Errorf("rings differ: %d and %d keys", len(rings[0].GetKeys()), len(rings[1].GetKeys()))
	}
}

func TestWrongRootKeyEndsTheStart(t *testing.T) {
	server := startEtcd(t)
	start(t, external(server, writeRootKey(t, "0a")))
	r := launch(t, external(server, writeRootKey(t, "0b")))
	select {
	case err := <-r.ended:
		if err == nil || !strings.Contains(err.Error(), "root key") {
			t.Errorf("Run returned %v, want it to say that the root key is wrong", err)
		}
	case <-testContext(t).Done():
		t.Error("a replica with the wrong root key runs on")
	}
}

func TestMissingRootKeyOfExistingDataIsAnErrorAndNotANewKey(t *testing.T) {
	cfg := embedded(t)
	if err := start(t, cfg).stop(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(cfg.DataDir, "root.key")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := <-launch(t, cfg).ended; err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("Run returned %v, want it to name %s", err, path)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("a new root key was made")
	}
}

func TestReplicaWaitsForAnEtcdThatIsAway(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + lis.Addr().String()
	lis.Close()
	r := launch(t, controlplane.Config{EtcdEndpoints: []string{url}, RootKeyFile: writeRootKey(t, "0a"), Logger: hclog.NewNullLogger()})
	if err := <-r.ready; err == nil {
		t.Error("health said ready, want why it is not")
	}
	_, err = r.control.Register(testContext(t), &leaseholdv1.RegisterRequest{Worker: workerA, Info: &leaseholdv1.WorkerInfo{PeerAddress: "h:1"}})
	wantStatus(t, err, codes.Unavailable, "STORE_UNAVAILABLE")
	if got := status.Convert(err).Message(); got != "store unavailable" {
		t.Errorf("the caller is told %q, want no text of etcd's", got)
	}
	server, err := etcd.StartServer(testContext(t), etcd.ServerConfig{Dir: t.TempDir(), ClientURL: url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	if err := <-r.ready; err != nil {
		t.Errorf("health said %v, want ready", err)
	}
	r.register(t, workerA)
	if err := r.stop(); err != nil {
		t.Errorf("Run returned %v, want nil", err)
	}
}

func TestConfigSaysEverythingThatIsWrong(t *testing.T) {
	err := controlplane.Config{EmbeddedEtcd: true, EtcdEndpoints: []string{"x"}, LeaseTTL: 1500 * time.Millisecond, MaxOutage: 25 * time.Hour, SessionKeyRotation: time.Hour}.Validate()
	for _, want := range []string{"between 0 and 24h0m0s; is 25h0m0s", "between 12h0m0s and 720h0m0s; is 1h0m0s", "listener", "exclude each other", "data directory", "at least 2s", "whole seconds"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want it to say %q", err, want)
		}
	}
	if err := (controlplane.Config{}).Validate(); err == nil || !strings.Contains(err.Error(), "root key") {
		t.Errorf("got %v, want it to say that a root key is needed", err)
	}
}

func TestTwoPlanesInOneProcessShareARegistry(t *testing.T) {
	reg := prometheus.NewRegistry()
	for range 2 {
		cfg := embedded(t)
		cfg.Metrics = reg
		start(t, cfg)
	}
	families, err := reg.Gather()
	var names []string
	for _, f := range families {
		names = append(names, f.GetName())
	}
	if err != nil || !slices.Contains(names, "leasehold_etcd_requests_total") {
		t.Errorf("gathered %v, %v; want the count of etcd requests", names, err)
	}
}
