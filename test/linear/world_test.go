package linear

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
	"github.com/leasehold/leasehold/test/internal/cluster"
	"github.com/leasehold/leasehold/test/internal/crossing"
	"github.com/leasehold/leasehold/test/internal/ledger"
	"github.com/leasehold/leasehold/test/internal/poll"
)

// gateway is the one that all clients use.
const gateway = "linear"

// size says what a world is made of.
type size struct {
	etcd, controls, workers int
	// ttl is the workers' lease.
	ttl time.Duration
	// outage is for how long workers serve on without a control plane; 0 leaves that to
	// the product.
	outage time.Duration
	// race builds the product with the race detector.
	race bool
	// mutant is the guard that the product is built without; empty for none.
	mutant string
}

// world is a Leasehold whose workers reach their control planes through a
// recorder, and whose upstream keeps a ledger in this process: everything that
// is written down bears the time of one clock.
type world struct {
	size
	*recorder
	etcd     []*service
	controls []*service
	workers  []*worker
	ledger   *ledger.Ledger
	store    *clientv3.Client

	admins  []string // of the control planes
	dir     string
	binary  string
	rootKey string
	closers []func()
	next    atomic.Int64 // numbers JSON-RPC ids

	mu       sync.Mutex // guards all below, and what is added to workers
	sessions []*session
	pids     []int // of all workers, past ones included
}

// service is a process that can be started again, as it was.
type service struct {
	command cluster.Command
	dir     string
	address string

	mu      sync.Mutex // guards process
	process *cluster.Process
}

// current is the process that runs now, or ran last.
func (s *service) current() *cluster.Process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.process
}

// start starts the process.
func (s *service) start(ctx context.Context) error {
	p, err := cluster.Run(ctx, s.dir, s.command)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.process = p
	return nil
}

// stop stops the process in its tracks, and goOn lets it go on.
func (s *service) stop() error { return s.current().Signal(syscall.SIGSTOP) }

func (s *service) goOn() error { return s.current().Signal(syscall.SIGCONT) }

// worker is a worker process, with its own road to the control planes.
type worker struct {
	service
	*road
	name  string
	lanes []lane
	// admin is where it says how it is, and peers what the others reach it through.
	admin string
	peers *crossing.Crossing
}

// url is where the worker serves the gateway.
func (w *worker) url() string { return "http://" + w.address + "/gateways/" + gateway + "/mcp" }

// newWorld starts a world. When the test is over, it is gone.
func newWorld(t *testing.T, s size) *world {
	t.Helper()
	w := &world{size: s, recorder: newRecorder(), ledger: ledger.New(), dir: t.TempDir()}
	t.Cleanup(func() {
		w.close()
		w.faults(t)
		if t.Failed() {
			t.Log(w.logs())
		}
	})
	began := time.Now()
	if err := w.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d etcd members, %d control planes and %d workers are ready after %v",
		s.etcd, s.controls, s.workers, time.Since(began).Round(time.Millisecond))
	return w
}

func (w *world) start(ctx context.Context) error {
	for _, step := range []func(context.Context) error{w.build, w.startEtcd, w.startControls, w.startWorkers, w.publish} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// mutants is the binary whose guards the environment takes away.
var mutants struct {
	sync.Mutex // guards all below
	dir, path  string
}

// build builds the product.
func (w *world) build(context.Context) (err error) {
	if w.mutant == "" {
		w.binary, err = cluster.Program("cmd/leasehold", w.race)
		return err
	}
	mutants.Lock()
	defer mutants.Unlock()
	if mutants.path == "" {
		if mutants.dir, err = os.MkdirTemp("", "leasehold-mutant-"); err != nil {
			return err
		}
		path := filepath.Join(mutants.dir, "leasehold")
		out, err := exec.Command("go", "build", "-tags", "mutant", "-o", path, "github.com/leasehold/leasehold/cmd/leasehold").CombinedOutput()
		if err != nil {
			return fmt.Errorf("build mutant: %w\n%s", err, out)
		}
		mutants.path = path
	}
	w.binary = mutants.path
	return nil
}

func removeMutant() {
	mutants.Lock()
	defer mutants.Unlock()
	os.RemoveAll(mutants.dir)
}

// startEtcd starts the members, which wait for each other, and a client.
func (w *world) startEtcd(ctx context.Context) error {
	binary, err := cluster.Program("test/internal/etcdmember", false)
	if err != nil {
		return err
	}
	first, err := cluster.FreePorts(2 * w.size.etcd)
	if err != nil {
		return err
	}
	var members []string
	for i := range w.size.etcd {
		members = append(members, fmt.Sprintf("etcd%d=http://127.0.0.1:%d", i, first+2*i+1))
	}
	var group sync.WaitGroup
	errs := make([]error, w.size.etcd)
	for i := range w.size.etcd {
		name := fmt.Sprintf("etcd%d", i)
		s := &service{dir: w.dir, address: fmt.Sprintf("http://127.0.0.1:%d", first+2*i)}
		s.command = cluster.Command{Name: name, Path: binary, Args: []string{
			"--name", name, "--data-dir", filepath.Join(w.dir, name), "--client", s.address,
			"--peer", fmt.Sprintf("http://127.0.0.1:%d", first+2*i+1), "--cluster", strings.Join(members, ","),
		}}
		w.etcd = append(w.etcd, s)
		group.Go(func() { errs[i] = s.start(ctx) })
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	w.store, err = clientv3.New(clientv3.Config{Endpoints: addresses(w.etcd), Logger: zap.NewNop(), DialTimeout: 5 * time.Second})
	if err == nil {
		w.closers = append(w.closers, func() { w.store.Close() })
	}
	return err
}

func addresses(services []*service) []string {
	var all []string
	for _, s := range services {
		all = append(all, s.address)
	}
	return all
}

func (w *world) startControls(ctx context.Context) error {
	key := make([]byte, 32)
	rand.Read(key)
	w.rootKey = filepath.Join(w.dir, "root.key")
	if err := os.WriteFile(w.rootKey, []byte(hex.EncodeToString(key)+"\n"), 0o600); err != nil {
		return err
	}
	for i := range w.size.controls {
		first, err := cluster.FreePorts(2)
		if err != nil {
			return err
		}
		s := &service{dir: w.dir, address: fmt.Sprintf("127.0.0.1:%d", first)}
		w.admins = append(w.admins, fmt.Sprintf("127.0.0.1:%d", first+1))
		s.command = cluster.Command{Name: fmt.Sprintf("control%d", i), Path: w.binary, Env: w.environment(), Args: []string{
			"controlplane", "--listen", s.address, "--admin-listen", w.admins[i], "--insecure", "--lease-ttl", w.ttl.String(),
			"--etcd-endpoints", strings.Join(addresses(w.etcd), ","), "--root-key", w.rootKey,
		}}
		if w.outage > 0 {
			s.command.Args = append(s.command.Args, "--max-outage", w.outage.String())
		}
		w.controls = append(w.controls, s)
		if err := s.start(ctx); err != nil {
			return err
		}
	}
	return nil
}

// environment names the guard that a process does without.
func (w *world) environment() []string {
	if w.mutant == "" {
		return nil
	}
	return []string{"LEASEHOLD_MUTANT=" + w.mutant}
}

func (w *world) startWorkers(ctx context.Context) error {
	for i := range w.size.workers {
		if err := w.startWorker(ctx, fmt.Sprintf("worker%d", i)); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) startWorker(ctx context.Context, name string) error {
	first, err := cluster.FreePorts(3)
	if err != nil {
		return err
	}
	wk := &worker{name: name, road: newRoad(w.recorder, name), admin: fmt.Sprintf("127.0.0.1:%d", first+2)}
	replicas, err := w.pave(wk)
	if err != nil {
		return err
	}
	peer := fmt.Sprintf("127.0.0.1:%d", first+1)
	if wk.peers, err = crossing.New(peer, cluster.NameOf); err != nil {
		return err
	}
	w.closers = append(w.closers, wk.peers.Close)
	wk.service.dir, wk.address = w.dir, fmt.Sprintf("127.0.0.1:%d", first)
	wk.command = cluster.Command{Name: name, Path: w.binary, Env: w.environment(), Args: []string{
		"worker", "--listen", wk.address, "--peer-listen", peer, "--peer-advertise", wk.peers.Address(), "--admin-listen", wk.admin,
		"--control", strings.Join(replicas, ","), "--data-dir", filepath.Join(w.dir, name), "--insecure",
		"--drain-notice", "200ms", "--drain-timeout", "5s", "--rebalance=false",
	}}
	w.mu.Lock()
	w.workers = append(w.workers, wk)
	w.mu.Unlock()
	return w.launch(ctx, wk)
}

// launch starts a worker's process. It reaches nobody before the ledger knows
// it.
func (w *world) launch(ctx context.Context, wk *worker) error {
	wk.sever()
	defer wk.heal()
	started := make(chan error, 1)
	go func() { started <- wk.start(ctx) }()
	_, err := poll.Until(ctx, 30*time.Second, func(context.Context) error {
		pid, err := running(wk.address)
		if err == nil {
			wk.begin(pid)
			w.introduce(pid)
			wk.heal()
		}
		return err
	})
	return errors.Join(err, <-started)
}

// introduce tells the ledger of one more process.
func (w *world) introduce(pid int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pids = append(w.pids, pid)
	w.ledger.Know(w.pids)
}

// running returns the process that was told to listen at an address.
func running(address string) (int, error) {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return 0, err
	}
	for _, file := range files {
		args, err := os.ReadFile(file)
		if err == nil && strings.Contains(string(args), "--listen\x00"+address+"\x00") {
			return strconv.Atoi(filepath.Base(filepath.Dir(file)))
		}
	}
	return 0, fmt.Errorf("no process listens at %s", address)
}

// pave makes a worker's way to each replica, and returns the addresses that the
// worker uses in their stead.
func (w *world) pave(wk *worker) ([]string, error) {
	var all []string
	for _, control := range w.controls {
		conn, err := dial(control.address)
		if err != nil {
			return nil, err
		}
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		way := lane{wk.road, conn}
		wk.lanes = append(wk.lanes, way)
		server := grpc.NewServer(grpc.UnknownServiceHandler(way.handle), grpc.MaxRecvMsgSize(8<<20))
		go server.Serve(listener)
		w.closers = append(w.closers, server.Stop, func() { conn.Close() })
		all = append(all, listener.Addr().String())
	}
	return all, nil
}

func dial(address string) (*grpc.ClientConn, error) {
	return grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(8<<20)), grpc.WithDisableRetry())
}

// publish makes the gateway, and waits until every worker serves it.
func (w *world) publish(ctx context.Context) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := w.ledger.Server()
	go server.Serve(listener)
	w.closers = append(w.closers, func() { server.Close() })
	conn, err := dial(w.controls[0].address)
	if err != nil {
		return err
	}
	defer conn.Close()
	gateways := leaseholdv1.NewGatewayServiceClient(conn)
	_, err = gateways.CreateGateway(ctx, &leaseholdv1.CreateGatewayRequest{GatewayId: gateway, Gateway: &leaseholdv1.Gateway{
		Upstreams: []*leaseholdv1.Upstream{{Name: "ledger", Url: "http://" + listener.Addr().String() + ledger.Path,
			Transport: leaseholdv1.Transport_TRANSPORT_STREAMABLE_HTTP}},
	}})
	if err != nil {
		return err
	}
	_, err = poll.Until(ctx, 20*time.Second, func(ctx context.Context) error {
		got, err := gateways.GetGateway(ctx, &leaseholdv1.GetGatewayRequest{Name: "gateways/" + gateway})
		if err != nil {
			return err
		}
		if n := int(got.GetGateway().GetStatus().GetWorkersApplied()); n < len(w.workers) {
			return fmt.Errorf("%d of %d workers serve the gateway", n, len(w.workers))
		}
		return nil
	})
	return err
}

// settled waits until sessions of any worker can be taken over by any other: all have
// been members for long enough, know each other, and no control plane holds.
func (w *world) settled(ctx context.Context, workers ...*worker) error {
	_, err := poll.Until(ctx, 30*time.Second, func(ctx context.Context) error {
		for _, admin := range w.admins {
			if err := gauge(ctx, admin, "leasehold_controlplane_holding", 0); err != nil {
				return err
			}
		}
		for _, wk := range workers {
			if err := gauge(ctx, wk.admin, "leasehold_worker_power", 1); err != nil {
				return err
			}
			if err := w.knows(ctx, wk, workers); err != nil {
				return err
			}
		}
		return nil
	})
	return err
}

// gauge returns nil if a process's gauge has a value.
func gauge(ctx context.Context, admin, name string, want float64) error {
	m, err := cluster.Scrape(ctx, admin)
	if err != nil {
		return err
	}
	if samples := m.Of(name); len(samples) != 1 || m.Sum(name) != want {
		return fmt.Errorf("%s of %s is %v, want %v", name, admin, samples, want)
	}
	return nil
}

// knows returns nil if a worker is recorded to know others of some, and nobody else.
func (w *world) knows(ctx context.Context, wk *worker, some []*worker) error {
	resp, err := w.store.Get(ctx, root+"incarnations/"+wk.id())
	if err != nil || len(resp.Kvs) == 0 {
		return errors.Join(err, fmt.Errorf("%s is not registered", wk.name))
	}
	_, known, err := incarnationOf(wk.id(), change{Key: string(resp.Kvs[0].Key), Value: resp.Kvs[0].Value})
	if err != nil {
		return err
	}
	want := map[string]bool{}
	for _, other := range some {
		want[other.id()] = other != wk
	}
	for _, peer := range known {
		id, _, _ := strings.Cut(string(peer), "/")
		if !want[id] {
			return fmt.Errorf("%s is recorded to know %s", wk.name, peer)
		}
	}
	if len(known) != len(some)-1 {
		return fmt.Errorf("%s is recorded to know %v only", wk.name, known)
	}
	return nil
}

// processes are all processes, the latest of each.
func (w *world) processes() []*cluster.Process {
	var all []*cluster.Process
	for _, s := range w.services() {
		if p := s.current(); p != nil {
			all = append(all, p)
		}
	}
	return all
}

func (w *world) services() []*service {
	all := append(append([]*service(nil), w.etcd...), w.controls...)
	for _, wk := range w.workers {
		all = append(all, &wk.service)
	}
	return all
}

func (w *world) close() {
	for _, p := range w.processes() {
		p.Kill()
	}
	for i := len(w.closers) - 1; i >= 0; i-- {
		w.closers[i]()
	}
}

// faults makes the test red if the runtime complained in any process.
func (w *world) faults(t *testing.T) {
	for _, p := range w.processes() {
		if fault := p.Fault(); fault != "" {
			t.Errorf("%s: %s", p.Name, fault)
		}
	}
}

// logs returns the end of every process's output.
func (w *world) logs() string {
	const most = 4000
	var b strings.Builder
	for _, p := range w.processes() {
		out := p.Output()
		fmt.Fprintf(&b, "--- %s (process %d)\n%s\n", p.Name, p.PID, out[max(0, len(out)-most):])
	}
	return b.String()
}

// named returns the name of the worker whose process has or had an id; empty if none.
func (w *world) named(id string) string {
	w.mu.Lock()
	workers := slices.Clone(w.workers)
	w.mu.Unlock()
	for _, wk := range workers {
		if wk.wasNamed(id) {
			return wk.name
		}
	}
	return ""
}

// dispatcher returns the worker that a process is or was, and its id then.
func (w *world) dispatcher(pid int) (*worker, string) {
	for _, wk := range w.workers {
		if id := wk.idOf(pid); id != "" {
			return wk, id
		}
	}
	return nil, ""
}
