package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
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

// errNotServing says that the lease is not to be kept.
var errNotServing = errors.New("not serving")

// Config says how to reach the control plane and what to do with what it sends.
// All fields but Credentials, Serving and Metrics are required.
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
	// applied. Called from one goroutine at a time.
	Apply func(*config.State) error
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
	fences     *fences
	succession succession
	replicas   []replica
	current    atomic.Uint32 // index of the replica that answered last
	calls      *prometheus.CounterVec
	lease      atomic.Int64
	doubts     chan struct{} // capacity 1: the lease may be gone
	applied    atomic.Int64  // the newest revision that was applied
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
	authority := &Authority{now: cfg.now}
	c := &Client{
		cfg: cfg, authority: authority, fences: &fences{authority: authority},
		succession: succession{dir: cfg.DataDir, boot: cfg.boot}, replicas: replicas, doubts: make(chan struct{}, 1),
	}
	c.calls = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "leasehold_control_requests_total",
		Help: "Requests of this worker to the control plane, by method.",
	}, []string{"method"})
	if cfg.Metrics == nil {
		return c, nil
	}
	if err := errors.Join(cfg.Metrics.Register(c.calls), c.fences.register(cfg.Metrics)); err != nil {
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

// pick returns the replica to ask now.
func (c *Client) pick() replica {
	return c.replicas[int(c.current.Load())%len(c.replicas)]
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
func call[Req, Resp any](ctx context.Context, c *Client, method string, req Req,
	do func(leaseholdv1.ControlServiceClient, context.Context, Req, ...grpc.CallOption) (Resp, error)) (Resp, error) {
	for attempt := 0; ; attempt++ {
		r := c.pick()
		c.calls.WithLabelValues(method).Inc()
		attemptCtx, cancel := context.WithTimeout(ctx, attemptTimeout)
		resp, err := do(r.api, attemptCtx, req)
		cancel()
		if err == nil {
			return resp, nil
		}
		if verdict := verdictOf(err); verdict != nil {
			return resp, fmt.Errorf("%s: %w: %s", method, verdict, status.Convert(err).Message())
		}
		c.next(r)
		if attempt == 0 || attempt%20 == 0 {
			c.cfg.Logger.Warn("control plane did not answer", "method", method, "endpoint", r.address, "error", err)
		}
		if err := pause(ctx, attempt); err != nil {
			return resp, fmt.Errorf("%s: %w: %w", method, session.ErrUnavailable, err)
		}
	}
}

// pause waits with jitter before another attempt: not at all for the first
// failure, which only means another replica, and up to half a second later on.
func pause(ctx context.Context, attempt int) error {
	most := min(10*time.Millisecond<<min(attempt, 6), 500*time.Millisecond)
	timer := time.NewTimer(most/2 + rand.N(most/2))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
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
		if reason(err) == "CONDEMNED" {
			return errCondemned
		}
		return session.ErrRefused
	case codes.InvalidArgument, codes.Unimplemented, codes.PermissionDenied, codes.Unauthenticated:
		return session.ErrRefused
	}
	return nil
}

func reason(err error) string {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return ""
}
