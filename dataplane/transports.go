package dataplane

import (
	"context"
	"net/http"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/dial"
	"github.com/leasehold/leasehold/dataplane/duplex"
	"github.com/leasehold/leasehold/dataplane/duplex/sse"
	"github.com/leasehold/leasehold/dataplane/duplex/stdio"
	"github.com/leasehold/leasehold/dataplane/material"
	"github.com/leasehold/leasehold/dataplane/merge"
	"github.com/leasehold/leasehold/dataplane/session"
	"github.com/leasehold/leasehold/dataplane/upstream"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// transports makes each request the way that its upstream is spoken to. It
// implements session.Upstream.
type transports struct {
	http     *upstream.Client
	streams  *duplex.Upstream // of legacy servers
	programs *duplex.Upstream
	host     *stdio.Host
	material *material.Store
	several  *merge.Upstream // that are one together
	dialer   *dial.Dialer
	logger   hclog.Logger
}

func newTransports(cfg *Config) (*transports, error) {
	dialer, err := dial.New(cfg.Dial, cfg.lookup)
	if err != nil {
		return nil, err
	}
	store, err := material.New(material.Config{
		Dir: cfg.CredentialsDir, Env: cfg.CredentialEnv, Callers: cfg.MaxSessions, Dialer: dialer, Logger: cfg.Logger.Named("material")})
	if err != nil {
		return nil, err
	}
	host, err := stdio.NewHost(stdio.Config{
		Allow: cfg.AllowStdio, Max: cfg.MaxPrograms, Memory: cfg.ProgramMemory, Logger: cfg.Logger.Named("stdio")})
	if err != nil {
		return nil, err
	}
	if cfg.Metrics != nil {
		if err := cfg.Metrics.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "leasehold_programs",
			Help: "Programs that run now, one for each session of a gateway with TRANSPORT_STDIO.",
		}, func() float64 { return float64(host.Running()) })); err != nil {
			return nil, err
		}
	}
	t := &transports{host: host, material: store, dialer: dialer, logger: cfg.Logger}
	return t.afresh(), nil
}

// afresh returns transports that know nothing of connections that there are, or that
// failed, and share everything else.
func (t *transports) afresh() *transports {
	own := *t
	own.http = upstream.NewClient(t.dialer, t.material)
	own.streams = duplex.New(sse.NewDialer(own.http), t.logger.Named("sse"))
	own.programs = duplex.New(t.host, t.logger.Named("stdio"))
	return &own
}

// hangUp ends all connections, and the programs that were started.
func (t *transports) hangUp() {
	over, cancel := context.WithCancel(context.Background())
	cancel()
	_ = t.streams.Run(over) // it does not fail
	_ = t.programs.Run(over)
	t.http.CloseIdle(0)
}

// merge has upstreams of several parts served. Requests to the parts are made through
// inner, which leads back here; changed is told when the upstream sessions of a session
// are other ones.
func (t *transports) merge(cfg *Config, world *config.Holder, inner session.Upstream, changed func(id string)) error {
	t.several = merge.New(merge.Config{Inner: inner, World: world, Version: cfg.Version, Changed: changed, Logger: cfg.Logger.Named("merge")})
	return t.several.Register(cfg.Metrics)
}

// of returns what speaks to an upstream.
func (t *transports) of(u *config.Upstream) session.Upstream {
	if u.Merged != nil {
		return t.several
	}
	switch u.Transport {
	case leaseholdv1.Transport_TRANSPORT_SSE:
		return t.streams
	case leaseholdv1.Transport_TRANSPORT_STDIO:
		return t.programs
	}
	return t.http
}

// Do implements session.Upstream.
func (t *transports) Do(ctx context.Context, d *session.Dispatch) (*http.Response, error) {
	return t.of(d.Upstream).Do(ctx, d)
}

// Drop implements session.Upstream.
func (t *transports) Drop(u *config.Upstream, id string) { t.of(u).Drop(u, id) }

// Run closes in time what nobody uses, and ends everything when ctx ends.
func (t *transports) Run(ctx context.Context) error {
	var group errgroup.Group
	group.Go(func() error { return t.http.Run(ctx) })
	group.Go(func() error { return t.material.Run(ctx) })
	group.Go(func() error { return t.host.Run(ctx) })
	group.Go(func() error { return t.streams.Run(ctx) })
	group.Go(func() error { return t.programs.Run(ctx) })
	group.Go(func() error { return t.several.Run(ctx) })
	return group.Wait()
}

// close gives back what requests needed, once there are none any more.
func (t *transports) close() { t.material.Close() }
