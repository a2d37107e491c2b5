package dataplane_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/leasehold/leasehold/dataplane"
)

func startWorkerIn(tb testing.TB, p *plane, dir string) *worker {
	tb.Helper()
	return startWorkerWith(tb, p, func(cfg *dataplane.Config) { cfg.DataDir = dir })
}

// die stops a worker without that it leaves, so that what it left in its data
// directory is what a process that was killed leaves.
func (p *plane) die(w *worker) {
	p.change(func() { p.leaveErr = refusal(codes.Unavailable, "AWAY") })
	w.stop()
	p.change(func() { p.leaveErr = nil })
}

// left reports whether somebody left on behalf of the worker.
func (p *plane) left(worker string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.leaves {
		if l.GetWorker() == worker {
			return true
		}
	}
	return false
}

func TestSessionsOfADeadWorkerGoOnOnceOneIsStartedInItsDirectory(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	dir := t.TempDir()
	first, other := startWorkerIn(t, p, dir), startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(first)
	c.call(first)
	p.die(first)
	if p.left(first.id) {
		t.Fatal("the first worker left; it is to die")
	}
	p.mu.Lock()
	incarnation := p.members[first.id].GetIncarnation()
	p.mu.Unlock()
	second := startWorkerIn(t, p, dir)
	p.mu.Lock()
	if len(p.leaves) != 1 || p.leaves[0].GetWorker() != first.id || p.leaves[0].GetIncarnation() != incarnation || p.leaves[0].GetLease() != incarnation {
		t.Errorf("leaves once the second worker is ready: got %v, want one for %s, incarnation and lease %d", p.leaves, first.id, incarnation)
	}
	p.mu.Unlock()
	for i, w := range []*worker{other, second} {
		if status, got := c.call(w); status != 200 || got != []string{"2", "3"}[i] {
			t.Errorf("call %d: got %d %q, want the session to go on", i, status, got)
		}
	}
}

func TestNobodyLeavesForAWorkerThatMayLive(t *testing.T) {
	t.Parallel()
	for what, spoil := range map[string]func(t *testing.T, path string){
		"it wrote on another boot": func(t *testing.T, path string) {
			change(t, path, func(r map[string]any) { r["boot"] = "6dc5a1a9-2f0c-4f5e-a3f2-5d1f2c0b7f11" })
		},
		"it used another directory": func(t *testing.T, path string) { change(t, path, func(r map[string]any) { r["directory"] = "1:2" }) },
		"the file is cut off": func(t *testing.T, path string) {
			if err := os.Truncate(path, 20); err != nil {
				t.Fatal(err)
			}
		},
		"the file is gone": func(t *testing.T, path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			p, dir := startPlane(t), t.TempDir()
			first := startWorkerIn(t, p, dir)
			p.die(first)
			spoil(t, filepath.Join(dir, "registration.json"))
			startWorkerIn(t, p, dir).stop() // a Leave for the first one would come before it is ready
			if p.left(first.id) {
				t.Error("somebody left on its behalf")
			}
		})
	}
}

func change(t *testing.T, path string, f func(map[string]any)) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var r map[string]any
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	f(r)
	if text, err = json.Marshal(r); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestAWorkerThatLeftHasNoSuccessor(t *testing.T) {
	p, dir := startPlane(t), t.TempDir()
	startWorkerIn(t, p, dir).stop()
	startWorkerIn(t, p, dir).stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.leaves) != 2 {
		t.Errorf("leaves: got %d, want 2: each worker its own", len(p.leaves))
	}
}
