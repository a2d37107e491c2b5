package main

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/leasehold/leasehold/cmd/internal/certs"
	"github.com/leasehold/leasehold/cmd/internal/usage"
)

// certInterval is how often the certificate is looked at.
const certInterval = time.Second

// clientAccess is the flags of who may reach a worker's client listener, and how.
type clientAccess struct {
	hosts, origins, proxies []string
	certFile, keyFile       string

	networks []netip.Prefix // proxies, parsed by check
}

func (a *clientAccess) flags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringSliceVar(&a.hosts, "allowed-hosts", nil, "host names without port that clients may use in Host; "+
		"loopback names always may on a loopback listener, and on another one all may if none is listed")
	flags.StringSliceVar(&a.origins, "allowed-origins", nil, "origins such as https://app.example.com whose pages may use it from a browser, "+
		"which are told so by CORS and may read Mcp-Session-Id and Mcp-Protocol-Version; loopback origins always may on a loopback listener")
	flags.StringSliceVar(&a.proxies, "trusted-proxies", nil, "networks (CIDR) or addresses of proxies whose X-Forwarded-Host is believed; from others it is ignored")
	flags.StringVar(&a.certFile, "tls-cert", "", "PEM file with the certificate to serve clients with, and its chain: HTTP/2 and HTTP/1.1 over TLS 1.2 or later; read again when it changes")
	flags.StringVar(&a.keyFile, "tls-key", "", "PEM file with the private key of --tls-cert; read again when it changes")
}

func (a *clientAccess) check() error {
	for _, host := range a.hosts {
		if err := checkHost(host); err != nil {
			return err
		}
	}
	for _, origin := range a.origins {
		if err := checkOrigin(origin); err != nil {
			return err
		}
	}
	a.networks = nil
	for _, proxy := range a.proxies {
		network, err := parseNetwork(proxy)
		if err != nil {
			return usage.Errorf("--trusted-proxies: %q is not a network; write one such as 10.0.0.0/8, or an address", proxy)
		}
		a.networks = append(a.networks, network)
	}
	switch {
	case a.certFile != "" && a.keyFile == "":
		return usage.Errorf("--tls-key: is needed with --tls-cert")
	case a.certFile == "" && a.keyFile != "":
		return usage.Errorf("--tls-cert: is needed with --tls-key")
	}
	return nil
}

// load reads the certificate, if there is one, and has metrics say when it ends;
// nil means plaintext.
func (a *clientAccess) load(registry prometheus.Registerer, logger hclog.Logger) (*certs.Pair, error) {
	if a.certFile == "" {
		return nil, nil
	}
	pair, err := certs.Load(a.certFile, a.keyFile, logger.Named("tls"))
	if err != nil {
		return nil, err
	}
	return pair, pair.Register(registry, "clients")
}

// tlsConfig returns the settings of the client listener, and keeps the pair as
// it is in its files for as long as group runs.
func tlsConfig(ctx context.Context, group *errgroup.Group, pair *certs.Pair) *tls.Config {
	if pair == nil {
		return nil
	}
	group.Go(func() error { return pair.Run(ctx, certInterval) })
	return pair.Config()
}

// scheme is how URLs of the client listener begin.
func (a *clientAccess) scheme() string {
	if a.certFile != "" {
		return "https"
	}
	return "http"
}

func checkHost(host string) error {
	_, _, err := net.SplitHostPort(host)
	if host == "" || err == nil || strings.ContainsAny(host, "/*@ ") {
		return usage.Errorf("--allowed-hosts: %q is not a host name without port, such as mcp.example.com", host)
	}
	return nil
}

func checkOrigin(origin string) error {
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" || u.Scheme == "" || origin != u.Scheme+"://"+u.Host || strings.Contains(u.Host, "*") {
		return usage.Errorf("--allowed-origins: %q is not an origin; write it as browsers send it, such as https://app.example.com, each one by itself", origin)
	}
	return nil
}

func parseNetwork(text string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(text); err == nil {
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	network, err := netip.ParsePrefix(text)
	return network.Masked(), err
}
