package main

import (
	"context"
	"crypto/tls"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/leasehold/leasehold/cmd/internal/trust"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func TestCertsMakesAnAuthorityAndCertificates(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "certs")
	must := func(want string, args ...string) {
		t.Helper()
		code, stdout, stderr := call(t, "", append([]string{"certs"}, args...)...)
		if code != exitOK || !strings.Contains(stdout, want) {
			t.Fatalf("certs %v: got exit code %d, %q and %q; want 0 and %q", args, code, stdout, stderr, want)
		}
	}
	refuse := func(want string, args ...string) {
		t.Helper()
		if code, _, stderr := call(t, "", append([]string{"certs"}, args...)...); code != exitUsage && code != exitFailed || !strings.Contains(stderr, want) {
			t.Errorf("certs %v: got exit code %d and %q, want %q", args, code, stderr, want)
		}
	}
	must("authority in "+filepath.Join(dir, "ca.crt")+", good until ", "init", "--dir", dir)
	refuse("choose another directory", "init", "--dir", dir)
	must("worker w-1 in "+filepath.Join(dir, "w-1.crt"), "issue", "--dir", dir, "--role", "worker", "--name", "w-1", "--dns", "a.example.com,b.example.com", "--ip", "10.0.0.1")
	before, err := os.ReadFile(filepath.Join(dir, "w-1.crt"))
	if err != nil {
		t.Fatal(err)
	}
	must("w-1", "issue", "--dir", dir, "--role", "worker", "--name", "w-1")
	if after, err := os.ReadFile(filepath.Join(dir, "w-1.crt")); err != nil || string(after) == string(before) {
		t.Errorf("issued again, it is the same: %v", err)
	}
	refuse("is that of worker w-1, which is another's", "issue", "--dir", dir, "--role", "operator", "--name", "w-1")
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "w-1.crt"), filepath.Join(dir, "w-1.key"))
	if err != nil {
		t.Fatal(err)
	}
	if who, err := trust.Identify(pair.Leaf); err != nil || who.Role != trust.Worker || who.Name != "w-1" {
		t.Errorf("the certificate is that of %v, %v; want worker w-1", who, err)
	}
}

// TestDevRunsOverMutualTLS looks at dev as a worker from outside, an operator with a
// certificate and one without see it.
func TestDevRunsOverMutualTLS(t *testing.T) {
	dir := t.TempDir()
	dev := startDev(t, dir, "--no-demo", "--workers", "1")
	authority, err := os.ReadFile(filepath.Join(dir, devCertsDir, "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	t.Run("beside it", func(t *testing.T) { // ends before dev, whose control plane it needs
		startWorker(t, dev)
		for name, flags := range map[string][]string{"with a certificate": dev.certified("operator", "alice"), "without": nil} {
			if got := dev.do("", append([]string{"get", "workers", "-o", "name"}, flags...)...); strings.Count(got, "workers/") != 2 {
				t.Errorf("%s: got\n%s\nwant two workers", name, got)
			}
		}
	})
	dev.fail("", "want one with the role operator", append([]string{"get", "workers"}, dev.certified("worker", "guest")...)...)
	dev.stop()

	again := startDev(t, dir, "--no-demo", "--workers", "1")
	defer again.stop()
	if after, err := os.ReadFile(filepath.Join(dir, devCertsDir, "ca.crt")); err != nil || string(after) != string(authority) {
		t.Errorf("at the next start the authority is another one: %v", err)
	}
	// Its certificates are as good as before.
	if got := again.do("", "get", "workers", "-o", "name",
		"--cluster-ca", filepath.Join(dir, devCertsDir, "ca.crt"), "--cluster-cert", filepath.Join(dir, devCertsDir, "alice.crt"),
		"--cluster-key", filepath.Join(dir, devCertsDir, "alice.key")); strings.Count(got, "workers/") != 1 {
		t.Errorf("with a certificate of before: got\n%s\nwant one worker", got)
	}
}

func TestDevTakesPlaintextForAnOperatorAndNothingElse(t *testing.T) {
	dev := startDev(t, t.TempDir(), "--no-demo", "--workers", "1")
	defer dev.stop()
	conn, err := grpc.NewClient(dev.control, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), startLimit)
	defer cancel()
	if _, err := leaseholdv1.NewWorkerServiceClient(conn).ListWorkers(ctx, &leaseholdv1.ListWorkersRequest{}); err != nil {
		t.Errorf("an operator's call: %v", err)
	}
	if _, err := leaseholdv1.NewControlServiceClient(conn).Resolve(ctx, &leaseholdv1.ResolveRequest{}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a worker's call: got %v, want PERMISSION_DENIED", err)
	}
}
