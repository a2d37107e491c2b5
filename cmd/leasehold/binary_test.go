//go:build unix

package main

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// readyLimit is what `leasehold dev` promises for a built binary.
const readyLimit = 2 * time.Second

// built returns the path of a binary built for this test.
func built(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "leasehold")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", path, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return path
}

// process is a built binary that runs.
type process struct {
	*exec.Cmd
	out    *output
	errs   *output
	exited chan struct{} // closed when it has ended; its state is in Cmd then
	took   time.Duration // until it was ready
}

// start runs the binary and waits for a line on its standard output.
func start(t *testing.T, line, path string, args ...string) *process {
	t.Helper()
	p := &process{Cmd: exec.Command(path, args...), out: newOutput(line), errs: newOutput(`^never$`), exited: make(chan struct{})}
	p.Stdout, p.Stderr = p.out, p.errs
	begun := time.Now()
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.Wait()
		close(p.exited)
	}()
	t.Cleanup(func() {
		_ = p.Process.Kill()
		<-p.exited
	})
	select {
	case <-p.out.seen:
		p.took = time.Since(begun)
	case <-p.exited:
		t.Fatalf("ended before it was ready: %s", p.errs)
	case <-time.After(startLimit):
		t.Fatalf("not ready: %s", p.errs)
	}
	return p
}

// end sends a signal and returns the exit code and how long it took.
func (p *process) end(t *testing.T, signal os.Signal) (int, time.Duration) {
	t.Helper()
	begun := time.Now()
	if err := p.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.exited:
	case <-time.After(startLimit):
		t.Fatalf("does not end after %v", signal)
	}
	return p.ProcessState.ExitCode(), time.Since(begun)
}

func TestBuiltDevIsReadyInTwoSecondsAndEndsAtASignal(t *testing.T) {
	path := built(t)
	var fastest time.Duration
	for range 3 { // other tests may have the machine: one start in time shows that it can
		p := start(t, `^ready$`, path, "dev", "--data-dir", t.TempDir(), "--listen", "127.0.0.1:0", "--control-listen", "127.0.0.1:0")
		if code, took := p.end(t, os.Interrupt); code != 0 || took > endLimit {
			t.Errorf("after SIGINT: exit code %d after %v, want 0 within %v: %s", code, took, endLimit, p.errs)
		}
		if fastest == 0 || p.took < fastest {
			fastest = p.took
		}
		if fastest < readyLimit {
			return
		}
	}
	t.Errorf("ready after %v at best, want %v", fastest, readyLimit)
}

func TestSecondSignalExitsAtOnce(t *testing.T) {
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	p := start(t, `^ready$`, built(t), "dev", "--data-dir", t.TempDir(), "--listen", "127.0.0.1:0", "--control-listen", "127.0.0.1:0", "--log-level", "debug")
	worker := regexp.MustCompile(`worker 0 +(http://[^/]+)/`).FindStringSubmatch(p.out.String())[1]
	session := initialize(t, worker)
	// A call in flight keeps the worker from ending at once.
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, worker+"/gateways/demo/mcp", strings.NewReader(
		`{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"slow","arguments":{"steps":20,"delay_ms":1000},"_meta":{"progressToken":"p"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Accept", "application/json, text/event-stream")
	request.Header.Set("Mcp-Session-Id", session)
	response, err := http.DefaultClient.Do(request) // returns at the first progress
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	stopping := watch(t, p.errs, `stopping`)
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-stopping
	code, took := p.end(t, syscall.SIGTERM)
	if code != 130 || took > time.Second {
		t.Errorf("after the second SIGTERM: exit code %d after %v, want 130 at once", code, took)
	}
}

// watch returns a channel that is closed when o has a text.
func watch(t *testing.T, o *output, text string) <-chan struct{} {
	t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.line, o.seen = regexp.MustCompile(text), make(chan struct{})
	return o.seen
}

func TestDaemonsPrintOneLineWhenTheyAreReady(t *testing.T) {
	path := built(t)
	plane := start(t, `ready`, path, "controlplane", "--insecure", "--listen", "127.0.0.1:0", "--embedded-etcd", "--data-dir", t.TempDir())
	match := regexp.MustCompile(`^leasehold controlplane ready: grpc=(127\.0\.0\.1:\d+) etcd=http://127\.0\.0\.1:\d+ admin=(127\.0\.0\.1:\d+)\n$`).FindStringSubmatch(plane.out.String())
	if match == nil {
		t.Fatalf("control plane: got %q", plane.out)
	}
	worker := start(t, `ready`, path, "worker", "--insecure", "--listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0", "--control", match[1], "--data-dir", t.TempDir(), "--drain-notice", "0s")
	ready := regexp.MustCompile(`^leasehold worker ready: id=[0-9a-f]{16} http=127\.0\.0\.1:\d+ peer=127\.0\.0\.1:\d+ admin=(127\.0\.0\.1:\d+)\n$`).FindStringSubmatch(worker.out.String())
	if ready == nil {
		t.Fatalf("worker: got %q", worker.out)
	}
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	for _, admin := range []string{match[2], ready[1]} {
		response, err := http.Get("http://" + admin + "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if response.StatusCode != http.StatusOK {
			t.Errorf("%s/readyz: got %d, want 200", admin, response.StatusCode)
		}
	}
	for _, p := range []*process{worker, plane} {
		if code, took := p.end(t, syscall.SIGTERM); code != 0 || took > endLimit {
			t.Errorf("after SIGTERM: exit code %d after %v, want 0 within %v: %s", code, took, endLimit, p.errs)
		}
		if got := strings.Count(p.out.String(), "\n"); got != 1 {
			t.Errorf("printed %d lines, want one: %s", got, p.out)
		}
	}
}
