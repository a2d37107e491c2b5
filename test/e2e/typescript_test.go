package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/leasehold/leasehold/test/internal/cluster"
	"github.com/leasehold/leasehold/test/internal/npm"
)

// typescript is the directory of the scripts and their packages.
const typescript = "ts"

// scriptLimit is how long one script may take.
const scriptLimit = time.Minute

// needPackages installs the npm packages unless those of the lock file are there.
func needPackages(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	if err := npm.Install(ctx, typescript); err != nil {
		t.Fatal(err)
	}
}

// script runs one of the scripts and returns what it printed.
func script(t *testing.T, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), scriptLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", append([]string{name}, args...)...)
	cmd.Dir = typescript
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	t.Logf("%s:\n%s", name, out.String())
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return out.String()
}

// everything starts server-everything and returns its URL and process.
func everything(t *testing.T) (string, *cluster.Process) {
	t.Helper()
	port, err := cluster.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	p, err := cluster.Run(t.Context(), t.TempDir(), cluster.Command{
		Name: "server-everything", Path: "sh", Dir: typescript,
		Args:  []string{"-c", "exec node node_modules/@modelcontextprotocol/server-everything/dist/index.js streamableHttp 2>&1"},
		Env:   []string{fmt.Sprintf("PORT=%d", port)},
		Ready: regexp.MustCompile(`listening on port`),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Log(p.Output())
		}
	})
	return fmt.Sprintf("http://127.0.0.1:%d/mcp", port), p
}

// urls are the addresses of a gateway at all workers.
func urls(c *cluster.Cluster, gateway string) []string {
	var all []string
	for _, w := range c.Live() {
		all = append(all, w.URL(gateway))
	}
	return all
}

func TestTypeScriptClientUsesServerEverythingThroughAllWorkers(t *testing.T) {
	needPackages(t)
	c := shared(t)
	upstream, server := everything(t)
	c.Publish(t, "everything", upstream, "")
	out := script(t, "everything.mjs", urls(c, "everything")...)
	if !strings.Contains(out, "all done") {
		t.Error("the script did not come to its end")
	}
	// The server prints a line for each session that it opens and closes.
	eventually(t, 5*time.Second, func(context.Context) error {
		log := server.Output()
		opened, closed := strings.Count(log, "Session initialized with ID"), strings.Count(log, "Transport closed for session")
		if opened != 1 || closed != 1 {
			return fmt.Errorf("server-everything opened %d sessions and closed %d, want one", opened, closed)
		}
		return nil
	})
}

func TestTypeScriptClientOfBothErasFallsBackToASession(t *testing.T) {
	needPackages(t)
	c := shared(t)
	remote := c.Serve(t, "typescript", "")
	script(t, "era.mjs", urls(c, "typescript")...)
	if r := report(t, remote); r.Opened != 1 || len(r.Live) != 0 {
		t.Errorf("the upstream saw %d sessions and has %d; want 1 and none", r.Opened, len(r.Live))
	}
}

func TestLockFileNamesNoHost(t *testing.T) {
	if err := npm.CheckLock(typescript); err != nil {
		t.Error(err)
	}
}
