package etcd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"go.etcd.io/etcd/server/v3/embed"
)

const (
	quotaBytes          = 8 << 30
	compactionRetention = "5m"
	// A server that is alone elects itself: there is nobody to wait for, so it
	// need not take the second that a real election is given.
	aloneTick     = 25 * time.Millisecond
	aloneElection = 250 * time.Millisecond
)

// ServerConfig says how to run an etcd server in this process.
type ServerConfig struct {
	// Dir holds the data; it is made if it is not there. Required.
	Dir string
	// Name is the member's name in Cluster; empty for a server that is alone.
	Name string
	// PeerURL is where the other members of Cluster reach this one.
	PeerURL string
	// Cluster lists the members as name=URL,name=URL; empty for a server that is
	// alone.
	Cluster string
	// ClientURL is where clients reach it; empty means a free loopback port.
	ClientURL string
	// Quota is how many bytes the data may take; 0 means 8 GiB.
	Quota int64
	// Logger gets warnings and errors; nil discards them.
	Logger hclog.Logger
}

// Server is an etcd server in this process. It has neither certificates nor
// users: its ports are for loopback.
type Server struct {
	etcd *embed.Etcd
	lock *fileutil.LockedFile
}

// StartServer starts a server and waits until it is ready or ctx ends.
func StartServer(ctx context.Context, cfg ServerConfig) (*Server, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("start etcd: %w", err)
	}
	lock, err := lockDir(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("start etcd: %w", err)
	}
	e, err := cfg.start(ctx)
	if err != nil {
		lock.Close()
		return nil, fmt.Errorf("start etcd in %s: %w", cfg.Dir, err)
	}
	return &Server{etcd: e, lock: lock}, nil
}

// lockDir keeps a second server from the directory. etcd has a lock of its own,
// but waits for it for ever.
func lockDir(dir string) (*fileutil.LockedFile, error) {
	lock, err := fileutil.TryLockFile(filepath.Join(dir, "in-use.lock"), os.O_WRONLY|os.O_CREATE, 0o600)
	if errors.Is(err, fileutil.ErrLocked) {
		return nil, fmt.Errorf("%s is in use by another process", dir)
	}
	return lock, err
}

func (cfg ServerConfig) start(ctx context.Context) (*embed.Etcd, error) {
	ec, err := cfg.embed()
	if err != nil {
		return nil, err
	}
	e, err := embed.StartEtcd(ec)
	if err != nil {
		return nil, err
	}
	select {
	case <-e.Server.ReadyNotify():
		return e, nil
	case err = <-e.Err():
	case <-e.Server.StopNotify():
		err = errors.New("it stopped")
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	e.Close()
	return nil, err
}

func (cfg ServerConfig) embed() (*embed.Config, error) {
	log := cfg.Logger
	if log == nil {
		log = hclog.NewNullLogger()
	}
	anyPort := url.URL{Scheme: "http", Host: "127.0.0.1:0"}
	ec := embed.NewConfig()
	ec.Dir = cfg.Dir
	ec.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zapLogger(log))
	ec.LogLevel = "warn"
	ec.EnableGRPCGateway = false
	ec.QuotaBackendBytes = cmp.Or(cfg.Quota, quotaBytes)
	ec.AutoCompactionMode = "periodic"
	ec.AutoCompactionRetention = compactionRetention
	client := anyPort
	if cfg.ClientURL != "" {
		u, err := url.Parse(cfg.ClientURL)
		if err != nil {
			return nil, fmt.Errorf("client url: %w", err)
		}
		client = *u
	}
	ec.ListenClientUrls, ec.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	if cfg.Cluster == "" {
		ec.ListenPeerUrls, ec.AdvertisePeerUrls = []url.URL{anyPort}, []url.URL{anyPort}
		ec.InitialCluster = ec.InitialClusterFromName(ec.Name)
		ec.TickMs, ec.ElectionMs = uint(aloneTick.Milliseconds()), uint(aloneElection.Milliseconds())
		return ec, nil
	}
	peer, err := url.Parse(cfg.PeerURL)
	if err != nil {
		return nil, fmt.Errorf("peer url: %w", err)
	}
	ec.Name, ec.InitialCluster = cfg.Name, cfg.Cluster
	ec.ListenPeerUrls, ec.AdvertisePeerUrls = []url.URL{*peer}, []url.URL{*peer}
	return ec, nil
}

// Endpoints are the URLs for clients.
func (s *Server) Endpoints() []string {
	urls := make([]string, len(s.etcd.Clients))
	for i, l := range s.etcd.Clients {
		urls[i] = "http://" + l.Addr().String()
	}
	return urls
}

// Err is sent the error that the server stopped with, if it stops by itself.
func (s *Server) Err() <-chan error { return s.etcd.Err() }

// Close stops the server and waits until it has stopped.
func (s *Server) Close() {
	s.etcd.Close()
	s.lock.Close()
}
