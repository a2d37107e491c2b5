package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// Operator is the name of the operator's certificate, by which a cluster is
// operated. Processes' certificates have their processes' names.
const Operator = "operator"

// certs is the authority of a cluster and its certificates, made by `leasehold
// certs` as a user makes them.
type certs struct {
	dir       string
	leasehold string       // the program
	etcd      *http.Client // with the operator's certificate
}

// certify makes the authority, and the operator's certificate.
func (c *Cluster) certify(ctx context.Context) error {
	if c.cfg.Plaintext {
		return nil
	}
	made := &certs{dir: filepath.Join(c.cfg.Dir, "certs"), leasehold: c.Binaries.Leasehold}
	if err := made.call(ctx, "init", "--dir", made.dir); err != nil {
		return err
	}
	if err := made.issue(ctx, "operator", Operator); err != nil {
		return err
	}
	config, err := made.config(Operator)
	if err != nil {
		return err
	}
	made.etcd = &http.Client{Transport: &http.Transport{TLSClientConfig: config}}
	c.certs = made
	return nil
}

// CertsDir is the directory of the cluster's authority.
func (c *Cluster) CertsDir() string { return c.certs.dir }

// Issue issues a certificate, or renews it.
func (c *Cluster) Issue(ctx context.Context, role, name string, flags ...string) error {
	return c.certs.issue(ctx, role, name, flags...)
}

func (c *certs) issue(ctx context.Context, role, name string, flags ...string) error {
	return c.call(ctx, append([]string{
		"issue", "--dir", c.dir, "--role", role, "--name", name, "--ip", "127.0.0.1",
	}, flags...)...)
}

func (c *certs) call(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, c.leasehold, append([]string{"certs"}, args...)...)
	cmd.Env = environment()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("leasehold certs %s: %w: %s", args[0], err, out)
	}
	return nil
}

// flags are the flags for a certificate; prefix is how they begin.
func (c *certs) flags(name, prefix string) []string {
	return []string{
		prefix + "ca", filepath.Join(c.dir, "ca.crt"),
		prefix + "cert", filepath.Join(c.dir, name+".crt"), prefix + "key", filepath.Join(c.dir, name+".key"),
	}
}

// clusterFlags are the flags by which a process and the others know each other.
func (c *Cluster) clusterFlags(ctx context.Context, role, name string) ([]string, error) {
	if c.certs == nil {
		return []string{"--insecure"}, nil
	}
	return c.flagsOf(ctx, role, name, "--cluster-")
}

// flagsOf issues a certificate, unless there is none at all, and returns the flags
// for it.
func (c *Cluster) flagsOf(ctx context.Context, role, name, prefix string) ([]string, error) {
	if c.certs == nil {
		return nil, nil
	}
	if err := c.certs.issue(ctx, role, name); err != nil {
		return nil, err
	}
	return c.certs.flags(name, prefix), nil
}

// OperatorEnv is the environment by which the operator's command line reaches a
// control-plane replica.
func (c *Cluster) OperatorEnv(address string) []string {
	env := []string{"LEASEHOLD_CONTROL=" + address}
	if c.certs == nil {
		return env
	}
	return append(env,
		"LEASEHOLD_CLUSTER_CA="+filepath.Join(c.certs.dir, "ca.crt"),
		"LEASEHOLD_CLUSTER_CERT="+filepath.Join(c.certs.dir, Operator+".crt"),
		"LEASEHOLD_CLUSTER_KEY="+filepath.Join(c.certs.dir, Operator+".key"))
}

// Dial returns a connection to a gRPC server of the cluster, with a certificate
// that was issued.
func (c *Cluster) Dial(address, name string) (*grpc.ClientConn, error) {
	if c.certs == nil {
		return grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	}
	config, err := c.certs.config(name)
	if err != nil {
		return nil, err
	}
	return grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(config)))
}

// config is what a client that has a certificate of the cluster does.
func (c *certs) config(name string) (*tls.Config, error) {
	authorities, err := os.ReadFile(filepath.Join(c.dir, "ca.crt"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authorities)
	pair, err := tls.LoadX509KeyPair(filepath.Join(c.dir, name+".crt"), filepath.Join(c.dir, name+".key"))
	if err != nil {
		return nil, err
	}
	return &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}}, nil
}

// EtcdClient returns an HTTP client for etcd members.
func (c *Cluster) EtcdClient() *http.Client {
	if c.certs == nil {
		return http.DefaultClient
	}
	return c.certs.etcd
}
