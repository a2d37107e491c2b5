package dataplane_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/leasehold/leasehold/dataplane"
	"github.com/leasehold/leasehold/dataplane/dial"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// worker is a worker that runs in this process.
type worker struct {
	url     string
	id      string
	stop    func()
	metrics *prometheus.Registry
}

func startWorker(tb testing.TB, p *plane) *worker {
	tb.Helper()
	return startWorkerWith(tb, p, func(*dataplane.Config) {})
}

func startWorkerWith(tb testing.TB, p *plane, change func(*dataplane.Config)) *worker {
	tb.Helper()
	return startWorkerAs(tb, p, change, dataplane.Run)
}

func startWorkerAs(tb testing.TB, p *plane, change func(*dataplane.Config), run func(context.Context, dataplane.Config) error) *worker {
	tb.Helper()
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			tb.Fatal(err)
		}
		return l
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan struct{})
	w := &worker{metrics: prometheus.NewRegistry()}
	var once sync.Once
	cfg := dataplane.Config{
		Listener: listen(), PeerListener: listen(), Control: []string{p.address}, DataDir: tb.TempDir(),
		Logger:     hclog.New(&hclog.LoggerOptions{Level: hclog.Debug, Output: tb.Output()}),
		Dial:       dial.Policy{AllowLoopback: true},
		Registered: func(id string) { w.id = id }, Metrics: w.metrics,
		Health: func(err error) {
			if err == nil {
				once.Do(func() { close(ready) })
			}
		},
	}
	change(&cfg)
	w.url = "http://" + cfg.Listener.Addr().String()
	go func() {
		defer close(done)
		if err := run(ctx, cfg); err != nil {
			tb.Errorf("worker: %v", err)
		}
	}()
	w.stop = sync.OnceFunc(func() {
		cancel()
		<-done
	})
	tb.Cleanup(w.stop)
	select {
	case <-ready:
	case <-time.After(10 * time.Second):
		tb.Fatal("worker not ready within 10 s")
	}
	return w
}

// upstreamServer is an MCP server that counts, with a ledger.
type upstreamServer struct {
	*httptest.Server
	mu       sync.Mutex // guards what follows
	sessions map[string]int
	opened   int
	deleted  int
	lists    bool     // it has tools, and says which
	before   int      // what its counters and the numbers in its session ids begin after
	wished   bool     // it logs, and has one resource to subscribe to
	told     []string // what it was asked for of that, since it has forgotten its sessions
	hook     func(w http.ResponseWriter, r *http.Request, method string) bool
}

func startUpstream(tb testing.TB) *upstreamServer {
	u := &upstreamServer{sessions: map[string]int{}}
	u.Server = httptest.NewServer(u)
	tb.Cleanup(func() {
		u.CloseClientConnections()
		u.Close()
	})
	return u
}

func (u *upstreamServer) live() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.sessions)
}

func (u *upstreamServer) setHook(f func(w http.ResponseWriter, r *http.Request, method string) bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.hook = f
}

func (u *upstreamServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body)) // for the hook
	var message struct {
		ID     json.RawMessage
		Method string
	}
	json.Unmarshal(body, &message)
	id := r.Header.Get("Mcp-Session-Id")
	u.mu.Lock()
	hook := u.hook
	u.mu.Unlock()
	if hook != nil && hook(w, r, message.Method) {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	switch _, known := u.sessions[id]; {
	case message.Method == "initialize":
		u.opened++
		id = fmt.Sprintf("up-%d", u.before+u.opened)
		u.sessions[id] = u.before
		w.Header().Set("Mcp-Session-Id", id)
		capabilities := "{}"
		if u.lists {
			capabilities = `{"tools":{}}`
		}
		if u.wished {
			capabilities = `{"tools":{},"logging":{},"resources":{"subscribe":true}}`
		}
		reply(w, message.ID, `{"protocolVersion":"2025-11-25","capabilities":`+capabilities+`,"serverInfo":{"name":"u","version":"1"}}`)
	case !known:
		http.Error(w, "no such session", http.StatusNotFound)
	case r.Method == http.MethodDelete:
		u.deleted++
		delete(u.sessions, id)
		w.WriteHeader(http.StatusNoContent)
	case message.ID == nil:
		w.WriteHeader(http.StatusAccepted)
	case u.lists && message.Method == "tools/list":
		reply(w, message.ID, `{"tools":[{"name":"n","inputSchema":{"type":"object"}}]}`)
	case u.wished && message.Method == "resources/list":
		reply(w, message.ID, `{"resources":[{"uri":"`+resourceURI+`","name":"r"}]}`)
	case u.wished && (message.Method == "logging/setLevel" || message.Method == "resources/subscribe"):
		u.told = append(u.told, message.Method)
		reply(w, message.ID, "{}")
	default:
		u.sessions[id]++
		reply(w, message.ID, fmt.Sprintf(`{"content":[{"type":"text","text":"%d"}]}`, u.sessions[id]))
	}
}

// resourceURI is the URI of its resource, which is long enough to be told from others in
// records that are sealed.
var resourceURI = "file:///" + strings.Repeat("r", 100)

// wasTold returns what it was asked for beside tools in the sessions that it has.
func (u *upstreamServer) wasTold() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.told)
}

func reply(w http.ResponseWriter, id json.RawMessage, result string) {
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":%s}`, id, result)
}

// client speaks for one MCP client through any worker.
type client struct {
	tb      testing.TB
	http    *http.Client
	path    string
	session string
	ids     int
}

func newClient(tb testing.TB, gateway string) *client {
	transport := &http.Transport{}
	tb.Cleanup(transport.CloseIdleConnections)
	return &client{tb: tb, http: &http.Client{Transport: transport}, path: "/gateways/" + gateway + "/mcp"}
}

func (c *client) do(w *worker, method, body string) (*http.Response, string) {
	c.tb.Helper()
	return c.doContext(context.Background(), w, method, body)
}

func (c *client) doContext(ctx context.Context, w *worker, method, body string) (*http.Response, string) {
	c.tb.Helper()
	r, err := http.NewRequestWithContext(ctx, method, w.url+c.path, strings.NewReader(body))
	if err != nil {
		c.tb.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json, text/event-stream")
	if c.session != "" {
		r.Header.Set("Mcp-Session-Id", c.session)
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return nil, err.Error()
	}
	defer resp.Body.Close()
	answer, _ := io.ReadAll(resp.Body)
	return resp, string(bytes.TrimSpace(answer))
}

const initialize = `{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{"roots":{}},"clientInfo":{"name":"t","version":"1"}}}`

func (c *client) initialize(w *worker) {
	c.tb.Helper()
	resp, body := c.do(w, http.MethodPost, initialize)
	if resp == nil || resp.StatusCode != http.StatusOK {
		c.tb.Fatalf("initialize: %v %s", resp, body)
	}
	if c.session = resp.Header.Get("Mcp-Session-Id"); c.session == "" {
		c.tb.Fatal("initialize: no session id")
	}
}

// call makes a tools/call and returns the status and the counter's text.
func (c *client) call(w *worker) (int, string) {
	c.tb.Helper()
	c.ids++
	resp, body := c.do(w, http.MethodPost, fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"n"}}`, c.ids))
	if resp == nil {
		c.tb.Fatalf("call: %s", body)
	}
	var answer struct {
		Result struct{ Content []struct{ Text string } }
	}
	json.Unmarshal([]byte(body), &answer)
	if len(answer.Result.Content) == 1 {
		return resp.StatusCode, answer.Result.Content[0].Text
	}
	return resp.StatusCode, body
}

// is reports whether a gauge of the worker's is 1.
func (w *worker) is(tb testing.TB, gauge string) bool {
	tb.Helper()
	families, err := w.metrics.Gather()
	if err != nil {
		tb.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == gauge {
			return f.GetMetric()[0].GetGauge().GetValue() == 1
		}
	}
	tb.Fatalf("there is no %s", gauge)
	return false
}

// awaitPower waits until the worker may take sessions over.
func (w *worker) awaitPower(tb testing.TB) {
	tb.Helper()
	eventually(tb, "the worker has power", func() bool { return w.is(tb, "leasehold_worker_power") })
}

// eventually waits until ok holds.
func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			tb.Fatalf("not within 15 s: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func TestAnyWorkerServesASession(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	workers := []*worker{startWorker(t, p), startWorker(t, p), startWorker(t, p)}
	c := newClient(t, "g")
	c.initialize(workers[0])
	for i := 1; i <= 9; i++ {
		status, got := c.call(workers[i%3])
		if want := fmt.Sprint(i); status != 200 || got != want {
			t.Fatalf("call %d: got %d %q, want 200 %q", i, status, got, want)
		}
	}
	if resp, body := c.do(workers[1], http.MethodDelete, ""); resp.StatusCode != http.StatusNoContent {
		t.Fatalf("DELETE: got %d %s", resp.StatusCode, body)
	}
	if u.live() != 0 {
		t.Errorf("upstream sessions after DELETE: got %d, want 0", u.live())
	}
	for i, w := range workers {
		if status, body := c.call(w); status != 404 || !strings.Contains(body, `"id":`+fmt.Sprint(c.ids)) {
			t.Errorf("call at worker %d after DELETE: got %d %s, want 404 with the id", i, status, body)
		}
	}
}

// await waits for something that another goroutine does.
func await(tb testing.TB, c <-chan struct{}) {
	tb.Helper()
	select {
	case <-c:
	case <-time.After(15 * time.Second):
		tb.Fatal("did not happen within 15 s")
	}
}
