package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/leasehold/leasehold/cmd/internal/address"
	"github.com/leasehold/leasehold/cmd/internal/admin"
	"github.com/leasehold/leasehold/cmd/internal/crash"
	"github.com/leasehold/leasehold/cmd/internal/dirlock"
	"github.com/leasehold/leasehold/cmd/internal/heap"
	"github.com/leasehold/leasehold/cmd/internal/trust"
	"github.com/leasehold/leasehold/cmd/internal/usage"
	"github.com/leasehold/leasehold/cmd/internal/version"
	"github.com/leasehold/leasehold/dataplane"
)

// mostSessions is more than the memory of one machine can hold.
const mostSessions = 100_000_000

// Bounds of a worker's end.
const (
	mostDrain  = time.Hour
	mostNotice = 5 * time.Minute
)

// heapFloor is how much memory a worker may use before it collects garbage.
const heapFloor = 64 << 20

// worker is the command's flags.
type worker struct {
	daemon
	cluster cluster
	clientAccess
	upstreams
	programs
	listen, peerListen, peerAdvertise, adminListen string
	control                                        []string
	dataDir, zone                                  string
	maxSessions                                    int
	drainTimeout, drainNotice                      time.Duration
	rebalance                                      bool
	allowUnauthenticated                           bool
}

func newWorker() *cobra.Command {
	w := &worker{}
	cmd := &cobra.Command{
		Use:   "worker",
		Short: "Run a worker: serve MCP clients and own their sessions",
		Long: "Runs a worker. Clients use http://LISTEN/gateways/ID/mcp at any worker; a\n" +
			"request of a session that another worker owns is passed to that one.\n\n" +
			"With --tls-cert and --tls-key clients use https. Both files are looked at each\n" +
			"second: a new pair is used from the next connection on; files that do not make\n" +
			"a pair are reported in the log and leave the last good one in use.\n\n" +
			"A browser says in Origin which page sends a request. Pages of --allowed-origins\n" +
			"are admitted, and told by CORS that they may read the answer; others get 403, so\n" +
			"that a page cannot use its visitor's network. For the same reason a worker on a\n" +
			"loopback address takes requests to loopback names and --allowed-hosts only.\n" +
			"Behind a proxy that replaces Host, name its network in --trusted-proxies and\n" +
			"let it send X-Forwarded-Host.\n\n" +
			"With --cluster-cert it proves to the control plane and to other workers what it is,\n" +
			"and believes those only that have a certificate of --cluster-ca with the right\n" +
			"role; `leasehold certs` makes certificates.\n\n" +
			"An upstream's address is checked when it is connected to, after its name was\n" +
			"resolved. Link-local addresses and those of metadata services are never used, and\n" +
			"loopback ones with --insecure or --allow-loopback-upstreams only. Of the networks\n" +
			"in --allow-upstream-cidrs and --deny-upstream-cidrs the longest counts.\n\n" +
			"A gateway with TRANSPORT_STDIO has workers run a program, one process for each\n" +
			"session, under the worker's own user. Whoever may write gateways decides which\n" +
			"program: workers do so with --allow-stdio only.\n\n" +
			"At SIGTERM, /readyz answers 503 first. The worker hands its sessions over to the\n" +
			"others, those in use once their calls end, and goes on to take requests, which it\n" +
			"passes on, for --drain-notice at least, so that a balancer that has not noticed yet\n" +
			"loses nothing. Calls that take longer than --drain-timeout are cut off; sessions\n" +
			"that cannot move (TRANSPORT_STDIO, TRANSPORT_SSE and clients of HTTP+SSE) stay until\n" +
			"then. So it ends within --drain-timeout and 5 s, or sooner. A second SIGTERM ends it\n" +
			"at once.",
		Example: "  leasehold worker --insecure --listen 127.0.0.1:8080 --peer-listen 127.0.0.1:0 \\\n" +
			"    --control 127.0.0.1:7070 --data-dir /var/lib/leasehold/worker\n" +
			"  leasehold worker … --cluster-ca ca.crt --cluster-cert worker-1.crt --cluster-key worker-1.key\n" +
			"  leasehold worker … --tls-cert tls.crt --tls-key tls.key --allowed-origins https://app.example.com\n" +
			"  leasehold worker … --allow-stdio --max-programs 64 --program-memory 1073741824",
		Args: usage.Args(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := w.check(); err != nil {
				return err
			}
			return w.daemon.run(cmd, w.drainTimeout+w.drainNotice, func(ctx context.Context, logger hclog.Logger) error {
				return w.serve(ctx, logger, cmd.OutOrStdout())
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&w.listen, "listen", "", "address to serve MCP clients on (HTTP)")
	flags.StringVar(&w.peerListen, "peer-listen", "", "address to serve other workers on (gRPC)")
	flags.StringVar(&w.peerAdvertise, "peer-advertise", "", "where other workers reach --peer-listen, if not at that address")
	flags.StringSliceVar(&w.control, "control", nil, "addresses of the control plane's replicas, tried in turn")
	flags.StringVar(&w.dataDir, "data-dir", "", "this worker's own directory; one that is started there after a crash lets others have the sessions at once")
	flags.StringVar(&w.zone, "zone", "", "zone it runs in, for operators to see")
	flags.StringVar(&w.adminListen, "admin-listen", defaultAdmin, "address of /livez, /readyz and /metrics; empty for none")
	flags.IntVar(&w.maxSessions, "max-sessions", dataplane.DefaultMaxSessions, "how many sessions it owns at most")
	flags.DurationVar(&w.drainTimeout, "drain-timeout", dataplane.DefaultDrainTimeout, "how long sessions in use may stay when it stops or drains, at most 1h; 0 leaves all to be taken over when it has stopped")
	flags.DurationVar(&w.drainNotice, "drain-notice", dataplane.DefaultDrainNotice, "how long it goes on to take requests at least once it is not ready any more, at most 5m")
	flags.BoolVar(&w.rebalance, "rebalance", true, "hand idle sessions over to workers that own less than their share")
	flags.BoolVar(&w.allowUnauthenticated, "allow-unauthenticated-clients", false, "accept a --listen that is not loopback, though clients are not authenticated")
	w.clientAccess.flags(cmd)
	w.upstreams.flags(cmd)
	w.programs.flags(cmd)
	w.cluster.flags(cmd, trust.Worker)
	w.daemon.flags(cmd, "info")
	return cmd
}

func (w *worker) check() error {
	if err := checkListen("listen", w.listen); err != nil {
		return err
	}
	if err := checkListen("peer-listen", w.peerListen); err != nil {
		return err
	}
	if w.adminListen != "" {
		if err := checkListen("admin-listen", w.adminListen); err != nil {
			return err
		}
	}
	pairs := []string{"peer-listen", w.peerListen}
	if w.peerAdvertise != "" {
		if err := address.CheckDial(w.peerAdvertise); err != nil {
			return usage.Errorf("--peer-advertise: %w", err)
		}
		pairs = append(pairs, "peer-advertise", w.peerAdvertise)
	}
	if len(w.control) == 0 {
		return usage.Errorf("--control: is needed, for example --control 127.0.0.1:7070")
	}
	for _, addr := range w.control {
		if err := address.CheckDial(addr); err != nil {
			return usage.Errorf("--control: %w", err)
		}
		pairs = append(pairs, "control", addr)
	}
	switch {
	case w.dataDir == "":
		return usage.Errorf("--data-dir: is needed: a directory that no other worker uses")
	case w.maxSessions < 1 || w.maxSessions > mostSessions:
		return usage.Errorf("--max-sessions: %d is not a number of sessions a worker could serve", w.maxSessions)
	case w.drainTimeout < 0 || w.drainTimeout > mostDrain:
		return usage.Errorf("--drain-timeout: %v is not within 0 and %v", w.drainTimeout, mostDrain)
	case w.drainNotice < 0 || w.drainNotice > mostNotice:
		return usage.Errorf("--drain-notice: %v is not within 0 and %v", w.drainNotice, mostNotice)
	case !address.Loopback(w.listen) && !w.allowUnauthenticated:
		return usage.Errorf("--listen: %s is not a loopback address, and clients are not authenticated yet: whoever reaches it can use every gateway; "+
			"add --allow-unauthenticated-clients if that is meant", w.listen)
	}
	if err := w.clientAccess.check(); err != nil {
		return err
	}
	if err := w.upstreams.check(); err != nil {
		return err
	}
	if err := w.programs.check(); err != nil {
		return err
	}
	return w.cluster.check(pairs...)
}

func (w *worker) serve(ctx context.Context, logger hclog.Logger, stdout io.Writer) error {
	lock, err := dirlock.Acquire(w.dataDir)
	if err != nil {
		return err
	}
	defer lock.Release()
	crashed, err := crash.Keep(filepath.Join(w.dataDir, "crash"))
	if err != nil {
		logger.Warn("a definition that crashes this worker is applied again when it is restarted", "error", err)
	}
	health, registry := &admin.Health{}, admin.NewRegistry()
	group, ctx := errgroup.WithContext(ctx)
	pair, err := w.clientAccess.load(registry, logger)
	if err != nil {
		return err
	}
	own, err := w.cluster.load(registry, logger, trust.Worker)
	if err != nil {
		return err
	}
	listener, err := address.Listen(w.listen, "listen")
	if err != nil {
		return err
	}
	peer, err := address.Listen(w.peerListen, "peer-listen")
	if err != nil {
		_ = listener.Close()
		return err
	}
	adminCtx, stopAdmin := context.WithCancel(context.WithoutCancel(ctx)) // a worker that drains says so
	defer stopAdmin()
	adminAddr, err := startAdmin(adminCtx, group, w.adminListen, health, registry, logger)
	if err != nil {
		_, _ = listener.Close(), peer.Close()
		return err
	}
	keep(ctx, group, own)
	var id atomic.Pointer[string]
	ready := sync.OnceFunc(func() {
		fmt.Fprintf(stdout, "leasehold worker ready: id=%s %s=%s peer=%s admin=%s\n", *id.Load(), w.scheme(), bound(listener), bound(peer), orNone(adminAddr))
	})
	part := health.Part("worker")
	config := dataplane.Config{
		Listener:       listener,
		PeerListener:   peer,
		PeerAdvertise:  w.peerAdvertise,
		AdminAddress:   adminAddr,
		Control:        w.control,
		DataDir:        w.dataDir,
		Crash:          crashed,
		Zone:           w.zone,
		AllowedHosts:   w.hosts,
		AllowedOrigins: w.origins,
		TrustedProxies: w.networks,
		TLS:            tlsConfig(ctx, group, pair),
		DrainTimeout:   w.drainTimeout,
		DrainNotice:    w.drainNotice,
		Rebalance:      w.rebalance,
		Trust:          workerTrust(own),
		MaxSessions:    w.maxSessions,
		AllowStdio:     w.allow,
		MaxPrograms:    w.max,
		ProgramMemory:  int64(w.memory),
		Version:        version.Number(),
		Logger:         logger.Named("worker"),
		Metrics:        registry,
		Registered:     func(worker string) { id.Store(&worker) },
		Health: func(err error) {
			part(err)
			if err == nil && id.Load() != nil {
				ready()
			}
		},
	}
	w.upstreams.configure(&config, w.cluster.insecure)
	heap.Floor(heapFloor)
	group.Go(func() error {
		defer stopAdmin()
		return endless(ctx, dataplane.Run(ctx, config))
	})
	return group.Wait()
}

// workerTrust is what a worker does with its certificates; nil means plaintext.
func workerTrust(own *trust.Files) dataplane.Trust {
	if own == nil {
		return dataplane.Trust{}
	}
	return dataplane.Trust{Listener: own.Server(), Workers: own.Client(trust.Worker), Control: own.Client(trust.ControlPlane)}
}

func orNone(addr string) string {
	if addr == "" {
		return "none"
	}
	return addr
}
