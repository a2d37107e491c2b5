package etcd

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/leasehold/leasehold/controlplane/keyring"
	"github.com/leasehold/leasehold/controlplane/session"
	"github.com/leasehold/leasehold/controlplane/store"
)

const (
	dialKeepAliveTime    = 10 * time.Second
	dialKeepAliveTimeout = 3 * time.Second
	// requestTimeout bounds what the store does on its own account; a caller's
	// own deadline bounds the rest.
	requestTimeout = 10 * time.Second
	// maxRetries bounds what the client repeats by itself, which is only what
	// cannot have been done: about a second when no member can be reached. The
	// caller is then told, and asks another replica or again.
	maxRetries = 40
)

// reconnect keeps trying often: gRPC's own pause grows to two minutes, for which
// nobody would notice that etcd is back.
var reconnect = grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
	MinConnectTimeout: 3 * time.Second,
}

// ClientConfig says how to reach etcd.
type ClientConfig struct {
	// Endpoints are the client URLs of the members. Required.
	Endpoints []string
	// LeaseTTL is the workers' lease, in whole seconds. Required.
	LeaseTTL time.Duration
	// MaxOutage is for how long workers may serve on without the control plane, the
	// same at every replica; 0 means not at all.
	MaxOutage time.Duration
	// Hold is for how long a replica that has just got etcd holds reclaims; 0 means one
	// and a half leases, and less than 0 not at all.
	Hold time.Duration
	// Credentials secure the connections, if Endpoints have https; nil means
	// plaintext.
	Credentials credentials.TransportCredentials
	// RootKeys returns the root keys that secrets of gateways are sealed with; nil means
	// that there are none, and then no secret is stored.
	RootKeys func() keyring.RootKeys
	// Logger gets the log; nil discards it.
	Logger hclog.Logger
	// Metrics gets the count of requests; nil means it is not kept.
	Metrics prometheus.Registerer
	// Alarm is told that etcd has no space left, or hardly any, and nil once it has
	// again. May be nil. Called from one goroutine.
	Alarm func(error)
}

// Store is the control plane's state in etcd. It is safe to call from many
// goroutines. Claim, Save and End are answered while Run runs.
type Store struct {
	client   *clientv3.Client
	log      hclog.Logger
	ttl      time.Duration
	outage   time.Duration // for how long workers may serve on
	muted    time.Duration // how long after it was superseded nothing counts any more that a worker said
	reread   time.Duration // how often Follow reads everything again
	patience time.Duration // how long that may fail before Follow says so
	hush     time.Duration // how long etcd may answer nothing before Follow takes it for lost
	bookmark time.Duration // how often a watch is told how far it has come
	counts   *counts
	contact  *contact
	space    *space
	writes   *batcher
	lookups  *lookups
	// condemned spares reclaims from condemning again.
	condemned condemnedSet
	// seen spares them from reading what was looked up just before.
	seen seenRecords
	// takeovers spares them from reading who may take over.
	takeovers takeovers
	deaths    *deaths
	// endpoints is how many members of etcd can be asked.
	endpoints int
	// followed is the newest state that Follow published.
	followed atomic.Pointer[store.Snapshot]
	now      func() time.Time
	// roots returns the root keys that there are now.
	roots func() keyring.RootKeys
	// again has Follow read everything again; it has room for one.
	again chan struct{}
	// pace bounds how fast secrets are sealed anew.
	pace *rate.Limiter
	// ownersRead is when Collect last read all sessions to find out whose they
	// are, in Unix seconds.
	ownersRead atomic.Int64
}

// Open returns a store that connects to etcd when it is first used. An error
// means that the configuration is wrong, not that etcd is away.
func Open(cfg ClientConfig) (*Store, error) {
	if cfg.Logger == nil {
		cfg.Logger = hclog.NewNullLogger()
	}
	count, err := newCounts(cfg.Metrics)
	if err != nil {
		return nil, fmt.Errorf("etcd client: %w", err)
	}
	room, err := newSpace(cfg.Metrics, cfg.Logger, cfg.Alarm)
	if err != nil {
		return nil, fmt.Errorf("etcd client: %w", err)
	}
	hold := cfg.Hold
	if hold == 0 {
		hold = cfg.LeaseTTL + cfg.LeaseTTL/2
	}
	hear := &contact{lease: cfg.LeaseTTL, length: max(0, hold), log: cfg.Logger, holding: count.holding, now: time.Now}
	secure := cfg.Credentials
	if secure == nil {
		secure = insecure.NewCredentials()
	}
	if cfg.RootKeys == nil {
		cfg.RootKeys = func() keyring.RootKeys { return keyring.RootKeys{} }
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints:            cfg.Endpoints,
		DialKeepAliveTime:    dialKeepAliveTime,
		DialKeepAliveTimeout: dialKeepAliveTimeout,
		MaxUnaryRetries:      maxRetries,
		MaxCallSendMsgSize:   2 * 1024 * 1024,
		MaxCallRecvMsgSize:   math.MaxInt32,
		Logger:               zapLogger(cfg.Logger.Named("client")),
		DialOptions: []grpc.DialOption{
			grpc.WithTransportCredentials(secure),
			grpc.WithConnectParams(reconnect),
			grpc.WithDisableServiceConfig(), // or the etcd client's own balancer is taken
			grpc.WithDefaultServiceConfig(balancerConfig),
			grpc.WithChainUnaryInterceptor(count.unary, hear.unary),
			grpc.WithChainStreamInterceptor(count.stream),
		},
	})
	if err != nil {
		return nil, fmt.Errorf("etcd client: %w", err)
	}
	s := &Store{
		client: client, log: cfg.Logger, ttl: cfg.LeaseTTL, outage: cfg.MaxOutage,
		reread: rereadEvery, patience: patience, hush: max(patience, cfg.LeaseTTL/2), bookmark: bookmarkEvery,
		counts: count, contact: hear, space: room, endpoints: len(cfg.Endpoints), now: time.Now,
		muted: session.PermitLasts(cfg.LeaseTTL),
		roots: cfg.RootKeys, again: make(chan struct{}, 1), pace: rate.NewLimiter(rotationsPerSecond, 1),
	}
	s.writes, s.lookups, s.deaths = newBatcher(s), newLookups(s), newDeaths(s)
	return s, nil
}

// Run serves look-ups, claims, reclaims, hand-overs, saves and ends, keeps in contact with
// etcd, collects garbage, and sees to orphans while Follow runs, until ctx ends.
func (s *Store) Run(ctx context.Context) error {
	var group sync.WaitGroup
	group.Go(func() { s.pulse(ctx) })
	group.Go(func() { s.watchSpace(ctx) })
	group.Go(func() { s.deaths.run(ctx) })
	group.Go(func() { s.collect(ctx) })
	group.Go(func() { s.keepOrphans(ctx) })
	group.Go(func() { s.lookups.run(ctx) })
	s.writes.run(ctx)
	group.Wait()
	return nil
}

// Close gives up the connections. Calls under way fail.
func (s *Store) Close() error {
	s.contact.leave()
	return s.client.Close()
}

// get reads one key, linearizably.
func (s *Store) get(ctx context.Context, op, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	return s.read(ctx, op, attemptTimeout, key, opts...)
}

// scan reads many keys, linearizably.
func (s *Store) scan(ctx context.Context, op, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	return s.read(ctx, op, scanTimeout, key, opts...)
}

func (s *Store) read(ctx context.Context, op string, limit time.Duration, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	resp, err := attempt(withOp(ctx, op), s, limit, func(ctx context.Context) (*clientv3.GetResponse, error) {
		return s.client.Get(ctx, key, opts...)
	})
	return resp, s.wrap(ctx, op, err)
}

// txn sends one transaction, more than once if no member answers in time: if its
// then is granted the first time, its otherwise must tell so the second time.
func (s *Store) txn(ctx context.Context, op string, when []clientv3.Cmp, then, otherwise []clientv3.Op) (*clientv3.TxnResponse, error) {
	resp, err := attempt(withOp(ctx, op), s, attemptTimeout, func(ctx context.Context) (*clientv3.TxnResponse, error) {
		return s.client.Txn(ctx).If(when...).Then(then...).Else(otherwise...).Commit()
	})
	return resp, s.wrap(ctx, op, err)
}

// txnOnce sends one transaction that cannot tell, sent again, what became of it
// the first time.
func (s *Store) txnOnce(ctx context.Context, op string, when []clientv3.Cmp, then []clientv3.Op) (*clientv3.TxnResponse, error) {
	resp, err := s.client.Txn(withOp(ctx, op)).If(when...).Then(then...).Commit()
	return resp, s.wrap(ctx, op, err)
}

// readAll reads many keys of several kinds, at one revision.
func (s *Store) readAll(ctx context.Context, op string, gets []clientv3.Op) (*clientv3.TxnResponse, error) {
	resp, err := attempt(withOp(ctx, op), s, scanTimeout, func(ctx context.Context) (*clientv3.TxnResponse, error) {
		return s.client.Txn(ctx).Then(gets...).Commit()
	})
	return resp, s.wrap(ctx, op, err)
}

// wrap says what err means to callers. What it does not know stays as it is.
func (s *Store) wrap(ctx context.Context, op string, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("etcd %s: %w: %w", op, ctx.Err(), err)
	case errors.Is(err, errMaybeFull):
		return fmt.Errorf("etcd %s: %w: %w", op, store.ErrUnavailable, err)
	case errors.Is(err, rpctypes.ErrNoSpace):
		s.space.doubt()
		return fmt.Errorf("etcd %s: %w: %w", op, store.ErrFull, err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled), away(err):
		return fmt.Errorf("etcd %s: %w: %w", op, store.ErrUnavailable, err)
	}
	return fmt.Errorf("etcd %s: %w", op, err)
}

// away reports whether err says that no etcd member answered as a member of a
// working cluster.
func away(err error) bool {
	var e rpctypes.EtcdError
	if errors.As(err, &e) {
		return e.Code() == codes.Unavailable || e.Code() == codes.ResourceExhausted
	}
	return clientv3.IsConnCanceled(err) || grpcUnavailable(err)
}
