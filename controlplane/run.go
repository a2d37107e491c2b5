package controlplane

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/leasehold/leasehold/controlplane/audit"
	"github.com/leasehold/leasehold/controlplane/etcd"
	"github.com/leasehold/leasehold/controlplane/keyring"
	"github.com/leasehold/leasehold/controlplane/observe"
	"github.com/leasehold/leasehold/controlplane/publish"
	"github.com/leasehold/leasehold/controlplane/rpc"
	"github.com/leasehold/leasehold/controlplane/store"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

const (
	// grace is what calls under way get when the plane stops; the rest of the 5 s
	// is for closing etcd.
	grace = 2 * time.Second
	// embeddedStart bounds the start of an embedded etcd, replay of its log included.
	embeddedStart = time.Minute
	firstPause    = 100 * time.Millisecond
	longPause     = 2 * time.Second
)

// Run serves until ctx ends and then shuts down within 5 s. It returns nil when
// ctx ended, and an error when the plane cannot work: a wrong configuration, a
// root key that is not among those that the store is sealed with, or an embedded etcd
// that fails. An etcd that is away is waited for.
func Run(ctx context.Context, cfg Config) error {
	if cfg.Listener != nil {
		defer cfg.Listener.Close()
	}
	if err := cfg.Validate(); err != nil {
		return fmt.Errorf("control plane: %w", err)
	}
	if err := run(ctx, cfg.withDefaults()); err != nil && ctx.Err() == nil {
		return fmt.Errorf("control plane: %w", err)
	}
	return nil
}

func run(ctx context.Context, cfg Config) error {
	root, err := rootKeys(cfg)
	if err != nil {
		return err
	}
	endpoints, failed, stop, err := startEtcd(ctx, cfg)
	if err != nil {
		return err
	}
	defer stop()
	db, err := etcd.Open(etcd.ClientConfig{
		Endpoints:   endpoints,
		LeaseTTL:    cfg.LeaseTTL,
		MaxOutage:   cfg.MaxOutage,
		Hold:        cfg.Hold,
		Logger:      cfg.Logger.Named("etcd"),
		Metrics:     cfg.Metrics,
		Credentials: cfg.Trust.Etcd,
		RootKeys:    root.Keys,
		Alarm:       cfg.Alarm,
	})
	if err != nil {
		return err
	}
	defer db.Close()
	root.OnChange(db.Reread)
	p, err := newPlane(cfg, db, root)
	if err != nil {
		return err
	}
	defer p.audit.Close()
	p.endpoints = endpoints
	defer p.observer.Close()
	return p.run(ctx, failed)
}

// rootKeys reads the root keys, and makes one for an etcd of our own that is new.
func rootKeys(cfg Config) (*keyring.RootFile, error) {
	log := cfg.Logger.Named("keyring")
	if cfg.RootKeyFile != "" {
		return keyring.OpenRootFile(cfg.RootKeyFile, log)
	}
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	path := filepath.Join(cfg.DataDir, "root.key")
	if _, err := os.Stat(etcdDir(cfg)); errors.Is(err, fs.ErrNotExist) {
		return keyring.OpenOrMakeRootFile(path, log)
	}
	keys, err := keyring.OpenRootFile(path, log)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("root key file %s is missing, but there is data sealed with it; put it back", path)
	}
	return keys, err
}

func etcdDir(cfg Config) string { return filepath.Join(cfg.DataDir, "etcd") }

// startEtcd starts the embedded etcd if one is asked for. What the server fails
// with later is sent to failed.
func startEtcd(ctx context.Context, cfg Config) (endpoints []string, failed <-chan error, stop func(), err error) {
	if !cfg.EmbeddedEtcd {
		return cfg.EtcdEndpoints, nil, func() {}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, embeddedStart)
	defer cancel()
	server, err := etcd.StartServer(ctx, etcd.ServerConfig{Dir: etcdDir(cfg), Logger: cfg.Logger.Named("etcd")})
	if err != nil {
		return nil, nil, nil, err
	}
	return server.Endpoints(), server.Err(), server.Close, nil
}

// plane is one assembled replica.
type plane struct {
	cfg       Config
	db        *etcd.Store
	endpoints []string
	root      *keyring.RootFile
	hub       *publish.Hub
	acks      *publish.Acks
	observer  *observe.Observer
	server    *rpc.Server
	rotator   *rotator
	audit     *audit.Log
	readiness readiness
}

func newPlane(cfg Config, db *etcd.Store, root *keyring.RootFile) (*plane, error) {
	p := &plane{cfg: cfg, db: db, root: root, readiness: readiness{etcd: errStarting}}
	var err error
	if p.audit, err = audit.Open(cfg.AuditLog, p.audited); err != nil {
		return nil, err
	}
	p.hub = publish.NewHub(p.openRing, cfg.Logger.Named("publish"))
	p.acks = publish.NewAcks(db, cfg.Logger.Named("publish"))
	p.observer = observe.New(cfg.Trust.Workers, cfg.Logger.Named("observe"))
	p.rotator = &rotator{db: db, hub: p.hub, every: cfg.SessionKeyRotation, open: p.openRing, seal: p.sealRing, log: cfg.Logger.Named("keys")}
	p.server = rpc.NewServer(rpc.Config{
		SessionKeys: p.rotator,
		Audit:       p.audit,
		Store:       db, Hub: p.hub, Acks: p.acks, Observer: p.observer, MaxOutage: cfg.MaxOutage, Credentials: cfg.Trust.Listener, Logger: cfg.Logger.Named("rpc"),
	})
	return p, nil
}

// run has two circles, so that calls under way at the end still have a store:
// the inner ends with ctx, the outer when the server has stopped.
func (p *plane) run(ctx context.Context, failed <-chan error) error {
	background, stopBackground := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBackground()
	var outer errgroup.Group
	outer.Go(func() error { return p.db.Run(background) })
	outer.Go(func() error { p.acks.Run(background); return nil })
	outer.Go(func() error { p.audit.Run(background); return nil })
	outer.Go(func() error { p.db.KeepRing(background, p.rotator.Tend); return nil })
	outer.Go(func() error { p.root.Run(background); return nil })

	inner, ctx := errgroup.WithContext(ctx)
	inner.Go(func() error { return p.serve() })
	inner.Go(func() error { return p.follow(ctx) })
	inner.Go(func() error {
		select {
		case err := <-failed:
			return fmt.Errorf("embedded etcd failed: %w", err)
		case <-ctx.Done():
			return nil
		}
	})
	inner.Go(func() error {
		<-ctx.Done()
		p.server.Stop(grace)
		return nil
	})
	err := inner.Wait()
	stopBackground()
	return errors.Join(err, outer.Wait())
}

func (p *plane) serve() error {
	err := p.server.GRPC().Serve(p.cfg.Listener)
	if errors.Is(err, grpc.ErrServerStopped) {
		return nil
	}
	return err
}

// follow makes the key ring if there is none, and then publishes the state.
func (p *plane) follow(ctx context.Context) error {
	if err := p.setUp(ctx); err != nil {
		return err
	}
	p.cfg.EtcdReady(p.endpoints)
	p.db.Follow(ctx, p)
	return nil
}

// Publish implements etcd.Follower.
func (p *plane) Publish(snap *store.Snapshot) {
	p.hub.Publish(snap)
	p.acks.Check(snap)
	p.observer.Retain(snap.Members)
	p.followed(nil)
}

// Lost implements etcd.Follower.
func (p *plane) Lost(err error) {
	p.hub.Lost()
	p.followed(err)
}

// setUp sees to the key ring, waiting for an etcd that is away.
func (p *plane) setUp(ctx context.Context) error {
	told := false
	for pause := firstPause; ; pause = min(2*pause, longPause) {
		err := p.ring(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !errors.Is(err, store.ErrUnavailable) && !errors.Is(err, context.DeadlineExceeded) {
			return err // nil, or what waiting does not cure
		}
		p.cfg.Logger.Warn("etcd is not there yet", "error", err, "again_in", pause)
		if !told {
			told = true
			p.cfg.Health(err)
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

// ring makes sure that there is a key ring and that a root key of ours opens it.
func (p *plane) ring(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	ring, err := p.db.Ring(ctx)
	if err != nil {
		return err
	}
	if ring == nil {
		sealed, err := p.sealRing(keyring.New(time.Now()))
		if err != nil {
			return err
		}
		if ring, err = p.db.MakeRing(ctx, sealed); err != nil {
			return err
		}
	}
	if ring == nil {
		return errors.New("key ring was deleted while it was made")
	}
	_, err = p.root.Open(etcd.RingKey, ring.Sealed)
	return err
}

func (p *plane) openRing(sealed []byte) (*leaseholdv1.KeyRing, error) {
	return p.root.Open(etcd.RingKey, sealed)
}

func (p *plane) sealRing(ring *leaseholdv1.KeyRing) ([]byte, error) {
	return p.root.Seal(etcd.RingKey, ring)
}
