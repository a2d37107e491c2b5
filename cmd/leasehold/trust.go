package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"github.com/leasehold/leasehold/cmd/internal/address"
	"github.com/leasehold/leasehold/cmd/internal/trust"
	"github.com/leasehold/leasehold/cmd/internal/usage"
)

// certFiles is three flags: --PREFIX-ca, --PREFIX-cert and --PREFIX-key. All are
// given, or none.
type certFiles struct {
	prefix string
	paths  trust.Paths
}

// flags adds the flags to set; holder and others say in --help whose the
// certificates are.
func (c *certFiles) flags(set *pflag.FlagSet, prefix, holder, others string) {
	c.prefix = prefix
	set.StringVar(&c.paths.Authorities, prefix+"-ca", "", "PEM file with the authorities of "+others+"; read again when it changes")
	set.StringVar(&c.paths.Cert, prefix+"-cert", "", "PEM file with "+holder+", and its chain; read again when it changes")
	set.StringVar(&c.paths.Key, prefix+"-key", "", "PEM file with the private key of --"+prefix+"-cert")
}

// given reports whether there are certificates.
func (c *certFiles) given() bool { return c.paths != trust.Paths{} }

func (c *certFiles) check() error {
	if !c.given() {
		return nil
	}
	for _, one := range []struct{ flag, path string }{{"ca", c.paths.Authorities}, {"cert", c.paths.Cert}, {"key", c.paths.Key}} {
		if one.path == "" {
			return usage.Errorf("--%s-%s: is needed: --%[1]s-ca, --%[1]s-cert and --%[1]s-key go together", c.prefix, one.flag)
		}
	}
	return nil
}

// load reads the certificates, of which the process's own has one of roles, and
// has metrics say when that ends. Nil: there are none.
func (c *certFiles) load(registry prometheus.Registerer, logger hclog.Logger, roles ...trust.Role) (*trust.Files, error) {
	if !c.given() {
		return nil, nil
	}
	files, err := trust.Load(c.paths, logger.Named("tls").With("for", c.prefix), roles...)
	if err != nil {
		return nil, fmt.Errorf("%s certificates: %w", c.prefix, err)
	}
	return files, files.Register(registry, c.prefix)
}

// keep keeps certificates as they are in their files for as long as group runs.
func keep(ctx context.Context, group *errgroup.Group, all ...*trust.Files) {
	for _, files := range all {
		if files != nil {
			group.Go(func() error { return files.Run(ctx) })
		}
	}
}

// cluster is how a daemon and the other processes know each other: by
// certificates, or not at all, on loopback.
type cluster struct {
	files    certFiles
	insecure bool
}

func (c *cluster) flags(cmd *cobra.Command, role trust.Role) {
	c.files.flags(cmd.Flags(), "cluster", "this process's own certificate, of the role "+string(role), "the other processes, which it speaks to over mutual TLS")
	cmd.Flags().BoolVar(&c.insecure, "insecure", false, "speak to other processes without TLS; loopback addresses only")
}

// check says whether all addresses may be used. They are given as flag and
// address in turn.
func (c *cluster) check(pairs ...string) error {
	if err := c.files.check(); err != nil {
		return err
	}
	switch {
	case c.files.given() && c.insecure:
		return usage.Errorf("--insecure and --cluster-cert exclude each other")
	case c.files.given():
		return nil
	case !c.insecure:
		return usage.Errorf("name certificates, by which processes know each other, with --cluster-ca, --cluster-cert and --cluster-key (`leasehold certs` makes some), " +
			"or add --insecure, which accepts loopback addresses only")
	}
	for i := 0; i < len(pairs); i += 2 {
		if flag, addr := pairs[i], pairs[i+1]; !address.Loopback(addr) {
			return usage.Errorf("--%s: %s is not a loopback address; --insecure accepts loopback addresses only (127.0.0.1, [::1], localhost)", flag, addr)
		}
	}
	return nil
}

// load is certFiles.load for a process that has a listener for others too; nil
// means plaintext.
func (c *cluster) load(registry prometheus.Registerer, logger hclog.Logger, role trust.Role) (*trust.Files, error) {
	files, err := c.files.load(registry, logger, role)
	if err != nil || files == nil {
		return nil, err
	}
	return files, files.RegisterServer(registry)
}

// checkEtcd says whether the endpoints may be used, with or without certificates.
func checkEtcd(endpoints []string, files *certFiles) error {
	if err := files.check(); err != nil {
		return err
	}
	for _, endpoint := range endpoints {
		if err := address.CheckURL(endpoint); err != nil {
			return usage.Errorf("--etcd-endpoints: %w", err)
		}
		switch secure := strings.HasPrefix(endpoint, "https:"); {
		case secure && !files.given():
			return usage.Errorf("--etcd-endpoints: %s: https needs --etcd-ca, --etcd-cert and --etcd-key", endpoint)
		case !secure && files.given():
			return usage.Errorf("--etcd-endpoints: %s: with --etcd-cert it must be https", endpoint)
		case !secure && !address.LoopbackURL(endpoint):
			return usage.Errorf("--etcd-endpoints: %s is not a loopback address; without certificates (--etcd-ca, --etcd-cert, --etcd-key) "+
				"etcd is reached on this machine only", endpoint)
		}
	}
	if len(endpoints) == 0 && files.given() {
		return usage.Errorf("--etcd-cert: is for --etcd-endpoints")
	}
	return nil
}
