package trust

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/leasehold/leasehold/test/internal/client"
	"github.com/leasehold/leasehold/test/internal/cluster"
	"github.com/leasehold/leasehold/test/internal/poll"
)

// get runs `leasehold get workers` with the certificate of that name in a
// directory, and returns its exit code and what it says.
func get(t *testing.T, c *cluster.Cluster, address, authorities, dir, name string) (int, string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), c.Binaries.Leasehold, "get", "workers", "--control", address,
		"--cluster-ca", authorities, "--cluster-cert", filepath.Join(dir, name+".crt"), "--cluster-key", filepath.Join(dir, name+".key"))
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

// certs runs `leasehold certs`.
func certs(t *testing.T, c *cluster.Cluster, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), c.Binaries.Leasehold, append([]string{"certs"}, args...)...).CombinedOutput(); err != nil {
		t.Fatalf("certs %s: %v: %s", args, err, out)
	}
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

// past waits until a moment has passed.
func past(t *testing.T, moment time.Time) {
	t.Helper()
	_, err := poll.Until(t.Context(), limit, func(context.Context) error {
		if left := time.Until(moment); left >= 0 {
			return fmt.Errorf("it is %v until %v", left, moment)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestAnOperatorWithoutAGoodCertificateIsToldAndLogged(t *testing.T) {
	c := cluster.Test(t, cluster.Config{Workers: 1, Race: true})
	control, ours := c.Control[0], filepath.Join(c.CertsDir(), "ca.crt")
	issue(t, c, "operator", "brief", "--valid-for", "1s")
	past(t, end(t, filepath.Join(c.CertsDir(), "brief.crt")))
	other := filepath.Join(t.TempDir(), "other")
	certs(t, c, "init", "--dir", other)
	certs(t, c, "issue", "--dir", other, "--role", "operator", "--name", "stranger")
	for name, try := range map[string]struct {
		address, authorities, dir, name string
		said, logged                    string
	}{
		"expired":                   {control.Address, ours, c.CertsDir(), "brief", "expired certificate", "certificate has expired"},
		"of another authority":      {control.Address, ours, other, "stranger", "unknown certificate authority", "unknown authority"},
		"believing another":         {control.Address, filepath.Join(other, "ca.crt"), other, "stranger", "signed by unknown authority", "bad certificate"},
		"with a worker's":           {control.Address, ours, c.CertsDir(), "worker0", "that of worker worker0, want one with the role operator", ""},
		"at a worker":               {c.Workers[0].Peer, ours, c.CertsDir(), cluster.Operator, "that of worker worker0, want one with the role controlplane", ""},
		"whose key is another's":    {control.Address, ours, c.CertsDir(), "mixed", "private key does not match", ""},
		"where nobody speaks TLS":   {c.Workers[0].Listen, ours, c.CertsDir(), cluster.Operator, "no connection over TLS", ""},
		"where no certificates are": {control.Address, ours, t.TempDir(), "none", "no such file", ""},
	} {
		if try.name == "mixed" {
			copyFile(t, filepath.Join(c.CertsDir(), "operator.crt"), filepath.Join(c.CertsDir(), "mixed.crt"))
			copyFile(t, filepath.Join(c.CertsDir(), "worker0.key"), filepath.Join(c.CertsDir(), "mixed.key"))
		}
		code, out := get(t, c, try.address, try.authorities, try.dir, try.name)
		if code != 1 || !strings.Contains(out, try.said) {
			t.Errorf("%s: got exit code %d and %q, want 1 and %q", name, code, out, try.said)
		}
		if try.logged != "" {
			logged(t, control.Process, 1, "connection refused: the other end did not prove who it is", try.logged)
		}
	}
	if code, out := get(t, c, control.Address, ours, c.CertsDir(), cluster.Operator); code != 0 || !strings.Contains(out, "workers/") && !strings.Contains(out, "READY") && out == "" {
		t.Errorf("with a good one: got exit code %d and %q", code, out)
	}
	metrics, err := cluster.Scrape(t.Context(), control.Admin)
	if err != nil {
		t.Fatal(err)
	}
	if got := metrics.Sum("leasehold_tls_refused_total"); got < 3 {
		t.Errorf("%v refusals were counted, want at least 3", got)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestAWorkerWarnsOfItsCertificatesEndAndOthersRefuseItThen lets a worker's
// certificate end while it serves.
func TestAWorkerWarnsOfItsCertificatesEndAndOthersRefuseItThen(t *testing.T) {
	c := cluster.Test(t, cluster.Config{Workers: 2, Race: true})
	c.Serve(t, "counter", "")
	owner, other := c.Workers[0], c.Workers[1]
	s, err := client.Open(t.Context(), owner.URL("counter"))
	if err != nil {
		t.Fatal(err)
	}
	issue(t, c, "worker", owner.Name, "--valid-for", "4s")
	ends := end(t, filepath.Join(c.CertsDir(), owner.Name+".crt"))
	logged(t, owner.Process, 1, "certificate changed")
	logged(t, owner.Process, 1, "certificate expires soon", "for=cluster")
	metrics, err := cluster.Scrape(t.Context(), owner.Admin)
	if err != nil {
		t.Fatal(err)
	}
	if got := metrics[`leasehold_certificate_expiry_timestamp_seconds{use="cluster"}`]; int64(got) != ends.Unix() {
		t.Errorf("the metric says %v, want %d", got, ends.Unix())
	}
	past(t, ends)
	logged(t, owner.Process, 1, "certificate has expired", "for=cluster")
	// The other worker has no connection to the owner yet, and gets none.
	body := fmt.Appendf(nil, `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`)
	resp, err := s.Do(t.Context(), "POST", other.URL("counter"), body)
	if err != nil || resp.Status == 200 {
		t.Errorf("through another worker: got %d, %v; want it not served", resp.Status, err)
	}
	// The owner goes on with the connections that it has, and keeps its lease by them.
	renewals := func(ctx context.Context) float64 {
		metrics, err := cluster.Scrape(ctx, owner.Admin)
		if err != nil {
			t.Error(err)
		}
		return metrics[`leasehold_control_requests_total{method="Renew"}`]
	}
	begin := renewals(t.Context())
	_, err = poll.Until(t.Context(), limit, func(ctx context.Context) error {
		if got := renewals(ctx) - begin; got < 8 { // one each second
			return fmt.Errorf("the owner has renewed its lease %v times since its certificate ended", got)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if _, err := s.Increment(t.Context(), owner.URL("counter")); err != nil {
		t.Errorf("at the owner: %v", err)
	}
	issue(t, c, "worker", owner.Name)
	_, err = poll.Until(t.Context(), limit, func(ctx context.Context) error {
		resp, err := s.Do(ctx, "POST", other.URL("counter"), body)
		if err == nil && resp.Status != 200 {
			err = fmt.Errorf("through another worker, after the certificate was renewed: %d %s", resp.Status, resp.Body)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
