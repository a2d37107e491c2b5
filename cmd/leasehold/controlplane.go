package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/leasehold/leasehold/cmd/internal/address"
	"github.com/leasehold/leasehold/cmd/internal/admin"
	"github.com/leasehold/leasehold/cmd/internal/dirlock"
	"github.com/leasehold/leasehold/cmd/internal/trust"
	"github.com/leasehold/leasehold/cmd/internal/usage"
	"github.com/leasehold/leasehold/cmd/internal/version"
	"github.com/leasehold/leasehold/controlplane"
)

// minLeaseTTL is the shortest lease that leaves time to renew it.
const minLeaseTTL = 2 * time.Second

// controlPlane is the command's flags.
type controlPlane struct {
	daemon
	maxOutage
	sessionKeyRotation
	auditLog
	cluster                               cluster
	etcd                                  certFiles
	listen, adminListen, dataDir, rootKey string
	embedded                              bool
	endpoints                             []string
	leaseTTL                              time.Duration
}

func newControlPlane() *cobra.Command {
	c := &controlPlane{}
	cmd := &cobra.Command{
		Use:   "controlplane",
		Short: "Run one replica of the control plane",
		Long: "Runs one replica of the control plane: the API for operators and workers, over\n" +
			"the state in etcd. Any number of replicas can serve one etcd.\n\n" +
			"With --cluster-cert whoever calls proves by a certificate of --cluster-ca what it is,\n" +
			"an operator or a worker, and may call what is for those; `leasehold certs` makes\n" +
			"certificates. Without, with --insecure, everybody on this machine may call everything.",
		Example: "  leasehold controlplane --insecure --listen 127.0.0.1:7070 --embedded-etcd --data-dir /var/lib/leasehold\n" +
			"  leasehold controlplane --listen 10.0.0.7:7070 --cluster-ca ca.crt --cluster-cert cp-1.crt --cluster-key cp-1.key \\\n" +
			"    --etcd-endpoints https://etcd-1:2379,https://etcd-2:2379 --etcd-ca etcd-ca.crt --etcd-cert etcd-client.crt --etcd-key etcd-client.key --root-key root.key",
		Args: usage.Args(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.check(); err != nil {
				return err
			}
			return c.daemon.run(cmd, 0, func(ctx context.Context, logger hclog.Logger) error {
				return c.serve(ctx, logger, cmd.OutOrStdout())
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&c.listen, "listen", "", "address to serve operators and workers on (gRPC)")
	flags.BoolVar(&c.embedded, "embedded-etcd", false, "run an etcd server in this process, in --data-dir")
	flags.StringVar(&c.dataDir, "data-dir", "", "directory of the embedded etcd and its root key")
	flags.StringSliceVar(&c.endpoints, "etcd-endpoints", nil, "URLs of an existing etcd cluster")
	flags.StringVar(&c.rootKey, "root-key", "", "file of root keys, the same at every replica; made and rotated by leasehold keys")
	flags.DurationVar(&c.leaseTTL, "lease-ttl", controlplane.DefaultLeaseTTL, "how long a worker counts as alive without being heard of")
	flags.StringVar(&c.adminListen, "admin-listen", defaultAdmin, "address of /livez, /readyz and /metrics; empty for none")
	c.maxOutage.flag(cmd)
	c.sessionKeyRotation.flag(cmd)
	c.auditLog.flag(cmd)
	c.cluster.flags(cmd, trust.ControlPlane)
	c.etcd.flags(flags, "etcd", "the certificate for etcd", "etcd's servers, which have the host of their endpoint in their certificates")
	c.daemon.flags(cmd, "info")
	return cmd
}

func (c *controlPlane) check() error {
	if err := checkListen("listen", c.listen); err != nil {
		return err
	}
	switch {
	case c.embedded && len(c.endpoints) > 0:
		return usage.Errorf("--embedded-etcd and --etcd-endpoints exclude each other")
	case !c.embedded && len(c.endpoints) == 0:
		return usage.Errorf("say where the state is: --embedded-etcd with --data-dir, or --etcd-endpoints with --root-key")
	case c.embedded && c.dataDir == "":
		return usage.Errorf("--data-dir: is needed with --embedded-etcd")
	case !c.embedded && c.rootKey == "":
		return usage.Errorf("--root-key: is needed with --etcd-endpoints: every replica needs the same file (make one with `leasehold keys generate root.key`)")
	case c.leaseTTL%time.Second != 0:
		return usage.Errorf("--lease-ttl: %s is not a number of whole seconds", c.leaseTTL)
	case c.leaseTTL < minLeaseTTL:
		return usage.Errorf("--lease-ttl: %s is shorter than %s, which leaves no time to renew it", c.leaseTTL, minLeaseTTL)
	}
	if err := c.maxOutage.check(); err != nil {
		return err
	}
	if err := c.sessionKeyRotation.check(); err != nil {
		return err
	}
	if c.adminListen != "" {
		if err := checkListen("admin-listen", c.adminListen); err != nil {
			return err
		}
	}
	if err := checkEtcd(c.endpoints, &c.etcd); err != nil {
		return err
	}
	if c.rootKey != "" {
		if _, err := os.Stat(c.rootKey); err != nil {
			return usage.Errorf("--root-key: %w", err)
		}
	}
	return c.cluster.check("listen", c.listen)
}

func (c *controlPlane) serve(ctx context.Context, logger hclog.Logger, stdout io.Writer) error {
	if c.embedded {
		lock, err := dirlock.Acquire(c.dataDir)
		if err != nil {
			return err
		}
		defer lock.Release()
	}
	health, registry := &admin.Health{}, admin.NewRegistry()
	group, ctx := errgroup.WithContext(ctx)
	own, err := c.cluster.load(registry, logger, trust.ControlPlane)
	if err != nil {
		return err
	}
	forEtcd, err := c.etcd.load(registry, logger)
	if err != nil {
		return err
	}
	listener, err := address.Listen(c.listen, "listen")
	if err != nil {
		return err
	}
	adminAddr, err := startAdmin(ctx, group, c.adminListen, health, registry, logger)
	if err != nil {
		_ = listener.Close()
		return err
	}
	keep(ctx, group, own, forEtcd)
	grpcAddr := bound(listener)
	etcd := "unknown" // until it is reached, which is before the plane is ready
	var mu sync.Mutex // guards etcd
	ready := sync.OnceFunc(func() {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(stdout, "leasehold controlplane ready: grpc=%s etcd=%s admin=%s\n", grpcAddr, etcd, orNone(adminAddr))
	})
	part := health.Part("controlplane")
	group.Go(func() error {
		return endless(ctx, controlplane.Run(ctx, controlplane.Config{
			Listener:           listener,
			EmbeddedEtcd:       c.embedded,
			EtcdEndpoints:      c.endpoints,
			DataDir:            c.dataDir,
			RootKeyFile:        c.rootKey,
			LeaseTTL:           c.leaseTTL,
			MaxOutage:          c.outage,
			SessionKeyRotation: c.rotation,
			AuditLog:           c.auditFile,
			Trust:              planeTrust(own, forEtcd),
			Version:            version.Number(),
			Logger:             logger.Named("controlplane"),
			Metrics:            registry,
			EtcdReady: func(endpoints []string) {
				mu.Lock()
				defer mu.Unlock()
				etcd = strings.Join(endpoints, ",")
			},
			Alarm: func(err error) { health.Alarm("etcd", err) },
			Health: func(err error) {
				part(err)
				if err == nil {
					ready()
				}
			},
		}))
	})
	return group.Wait()
}

// planeTrust is what a control plane does with its certificates; nil means
// plaintext.
func planeTrust(own, etcd *trust.Files) (t controlplane.Trust) {
	if own != nil {
		t.Listener, t.Workers = own.Server(), own.Client(trust.Worker)
	}
	if etcd != nil {
		t.Etcd = etcd.ClientOfHost()
	}
	return t
}

// startAdmin serves the admin listener in group and returns its address, which
// is empty when there is none.
func startAdmin(ctx context.Context, group *errgroup.Group, addr string, health *admin.Health, registry *prometheus.Registry, logger hclog.Logger) (string, error) {
	if addr == "" {
		return "", nil
	}
	listener, err := address.Listen(addr, "admin-listen")
	if err != nil {
		return "", err
	}
	group.Go(func() error { return admin.Serve(ctx, listener, health, registry, logger.Named("admin")) })
	return bound(listener), nil
}

func bound(listener net.Listener) string { return listener.Addr().String() }
