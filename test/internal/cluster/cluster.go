// Package cluster runs Leasehold as it is run in earnest: built binaries as
// processes of their own, on loopback ports, with real etcd. Tests and the
// benchmark start one, send requests to its workers, kill what they like, and
// ask the operator's API and the metrics what became of it.
package cluster

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"google.golang.org/grpc"

	"github.com/leasehold/leasehold/test/internal/ledger"
)

// Config says what a cluster is made of.
type Config struct {
	// EtcdMembers is how many etcd processes there are; 0 means that etcd is
	// embedded in the one control plane.
	EtcdMembers int
	// EtcdQuota is how many bytes each etcd member's data may take; 0 means etcd's
	// default.
	EtcdQuota int64
	// ControlPlanes is how many control-plane replicas there are; 0 means 1.
	ControlPlanes int
	// Workers is how many workers there are.
	Workers int
	// Race builds the product with the race detector.
	Race bool
	// Leasehold is a program of the product to run instead of one that is built;
	// empty for none. Process.Become has a process be another one later.
	Leasehold string
	// Dir holds data and logs. Required.
	Dir string
	// WorkerEnv is added to the workers' environment.
	WorkerEnv []string
	// WorkerArgs are added to the workers' arguments.
	WorkerArgs []string
	// Plaintext has the processes speak without TLS. Otherwise they speak mutual
	// TLS, with each other and with etcd members, under an authority of the
	// cluster's own.
	Plaintext bool
	// ControlArgs are added to the control planes' arguments.
	ControlArgs []string
	// Rebalance has workers that own more than their share hand sessions over to
	// others. Without it, sessions stay where they were opened.
	Rebalance bool
	// Via, if set, is asked for the address at which from reaches to, which
	// serves at address: so a test puts something between any two parts. The
	// parts have the names of their processes; from is Peers for what all other
	// workers use to reach a worker.
	Via func(from, to, address string) (string, error)
}

// Peers names the other workers, for Config.Via.
const Peers = "peers"

// Cluster is a running Leasehold.
type Cluster struct {
	// Binaries are the programs it runs.
	Binaries Binaries
	// Etcd are the etcd members, if they are processes of their own.
	Etcd []*Process
	// Control are the control-plane replicas.
	Control []*Control
	// Workers are the workers, killed ones included.
	Workers []*Worker

	cfg       Config
	endpoints []string
	rootKey   string
	certs     *certs // nil: plaintext

	introducing sync.Mutex // is held while ledgers are told, so that the newest is told last

	mu      sync.Mutex // guards all below
	all     []*Process
	owners  map[string]*Worker // by worker id, as far as known
	conns   map[string]*grpc.ClientConn
	ledgers []*upstream
	extra   []int // workers' process ids that Workers does not have yet, or no longer has
}

// upstream is a ledger and the process that it is now.
type upstream struct {
	ledger.Remote
	process *Process
}

// Control is a control-plane replica.
type Control struct {
	*Process
	// Address is where it serves gRPC.
	Address string
	// Admin is where it serves metrics.
	Admin string
	// DataDir is where an embedded etcd keeps its data.
	DataDir string
}

// Worker is a worker process.
type Worker struct {
	*Process
	// Listen is where it serves clients, host:port.
	Listen string
	// Peer is where it serves the other workers, host:port.
	Peer string
	// Admin is where it serves metrics, host:port.
	Admin string
}

// URL is where the worker serves a gateway.
func (w *Worker) URL(gateway string) string {
	return "http://" + w.Listen + "/gateways/" + gateway + "/mcp"
}

// Start builds and starts a cluster and waits until all of it is ready. On
// failure it leaves nothing behind; otherwise the caller calls Close.
func Start(ctx context.Context, cfg Config) (*Cluster, error) {
	binaries, err := Build(cfg.Race)
	if err != nil {
		return nil, err
	}
	if cfg.Leasehold != "" {
		binaries.Leasehold = cfg.Leasehold
	}
	c := &Cluster{cfg: cfg, Binaries: binaries, owners: map[string]*Worker{}, conns: map[string]*grpc.ClientConn{}}
	if err := c.start(ctx); err != nil {
		err = fmt.Errorf("%w\n%s", err, c.Logs())
		c.Close()
		return nil, err
	}
	return c, nil
}

// start starts the parts in order.
func (c *Cluster) start(ctx context.Context) error {
	if err := c.certify(ctx); err != nil {
		return err
	}
	if err := c.startEtcd(ctx); err != nil {
		return err
	}
	for range max(1, c.cfg.ControlPlanes) {
		if _, err := c.StartControl(ctx); err != nil {
			return err
		}
	}
	return c.StartWorkers(ctx, c.cfg.Workers)
}

// startEtcd starts the members, which wait for each other.
func (c *Cluster) startEtcd(ctx context.Context) error {
	n := c.cfg.EtcdMembers
	first, err := FreePorts(2*n + 1)
	if err != nil {
		return err
	}
	var members []string
	scheme := "https://"
	if c.certs == nil {
		scheme = "http://"
	}
	for i := range n {
		c.endpoints = append(c.endpoints, scheme+loopback(first+2*i))
		members = append(members, fmt.Sprintf("etcd%d=%s%s", i, scheme, loopback(first+2*i+1)))
	}
	started, err := parallel(n, func(i int) (*Process, error) {
		name := fmt.Sprintf("etcd%d", i)
		own, err := c.flagsOf(ctx, "etcd", name, "--")
		if err != nil {
			return nil, err
		}
		return c.run(ctx, Command{Name: name, Path: c.Binaries.Etcd, Args: append(own,
			"--name", name, "--data-dir", filepath.Join(c.cfg.Dir, name), "--client", c.endpoints[i],
			"--peer", scheme+loopback(first+2*i+1), "--cluster", strings.Join(members, ","),
			"--quota", strconv.FormatInt(c.cfg.EtcdQuota, 10),
		)})
	})
	c.Etcd = started
	return err
}

// StartControl starts one more control-plane replica.
func (c *Cluster) StartControl(ctx context.Context) (*Control, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	admin, err := freeAddress()
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("control%d", len(c.Control))
	cp := &Control{Address: address, Admin: admin, DataDir: filepath.Join(c.cfg.Dir, name)}
	own, err := c.clusterFlags(ctx, "controlplane", name)
	if err != nil {
		return nil, err
	}
	args := append([]string{"controlplane", "--listen", address, "--admin-listen", admin}, own...)
	if len(c.endpoints) == 0 {
		args = append(args, "--embedded-etcd", "--data-dir", cp.DataDir)
	} else {
		key, err := c.rootKeyFile()
		if err != nil {
			return nil, err
		}
		endpoints, err := c.endpointsFor(name)
		if err != nil {
			return nil, err
		}
		args = append(args, "--etcd-endpoints", strings.Join(endpoints, ","), "--root-key", key)
		if c.certs != nil {
			args = append(args, c.certs.flags(name, "--etcd-")...)
		}
	}
	cp.Process, err = c.run(ctx, Command{Name: name, Path: c.Binaries.Leasehold, Args: append(args, c.cfg.ControlArgs...)})
	if err != nil {
		return nil, err
	}
	c.Control = append(c.Control, cp)
	return cp, nil
}

// rootKeyFile returns the file with the root key that the replicas share.
func (c *Cluster) rootKeyFile() (string, error) {
	if c.rootKey != "" {
		return c.rootKey, nil
	}
	key := make([]byte, 32)
	rand.Read(key)
	path := filepath.Join(c.cfg.Dir, "root.key")
	if err := os.WriteFile(path, []byte(hex.EncodeToString(key)+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("write root key: %w", err)
	}
	c.rootKey = path
	return path, nil
}

// StartWorkers starts n more workers side by side. The ledgers know them before
// they are ready.
func (c *Cluster) StartWorkers(ctx context.Context, n int) error {
	first := len(c.Workers)
	started, err := parallel(n, func(i int) (*Worker, error) {
		return c.startWorker(ctx, fmt.Sprintf("worker%d", first+i))
	})
	if err != nil {
		return err
	}
	c.Workers = append(c.Workers, started...)
	return nil
}

// startWorker starts one worker.
func (c *Cluster) startWorker(ctx context.Context, name string) (*Worker, error) {
	first, err := FreePorts(3)
	if err != nil {
		return nil, err
	}
	w := &Worker{Listen: loopback(first), Peer: loopback(first + 1), Admin: loopback(first + 2)}
	control, err := c.controlFor(name)
	if err != nil {
		return nil, err
	}
	own, err := c.clusterFlags(ctx, "worker", name)
	if err != nil {
		return nil, err
	}
	args := append([]string{
		"worker", "--listen", w.Listen, "--peer-listen", w.Peer, "--admin-listen", w.Admin,
		"--control", strings.Join(control, ","), "--data-dir", filepath.Join(c.cfg.Dir, name),
		fmt.Sprintf("--rebalance=%t", c.cfg.Rebalance), "--allow-loopback-upstreams",
	}, own...)
	advertised, err := c.via(Peers, name, w.Peer)
	if err != nil {
		return nil, err
	}
	if advertised != w.Peer {
		args = append(args, "--peer-advertise", advertised)
	}
	var introduced error
	w.Process, err = c.run(ctx, Command{
		Name: name, Path: c.Binaries.Leasehold, Args: append(args, c.cfg.WorkerArgs...), Env: c.cfg.WorkerEnv,
		Started: func(pid int) { introduced = c.introduceWith(ctx, pid) }, // it may be given sessions at once
	})
	return w, errors.Join(err, introduced)
}

// run starts a process that Close kills.
func (c *Cluster) run(ctx context.Context, cmd Command) (*Process, error) {
	p, err := Run(ctx, c.cfg.Dir, cmd)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, p)
	return p, nil
}

// Close kills all processes and closes all connections.
func (c *Cluster) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		conn.Close()
	}
	for _, p := range c.all {
		p.Kill()
	}
	c.EtcdClient().CloseIdleConnections()
	http.DefaultClient.CloseIdleConnections()
}

// ControlAddresses are the addresses of all control-plane replicas.
func (c *Cluster) ControlAddresses() []string {
	var addresses []string
	for _, cp := range c.Control {
		addresses = append(addresses, cp.Address)
	}
	return addresses
}

// Live are the workers that run.
func (c *Cluster) Live() []*Worker {
	var live []*Worker
	for _, w := range c.Workers {
		if w.Running() {
			live = append(live, w)
		}
	}
	return live
}

// Others are the workers that run, without w.
func (c *Cluster) Others(w *Worker) []*Worker {
	var others []*Worker
	for _, o := range c.Live() {
		if o != w {
			others = append(others, o)
		}
	}
	return others
}

// StartLedger starts a ledger as a process of its own, which knows the workers.
// To have it come back at the same address after it was killed, use Restart.
func (c *Cluster) StartLedger(ctx context.Context) (ledger.Remote, *Process, error) {
	c.mu.Lock()
	name := fmt.Sprintf("ledger%d", len(c.ledgers))
	c.mu.Unlock()
	address, err := freeAddress()
	if err != nil {
		return ledger.Remote{}, nil, err
	}
	p, err := c.run(ctx, Command{Name: name, Path: c.Binaries.Ledger, Args: []string{"--listen", address}})
	if err != nil {
		return ledger.Remote{}, nil, err
	}
	_, base, ok := strings.Cut(p.ReadyLine, " ")
	if !ok {
		return ledger.Remote{}, nil, fmt.Errorf("ledger says %q without its URL", p.ReadyLine)
	}
	remote := ledger.Remote{Base: base}
	c.mu.Lock()
	c.ledgers = append(c.ledgers, &upstream{remote, p})
	c.mu.Unlock()
	return remote, p, c.introduce(ctx)
}

// introduce tells the ledgers that run which processes are workers.
func (c *Cluster) introduce(ctx context.Context) error {
	c.introducing.Lock()
	defer c.introducing.Unlock()
	pids := c.workerPIDs()
	c.mu.Lock()
	var running []ledger.Remote
	for _, l := range c.ledgers {
		if l.process.Running() {
			running = append(running, l.Remote)
		}
	}
	c.mu.Unlock()
	for _, l := range running {
		if err := l.Know(ctx, pids); err != nil {
			return err
		}
	}
	return nil
}

// Faults returns what the runtime complained of in any process: data races and
// panics.
func (c *Cluster) Faults() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var faults []string
	seen := map[string]bool{} // a process that was restarted goes on with its log
	for _, p := range c.all {
		if f := p.Fault(); f != "" && !seen[p.Log] {
			seen[p.Log] = true
			faults = append(faults, p.Name+": "+f)
		}
	}
	return faults
}

// Logs returns the end of every process's output.
func (c *Cluster) Logs() string {
	const most = 6000
	c.mu.Lock()
	defer c.mu.Unlock()
	var b strings.Builder
	for _, p := range c.all {
		out := p.Output()
		fmt.Fprintf(&b, "--- %s (process %d, %s)\n%s\n", p.Name, p.PID, p.Log, out[max(0, len(out)-most):])
	}
	return b.String()
}

// parallel calls f for 0 … n-1 side by side and returns the results, or all errors.
func parallel[T any](n int, f func(int) (T, error)) ([]T, error) {
	results, errs := make([]T, n), make([]error, n)
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() { results[i], errs[i] = f(i) })
	}
	group.Wait()
	return results, errors.Join(errs...)
}
