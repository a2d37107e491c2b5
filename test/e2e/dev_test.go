package e2e

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	mcpgo "github.com/mark3labs/mcp-go/client"
	mcpgotypes "github.com/mark3labs/mcp-go/mcp"

	"github.com/leasehold/leasehold/test/internal/client"
	"github.com/leasehold/leasehold/test/internal/cluster"
	"github.com/leasehold/leasehold/test/internal/poll"
)

// The bounds of a development cluster.
const (
	devReady = 2 * time.Second
	devEnd   = 5 * time.Second
)

// dev is a development cluster in one process.
type dev struct {
	*cluster.Process
	binary  string
	listen  int
	control string
	took    time.Duration
}

// startDev starts a development cluster on a data directory.
func startDev(t *testing.T, data string, args ...string) dev {
	t.Helper()
	binary, err := cluster.Program("cmd/leasehold", false)
	if err != nil {
		t.Fatal(err)
	}
	port, err := cluster.FreePorts(3)
	if err != nil {
		t.Fatal(err)
	}
	d := dev{binary: binary, listen: port, control: fmt.Sprintf("127.0.0.1:%d", port+2)}
	start := time.Now()
	d.Process, err = cluster.Run(t.Context(), t.TempDir(), cluster.Command{
		Name: "dev", Path: binary, Ready: regexp.MustCompile(`^ready\n$`),
		Args: append([]string{"dev", "--data-dir", data, "--listen", fmt.Sprintf("127.0.0.1:%d", port), "--control-listen", d.control}, args...),
	})
	if err != nil {
		t.Fatal(err)
	}
	d.took = time.Since(start)
	t.Cleanup(func() {
		d.Kill()
		if t.Failed() {
			t.Log(d.Output())
		}
	})
	return d
}

// url is where a worker serves a gateway.
func (d dev) url(worker int, gateway string) string {
	return fmt.Sprintf("http://127.0.0.1:%d/gateways/%s/mcp", d.listen+worker, gateway)
}

// cli runs the command line against the development cluster.
func (d dev) cli(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), d.binary, append(args, "--control", d.control)...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("leasehold %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// stop ends it as Ctrl-C does.
func (d dev) stop(t *testing.T) {
	t.Helper()
	start := time.Now()
	if err := d.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	code, err := d.Wait(devEnd)
	if err != nil || code != 0 {
		t.Errorf("dev ended with %d, %v; want 0", code, err)
	}
	t.Logf("dev ended %v after the interrupt", time.Since(start).Round(time.Millisecond))
}

func TestDevIsReadySoonEndsCleanlyAndRemembersItsGateways(t *testing.T) {
	data := t.TempDir()
	first := startDev(t, data)
	driveDemo(t, first)
	first.cli(t, fmt.Sprintf("name: gateways/mine\nupstreams: [{name: up, url: %q}]\n", "http://127.0.0.1:9/mcp"), "apply", "-f", "-")
	second := fmt.Sprintf("http://127.0.0.1:%d/", first.listen+1)
	for _, want := range []string{"curl -", "grpcurl -", "inspector", "claude mcp add --transport http", "mcp.json", first.url(0, "demo"), second} {
		if !strings.Contains(first.Output(), want) {
			t.Errorf("dev's output does not have %q", want)
		}
	}
	first.stop(t)

	again := startDev(t, data)
	listed := again.cli(t, "", "get", "gateways", "-o", "json")
	for _, want := range []string{"gateways/demo", "gateways/mine"} {
		if !strings.Contains(listed, want) {
			t.Errorf("the second start does not have %s:\n%s", want, listed)
		}
	}
	driveDemo(t, again)
	again.stop(t)
	t.Logf("dev was ready after %v and %v", first.took.Round(time.Millisecond), again.took.Round(time.Millisecond))
	if took := min(first.took, again.took); took > devReady {
		t.Errorf("dev was ready after %v, want %v", took, devReady)
	}
}

// driveDemo uses the demo's tools through both workers.
func driveDemo(t *testing.T, d dev) {
	t.Helper()
	// Ready means ready: the gateway is there at once.
	s, err := client.Open(t.Context(), d.url(0, "demo"))
	if err != nil {
		t.Fatal(err)
	}
	for want := 1; want <= 4; want++ {
		if got, err := s.Increment(t.Context(), d.url(want%2, "demo")); err != nil || got != want {
			t.Errorf("counter_increment at worker %d: got %d, %v; want %d", want%2, got, err, want)
		}
	}
	if err := s.Close(t.Context(), d.url(1, "demo")); err != nil {
		t.Error(err)
	}
	for worker := range 2 {
		driveTyped(t, d.url(worker, "demo"))
	}
}

// driveTyped uses the demo with a stock client.
func driveTyped(t *testing.T, url string) {
	t.Helper()
	cl, err := mcpgo.NewStreamableHttpClient(url)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if err := cl.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := cl.Initialize(t.Context(), mcpgotypes.InitializeRequest{}); err != nil {
		t.Fatal(err)
	}
	list, err := cl.ListTools(t.Context(), mcpgotypes.ListToolsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, tool := range list.Tools {
		names = append(names, tool.Name)
	}
	for _, want := range []string{"echo", "counter_increment", "counter_value"} {
		if !strings.Contains(strings.Join(names, " "), want) {
			t.Errorf("the demo's tools are %v, want %s among them", names, want)
		}
	}
	resources, err := cl.ListResources(t.Context(), mcpgotypes.ListResourcesRequest{})
	if err != nil || len(resources.Resources) == 0 {
		t.Errorf("the demo's resources: %v, %v", resources, err)
	}
	prompts, err := cl.ListPrompts(t.Context(), mcpgotypes.ListPromptsRequest{})
	if err != nil || len(prompts.Prompts) == 0 {
		t.Errorf("the demo's prompts: %v, %v", prompts, err)
	}
}

func TestDevWithoutDemoHasNoGateways(t *testing.T) {
	d := startDev(t, t.TempDir(), "--no-demo")
	if out := d.cli(t, "", "get", "gateways", "-o", "json"); strings.Contains(out, "gateways/") {
		t.Errorf("dev --no-demo has gateways:\n%s", out)
	}
	_, err := poll.Until(t.Context(), time.Second, func(ctx context.Context) error {
		_, err := client.Do(ctx, "POST", d.url(1, "demo"), nil, []byte(ping))
		return err
	})
	if err != nil {
		t.Errorf("the second worker: %v", err)
	}
	d.stop(t)
}
