package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"
)

const (
	startLimit = 30 * time.Second // a machine under load; the promise is checked with a built binary
	endLimit   = 5 * time.Second
)

// output collects what a daemon prints and says when a line has come.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
	line *regexp.Regexp
	seen chan struct{} // closed when line was printed
}

func newOutput(line string) *output {
	return &output{line: regexp.MustCompile("(?m)" + line), seen: make(chan struct{})}
}

func (o *output) Write(data []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n, err := o.text.Write(data)
	select {
	case <-o.seen:
	default:
		if o.line.Match(o.text.Bytes()) {
			close(o.seen)
		}
	}
	return n, err
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// devRun is a `leasehold dev` in this process.
type devRun struct {
	t       *testing.T
	out     *output
	errs    *output
	cancel  context.CancelFunc
	code    chan int
	dir     string
	control string
	workers []string
}

func startDev(t *testing.T, dataDir string, flags ...string) *devRun {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	d := &devRun{t: t, out: newOutput(`^ready$`), errs: newOutput(`^never$`), cancel: cancel, code: make(chan int, 1), dir: dataDir}
	args := append([]string{"dev", "--data-dir", dataDir, "--listen", "127.0.0.1:0", "--control-listen", "127.0.0.1:0"}, flags...)
	go func() { d.code <- run(ctx, args, strings.NewReader(""), d.out, d.errs) }()
	t.Cleanup(cancel)
	select {
	case <-d.out.seen:
	case code := <-d.code:
		t.Fatalf("dev ended with %d before it was ready: %s", code, d.errs)
	case <-time.After(startLimit):
		t.Fatalf("dev is not ready: %s", d.errs)
	}
	d.control = regexp.MustCompile(`control plane +(\S+)`).FindStringSubmatch(d.out.String())[1]
	for _, match := range regexp.MustCompile(`worker \d+ +(http://[^/]+)/`).FindAllStringSubmatch(d.out.String(), -1) {
		d.workers = append(d.workers, match[1])
	}
	return d
}

// stop stops it as a signal does and checks that it ends in time, and well.
func (d *devRun) stop() {
	d.t.Helper()
	start := time.Now()
	d.cancel()
	select {
	case code := <-d.code:
		if code != exitOK {
			d.t.Errorf("dev ended with %d: %s", code, d.errs)
		}
	case <-time.After(startLimit):
		d.t.Fatal("dev does not end")
	}
	if took := time.Since(start); took > endLimit {
		d.t.Errorf("dev took %v to end, want at most %v", took, endLimit)
	}
}

// do runs an operator's verb against it, which must succeed.
func (d *devRun) do(stdin string, args ...string) string {
	d.t.Helper()
	code, stdout, stderr := call(d.t, stdin, append(args, "--control", d.control)...)
	if code != exitOK {
		d.t.Fatalf("leasehold %s: exit code %d: %s", strings.Join(args, " "), code, stderr)
	}
	return stdout
}

// fail runs an operator's verb that must fail.
func (d *devRun) fail(stdin, want string, args ...string) {
	d.t.Helper()
	code, _, stderr := call(d.t, stdin, append(args, "--control", d.control)...)
	if code != exitFailed || !strings.Contains(stderr, want) {
		d.t.Errorf("leasehold %s: got exit code %d and %q, want 1 and %q", strings.Join(args, " "), code, stderr, want)
	}
}

func TestDevServesASessionAndKeepsItsGateways(t *testing.T) {
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	dir := t.TempDir()
	dev := startDev(t, dir)
	if len(dev.workers) != 2 {
		t.Fatalf("workers: got %v, want two", dev.workers)
	}
	session := initialize(t, dev.workers[0])
	for i, want := range []string{`"1"`, `"2"`, `"3"`} { // at each worker in turn
		if got := increment(t, dev.workers[i%2], session); !strings.Contains(got, `"text":`+want) {
			t.Errorf("increment %d: got %s, want the text %s", i+1, got, want)
		}
	}
	first := regexp.MustCompile(`url: (\S+)`).FindStringSubmatch(dev.do("", "get", "gateway", "demo", "-o", "yaml"))[1]
	dev.do("{name: demo, description: mine, upstreams: [{name: demo, url: \""+first+"\"}]}", "apply", "-f", "-")
	dev.do(`{"name": "gateways/other", "upstreams": [{"name": "u", "url": "http://127.0.0.1:1/mcp"}]}`, "apply", "-f", "-")
	dev.stop()

	again := startDev(t, dir)
	defer again.stop()
	if got := again.do("", "get", "gateways"); !strings.Contains(got, "other") || !strings.Contains(got, "demo") {
		t.Errorf("gateways after a restart: got\n%s\nwant demo and other", got)
	}
	demo := again.do("", "get", "gateway", "demo", "-o", "yaml")
	if !strings.Contains(demo, "description: mine") || strings.Contains(demo, first) {
		t.Errorf("demo after a restart: got\n%s\nwant the description kept and the upstream's new port", demo)
	}
	increment(t, again.workers[1], initialize(t, again.workers[0]))
}

func TestDevWithoutDemo(t *testing.T) {
	dev := startDev(t, t.TempDir(), "--no-demo", "--workers", "1")
	defer dev.stop()
	if got := dev.do("", "get", "gateways", "-o", "json"); got != "{}\n" {
		t.Errorf("gateways: got %s, want none", got)
	}
	if len(dev.workers) != 1 || !strings.Contains(dev.out.String(), "leasehold apply") {
		t.Errorf("got %d workers and\n%s\nwant one, and how to add a gateway", len(dev.workers), dev.out)
	}
}

func TestSecondDevOnADataDirectoryFailsClearly(t *testing.T) {
	dir := t.TempDir()
	dev := startDev(t, dir, "--no-demo", "--workers", "1")
	defer dev.stop()
	for _, args := range [][]string{
		{"dev", "--data-dir", dir, "--listen", "127.0.0.1:0", "--control-listen", "127.0.0.1:0"},
		{"controlplane", "--insecure", "--embedded-etcd", "--data-dir", filepath.Join(dir, controlPlaneDir), "--listen", "127.0.0.1:0"},
		{"worker", "--insecure", "--control", dev.control, "--data-dir", filepath.Join(dir, "worker-0"), "--listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0", "--admin-listen", ""},
	} {
		if code, _, stderr := call(t, "", args...); code != exitFailed || !strings.Contains(stderr, "is in use by another leasehold") {
			t.Errorf("second dev: got exit code %d and %q, want 1 and a word of the directory", code, stderr)
		}
	}
	if code, _, stderr := call(t, "", "dev", "--data-dir", t.TempDir(), "--listen", "127.0.0.1:0", "--control-listen", dev.control); code != exitFailed ||
		!strings.Contains(stderr, "in use by another program") || !strings.Contains(stderr, "--control-listen") {
		t.Errorf("port in use: got exit code %d and %q, want 1 and the flag's name", code, stderr)
	}
}

func TestOperatorsVerbs(t *testing.T) {
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	dev := startDev(t, t.TempDir())
	defer dev.stop()
	file := filepath.Join(t.TempDir(), "gateways.yaml")
	if err := os.WriteFile(file, []byte("name: a\nupstreams: [{name: u, url: http://127.0.0.1:1/mcp}]\n---\n"+
		"name: gateways/b\nupstreams: [{name: u, url: http://127.0.0.1:2/mcp, transport: STREAMABLE_HTTP}]\nsession: {idle_timeout: 60s}\n"), 0o600); err != nil {
		t.Fatal(err)
	}

	t.Run("apply creates, updates and leaves alone", func(t *testing.T) {
		expect(t, dev.do("", "apply", "-f", file), "gateways/a created\ngateways/b created\n")
		before := dev.do("", "get", "gateway", "a", "-o", "yaml")
		expect(t, dev.do("", "apply", "-f", file), "gateways/a unchanged\ngateways/b unchanged\n")
		expect(t, etagOf(t, dev.do("", "get", "gateway", "a", "-o", "yaml")), etagOf(t, before))
		expect(t, dev.do("name: a\nupstreams: [{name: u, url: http://127.0.0.1:3/mcp}]\n", "apply", "-f", "-"), "gateways/a updated\n")
	})
	t.Run("what get printed can be applied", func(t *testing.T) {
		for _, format := range []string{"yaml", "json"} {
			expect(t, dev.do(dev.do("", "get", "gateways", "-o", format), "apply", "-f", "-"), "gateways/a unchanged\ngateways/b unchanged\ngateways/demo unchanged\n")
		}
	})
	t.Run("an etag guards", func(t *testing.T) {
		old := dev.do("", "get", "gateway", "a", "-o", "yaml")
		dev.do("name: a\ndescription: newer\nupstreams: [{name: u, url: http://127.0.0.1:3/mcp}]\n", "apply", "-f", "-")
		dev.fail(old, "gateways/a: ", "apply", "-f", "-")
		if got := dev.do("", "get", "gateway", "a", "-o", "json"); !strings.Contains(got, `"newer"`) {
			t.Errorf("the newer definition is gone: %s", got)
		}
	})
	t.Run("apply goes on after errors and names fields", func(t *testing.T) {
		input := "name: a\nupstreams: [{name: u, url: not a url}]\n---\nname: b\nurls: x\n---\nname: c\nupstreams: [{name: u, url: http://127.0.0.1:1/mcp}]\n"
		code, stdout, stderr := call(t, input, "apply", "-f", "-", "--control", dev.control)
		if code != exitFailed || stdout != "gateways/c created\n" {
			t.Errorf("got exit code %d and %q, want 1 and c created", code, stdout)
		}
		for _, want := range []string{"\n    gateway.upstreams[0].url: ", "document 2: urls: no such field"} {
			if !strings.Contains(stderr, want) {
				t.Errorf("errors lack %q: %s", want, stderr)
			}
		}
	})
	t.Run("apply prunes by label", func(t *testing.T) {
		one, two := manifestOf("one", "prune me"), manifestOf("two", "prune me")
		const team = `labels.team = "prune me"`
		dev.do(one+two, "apply", "-f", "-")
		expect(t, dev.do(one, "apply", "-f", "-", "--prune", "--selector", team, "--dry-run"), "gateways/one unchanged (dry run)\ngateways/two pruned (dry run)\n")
		expect(t, dev.do("", "get", "gateways", "--filter", team, "-o", "name"), "gateways/one\ngateways/two\n")
		expect(t, dev.do(one, "apply", "-f", "-", "--prune", "--selector", team, "--yes"), "gateways/one unchanged\ngateways/two pruned\n")
		expect(t, dev.do("", "get", "gateways", "--filter", team, "-o", "name"), "gateways/one\n")
		dev.do("", "delete", "gateway", "one")
	})
	session := initialize(t, dev.workers[0])
	t.Run("sessions", func(t *testing.T) {
		var listed struct {
			Sessions []struct{ Name, Owner, Epoch, Class string }
		}
		if err := json.Unmarshal([]byte(dev.do("", "get", "sessions", "--gateway", "demo", "-o", "json")), &listed); err != nil {
			t.Fatal(err)
		}
		if len(listed.Sessions) != 1 {
			t.Fatalf("sessions: got %+v, want one", listed.Sessions)
		}
		one := listed.Sessions[0]
		if !strings.HasPrefix(one.Owner, "workers/") || one.Epoch != "1" || one.Class != "CLASS_RESUMABLE" {
			t.Errorf("session: got %+v", one)
		}
		short := strings.Replace(strings.TrimPrefix(one.Name, "gateways/"), "/sessions/", "/", 1)
		digest := one.Name[strings.LastIndex(one.Name, "/")+1:]
		for _, name := range []string{one.Name, short, "demo/" + digest[:8], digest[:8]} {
			if got := dev.do("", "get", "session", name, "-o", "yaml"); !strings.HasPrefix(got, "name: "+one.Name+"\n") || !strings.Contains(got, "class: RESUMABLE\n") {
				t.Errorf("session %s: got\n%s", name, got)
			}
		}
		expect(t, dev.do("", "get", "sessions", "--gateway", "a", "-o", "json"), "{}\n")
		expect(t, dev.do("", "terminate", "session", short), one.Name+" terminated\n")
		expect(t, dev.do("", "get", "sessions", "-o", "json"), "{}\n")
		dev.fail("", "there is no session whose name begins with", "get", "session", "a/"+digest[:8])
		if got := dev.do("", "get", "sessions", "--ended"); !strings.Contains(got, "\n"+digest[:8]+"  demo ") || !strings.Contains(got, "ended: terminated") {
			t.Errorf("ended sessions: got\n%s", got)
		}
		if response, _ := post(t, dev.workers[1], session, `{"jsonrpc":"2.0","id":2,"method":"tools/list"}`); response.StatusCode != http.StatusNotFound {
			t.Errorf("request of the terminated session: got %d, want 404", response.StatusCode)
		}
	})
	t.Run("tables fit a terminal", func(t *testing.T) {
		dev.do("name: "+strings.Repeat("x", 63)+"\nupstreams: [{name: u, url: http://127.0.0.1:1/"+strings.Repeat("y", 200)+"}]\n", "apply", "-f", "-")
		initialize(t, dev.workers[1])
		for _, what := range []string{"gateways", "sessions", "workers"} {
			got := dev.do("", "get", what)
			if strings.Count(got, "\n") < 2 {
				t.Errorf("%s: got no rows:\n%s", what, got)
			}
			for line := range strings.Lines(got) {
				if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 80 {
					t.Errorf("%s: line of %d characters: %s", what, n, line)
				}
			}
		}
	})
	t.Run("workers", func(t *testing.T) {
		match := regexp.MustCompile(`(?m)^([0-9a-f]{16}) `).FindStringSubmatch(dev.do("", "get", "wk"))
		if match == nil {
			t.Fatal("no worker in the table")
		}
		if got := dev.do("", "get", "worker", match[1], "-o", "yaml"); !strings.HasPrefix(got, "name: workers/"+match[1]+"\n") {
			t.Errorf("got\n%s", got)
		}
	})
	t.Run("delete", func(t *testing.T) {
		expect(t, dev.do("", "delete", "gateway", "gateways/c"), "gateways/c deleted\n")
		dev.fail("", "gateways/c: ", "delete", "gateway", "c")
		dev.fail("", "gateways/c: ", "get", "gateway", "c")
		dev.fail("", "gateways/b: ", "delete", "gateway", "b", "--etag", "old")
	})
}

func etagOf(t *testing.T, yaml string) string {
	t.Helper()
	match := regexp.MustCompile(`(?m)^etag: .+$`).FindString(yaml)
	if match == "" {
		t.Fatalf("no etag in\n%s", yaml)
	}
	return match
}

func expect(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// initialize opens a session of the demo and returns its id.
func initialize(t *testing.T, worker string) string {
	t.Helper()
	response, body := post(t, worker, "", `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"test","version":"1"}}}`)
	id := response.Header.Get("Mcp-Session-Id")
	if response.StatusCode != http.StatusOK || id == "" {
		t.Fatalf("initialize: got %d %s", response.StatusCode, body)
	}
	response, body = post(t, worker, id, `{"jsonrpc":"2.0","method":"notifications/initialized"}`)
	if response.StatusCode != http.StatusAccepted {
		t.Fatalf("initialized: got %d %s", response.StatusCode, body)
	}
	return id
}

func increment(t *testing.T, worker, session string) string {
	t.Helper()
	response, body := post(t, worker, session, `{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"counter_increment","arguments":{}}}`)
	if response.StatusCode != http.StatusOK {
		t.Fatalf("counter_increment: got %d %s", response.StatusCode, body)
	}
	return body
}

func post(t *testing.T, worker, session, body string) (*http.Response, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, worker+"/gateways/demo/mcp", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Accept", "application/json, text/event-stream")
	if session != "" {
		request.Header.Set("Mcp-Session-Id", session)
		request.Header.Set("Mcp-Protocol-Version", "2025-11-25")
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(data)
}
