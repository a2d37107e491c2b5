package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/session"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Verdicts that only the lease is concerned with; the others are those of
// package session. Any other error of a reply means that its outcome is unknown.
var (
	errLeaseLost = errors.New("lease lost")
	errCondemned = errors.New("incarnation condemned")
)

// Protocol is the version of the protocol of workers and control planes that this worker
// speaks.
const Protocol = 1

// storeFull is the reason of a control plane that can change nothing for want of space.
const storeFull = "STORE_FULL"

// errNotServing says that the lease is not to be kept.
var errNotServing = errors.New("not serving")

// Config says how to reach the control plane and what to do with what it sends.
// All fields but Credentials, Serving, Recall, Witnesses and Metrics are required.
type Config struct {
	// Endpoints are the replicas, host:port, tried in turn.
	Endpoints []string
	// Credentials secure the connections; nil means plaintext.
	Credentials credentials.TransportCredentials
	// Worker is the worker's id.
	Worker string
	// Info is what the others shall know of the worker.
	Info *leaseholdv1.WorkerInfo
	// Apply is given each new state of the world and reports why it could not be
	// applied, or the gateways whose definitions in it could not. Called from one
	// goroutine at a time.
	Apply func(*config.State) ([]config.Rejection, error)
	// Recall is called once if no replica has registered the worker within 3 s of the
	// start, and before any Apply. It may take a state from elsewhere, and returns its
	// revision, or 0 for none: an older one is not applied then. May be nil.
	Recall func() (revision int64)
	// Witnesses are asked when the control plane does not answer; nil means that the
	// worker does not serve on without it.
	Witnesses Witnesses
	// Lost is called when an incarnation is over: every session of it must be
	// dropped, since others may own them now. It returns when that is done.
	Lost func()
	// Registered is called after each registration.
	Registered func(incarnation int64, ttl time.Duration)
	// Serving reports why this worker does not serve; nil when it does. A lease
	// that is not served is not renewed, so that it runs out and other workers
	// take over. Nil means that the worker always serves.
	Serving func() error
	// DataDir is where the registration is left for the worker that is started
	// there next. No other process uses it.
	DataDir string
	Logger  hclog.Logger
	Metrics prometheus.Registerer
	// now is the clock for the lease; nil means time since boot.
	now func() time.Duration
	// boot returns the machine's boot id; nil means the system's.
	boot func() (string, error)
}

// Client talks to the control plane. It is safe for concurrent use.
type Client struct {
	cfg        Config
	authority  *Authority
	peers      *peers
	succession succession
	replicas   []replica
	current    atomic.Uint32 // index of the replica that answered last
	heard      atomic.Int64  // when one answered last, on the authority's clock
	calls      *prometheus.CounterVec
	lease      atomic.Int64
	doubts     chan struct{} // capacity 1: the lease may be gone
	applied    atomic.Int64  // the newest revision that was applied
	draining   atomic.Bool   // as the control plane was told
	previous   int64         // the last incarnation; only for Run
}

type replica struct {
	address string
	conn    io.Closer
	api     leaseholdv1.ControlServiceClient
}

// New returns a client that has not connected yet; Run does.
func New(cfg Config) (*Client, error) {
	creds := cfg.Credentials
	if creds == nil {
		creds = insecure.NewCredentials()
	}
	var replicas []replica
	for _, address := range cfg.Endpoints {
		r, err := dial(address, creds)
		if err != nil {
			closeAll(replicas)
			return nil, fmt.Errorf("control endpoint %q: %w", address, err)
		}
		replicas = append(replicas, r)
	}
	c, err := assemble(cfg, replicas)
	if err != nil {
		closeAll(replicas)
	}
	return c, err
}

func dial(address string, creds credentials.TransportCredentials) (replica, error) {
	conn, err := grpc.NewClient(address,
		grpc.WithTransportCredentials(creds),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 3 * time.Second, PermitWithoutStream: true}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(8<<20)),
	)
	if err != nil {
		return replica{}, err
	}
	return replica{address, conn, leaseholdv1.NewControlServiceClient(conn)}, nil
}

// assemble returns a client of these replicas.
func assemble(cfg Config, replicas []replica) (*Client, error) {
	if len(replicas) == 0 {
		return nil, errors.New("control endpoints: none given, at least 1 is needed")
	}
	if cfg.now == nil {
		cfg.now = sinceBoot
	}
	if cfg.boot == nil {
		cfg.boot = bootID
	}
	authority := newAuthority(cfg.now)
	c := &Client{
		cfg: cfg, authority: authority, peers: newPeers(authority),
		succession: succession{dir: cfg.DataDir, boot: cfg.boot}, replicas: replicas, doubts: make(chan struct{}, 1),
	}
	c.hear()
	c.calls = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "leasehold_control_requests_total",
		Help: "Requests of this worker to the control plane, by method.",
	}, []string{"method"})
	if cfg.Metrics == nil {
		return c, nil
	}
	if err := errors.Join(cfg.Metrics.Register(c.calls), authority.register(cfg.Metrics)); err != nil {
		return nil, fmt.Errorf("register control metrics: %w", err)
	}
	return c, nil
}

// Close closes the connections. Call it after Run and Leave.
func (c *Client) Close() { closeAll(c.replicas) }

func closeAll(replicas []replica) {
	for _, r := range replicas {
		r.conn.Close()
	}
}

// Authority returns the worker's permission to dispatch.
func (c *Client) Authority() *Authority { return c.authority }

// Away reports whether the control plane seems to be away: no call was answered for a
// third of a TTL, in which several are made.
func (c *Client) Away() bool {
	stale := c.authority.state.Load().terms.stale()
	if stale == 0 {
		stale = firstAttempt
	}
	return c.authority.now()-time.Duration(c.heard.Load()) > stale
}

// Draining reports whether the others were told that this worker drains, or would have
// been.
func (c *Client) Draining() bool { return c.draining.Load() }

// hear notes that a replica answered.
func (c *Client) hear() { c.heard.Store(int64(c.authority.now())) }

// PeerAddresses returns where the workers are that this one would ask in an outage,
// of whom some may be no members any more.
func (c *Client) PeerAddresses() []string {
	listed, _, _ := c.peers.list()
	return slices.Collect(maps.Values(listed))
}

// pick returns the replica to ask now.
func (c *Client) pick() replica { return c.after(0) }

// after returns the nth replica after the one to ask now.
func (c *Client) after(n int) replica {
	return c.replicas[(int(c.current.Load())+n)%len(c.replicas)]
}

// next turns to the following replica, unless another goroutine did already.
func (c *Client) next(failed replica) {
	now := c.current.Load()
	if c.replicas[int(now)%len(c.replicas)].address == failed.address {
		c.current.CompareAndSwap(now, (now+1)%uint32(len(c.replicas)))
	}
}

// attemptTimeout bounds one attempt of a session call, so that a replica that
// hangs costs a part of the caller's time and not all of it.
const attemptTimeout = 2 * time.Second

// call asks replicas in turn until one gives a verdict or ctx ends. Every
// method is safe to repeat, so an attempt with an unknown outcome is repeated.
//
// A replica that holds is well, and is not left for other calls. When all of them
// hold the verdict is session.ErrUncertain. When the store is full it is
// session.ErrNoRoom, unless an attempt before may have been carried out.
func call[Req, Resp any](ctx context.Context, c *Client, method string, req Req,
	do func(leaseholdv1.ControlServiceClient, context.Context, Req, ...grpc.CallOption) (Resp, error)) (Resp, error) {
	holding, unknown := 0, false
	for attempt := 0; ; attempt++ {
		r := c.after(holding)
		c.calls.WithLabelValues(method).Inc()
		attemptCtx, cancel := context.WithTimeout(ctx, attemptTimeout)
		resp, err := do(r.api, attemptCtx, req)
		cancel()
		if err == nil {
			c.hear()
			return resp, nil
		}
		if verdict := verdictOf(err); verdict != nil {
			c.hear()
			return resp, fmt.Errorf("%s: %w: %s", method, verdict, status.Convert(err).Message())
		}
		switch {
		case reason(err) == "HOLDING":
			c.hear()
			if holding++; holding < len(c.replicas) {
				continue
			}
			if !unknown {
				return resp, fmt.Errorf("%s: %w: %s", method, session.ErrUncertain, status.Convert(err).Message())
			}
		case reason(err) == storeFull && !unknown:
			// Every replica has the same store, and none of them changed anything.
			c.hear()
			return resp, fmt.Errorf("%s: %w: %s", method, session.ErrNoRoom, status.Convert(err).Message())
		case holding > 0:
			holding++ // the replica that other calls use is not concerned
			unknown = true
		default:
			c.next(r)
			unknown = true
		}
		if attempt == 0 || attempt%20 == 0 {
			c.cfg.Logger.Warn(unanswered(err), "method", method, "endpoint", r.address, "error", err)
		}
		if err := pause(ctx, attempt); err != nil {
			return resp, fmt.Errorf("%s: %w: %w", method, session.ErrUnavailable, err)
		}
	}
}

// pause waits with jitter before another attempt: not at all for the first
// failure, which only means another replica, and up to half a second later on.
func pause(ctx context.Context, attempt int) error {
	timer := time.NewTimer(pauseFor(attempt))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

func pauseFor(attempt int) time.Duration {
	most := min(10*time.Millisecond<<min(attempt, 6), 500*time.Millisecond)
	return most/2 + rand.N(most/2)
}

// verdictOf returns what a reply says, or nil when it does not tell whether the
// request was carried out.
func verdictOf(err error) error {
	switch status.Code(err) {
	case codes.NotFound:
		if reason(err) == "LEASE_LOST" {
			return errLeaseLost
		}
		return session.ErrNoRecord
	case codes.Aborted:
		return session.ErrStale
	case codes.FailedPrecondition:
		switch reason(err) {
		case "CONDEMNED":
			return errCondemned
		case "OWNER_UNCERTAIN":
			return session.ErrUncertain
		}
		switch reason(err) {
		case "NOT_ALIVE":
			return refusedFor(session.ErrNotAlive)
		case "TARGET_NOT_ALIVE":
			return refusedFor(session.ErrTargetNotAlive)
		}
		return session.ErrRefused
	case codes.InvalidArgument, codes.Unimplemented, codes.PermissionDenied, codes.Unauthenticated:
		return session.ErrRefused
	}
	return nil
}

// refusedFor is session.ErrRefused with why.
func refusedFor(why error) error { return fmt.Errorf("%w: %w", session.ErrRefused, why) }

// unanswered says why a call is made again.
func unanswered(err error) string {
	switch reason(err) {
	case storeFull:
		return "control plane refuses, since its store is full"
	case "INCOMPATIBLE_WORKER":
		return "control plane refuses workers of this version"
	}
	return "control plane did not answer"
}

func reason(err error) string {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return ""
}
