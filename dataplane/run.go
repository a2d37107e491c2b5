package dataplane

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/leasehold/leasehold/dataplane/checkup"
	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/control"
	"github.com/leasehold/leasehold/dataplane/forward"
	"github.com/leasehold/leasehold/dataplane/front"
	"github.com/leasehold/leasehold/dataplane/keycheck"
	"github.com/leasehold/leasehold/dataplane/route"
	"github.com/leasehold/leasehold/dataplane/session"
	"github.com/leasehold/leasehold/dataplane/sessionid"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Times of a worker's end after it has drained; together they stay below 5 s.
const (
	// undecided is how long after its time a drain still waits for the outcome of
	// hand-overs. A session whose owner is not known by then is nobody's here.
	undecided  = 500 * time.Millisecond
	drainCalls = 3 * time.Second
	leaveTime  = time.Second
)

const (
	// healthTick is how often the lease is looked at for readiness.
	healthTick = 250 * time.Millisecond
	// openLate is how long clients wait at most for a worker that starts.
	openLate = 3 * time.Second
)

// Times of a client's connection. Answers have no bound in time.
const (
	headerTimeout = 5 * time.Second
	keepAlive     = 2 * time.Minute
)

// Run serves until ctx ends and then shuts down: its sessions are handed over within
// DrainTimeout, then calls in flight get up to 3 s, and what is left goes on at other
// workers once this one has given back its lease. That takes 5 s at most beyond
// DrainTimeout and DrainNotice.
func Run(ctx context.Context, cfg Config) error {
	w, err := assemble(cfg)
	if err != nil {
		return err
	}
	return w.run(ctx)
}

// worker is an assembled worker.
type worker struct {
	cfg        Config
	id         string
	world      *config.Holder
	disk       *config.Disk
	quarantine *config.Quarantine
	applied    *config.State // the last one; used by apply only
	recalled   atomic.Bool   // world is from disk, and the control plane was not reached yet
	control    *control.Client
	upstreams  *transports
	checkup    *checkup.Checker
	table      *session.Table
	forwards   *forward.Client
	router     *route.Router
	keys       *keycheck.Checker
	handler    *front.Handler
	mover      *mover
	drainer    *drainer
	clients    *http.Server
	peers      *forward.Server
	lookout    *lookout
	ttl        atomic.Int64
	endings    chan struct{} // capacity 1: the list of endings changed
	health     *health
	watchdog   *watchdog
}

func assemble(cfg Config) (*worker, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = hclog.NewNullLogger()
	}
	if cfg.MaxSessions == 0 {
		cfg.MaxSessions = DefaultMaxSessions
	}
	w := &worker{cfg: cfg, id: newWorkerID(), world: &config.Holder{},
		forwards: forward.NewClient(cfg.Trust.Workers), endings: make(chan struct{}, 1), health: &health{report: cfg.Health}}
	cfg.Logger = cfg.Logger.With("worker", w.id)
	w.watchdog = newWatchdog(w.probe, w.leaseTTL, cfg.Logger.Named("watchdog"))
	err := errors.Join(w.watchdog.register(cfg.Metrics), w.registerRecalled(cfg.Metrics), w.registerRejected(cfg.Metrics))
	if err != nil {
		return nil, err
	}
	w.disk = config.NewDisk(cfg.DataDir, cfg.Logger.Named("config"))
	w.quarantine = config.NewQuarantine(cfg.DataDir, cfg.Crash, cfg.Logger.Named("config"))
	if w.upstreams, err = newTransports(&cfg); err != nil {
		return nil, fmt.Errorf("upstreams: %w", err)
	}
	w.checkup = checkup.New(checkup.Config{World: w.world, Upstream: w.upstreams, Logger: cfg.Logger.Named("checkup")})
	gate := newGate(w.upstreams, w.world, w.checkup)
	if err := w.upstreams.merge(&cfg, w.world, gate, func(id string) { w.table.PartsChanged(id) }); err != nil {
		return nil, err
	}
	w.control, err = control.New(control.Config{
		Endpoints: cfg.Control, Worker: w.id, Info: w.info(), Apply: w.apply, Recall: w.recall, Lost: w.lost, Registered: w.registered,
		Credentials: cfg.Trust.Control, Witnesses: w.forwards, Serving: w.watchdog.stuck, DataDir: cfg.DataDir, Logger: cfg.Logger.Named("control"), Metrics: cfg.Metrics,
	})
	if err != nil {
		return nil, err
	}
	w.table, err = session.NewTable(session.Config{
		Worker: w.id, Max: cfg.MaxSessions, Upstream: gate, Records: w.control, Authority: w.control.Authority(),
		World: w.world.Load, Logger: cfg.Logger.Named("session"), Metrics: cfg.Metrics, KeepAlive: cfg.keepAlive,
		Receivers: w.forwards, Away: w.control.Away, Composite: w.upstreams.several,
	})
	if err != nil {
		return nil, err
	}
	w.router, err = route.New(route.Config{
		Worker: w.id, Table: w.table, Forwarder: w.forwards, Records: w.control, Authority: w.control.Authority(),
		World: w.world, TTL: w.leaseTTL, Logger: cfg.Logger.Named("route"),
		Away: w.control.Away, Locator: w.forwards, Draining: w.drains,
	})
	if err != nil {
		return nil, err
	}
	w.mover = &mover{worker: w.id, zone: cfg.Zone, capacity: cfg.MaxSessions, table: w.table, world: w.world, loads: w.forwards,
		away: w.control.Away, log: cfg.Logger.Named("move"), timeout: cmp.Or(cfg.DrainTimeout, DefaultDrainTimeout),
		pace: rate.NewLimiter(rebalanceRate, rebalanceRate/10)}
	w.peers = forward.NewServer(w.router, cfg.Trust.Listener, cfg.Logger.Named("forward"))
	w.peers.Proves(w.table)
	w.peers.Expects(expecter{w})
	w.peers.Moves(w.mover)
	w.lookout = newLookout(w)
	w.peers.Looks(w.lookout)
	w.peers.Knows(self{w.control.Authority(), w})
	w.keys = keycheck.New(keycheck.Config{World: w.world, Newest: w.control.KeyRingRevision, Logger: cfg.Logger.Named("keys")})
	w.handler = front.New(front.Config{
		World: w.world, Opener: w.router, Router: w.router, Logger: cfg.Logger.Named("front"), Missing: w.keys.Missing, Stall: cfg.stall,
		Access: front.Access{Loopback: isLoopback(cfg.Listener.Addr()), Hosts: cfg.AllowedHosts, Origins: cfg.AllowedOrigins, Proxies: cfg.TrustedProxies},
	})
	w.drainer = &drainer{mover: w.mover, world: w.world, log: cfg.Logger.Named("drain"), tell: w.tellDraining, timeout: w.mover.timeout}
	w.clients = &http.Server{
		Handler:   w.handler,
		TLSConfig: cfg.TLS, ReadHeaderTimeout: headerTimeout, IdleTimeout: keepAlive, MaxHeaderBytes: front.MaxHeaderBytes,
		ErrorLog: cfg.Logger.Named("http").StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
	}
	return w, nil
}

func (cfg *Config) validate() error {
	switch {
	case cfg.Listener == nil:
		return errors.New("worker config: Listener is required")
	case cfg.PeerListener == nil:
		return errors.New("worker config: PeerListener is required")
	case len(cfg.Control) == 0:
		return errors.New("worker config: Control is required")
	case cfg.DataDir == "":
		return errors.New("worker config: DataDir is required")
	case cfg.DrainTimeout < 0:
		return fmt.Errorf("worker config: DrainTimeout is %v, want at least 0", cfg.DrainTimeout)
	case cfg.DrainNotice < 0:
		return fmt.Errorf("worker config: DrainNotice is %v, want at least 0", cfg.DrainNotice)
	case !cfg.Trust.whole():
		return errors.New("worker config: Trust needs all of its parts, or none")
	case cfg.MaxSessions < 0:
		return fmt.Errorf("worker config: MaxSessions is %d, want at least 0", cfg.MaxSessions)
	case cfg.MaxPrograms < 0:
		return fmt.Errorf("worker config: MaxPrograms is %d, want at least 0", cfg.MaxPrograms)
	case cfg.ProgramMemory < 0:
		return fmt.Errorf("worker config: ProgramMemory is %d, want at least 0", cfg.ProgramMemory)
	}
	return nil
}

// newWorkerID returns an id that no other process start has.
func newWorkerID() string {
	var id [8]byte
	rand.Read(id[:]) // never fails
	return hex.EncodeToString(id[:])
}

func isLoopback(a net.Addr) bool {
	tcp, ok := a.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}

func (w *worker) info() *leaseholdv1.WorkerInfo {
	peer := w.cfg.PeerAdvertise
	if peer == "" {
		peer = w.cfg.PeerListener.Addr().String()
	}
	return &leaseholdv1.WorkerInfo{
		PeerAddress: peer, ListenAddress: w.cfg.Listener.Addr().String(), AdminAddress: w.cfg.AdminAddress,
		Zone: w.cfg.Zone, Version: w.cfg.Version, Capacity: int32(cmp.Or(w.cfg.MaxSessions, DefaultMaxSessions)),
	}
}

// run serves, and takes the worker apart in the order in which nothing is lost: it says
// that it is not ready, hands its sessions over while it still takes requests, calls in
// flight end, the lease goes back last.
func (w *worker) run(ctx context.Context) error {
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	group, running := errgroup.WithContext(running)
	deciding, giveUp := context.WithCancel(running)
	defer giveUp()
	w.mover.running = deciding
	draining, stopDraining := context.WithCancel(running)
	defer stopDraining()
	drained := make(chan struct{})
	group.Go(func() error {
		defer close(drained)
		return w.drainer.Run(draining)
	})
	if w.cfg.Rebalance {
		group.Go(func() error { return w.mover.Rebalance(draining, w.drains) })
	}
	group.Go(func() error { return w.table.Record(running) })
	group.Go(func() error { return w.control.Run(running) })
	group.Go(func() error { return w.disk.Run(running) })
	group.Go(func() error { return w.quarantine.Run(running) })
	group.Go(func() error { return w.table.Run(running) })
	group.Go(func() error { return w.endOrphans(running) })
	group.Go(func() error { return w.watchHealth(running) })
	group.Go(func() error { return w.watchFence(running) })
	group.Go(func() error { return w.upstreams.Run(running) })
	group.Go(func() error { return w.checkup.Run(running) })
	group.Go(func() error { return w.forwards.Run(running) })
	group.Go(func() error { return w.router.Run(running) })
	group.Go(func() error { return w.keys.Run(running) })
	group.Go(func() error {
		w.awaitReady(running)
		group.Go(func() error { return w.watchdog.Run(running) })
		return ignoreClosed(w.serveClients())
	})
	group.Go(func() error { return w.peers.Serve(w.cfg.PeerListener) })
	select {
	case <-ctx.Done():
	case <-running.Done():
	}
	w.health.close(errors.New("shutting down"))
	stopDraining()
	defer time.AfterFunc(w.cfg.DrainTimeout+undecided, giveUp).Stop()
	<-drained
	left := w.drain(running)
	w.watchdog.retire()
	w.shutdown(left)
	stop()
	err := group.Wait()
	w.upstreams.close()
	w.leave()
	w.forwards.Close()
	w.control.Close()
	return err
}

// awaitReady returns when this worker can serve clients, but after a while in any
// case: then it can tell them why it does not. Clients that come before wait in
// the listener's queue instead of being refused for a moment's sake.
func (w *worker) awaitReady(ctx context.Context) {
	timer := time.NewTimer(openLate)
	defer timer.Stop()
	tick := time.NewTicker(healthTick / 5)
	defer tick.Stop()
	for w.world.Load().Ring == nil || !w.current() && !w.recalled.Load() {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			return
		case <-tick.C:
		}
	}
}

func (w *worker) serveClients() error {
	if w.cfg.TLS == nil {
		return w.clients.Serve(w.cfg.Listener)
	}
	return w.clients.ServeTLS(w.cfg.Listener, "", "") // the certificate is in TLSConfig
}

func ignoreClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// drain hands the sessions over and passes requests on until balancers have noticed. It
// returns how long calls in flight may still take.
func (w *worker) drain(running context.Context) time.Duration {
	if w.cfg.DrainTimeout == 0 || running.Err() != nil || !w.drainer.others() {
		return drainCalls
	}
	began := time.Now()
	go w.announceDraining(running)
	w.drainer.Finish(w.mover.running)
	wait(running, w.cfg.DrainNotice-time.Since(began))
	w.handler.EndStreams()
	return max(drainCalls, w.cfg.DrainTimeout-time.Since(began))
}

// announceDraining has the other workers told that this one takes no sessions.
func (w *worker) announceDraining(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, w.cfg.DrainTimeout)
	defer cancel()
	if err := w.control.SetDraining(ctx, true); err != nil {
		w.cfg.Logger.Warn("the other workers are not told that this one drains", "error", err)
	}
}

// tellDraining sends clients elsewhere while this worker drains.
func (w *worker) tellDraining(draining bool) { w.handler.SetDraining(draining) }

// drains reports whether this worker takes no sessions.
func (w *worker) drains() bool { return w.drainer.Draining() }

// expecter takes up sessions that are handed over to a worker.
type expecter struct{ *worker }

// Expect implements forward.Expecter.
func (e expecter) Expect(incarnation int64, gateway string, d sessionid.Digest, epoch uint64) (*session.Expected, error) {
	if e.drains() {
		return nil, forward.ErrDraining
	}
	return e.table.Expect(incarnation, gateway, d, epoch)
}

// TakeUp implements forward.Expecter.
func (e expecter) TakeUp(gateway string, d sessionid.Digest) { e.router.TakeUp(gateway, d) }

// shutdown ends the serving of clients and of other workers. Calls in flight may take
// as long as most.
func (w *worker) shutdown(most time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), most)
	defer cancel()
	w.table.Retire()
	if w.clients.Shutdown(ctx) != nil {
		w.clients.Close()
	}
	w.peers.Drain(ctx)
	w.table.DropAll() // cuts what is left; the sessions go on elsewhere
	w.peers.Stop()
	w.lookout.close()
}

func (w *worker) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), leaveTime)
	defer cancel()
	if err := w.control.Leave(ctx); err != nil {
		w.cfg.Logger.Warn("lease not given back; the sessions go on once it has run out", "error", err)
	}
}

// current reports whether this worker may act for the sessions that it owns.
func (w *worker) current() bool {
	authority := w.control.Authority()
	return authority.Holds(authority.Incarnation())
}

// registered notes a new registration.
func (w *worker) registered(_ int64, ttl time.Duration) {
	w.ttl.Store(int64(ttl))
	if w.cfg.Registered != nil {
		w.cfg.Registered(w.id)
	}
	if w.recalled.Swap(false) {
		w.health.repeat() // it is ready for more than before
	}
}

// leaseTTL returns the TTL of the worker's lease, or 0 before it registered.
func (w *worker) leaseTTL() time.Duration { return time.Duration(w.ttl.Load()) }

// watchHealth reports when the worker becomes able to serve and when it stops
// being so: it needs a configuration, a lease that is certain, and to answer its
// own probes. Without the control plane it is ready with the word of all other workers
// that it may serve on, or if all it can be is a front, since it was started so.
func (w *worker) watchHealth(ctx context.Context) error {
	ticker := time.NewTicker(healthTick)
	defer ticker.Stop()
	for {
		changed := w.world.Changed()
		stuck := w.watchdog.stuck()
		switch {
		case stuck != nil:
			w.health.set(stuck)
		case w.world.Load().Ring == nil:
			w.health.set(errors.New("no configuration yet"))
		case w.drains():
			w.health.set(errors.New("draining: sessions are handed over"))
		case !w.current() && !w.recalled.Load():
			w.health.set(errors.New("fenced: the lease is uncertain"))
		default:
			w.health.set(nil)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-ticker.C:
		}
	}
}

// lost forgets every session: the incarnation that owned them is over.
func (w *worker) lost() {
	w.table.DropAll()
	w.upstreams.http.CloseIdle(0)
}
