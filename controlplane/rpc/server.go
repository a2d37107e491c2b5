package rpc

import (
	"context"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/leasehold/leasehold/controlplane/audit"
	"github.com/leasehold/leasehold/controlplane/gateway"
	"github.com/leasehold/leasehold/controlplane/publish"
	"github.com/leasehold/leasehold/controlplane/session"
	"github.com/leasehold/leasehold/controlplane/store"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

const (
	maxRequestBytes  = 1 << 20
	maxResponseBytes = 4 << 20
	// The keep-alive settings match those of the clients, which ping every 10 s.
	clientPingsAtLeast = 5 * time.Second
	serverPings        = 10 * time.Second
	serverPingTimeout  = 3 * time.Second
)

// Store is what the services ask of the store. Its errors are those of the
// packages store, session and gateway, and of context.
type Store interface {
	CreateGateway(ctx context.Context, def *leaseholdv1.Gateway) (*leaseholdv1.Gateway, error)
	GetGateway(ctx context.Context, id string) (*leaseholdv1.Gateway, error)
	ListGateways(ctx context.Context, q gateway.Query) (page []*leaseholdv1.Gateway, last string, more bool, err error)
	UpdateGateway(ctx context.Context, id, etag string, change func(*leaseholdv1.Gateway) (*leaseholdv1.Gateway, error)) (*leaseholdv1.Gateway, error)
	DeleteGateway(ctx context.Context, id, etag string) (*leaseholdv1.Gateway, error)

	RootKeys(ctx context.Context) (store.KeyUse, error)
	RotateRootKey(ctx context.Context, expect, after string) (store.Rotation, error)
	RotateDataKeys(ctx context.Context, after string) (store.Rotation, error)

	GetSession(ctx context.Context, key session.Key) (*leaseholdv1.Session, error)
	ListSessions(ctx context.Context, q session.Query) (page []*leaseholdv1.Session, last session.Key, more bool, err error)
	WishEnd(ctx context.Context, key session.Key, reason leaseholdv1.EndReason) (revision int64, err error)

	Members(ctx context.Context) ([]store.Member, error)
	Workers(ctx context.Context) ([]store.Worker, error)
	Worker(ctx context.Context, id string) (store.Worker, error)
	CountOwned(ctx context.Context) (map[string]int32, error)
	SetDraining(ctx context.Context, key store.MemberKey, draining bool) error
	Forget(ctx context.Context, worker string) error

	WatchGateways(ctx context.Context, revision int64, f gateway.Filter, send func(store.Change[*leaseholdv1.Gateway]) error) error
	WatchSessions(ctx context.Context, revision int64, f session.Filter, send func(store.Change[*leaseholdv1.Session]) error) error
	WatchWorkers(ctx context.Context, revision int64, send func(store.Change[store.Member]) error) error

	Ring(ctx context.Context) (*store.SealedRing, error)

	RegisterAs(ctx context.Context, worker, certificate string, attempt store.Attempt, info *leaseholdv1.WorkerInfo) (incarnation int64, lease store.Lease, err error)
	Certificate(ctx context.Context, worker string) (string, error)
	Renew(ctx context.Context, worker string, incarnation, lease int64) (time.Duration, error)
	Readopt(ctx context.Context, worker string, incarnation int64, info *leaseholdv1.WorkerInfo) (store.Lease, error)
	Leave(ctx context.Context, worker string, incarnation, lease int64) error
	RecordPeers(ctx context.Context, worker session.Peer, number int64, peers, gone []session.Peer) (recorded []session.Peer, err error)
	Claim(ctx context.Context, key session.Key, rec *session.Record) (int64, error)
	Resolve(ctx context.Context, key session.Key) (*leaseholdv1.ResolveResponse, error)
	ResolveAndMeasure(ctx context.Context, key session.Key) (*leaseholdv1.ResolveResponse, error)
	ResolveUnrecorded(ctx context.Context, key session.Key, opener session.Peer) (*leaseholdv1.ResolveResponse, error)
	Reclaim(ctx context.Context, key session.Key, t session.Taker) (*session.Record, int64, error)
	HandOver(ctx context.Context, key session.Key, revision int64, h session.HandOver) (*session.Record, int64, error)
	Save(ctx context.Context, key session.Key, revision int64, rec *session.Record) (int64, error)
	End(ctx context.Context, key session.Key, end session.End) (int64, error)
}

// Observer asks workers what only they know.
type Observer interface {
	// Observe asks each of the members for the sessions with these digests, in
	// bounded time. What is not answered is left out.
	Observe(ctx context.Context, snap *store.Snapshot, ask map[store.MemberKey][]string) map[string]*leaseholdv1.SessionActivity
	// Loads asks each of the members how much it has to do, in bounded time. What is
	// not answered is left out.
	Loads(ctx context.Context, members []store.Member) map[store.MemberKey]*leaseholdv1.ObserveLoadResponse
	// Upstreams asks each of the members how the upstreams of a gateway are, in bounded
	// time. What is not answered is left out.
	Upstreams(ctx context.Context, members []store.Member, gateway string) map[store.MemberKey]*leaseholdv1.ObserveUpstreamsResponse
	// Inspect makes a member inspect a gateway. Its errors are those of the package
	// gateway, and of context.
	Inspect(ctx context.Context, m store.Member, req *leaseholdv1.InspectNowRequest) (*leaseholdv1.InspectNowResponse, error)
	// HandOver makes the owner hand a session over. Its errors are those of the package
	// session, and of context.
	HandOver(ctx context.Context, owner store.Member, req *leaseholdv1.HandOverNowRequest) error
}

// Config says what the services work on. Store, SessionKeys, Hub, Acks, Observer and
// Logger are required.
type Config struct {
	Store       Store
	SessionKeys SessionKeys
	// Audit gets a line for each call that changes something. Required.
	Audit *audit.Log
	Hub   *publish.Hub
	Acks  *publish.Acks
	// Credentials secure the listener; their AuthInfo is a Caller, and callers may
	// do what the rules say. Nil means plaintext, and that everybody may call
	// everything.
	Credentials credentials.TransportCredentials
	Observer    Observer
	Logger      hclog.Logger
	// MaxOutage is for how long workers may serve on without the control plane.
	MaxOutage time.Duration
	// ReadPatience is how long a watch waits for its caller to read; 0 means
	// DefaultReadPatience.
	ReadPatience time.Duration
}

// Server serves the API on one listener.
type Server struct {
	grpc    *grpc.Server
	health  *health.Server
	hub     *publish.Hub
	control *control
	watches *watches
}

// NewServer returns a server that starts nothing before Serve is called.
func NewServer(cfg Config) *Server {
	guard := interceptor{log: cfg.Logger}
	s := &Server{
		grpc: grpc.NewServer(append(append([]grpc.ServerOption{grpc.ChainUnaryInterceptor(auditor{cfg.Audit}.unary)}, cfg.secure()...),
			grpc.MaxRecvMsgSize(maxRequestBytes),
			grpc.MaxSendMsgSize(maxResponseBytes),
			grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: clientPingsAtLeast, PermitWithoutStream: true}),
			grpc.KeepaliveParams(keepalive.ServerParameters{Time: serverPings, Timeout: serverPingTimeout}),
			grpc.ChainUnaryInterceptor(guard.unary),
			grpc.ChainStreamInterceptor(guard.stream),
			grpc.WaitForHandlers(true),
		)...),
		health:  health.NewServer(),
		hub:     cfg.Hub,
		control: &control{store: cfg.Store, hub: cfg.Hub, acks: cfg.Acks, outage: durationpb.New(cfg.MaxOutage)},
		watches: newWatches(cfg.ReadPatience),
	}
	leaseholdv1.RegisterGatewayServiceServer(s.grpc, &gateways{store: cfg.Store, hub: cfg.Hub, observer: cfg.Observer, watches: s.watches})
	leaseholdv1.RegisterSessionServiceServer(s.grpc, &sessions{store: cfg.Store, hub: cfg.Hub, observer: cfg.Observer, watches: s.watches})
	leaseholdv1.RegisterWorkerServiceServer(s.grpc, &workers{store: cfg.Store, observer: cfg.Observer, watches: s.watches})
	leaseholdv1.RegisterKeyServiceServer(s.grpc, &keys{store: cfg.Store, session: cfg.SessionKeys})
	leaseholdv1.RegisterControlServiceServer(s.grpc, s.control)
	healthv1.RegisterHealthServer(s.grpc, s.health)
	reflection.Register(s.grpc)
	s.SetReady(false)
	return s
}

// secure are the options by which only who may call does.
func (cfg Config) secure() []grpc.ServerOption {
	if cfg.Credentials == nil {
		return nil
	}
	access := newAccess(cfg.Store, cfg.Logger)
	return []grpc.ServerOption{
		grpc.Creds(cfg.Credentials),
		grpc.ChainUnaryInterceptor(access.unary),
		grpc.ChainStreamInterceptor(access.stream),
	}
}

// GRPC returns the server to serve a listener with.
func (s *Server) GRPC() *grpc.Server { return s.grpc }

// SetReady tells the health service whether the newest state is known here.
func (s *Server) SetReady(ready bool) {
	status := healthv1.HealthCheckResponse_NOT_SERVING
	if ready {
		status = healthv1.HealthCheckResponse_SERVING
	}
	s.health.SetServingStatus("", status)
	for name := range s.grpc.GetServiceInfo() {
		s.health.SetServingStatus(name, status)
	}
}

// Stop ends the workers' streams and the watches, lets calls under way finish for at most grace,
// and returns when no handler runs any more.
func (s *Server) Stop(grace time.Duration) {
	s.health.Shutdown()
	s.hub.Stop()
	s.watches.stop()
	timer := time.AfterFunc(grace, s.grpc.Stop)
	defer timer.Stop()
	s.grpc.GracefulStop()
	s.grpc.Stop()
	s.control.receivers.Wait()
	s.watches.senders.Wait()
}
