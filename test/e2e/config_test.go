package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
	"github.com/leasehold/leasehold/test/internal/client"
	"github.com/leasehold/leasehold/test/internal/cluster"
)

// configLimit is how long a write may take to be in use everywhere.
const configLimit = time.Second

// served returns nil if a worker serves a gateway.
func served(ctx context.Context, w *cluster.Worker, gateway string) error {
	resp, err := client.Do(ctx, "POST", w.URL(gateway), http.Header{}, []byte(ping))
	if err == nil && resp.Status == 404 {
		err = fmt.Errorf("%s does not serve %s", w.Name, gateway)
	}
	return err
}

func TestAppliedGatewayIsServedByAllWorkersWithinASecond(t *testing.T) {
	c := shared(t)
	remote, _, err := c.StartLedger(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Apply(t.Context(), "applied", remote.URL(), ""); err != nil {
		t.Fatal(err)
	}
	returned := time.Now()
	for _, w := range c.Workers { // at once: the command has waited for them
		if err := served(t.Context(), w, "applied"); err != nil {
			t.Error(err)
		}
	}
	out, err := c.CLI(t.Context(), "", "get", "gateways", "applied", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var gw leaseholdv1.Gateway
	if err := protojson.Unmarshal([]byte(out), &gw); err != nil {
		t.Fatalf("get gateways printed %.300q: %v", out, err)
	}
	if s := gw.GetStatus(); s.GetWorkersApplied() != workers || s.GetWorkersTotal() != workers {
		t.Errorf("status %v, want all of %d workers", s, workers)
	}
	took := returned.Sub(gw.GetUpdateTime().AsTime())
	t.Logf("the command returned %v after the write", took.Round(time.Millisecond))
	if took > configLimit {
		t.Errorf("the command returned %v after the write, want %v", took, configLimit)
	}
	table, err := c.CLI(t.Context(), "", "get", "gateways")
	if err != nil || !strings.Contains(table, "applied") {
		t.Errorf("get gateways printed %q, %v", table, err)
	}
	open(t, c.Workers[2], "applied")
}

func TestFieldMistakesAreNamedByTheCommandLine(t *testing.T) {
	c := shared(t)
	err := c.Apply(t.Context(), "wrong", "ftp://example.com/mcp", "{idle_timeout: 0.1s}")
	if err == nil {
		t.Fatal("a gateway with two mistakes was accepted")
	}
	for _, field := range []string{"upstreams[0].url", "session.idle_timeout"} {
		if !strings.Contains(err.Error(), field) {
			t.Errorf("the error does not name %s: %v", field, err)
		}
	}
}

// grpcurl runs grpcurl against a control plane, which it knows by reflection.
func grpcurl(t *testing.T, c *cluster.Cluster, data string, args ...string) string {
	t.Helper()
	all := []string{"tool", "-modfile=scripts/tools/go.mod", "grpcurl"}
	for flag, file := range map[string]string{"-cacert": "ca.crt", "-cert": cluster.Operator + ".crt", "-key": cluster.Operator + ".key"} {
		all = append(all, flag, filepath.Join(c.CertsDir(), file))
	}
	if data != "" {
		all = append(all, "-d", data)
	}
	all = append(all, c.Control[1].Address)
	cmd := exec.CommandContext(t.Context(), "go", append(all, args...)...)
	cmd.Dir = "../.."
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("grpcurl %v: %v\n%s", args, err, stderr.String())
	}
	return stdout.String()
}

func TestGrpcurlDoesEverythingByReflection(t *testing.T) {
	c := shared(t)
	services := grpcurl(t, c, "", "list")
	for _, name := range []string{"GatewayService", "SessionService", "WorkerService", "ControlService"} {
		if !strings.Contains(services, "leasehold.v1."+name) {
			t.Errorf("grpcurl list does not show %s:\n%s", name, services)
		}
	}
	if !strings.Contains(services, "grpc.health.v1.Health") {
		t.Errorf("grpcurl list does not show the health service:\n%s", services)
	}
	const service = "leasehold.v1.GatewayService/"
	steps := []struct{ method, data, want, not string }{
		{method: "CreateGateway", data: `{"gateway_id":"curled","gateway":{"upstreams":[{"name":"u","url":"http://127.0.0.1:9/mcp"}]}}`, want: `"gateways/curled"`},
		{method: "GetGateway", data: `{"name":"gateways/curled"}`, want: `"http://127.0.0.1:9/mcp"`},
		{method: "ListGateways", data: `{}`, want: `"gateways/curled"`},
		{method: "UpdateGateway", data: `{"gateway":{"name":"gateways/curled","description":"by hand"},"update_mask":{"paths":["description"]}}`, want: `"by hand"`},
		{method: "GetGateway", data: `{"name":"gateways/curled"}`, want: `"by hand"`},
		{method: "DeleteGateway", data: `{"name":"gateways/curled"}`, want: `{`},
		{method: "ListGateways", data: `{}`, not: `"gateways/curled"`},
	}
	for _, step := range steps {
		out := grpcurl(t, c, step.data, service+step.method)
		if !strings.Contains(out, step.want) || step.not != "" && strings.Contains(out, step.not) {
			t.Errorf("%s printed\n%s\nwant %s, not %s", step.method, out, step.want, step.not)
		}
	}
	if out := grpcurl(t, c, `{"service":""}`, "grpc.health.v1.Health/Check"); !strings.Contains(out, "SERVING") {
		t.Errorf("health printed %s", out)
	}
}
