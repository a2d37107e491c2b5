package store

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
	"github.com/leasehold/leasehold/test/internal/cluster"
)

// TestEtcdIsUsedOnlyWithAGoodCertificateWhichIsRenewedWithoutARestart lets the
// certificate end by which a control plane is known to etcd, and renews it. Control
// planes with another authority's certificate, or that believe another authority, do
// not come up.
func TestEtcdIsUsedOnlyWithAGoodCertificateWhichIsRenewedWithoutARestart(t *testing.T) {
	c := cluster.Test(t, cluster.Config{EtcdMembers: 1, Workers: 2, Race: true})
	c.Serve(t, "counter", "")
	c.Settle(t)
	u := open(t, "counter", 2, c.Workers...)
	control := c.Control[0]
	operator := leaseholdv1.NewGatewayServiceClient(operate(t, c, 0))
	if err := describe(t.Context(), operator, "at first"); err != nil { // and there is a connection
		t.Fatal(err)
	}

	ours, theirs := c.CertsDir(), filepath.Join(t.TempDir(), "other")
	for _, args := range [][]string{{"init", "--dir", theirs}, {"issue", "--dir", theirs, "--role", "controlplane", "--name", "control", "--ip", "127.0.0.1"}} {
		if out, err := exec.CommandContext(t.Context(), c.Binaries.Leasehold, append([]string{"certs"}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("certs %s: %v: %s", args[0], err, out)
		}
	}
	if err := c.Issue(t.Context(), "controlplane", "stranger"); err != nil {
		t.Fatal(err)
	}
	for name, try := range map[string]struct {
		authority, dir, certificate string
		want                        string
	}{
		"a certificate of another authority": {ours, theirs, "control", "unknown certificate authority"},
		"an authority that etcd has not":     {theirs, ours, "stranger", "unknown authority"},
	} {
		startStranger(t, c, name, filepath.Join(try.authority, "ca.crt"), filepath.Join(try.dir, try.certificate), try.want)
	}

	// A connection that is there goes on. One that is new is not taken.
	if err := c.Issue(t.Context(), "controlplane", control.Name, "--valid-for", "4s"); err != nil {
		t.Fatal(err)
	}
	ends := end(t, filepath.Join(ours, control.Name+".crt"))
	for _, words := range [][]string{{"certificate changed", "for=etcd"}, {"certificate expires soon", "for=etcd"}} {
		eventually(t, func(context.Context) error { return said(control.Process, words...) })
	}
	eventually(t, func(context.Context) error {
		if left := time.Until(ends); left >= 0 {
			return fmt.Errorf("it is %v until the certificate ends", left)
		}
		return nil
	})
	eventually(t, func(context.Context) error { return said(control.Process, "certificate has expired", "for=etcd") })
	if err := describe(t.Context(), operator, "by the connection that was there"); err != nil {
		t.Errorf("a change: %v", err)
	}
	c.Etcd[0].Kill()
	if err := c.RestartEtcd(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, func(ctx context.Context) error {
		code, body, err := readyz(ctx, control.Admin)
		if err == nil && code == 200 {
			err = fmt.Errorf("/readyz says %d %q, with a certificate that has ended", code, body)
		}
		return err
	})
	u.call(t, "counter", c.Workers[1])

	if err := c.Issue(t.Context(), "controlplane", control.Name); err != nil {
		t.Fatal(err)
	}
	eventually(t, func(ctx context.Context) error { return describe(ctx, operator, "with the next certificate") })
	eventually(t, func(ctx context.Context) error { return c.Applied(ctx, "counter") })
	u.call(t, "counter", c.Workers[0])
}

// startStranger starts a control plane whose certificate for etcd is not good, and
// checks that it says why it is not ready.
func startStranger(t *testing.T, c *cluster.Cluster, name, authorities, certificate, want string) {
	t.Helper()
	key := filepath.Join(t.TempDir(), "root.key")
	if out, err := exec.CommandContext(t.Context(), c.Binaries.Leasehold, "keys", "generate", key).CombinedOutput(); err != nil {
		t.Fatalf("keys generate: %v: %s", err, out)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	cmd := exec.CommandContext(ctx, c.Binaries.Leasehold, "controlplane", "--listen", "127.0.0.1:0", "--insecure",
		"--etcd-endpoints", c.EtcdURL(0), "--root-key", key,
		"--etcd-ca", authorities, "--etcd-cert", certificate+".crt", "--etcd-key", certificate+".key")
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer stop()
	eventually(t, func(context.Context) error {
		out, err := os.ReadFile(log.Name())
		switch {
		case err != nil:
			return err
		case strings.Contains(string(out), "controlplane ready"):
			t.Fatalf("with %s it is ready:\n%s", name, out)
		case !strings.Contains(string(out), "etcd is not there yet") || !strings.Contains(string(out), want):
			return fmt.Errorf("with %s it says, and not %q:\n%s", name, want, out)
		}
		return nil
	})
}

// end returns when a certificate ends.
func end(t *testing.T, path string) time.Time {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert.NotAfter
}
