package deploy

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/leasehold/leasehold/test/internal/client"
	"github.com/leasehold/leasehold/test/internal/cluster"
)

// installing keeps two tests from running apt-get at once.
var installing sync.Mutex

// needProgram returns where a program is, and installs its package if it must.
func needProgram(t *testing.T, program, pkg string) string {
	t.Helper()
	installing.Lock()
	defer installing.Unlock()
	find := func() string {
		for _, path := range []string{program, "/usr/sbin/" + program, "/usr/local/sbin/" + program} {
			if found, err := exec.LookPath(path); err == nil {
				return found
			}
		}
		return ""
	}
	if path := find(); path != "" {
		return path
	}
	if _, err := exec.LookPath("apt-get"); err != nil || os.Geteuid() != 0 {
		t.Fatalf("%s is not installed: apt-get install -y --no-install-recommends %s, or brew install %s", program, pkg, program)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	var out []byte
	for _, args := range [][]string{{"install", "-y", "--no-install-recommends", pkg}, {"update"}, {"install", "-y", "--no-install-recommends", pkg}} {
		cmd := exec.CommandContext(ctx, "apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		var err error
		if out, err = cmd.CombinedOutput(); err == nil && args[0] == "install" {
			break
		}
	}
	path := find()
	if path == "" {
		t.Fatalf("apt-get did not install %s:\n%s", pkg, out)
	}
	return path
}

// config copies a configuration with the ports of this test.
func (w *world) config(file string, listen, deployed int) string {
	w.t.Helper()
	data, err := os.ReadFile(filepath.Join(local, file))
	if err != nil {
		w.t.Fatal(err)
	}
	text := string(data)
	replace := func(old, replacement string) {
		if !strings.Contains(text, old) {
			w.t.Fatalf("%s has no %q", file, old)
		}
		text = strings.ReplaceAll(text, old, replacement)
	}
	replace(fmt.Sprintf("127.0.0.1:%d", deployed), fmt.Sprintf("127.0.0.1:%d", listen))
	for i := range workers {
		replace(fmt.Sprintf("127.0.0.1:%d", 8080+i), fmt.Sprintf("127.0.0.1:%d", w.ports["WORKER_PORT"]+i))
		if strings.Contains(file, "haproxy") {
			replace(fmt.Sprintf("port %d", 8180+i), fmt.Sprintf("port %d", w.ports["ADMIN_PORT"]+i))
		}
	}
	path := filepath.Join(w.t.TempDir(), file)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// balance starts a load balancer and returns the gateway's URL through it.
func (w *world) balance(program, file string, deployed int, args func(config, dir string) []string) (string, *cluster.Process) {
	w.t.Helper()
	path := needProgram(w.t, program, map[string]string{"haproxy": "haproxy", "nginx": "nginx-light"}[program])
	listen, err := cluster.FreePort()
	if err != nil {
		w.t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "leasehold-balancer-") // nginx wants a path that its own user may enter
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		w.t.Fatal(err)
	}
	config := w.config(file, listen, deployed)
	quoted := "'" + strings.Join(append([]string{path}, args(config, dir)...), "' '") + "'"
	p, err := cluster.Run(w.t.Context(), w.t.TempDir(), cluster.Command{
		Name: program, Path: "sh", Args: []string{"-c", "echo begun; exec " + quoted}, Ready: regexp.MustCompile("begun"),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		_ = p.Signal(syscall.SIGTERM)
		if _, err := p.Wait(10 * time.Second); err != nil {
			w.t.Error(err)
		}
		p.Kill()
		if w.t.Failed() {
			w.t.Log(p.Output())
		}
	})
	addr := fmt.Sprintf("127.0.0.1:%d", listen)
	w.eventually(10*time.Second, func(context.Context) error {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			return fmt.Errorf("%s: %w: %s", program, err, p.Output())
		}
		return conn.Close()
	})
	return "http://" + addr + "/gateways/counter/mcp", p
}

func TestLoadBalancersServeSessionsOverAllWorkers(t *testing.T) {
	w := up(t)
	w.serve()
	t.Run("haproxy", func(t *testing.T) {
		w := w.in(t)
		url, _ := w.balance("haproxy", "haproxy.cfg", 8000, func(config, _ string) []string { return []string{"-db", "-f", config} })
		w.traffic(url)
	})
	t.Run("nginx", func(t *testing.T) {
		w := w.in(t)
		url, _ := w.balance("nginx", "nginx.conf", 8001, func(config, dir string) []string { return []string{"-p", dir, "-c", config} })
		w.traffic(url)
	})
}

// in is the same world for a part of the test.
func (w *world) in(t *testing.T) *world {
	part := *w
	part.t = t
	return &part
}

// traffic sends what clients send through a load balancer, and kills a worker.
func (w *world) traffic(url string) {
	session := w.sessions(url)
	w.stream(session, url)
	w.spoof(url)
	w.kill(session, url)
}

// sessions opens sessions, which get different owners, and uses each at workers
// in turn. It returns one, whose counter is at 6.
func (w *world) sessions(url string) *client.Session {
	w.t.Helper()
	var last *client.Session
	for range 6 {
		s, err := client.Open(w.t.Context(), url)
		if err != nil {
			w.t.Fatal(err)
		}
		for want := 1; want <= 6; want++ {
			if got, err := s.Increment(w.t.Context(), url); err != nil || got != want {
				w.t.Fatalf("increment: got %d, %v; want %d", got, err, want)
			}
		}
		last = s
	}
	owners := map[string]bool{}
	for line := range strings.Lines(w.do("", "get", "sessions", "--gateway", "counter")) {
		if fields := strings.Fields(line); fields[0] != "SESSION" {
			owners[fields[2]] = true
		}
	}
	if len(owners) < 2 {
		w.t.Errorf("the sessions have %d owners, want several: the requests went to one worker", len(owners))
	}
	return last
}

// stream checks that an event arrives while its stream stays open, and that a
// client that goes away is noticed by the upstream.
func (w *world) stream(s *client.Session, url string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	resp, err := client.Stream(ctx, http.MethodGet, url, s.Header(), nil)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		w.t.Fatalf("GET stream: %s", resp.Status)
	}
	w.streams(1)
	lines := bufio.NewScanner(resp.Body)
	for _, text := range []string{"first", "second"} {
		if got, err := s.Call(ctx, url, "notify", `{"text":"`+text+`"}`); err != nil || got != "sent" {
			w.t.Fatalf("notify: got %q, %v", got, err)
		}
		for found := false; !found; {
			if !lines.Scan() {
				w.t.Fatalf("the event %q did not arrive: %v", text, lines.Err())
			}
			found = strings.Contains(lines.Text(), `"`+text+`"`)
		}
	}
	cancel()
	w.streams(0)
}

func (w *world) streams(want int) {
	w.t.Helper()
	w.eventually(10*time.Second, func(ctx context.Context) error {
		r, err := w.ledger.Summary(ctx)
		if err == nil && r.Streams != want {
			err = fmt.Errorf("the upstream has %d open streams, want %d", r.Streams, want)
		}
		return err
	})
}

// spoof checks that a client cannot say by itself which host it asked for.
func (w *world) spoof(url string) {
	w.t.Helper()
	header := http.Header{"X-Forwarded-Host": {"evil.example.com"}}
	resp, err := client.Do(w.t.Context(), http.MethodPost, url, header, client.Initialize(1))
	if err != nil || resp.Status != http.StatusOK {
		w.t.Errorf("with X-Forwarded-Host of the client: got %d, %v; want 200: the load balancer did not replace it", resp.Status, err)
	}
	request, err := http.NewRequestWithContext(w.t.Context(), http.MethodPost, url, strings.NewReader(string(client.Initialize(1))))
	if err != nil {
		w.t.Fatal(err)
	}
	request.Host = "evil.example.com"
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Accept", "application/json, text/event-stream")
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		w.t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusForbidden {
		w.t.Errorf("with a foreign Host: got %s, want 403: the load balancer does not say which host was asked for", answer.Status)
	}
}

// kill kills the owner of a session with calls in flight at every worker: none of
// them runs twice, and the session goes on.
func (w *world) kill(s *client.Session, url string) {
	w.t.Helper()
	const calls = 6
	if err := w.ledger.Reset(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	gate := "gate-" + filepath.Base(w.t.Name())
	var group sync.WaitGroup
	for i := range calls {
		group.Go(func() { // each over a connection of its own
			transport := &http.Transport{DisableKeepAlives: true}
			defer transport.CloseIdleConnections()
			body := fmt.Sprintf(`{"jsonrpc":"2.0","id":"g%d","method":"tools/call","params":{"name":"gate","arguments":{"name":%q}}}`, i, gate)
			ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
			defer cancel()
			request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
			if err != nil {
				w.t.Error(err)
				return
			}
			request.Header = s.Header()
			request.Header.Set("Content-Type", "application/json")
			request.Header.Set("Accept", "application/json, text/event-stream")
			if response, err := transport.RoundTrip(request); err == nil {
				_ = response.Body.Close() // whatever it is: the call was not answered
			}
			if ctx.Err() != nil {
				w.t.Errorf("call g%d waits for an answer still", i)
			}
		})
	}
	w.calling(calls)
	owner := w.owner(s)
	if err := syscall.Kill(w.pids[owner], syscall.SIGKILL); err != nil {
		w.t.Fatal(err)
	}
	group.Wait()
	counter := 6
	w.eventually(20*time.Second, func(ctx context.Context) error { // not before the lease is over
		got, err := s.Increment(ctx, url)
		if err != nil {
			return err
		}
		if got != counter+1 {
			return fmt.Errorf("the counter is %d, want %d: it is another upstream session", got, counter+1)
		}
		return nil
	})
	for i := range 6 { // at every worker that is left
		if got, err := s.Increment(w.t.Context(), url); err != nil || got != counter+2+i {
			w.t.Errorf("increment after the takeover: got %d, %v; want %d", got, err, counter+2+i)
		}
	}
	if err := w.ledger.Release(w.t.Context(), gate); err != nil {
		w.t.Fatal(err)
	}
	w.calling(0)
	report, err := w.ledger.Report(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	runs := map[string]int{}
	for _, entry := range report.Entries {
		if entry.Tool == "gate" {
			runs[string(entry.ID)]++
		}
	}
	for id, n := range runs {
		if n > 1 {
			w.t.Errorf("call %s ran %d times", id, n)
		}
	}
	if len(runs) != calls {
		w.t.Errorf("%d calls ran, want %d", len(runs), calls)
	}
}

// calling waits until that many calls run at the upstream.
func (w *world) calling(want int) {
	w.t.Helper()
	w.eventually(10*time.Second, func(ctx context.Context) error {
		r, err := w.ledger.Summary(ctx)
		if err == nil && r.Running != want {
			err = fmt.Errorf("%d calls run at the upstream, want %d", r.Running, want)
		}
		return err
	})
}

// digest is how operators name a session, in its first digits.
func digest(id string) string {
	sum := sha256.Sum256([]byte(id))
	return hex.EncodeToString(sum[:6])
}

// owner returns the name of the process that owns a session.
func (w *world) owner(s *client.Session) string {
	w.t.Helper()
	id := strings.TrimSpace(w.do("", "get", "session", digest(s.ID), "-o", "yaml"))
	match := regexp.MustCompile(`owner: workers/([0-9a-f]+)`).FindStringSubmatch(id)
	if match == nil {
		w.t.Fatalf("no owner in %s", id)
	}
	for i := range workers {
		name := fmt.Sprintf("worker%d", i)
		out, err := os.ReadFile(filepath.Join(w.dir, name+".out"))
		if err == nil && strings.Contains(string(out), "id="+match[1]+" ") {
			return name
		}
	}
	w.t.Fatalf("no process has the worker %s", match[1])
	return ""
}
