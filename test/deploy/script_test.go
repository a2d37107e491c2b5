package deploy

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/leasehold/leasehold/test/internal/cluster"
)

func TestUpStartsAWholeClusterAndStopsItInOrder(t *testing.T) {
	w := up(t)
	for _, name := range []string{"etcd0", "etcd1", "etcd2", "controlplane0", "controlplane1", "worker0", "worker1", "worker2"} {
		if !slices.Contains(w.running(), name) {
			t.Errorf("%s does not run", name)
		}
	}
	if got := strings.Count(w.do("", "get", "workers", "-o", "name"), "workers/"); got != workers {
		t.Errorf("%d workers are registered, want %d", got, workers)
	}
	for _, want := range []string{fmt.Sprintf("http://127.0.0.1:%d/gateways/", w.ports["WORKER_PORT"]), "LEASEHOLD_CONTROL=" + w.control, "haproxy -f"} {
		if !strings.Contains(w.script.Output(), want) {
			t.Errorf("up.sh did not print %q:\n%s", want, w.script.Output())
		}
	}
	if err := exec.Command(local+"/up.sh", w.dir).Run(); err == nil {
		t.Error("up.sh started a second time with the same directory")
	}
	w.watchOverADeath()
	w.do("{name: kept, upstreams: [{name: u, url: \"http://127.0.0.1:1/mcp\"}]}", "apply", "-f", "-")
	if err := w.script.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if code, err := w.script.Wait(20 * time.Second); err != nil || code != 0 {
		t.Errorf("up.sh ended with %d, %v after SIGINT, want 0", code, err)
	}
	if left := w.running(); len(left) > 0 {
		t.Errorf("still running: %q", left)
	}
	// Workers that leave have nobody to ask if the control planes went first.
	for i := range workers {
		out, err := exec.Command("grep", "-c", "lease not given back", filepath.Join(w.dir, fmt.Sprintf("worker%d.log", i))).Output()
		if err == nil {
			t.Errorf("worker%d could not give back its lease: %s", i, out)
		}
	}
}

// watchOverADeath checks that a watch goes on when the replica dies that it
// follows.
func (w *world) watchOverADeath() {
	w.t.Helper()
	p, err := cluster.Run(w.t.Context(), w.t.TempDir(), cluster.Command{
		Name: "watch", Path: w.bin, Args: []string{"get", "gateways", "--watch", "--control", w.control}, Ready: regexp.MustCompile("^NAME"),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	defer p.Kill()
	if err := syscall.Kill(w.pids["controlplane0"], syscall.SIGKILL); err != nil {
		w.t.Fatal(err)
	}
	w.do("{name: late, upstreams: [{name: u, url: \"http://127.0.0.1:1/mcp\"}]}", "apply", "-f", "-")
	w.do("", "delete", "gateway", "late")
	w.eventually(15*time.Second, func(context.Context) error {
		if out := p.Output(); !strings.Contains(out, "\nlate ") || !strings.Contains(out, "removed") || strings.Count(out, "NAME") != 1 {
			return fmt.Errorf("the watch printed\n%s", out)
		}
		return nil
	})
}

func TestDownStopsWhatAKilledUpLeftBehind(t *testing.T) {
	w := up(t)
	if err := w.script.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	w.eventually(10*time.Second, func(context.Context) error {
		if w.script.Running() {
			return errors.New("up.sh still runs")
		}
		return nil
	})
	if got := len(w.running()); got != 8 {
		t.Errorf("%d processes were left, want 8", got)
	}
	if out, err := exec.Command(local+"/down.sh", w.dir).CombinedOutput(); err != nil {
		t.Errorf("down.sh: %v\n%s", err, out)
	}
	if left := w.running(); len(left) > 0 {
		t.Errorf("still running: %q", left)
	}
}
