package main

import (
	"net/netip"
	"os"

	"github.com/spf13/cobra"

	"github.com/leasehold/leasehold/cmd/internal/usage"
	"github.com/leasehold/leasehold/dataplane"
	"github.com/leasehold/leasehold/dataplane/material"
)

// upstreams is the flags of what a worker connects to for gateways, and with which
// credentials.
type upstreams struct {
	loopback, denyPrivate bool
	accept, refuse        []string
	dir                   string
	env                   []string

	allowed, denied []netip.Prefix // accept and refuse, parsed by check
}

func (u *upstreams) flags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.BoolVar(&u.loopback, "allow-loopback-upstreams", false, "connect to upstreams on this machine's loopback addresses, as --insecure does too")
	flags.BoolVar(&u.denyPrivate, "deny-private-upstreams", false, "do not connect to upstreams at private addresses: of private networks, carriers (CGNAT) and benchmarks")
	flags.StringSliceVar(&u.accept, "allow-upstream-cidrs", nil, "networks (CIDR) or addresses whose upstreams it connects to; where --deny-upstream-cidrs has the address too, the longer network counts")
	flags.StringSliceVar(&u.refuse, "deny-upstream-cidrs", nil, "networks (CIDR) or addresses whose upstreams it does not connect to; 0.0.0.0/0,::/0 leaves only those of --allow-upstream-cidrs")
	flags.StringVar(&u.dir, "credentials-dir", "", "directory of the files that gateways may name for credentials and certificates of upstreams; read again when they change")
	flags.StringSliceVar(&u.env, "credential-env", nil, "environment variables that gateways may name for credentials, beside those that begin with "+material.EnvPrefix)
}

func (u *upstreams) check() error {
	var err error
	if u.allowed, err = parseNetworks("allow-upstream-cidrs", u.accept); err != nil {
		return err
	}
	if u.denied, err = parseNetworks("deny-upstream-cidrs", u.refuse); err != nil {
		return err
	}
	if u.dir == "" {
		return nil
	}
	if info, err := os.Stat(u.dir); err != nil || !info.IsDir() {
		return usage.Errorf("--credentials-dir: %s is not a directory that can be read", u.dir)
	}
	return nil
}

func parseNetworks(flag string, texts []string) ([]netip.Prefix, error) {
	networks := make([]netip.Prefix, 0, len(texts))
	for _, text := range texts {
		network, err := parseNetwork(text)
		if err != nil || network.Addr().Is4In6() {
			return nil, usage.Errorf("--%s: %q is not a network; write one such as 10.0.0.0/8, or an address", flag, text)
		}
		networks = append(networks, network)
	}
	return networks, nil
}

// configure puts the flags into a worker's config. insecure is the operator's word
// that everything is on this machine.
func (u *upstreams) configure(config *dataplane.Config, insecure bool) {
	config.Dial.AllowLoopback = u.loopback || insecure
	config.Dial.DenyPrivate = u.denyPrivate
	config.Dial.Allow, config.Dial.Deny = u.allowed, u.denied
	config.CredentialsDir, config.CredentialEnv = u.dir, u.env
}
