package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
	"github.com/leasehold/leasehold/test/internal/client"
	"github.com/leasehold/leasehold/test/internal/cluster"
)

// program is what a gateway runs for each session: server-everything.
func program(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs(typescript)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("command: node, args: [%q, stdio]", filepath.Join(dir, everythingScript))
}

const everythingScript = "node_modules/@modelcontextprotocol/server-everything/dist/index.js"

// pinned returns a cluster whose workers run programs, with gateways before
// server-everything as a program and as a legacy server.
func pinned(t *testing.T) *cluster.Cluster {
	t.Helper()
	needPackages(t)
	c := cluster.Test(t, cluster.Config{Workers: 2, Race: true, WorkerArgs: []string{"--allow-stdio", "--log-level", "debug", "--drain-timeout", "2s"}})
	define(t, c, "program", "transport: STDIO, "+program(t))
	return c
}

// define makes a gateway and waits until all workers have it.
func define(t *testing.T, c *cluster.Cluster, gateway, upstream string) {
	t.Helper()
	if _, err := c.CLI(t.Context(), fmt.Sprintf("name: gateways/%s\nupstreams:\n- {name: upstream, %s}\n", gateway, upstream), "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, func(ctx context.Context) error {
		g, err := c.Gateway(ctx, gateway)
		if err == nil && (g.GetStatus().GetWorkersApplied() != int32(len(c.Live())) || len(c.Live()) == 0) {
			err = fmt.Errorf("%d workers have gateway %s, want %d", g.GetStatus().GetWorkersApplied(), gateway, len(c.Live()))
		}
		return err
	})
}

// programs are the processes that a worker runs.
func programs(t *testing.T, w *cluster.Worker) (pids []int) {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		_, rest, _ := strings.Cut(string(stat), ") ")
		if fields := strings.Fields(rest); len(fields) > 1 && fields[1] == strconv.Itoa(w.PID) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			pids = append(pids, pid)
		}
	}
	return pids
}

// areGone waits until processes are no more.
func areGone(t *testing.T, pids []int) {
	t.Helper()
	eventually(t, 10*time.Second, func(context.Context) error {
		if at := slices.IndexFunc(pids, func(pid int) bool { return syscall.Kill(pid, 0) == nil }); at >= 0 {
			return fmt.Errorf("process %d is there still", pids[at])
		}
		return nil
	})
}

func TestTypeScriptClientUsesAProgramThroughAllWorkers(t *testing.T) {
	c := pinned(t)
	out := script(t, "pinned.mjs", urls(c, "program")...)
	if !strings.Contains(out, "all done") {
		t.Error("the script did not come to its end")
	}
	for _, w := range c.Workers {
		if left := programs(t, w); len(left) != 0 {
			t.Errorf("%s runs %v after the session's end, want nothing", w.Name, left)
		}
	}
}

func TestTypeScriptClientUsesALegacyServerThroughAllWorkers(t *testing.T) {
	c := pinned(t)
	port, err := cluster.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	p, err := cluster.Run(t.Context(), t.TempDir(), cluster.Command{
		Name: "server-everything", Path: "sh", Dir: typescript,
		Args:  []string{"-c", "exec node " + everythingScript + " sse 2>&1"},
		Env:   []string{fmt.Sprintf("PORT=%d", port)},
		Ready: regexp.MustCompile(`running on port`),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	define(t, c, "legacy", fmt.Sprintf(`transport: SSE, url: "http://127.0.0.1:%d/sse"`, port))
	out := script(t, "pinned.mjs", urls(c, "legacy")...)
	if !strings.Contains(out, "all done") {
		t.Error("the script did not come to its end")
	}
	eventually(t, 5*time.Second, func(context.Context) error {
		if log := p.Output(); strings.Count(log, "Client Connected") != 1 || strings.Count(log, "Client Disconnected") != 1 {
			return fmt.Errorf("server-everything says\n%s\nwant one client that came and went", log)
		}
		return nil
	})
}

func TestACrashedProgramIsToldOnceAndListed(t *testing.T) {
	c := pinned(t)
	owner, other := c.Workers[0], c.Workers[1]
	s := open(t, owner, "program")
	pids := programs(t, owner)
	if len(pids) != 1 {
		t.Fatalf("the owner runs %v, want one process", pids)
	}
	if err := syscall.Kill(pids[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	areGone(t, pids)
	resp, err := s.Do(t.Context(), "POST", other.URL("program"), []byte(`{"jsonrpc":"2.0","id":7,"method":"ping"}`))
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, "the first request after the crash", resp, 404, -32001, "7")
	wantReason(t, c, "program", s, leaseholdv1.EndReason_END_REASON_UPSTREAM_LOST)
	out, err := c.CLI(t.Context(), "", "get", "sessions", "--gateway", "program", "--ended")
	if err != nil || !strings.Contains(out, "ended: upstream lost") {
		t.Errorf("get sessions --ended: got %v\n%s\nwant the reason", err, out)
	}
	if log := owner.Output(); !strings.Contains(log, "program ended by itself") || !strings.Contains(log, "signal: killed") {
		t.Error("the owner's log does not say how the program ended")
	}
	refusedAsOver(t, c, s, "program")
}

func TestNoProgramIsLeftWhenItsWorkerIsKilled(t *testing.T) {
	c := pinned(t)
	owner, other := c.Workers[0], c.Workers[1]
	var sessions []*client.Session
	for range 3 {
		sessions = append(sessions, open(t, owner, "program"))
	}
	pids := programs(t, owner)
	if len(pids) != len(sessions) {
		t.Fatalf("the owner runs %v, want %d processes", pids, len(sessions))
	}
	c.Settle(t)
	if err := owner.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	areGone(t, pids)
	for _, s := range sessions {
		resp, err := s.Do(t.Context(), "POST", other.URL("program"), []byte(`{"jsonrpc":"2.0","id":7,"method":"ping"}`))
		if err != nil {
			t.Fatal(err)
		}
		wantError(t, "a request after the owner's death", resp, 404, -32001, "7")
		wantReason(t, c, "program", s, leaseholdv1.EndReason_END_REASON_OWNER_LOST)
	}
}

func TestNoProgramIsLeftWhenItsWorkerStops(t *testing.T) {
	c := pinned(t)
	owner := c.Workers[0]
	open(t, owner, "program")
	pids := programs(t, owner)
	if err := owner.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code, err := owner.Wait(10 * time.Second); err != nil || code != 0 {
		t.Fatalf("the owner ended with %d, %v", code, err)
	}
	for _, pid := range pids {
		if syscall.Kill(pid, 0) == nil {
			t.Errorf("process %d is there though its worker has ended", pid)
		}
	}
}
