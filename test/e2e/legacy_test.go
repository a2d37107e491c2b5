package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	mcpgo "github.com/mark3labs/mcp-go/client"
	mcpgotypes "github.com/mark3labs/mcp-go/mcp"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/leasehold/leasehold/test/internal/cluster"
	"github.com/leasehold/leasehold/test/internal/ledger"
)

// inTurn is a proxy as clients of the HTTP+SSE transport may have before them: it
// sends each request to the next worker, so that most messages arrive at another one
// than the one that has the stream.
type inTurn struct {
	*httptest.Server
	workers []*url.URL
	turn    atomic.Uint64
	posts   []atomic.Int64 // at each worker
}

func startInTurn(t *testing.T, c *cluster.Cluster) *inTurn {
	t.Helper()
	p := &inTurn{}
	for _, w := range c.Live() {
		u, err := url.Parse(w.URL("g"))
		if err != nil {
			t.Fatal(err)
		}
		p.workers = append(p.workers, u)
	}
	p.posts = make([]atomic.Int64, len(p.workers))
	p.Server = httptest.NewServer(&httputil.ReverseProxy{FlushInterval: -1, Rewrite: func(r *httputil.ProxyRequest) {
		n := p.turn.Add(1) % uint64(len(p.workers))
		if r.In.Method == http.MethodPost {
			p.posts[n].Add(1)
		}
		r.Out.URL.Scheme, r.Out.URL.Host = p.workers[n].Scheme, p.workers[n].Host
	}})
	t.Cleanup(p.Close)
	return p
}

// stream is where clients of the HTTP+SSE transport begin.
func (p *inTurn) stream(gateway string) string { return p.URL + "/gateways/" + gateway + "/sse" }

// spread checks that messages came to every worker.
func (p *inTurn) spread(t *testing.T) {
	t.Helper()
	for i := range p.posts {
		if p.posts[i].Load() < 2 {
			t.Errorf("messages at worker %d: got %d, want at least 2", i, p.posts[i].Load())
		}
	}
}

// overInTime checks that the one session that was opened is over, upstream too.
func overInTime(t *testing.T, c *cluster.Cluster, gateway string, remote ledger.Remote) {
	t.Helper()
	upstreamHas(t, remote, 0, 5*time.Second)
	if r := report(t, remote); r.Opened != 1 {
		t.Errorf("upstream sessions: got %d, want 1", r.Opened)
	}
	eventually(t, 5*time.Second, func(ctx context.Context) error {
		sessions, err := c.Sessions(ctx, gateway)
		if err == nil && len(sessions) > 0 {
			err = fmt.Errorf("%d sessions, want none", len(sessions))
		}
		return err
	})
}

func TestTypeScriptLegacyClientUsesServerEverythingThroughAllWorkers(t *testing.T) {
	needPackages(t)
	c := shared(t)
	upstream, server := everything(t)
	c.Publish(t, "everything-legacy", upstream, "")
	p := startInTurn(t, c)
	if out := script(t, "legacy.mjs", p.stream("everything-legacy")); !strings.Contains(out, "all done") {
		t.Error("the script did not come to its end")
	}
	p.spread(t)
	eventually(t, 5*time.Second, func(context.Context) error {
		log := server.Output()
		opened, closed := strings.Count(log, "Session initialized with ID"), strings.Count(log, "Transport closed for session")
		if opened != 1 || closed != 1 {
			return fmt.Errorf("server-everything opened %d sessions and closed %d, want one", opened, closed)
		}
		return nil
	})
}

func TestGoSDKLegacyClientIsServedByAllWorkers(t *testing.T) {
	c := shared(t)
	remote := c.Serve(t, "legacy-go-sdk", "")
	p := startInTurn(t, c)
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	logged, progress := make(chan string, 1), make(chan float64, 10)
	client := mcp.NewClient(&mcp.Implementation{Name: "go-sdk", Version: "1"}, &mcp.ClientOptions{
		ProgressNotificationHandler: func(_ context.Context, r *mcp.ProgressNotificationClientRequest) { progress <- r.Params.Progress },
	})
	client.AddReceivingMiddleware(func(next mcp.MethodHandler) mcp.MethodHandler {
		return func(ctx context.Context, method string, r mcp.Request) (mcp.Result, error) {
			if method == "notifications/message" {
				params, _ := json.Marshal(r.GetParams())
				logged <- string(params)
			}
			return next(ctx, method, r)
		}
	})
	session, err := client.Connect(t.Context(), &mcp.SSEClientTransport{Endpoint: p.stream("legacy-go-sdk"), HTTPClient: &http.Client{Transport: transport}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	call := func(name string, args map[string]any, token any) string {
		t.Helper()
		params := &mcp.CallToolParams{Name: name, Arguments: args}
		if token != nil {
			params.SetProgressToken(token)
		}
		result, err := session.CallTool(t.Context(), params)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return result.Content[0].(*mcp.TextContent).Text
	}
	for i := 1; i <= 9; i++ {
		if got := call("counter_increment", nil, nil); got != fmt.Sprint(i) {
			t.Fatalf("counter: got %s, want %d", got, i)
		}
	}
	if got := call("big", map[string]any{"bytes": 1 << 20}, nil); len(got) != 1<<20 {
		t.Errorf("long answer: got %d bytes, want %d", len(got), 1<<20)
	}
	call("slow", map[string]any{"ms": 100, "steps": 3}, "p")
	for want := 1.0; want <= 3; want++ {
		if got := <-progress; got != want {
			t.Errorf("progress: got %v, want %v", got, want)
		}
	}
	call("notify", map[string]any{"text": "by the way"}, nil)
	select {
	case got := <-logged:
		if !strings.Contains(got, "by the way") {
			t.Errorf("log message: got %s", got)
		}
	case <-time.After(5 * time.Second):
		t.Error("what the upstream says by itself did not come")
	}
	p.spread(t)
	if err := session.Close(); err != nil && !errors.Is(err, mcp.ErrConnectionClosed) {
		t.Errorf("close: %v", err)
	}
	overInTime(t, c, "legacy-go-sdk", remote)
}

func TestMCPGoLegacyClientIsServedByAllWorkers(t *testing.T) {
	c := shared(t)
	remote := c.Serve(t, "legacy-mcp-go", "")
	p := startInTurn(t, c)
	client, err := mcpgo.NewSSEMCPClient(p.stream("legacy-mcp-go"))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	request := mcpgotypes.InitializeRequest{}
	request.Params.ProtocolVersion = "2024-11-05"
	request.Params.ClientInfo = mcpgotypes.Implementation{Name: "mcp-go", Version: "1"}
	initialized, err := client.Initialize(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	if initialized.ProtocolVersion == "" {
		t.Error("no protocol version")
	}
	for i := 1; i <= 9; i++ {
		call := mcpgotypes.CallToolRequest{}
		call.Params.Name = "counter_increment"
		result, err := client.CallTool(t.Context(), call)
		if err != nil {
			t.Fatal(err)
		}
		if got := result.Content[0].(mcpgotypes.TextContent).Text; got != fmt.Sprint(i) {
			t.Fatalf("counter: got %s, want %d", got, i)
		}
	}
	call := mcpgotypes.CallToolRequest{}
	call.Params.Name = "none"
	if _, err := client.CallTool(t.Context(), call); err == nil || !strings.Contains(err.Error(), "unknown tool") {
		t.Errorf("unknown tool: got %v, want the upstream's own error", err)
	}
	p.spread(t)
	client.Close()
	overInTime(t, c, "legacy-mcp-go", remote)
}

func TestTheUpstreamSessionOfALegacyClientEndsThoughItsWorkerIsKilled(t *testing.T) {
	c := cluster.Test(t, small)
	remote := c.Serve(t, "legacy-killed", "{idleTimeout: 2s}")
	w := c.Workers[0]
	at := strings.TrimSuffix(w.URL("legacy-killed"), "/mcp") + "/sse"
	client, err := mcpgo.NewSSEMCPClient(at)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Initialize(t.Context(), mcpgotypes.InitializeRequest{}); err != nil {
		t.Fatal(err)
	}
	upstreamHas(t, remote, 1, time.Second)
	c.Settle(t)
	w.Kill()
	took := upstreamHas(t, remote, 0, ttl+10*time.Second)
	t.Logf("the upstream session ended %v after its worker was killed", took.Round(time.Millisecond))
	deletes := slices.DeleteFunc(report(t, remote).Entries, func(e ledger.Entry) bool { return e.HTTP != http.MethodDelete })
	if len(deletes) != 1 {
		t.Errorf("DELETEs: got %d, want 1", len(deletes))
	}
}
