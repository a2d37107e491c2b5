package dataplane_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	gosdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// setGatewayOf defines a gateway of several upstreams.
func (p *plane) setGatewayOf(id string, upstreams ...*leaseholdv1.Upstream) {
	p.change(func() {
		p.gateways["gateways/"+id] = &leaseholdv1.Gateway{
			Name: "gateways/" + id, Status: &leaseholdv1.GatewayStatus{Revision: p.revision}, Upstreams: upstreams,
		}
	})
}

// startGoSDK is an MCP server of the go-sdk with a tool that says its name.
func startGoSDK(tb testing.TB, name string) (url string, s *gosdk.Server) {
	s = gosdk.NewServer(&gosdk.Implementation{Name: name, Version: "1"}, nil)
	gosdk.AddTool(s, &gosdk.Tool{Name: "whoami", Description: "Says " + name + "."}, func(context.Context, *gosdk.CallToolRequest, struct{}) (*gosdk.CallToolResult, any, error) {
		return &gosdk.CallToolResult{Content: []gosdk.Content{&gosdk.TextContent{Text: name}}}, nil, nil
	})
	h := httptest.NewServer(gosdk.NewStreamableHTTPHandler(func(*http.Request) *gosdk.Server { return s }, nil))
	tb.Cleanup(func() {
		h.CloseClientConnections()
		h.Close()
	})
	return h.URL, s
}

// startMCPGo is the same of mcp-go.
func startMCPGo(tb testing.TB, name string) (url string, s *server.MCPServer) {
	s = server.NewMCPServer(name, "1", server.WithToolCapabilities(true))
	s.AddTool(mcp.NewTool("whoami", mcp.WithDescription("Says "+name+".")), func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		return mcp.NewToolResultText(name), nil
	})
	h := httptest.NewServer(server.NewStreamableHTTPServer(s))
	tb.Cleanup(func() {
		h.CloseClientConnections()
		h.Close()
	})
	return h.URL, s
}

// connectGoSDK opens a session at a worker with the go-sdk's client.
func connectGoSDK(tb testing.TB, w *worker, gateway string, options *gosdk.ClientOptions) *gosdk.ClientSession {
	tb.Helper()
	c := gosdk.NewClient(&gosdk.Implementation{Name: "t", Version: "1"}, options)
	s, err := c.Connect(tb.Context(), &gosdk.StreamableClientTransport{Endpoint: w.url + "/gateways/" + gateway + "/mcp"}, nil)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { s.Close() })
	return s
}

func TestSeveralUpstreamsAreOneServer(t *testing.T) {
	p := startPlane(t)
	one, _ := startGoSDK(t, "one")
	two, _ := startMCPGo(t, "two")
	p.setGatewayOf("g", &leaseholdv1.Upstream{Name: "a", Url: one}, &leaseholdv1.Upstream{Name: "b", Url: two})
	w := startWorker(t, p)
	s := connectGoSDK(t, w, "g", nil)
	if got := s.InitializeResult().ServerInfo.Name; got != "g" {
		t.Errorf("server info: got %q, want the gateway's id", got)
	}
	tools, err := s.ListTools(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, tool := range tools.Tools {
		names = append(names, tool.Name)
	}
	if want := []string{"a_whoami", "b_whoami"}; !slices.Equal(names, want) {
		t.Errorf("tools: got %q, want %q", names, want)
	}
	for tool, want := range map[string]string{"a_whoami": "one", "b_whoami": "two"} {
		answer, err := s.CallTool(t.Context(), &gosdk.CallToolParams{Name: tool})
		if err != nil {
			t.Fatalf("%s: %v", tool, err)
		}
		if got := fmt.Sprint(answer.Content[0].(*gosdk.TextContent).Text); got != want {
			t.Errorf("%s: got %q, want %q", tool, got, want)
		}
	}
}

// startAsker is an MCP server of the go-sdk with tools that ask the client, and that
// wait until they are cancelled.
func startAsker(tb testing.TB, name string, cancelled *atomic.Int32) (url string, s *gosdk.Server) {
	url, s = startGoSDK(tb, name)
	gosdk.AddTool(s, &gosdk.Tool{Name: "ask"}, func(ctx context.Context, r *gosdk.CallToolRequest, _ struct{}) (*gosdk.CallToolResult, any, error) {
		got, err := r.Session.Elicit(ctx, &gosdk.ElicitParams{Message: name, RequestedSchema: map[string]any{"type": "object", "properties": map[string]any{"x": map[string]any{"type": "string"}}}})
		if err != nil {
			return nil, nil, err
		}
		return &gosdk.CallToolResult{Content: []gosdk.Content{&gosdk.TextContent{Text: fmt.Sprint(got.Content["x"])}}}, nil, nil
	})
	gosdk.AddTool(s, &gosdk.Tool{Name: "wait"}, func(ctx context.Context, r *gosdk.CallToolRequest, _ struct{}) (*gosdk.CallToolResult, any, error) {
		if err := r.Session.NotifyProgress(ctx, &gosdk.ProgressNotificationParams{ProgressToken: r.Params.GetProgressToken(), Message: "began"}); err != nil {
			return nil, nil, err
		}
		<-ctx.Done()
		cancelled.Add(1)
		return nil, nil, ctx.Err()
	})
	return url, s
}

func TestServersOfDifferentMakesAskTheirClientThroughOneGateway(t *testing.T) {
	p := startPlane(t)
	var cancelledOne, cancelledTwo atomic.Int32
	one, _ := startAsker(t, "one", &cancelledOne)
	two, _ := startAsker(t, "two", &cancelledTwo)
	three, _ := startMCPGo(t, "three")
	p.setGatewayOf("g", &leaseholdv1.Upstream{Name: "a", Url: one}, &leaseholdv1.Upstream{Name: "b", Url: two}, &leaseholdv1.Upstream{Name: "c", Url: three})
	w := startWorker(t, p)
	began := make(chan struct{}, 10)
	s := connectGoSDK(t, w, "g", &gosdk.ClientOptions{
		ElicitationHandler: func(_ context.Context, r *gosdk.ElicitRequest) (*gosdk.ElicitResult, error) {
			return &gosdk.ElicitResult{Action: "accept", Content: map[string]any{"x": "told " + r.Params.Message}}, nil
		},
		ProgressNotificationHandler: func(context.Context, *gosdk.ProgressNotificationClientRequest) { began <- struct{}{} },
	})
	results := make(chan string, 6)
	for i := range 6 {
		go func() {
			tool := []string{"a_ask", "b_ask"}[i%2]
			answer, err := s.CallTool(t.Context(), &gosdk.CallToolParams{Name: tool})
			if err != nil {
				results <- err.Error()
				return
			}
			results <- tool + " " + answer.Content[0].(*gosdk.TextContent).Text
		}()
	}
	got := map[string]int{}
	for range 6 {
		got[<-results]++
	}
	if got["a_ask told one"] != 3 || got["b_ask told two"] != 3 {
		t.Errorf("got %v, want that each server had its own questions answered", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	params := &gosdk.CallToolParams{Name: "b_wait"}
	params.SetProgressToken("tok")
	failed := make(chan error, 1)
	go func() {
		_, err := s.CallTool(ctx, params)
		failed <- err
	}()
	await(t, began)
	cancel()
	if err := <-failed; err == nil {
		t.Error("a call that was cancelled succeeded")
	}
	eventually(t, "the server that has the call is told that it is cancelled", func() bool { return cancelledTwo.Load() == 1 })
	if cancelledOne.Load() != 0 {
		t.Error("the other one too")
	}
}

func TestToolsThatComeAndGoAreToldOnce(t *testing.T) {
	p := startPlane(t)
	one, goServer := startGoSDK(t, "one")
	two, mcpServer := startMCPGo(t, "two")
	p.setGatewayOf("g", &leaseholdv1.Upstream{Name: "a", Url: one}, &leaseholdv1.Upstream{Name: "b", Url: two})
	w := startWorker(t, p)
	changes := make(chan struct{}, 100)
	s := connectGoSDK(t, w, "g", &gosdk.ClientOptions{ToolListChangedHandler: func(context.Context, *gosdk.ToolListChangedRequest) { changes <- struct{}{} }})
	list := func() (names []string) {
		for tool, err := range s.Tools(t.Context(), nil) {
			if err != nil {
				t.Fatal(err)
			}
			names = append(names, tool.Name)
		}
		return names
	}
	list()
	eventually(t, "the client hears of a tool", func() bool {
		// Until the stream to the server is there, nobody is told.
		gosdk.AddTool(goServer, &gosdk.Tool{Name: "new"}, func(context.Context, *gosdk.CallToolRequest, struct{}) (*gosdk.CallToolResult, any, error) {
			return nil, nil, nil
		})
		select {
		case <-changes:
			return true
		case <-time.After(300 * time.Millisecond):
			goServer.RemoveTools("new")
			return false
		}
	})
	if got, want := list(), []string{"a_new", "a_whoami", "b_whoami"}; !slices.Equal(got, want) {
		t.Errorf("tools: got %q, want %q", got, want)
	}
	mcpServer.AddTool(mcp.NewTool("other"), func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		return mcp.NewToolResultText("x"), nil
	})
	await(t, changes)
	if got, want := list(), []string{"a_new", "a_whoami", "b_other", "b_whoami"}; !slices.Equal(got, want) {
		t.Errorf("tools: got %q, want %q", got, want)
	}
	select {
	case <-changes:
		t.Error("the client was told twice")
	case <-time.After(500 * time.Millisecond):
	}
}

func TestSessionsOfSeveralUpstreamsLeaveNothing(t *testing.T) {
	p := startPlane(t)
	ups := []*upstreamServer{startUpstream(t), startUpstream(t), startUpstream(t)}
	dead := httptest.NewServer(nil)
	dead.Close()
	p.setGatewayOf("g", &leaseholdv1.Upstream{Name: "a", Url: ups[0].URL}, &leaseholdv1.Upstream{Name: "b", Url: ups[1].URL}, &leaseholdv1.Upstream{Name: "c", Url: ups[2].URL},
		&leaseholdv1.Upstream{Name: "dead", Url: dead.URL})
	w := startWorker(t, p)
	var clients []*client
	for range 10 {
		c := newClient(t, "g")
		c.initialize(w)
		c.do(w, http.MethodPost, `{"jsonrpc":"2.0","method":"notifications/initialized"}`)
		clients = append(clients, c)
	}
	for i, u := range ups {
		if u.live() != 10 {
			t.Errorf("upstream %d: %d sessions, want one for each client", i, u.live())
		}
	}
	for _, c := range clients {
		if resp, body := c.do(w, http.MethodDelete, ""); resp.StatusCode != http.StatusNoContent {
			t.Fatalf("DELETE: got %d %s", resp.StatusCode, body)
		}
	}
	for i, u := range ups {
		if u.live() != 0 || u.deleted != 10 {
			t.Errorf("upstream %d: %d sessions left, %d ended; want 0 and 10", i, u.live(), u.deleted)
		}
	}
}

func TestProgramsAndLegacyServersArePartsToo(t *testing.T) {
	p := startPlane(t)
	one, _ := startGoSDK(t, "one")
	legacy := httptest.NewServer(gosdk.NewSSEHandler(func(*http.Request) *gosdk.Server {
		s := gosdk.NewServer(&gosdk.Implementation{Name: "old", Version: "1"}, nil)
		gosdk.AddTool(s, &gosdk.Tool{Name: "whoami"}, func(context.Context, *gosdk.CallToolRequest, struct{}) (*gosdk.CallToolResult, any, error) {
			return &gosdk.CallToolResult{Content: []gosdk.Content{&gosdk.TextContent{Text: "old"}}}, nil, nil
		})
		return s
	}, nil))
	t.Cleanup(func() {
		legacy.CloseClientConnections()
		legacy.Close()
	})
	program := &leaseholdv1.Upstream{Name: "p"}
	runs("")(program)
	p.setGatewayOf("g", &leaseholdv1.Upstream{Name: "a", Url: one}, program, &leaseholdv1.Upstream{Name: "l", Url: legacy.URL, Transport: leaseholdv1.Transport_TRANSPORT_SSE})
	w := startWorkerWith(t, p, allowStdio)
	s := connectGoSDK(t, w, "g", nil)
	for tool, want := range map[string]string{"a_whoami": "one", "l_whoami": "old"} {
		answer, err := s.CallTool(t.Context(), &gosdk.CallToolParams{Name: tool})
		if err != nil {
			t.Fatalf("%s: %v", tool, err)
		}
		if got := answer.Content[0].(*gosdk.TextContent).Text; !strings.Contains(got, want) {
			t.Errorf("%s: got %q, want %q", tool, got, want)
		}
	}
}

// TestACallOfOneOfSeveralGoesOnAfterItsConnectionBroke has the client come back at
// another worker than the owner.
func TestACallOfOneOfSeveralGoesOnAfterItsConnectionBroke(t *testing.T) {
	p, u, plain := startPlane(t), startUpstream(t), startUpstream(t)
	resumed := make(chan string, 1)
	u.setHook(func(w http.ResponseWriter, r *http.Request, method string) bool {
		switch {
		case method == "initialize":
			w.Header().Set("Mcp-Session-Id", "s")
			reply(w, []byte("0"), `{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"u","version":"1"}}`)
		case method == "tools/list":
			reply(w, []byte("1"), `{"tools":[{"name":"n","inputSchema":{"type":"object"}}]}`)
		case method == "tools/call":
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprint(w, "id: e1\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{}}\n\n")
		case r.Method == http.MethodGet && r.Header.Get("Last-Event-Id") != "":
			resumed <- r.Header.Get("Last-Event-Id")
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprint(w, "id: e2\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"content\":[]}}\n\n")
		case r.Method == http.MethodDelete:
			w.WriteHeader(http.StatusNoContent)
		default:
			w.WriteHeader(http.StatusAccepted)
		}
		return true
	})
	p.setGatewayOf("g", &leaseholdv1.Upstream{Name: "a", Url: plain.URL}, &leaseholdv1.Upstream{Name: "b", Url: u.URL})
	owner, other := startWorker(t, p), startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(owner)
	_, first := c.do(other, http.MethodPost, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"b_n"}}`)
	if !strings.Contains(first, "id: g/p/b/e1\n") || strings.Contains(first, `"id":1`) {
		t.Fatalf("the stream that broke: got %q, want the event with an id that names gateway and part", first)
	}
	r, err := http.NewRequest(http.MethodGet, other.url+c.path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header = http.Header{"Accept": {"text/event-stream"}, "Mcp-Session-Id": {c.session}, "Last-Event-Id": {"g/p/b/e1"}}
	resp, err := c.http.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	rest, _ := io.ReadAll(resp.Body)
	if got := <-resumed; got != "e1" {
		t.Errorf("the upstream was asked for what follows %q, want e1", got)
	}
	if !strings.Contains(string(rest), "id: g/p/b/e2\n") || !strings.Contains(string(rest), `"id":1,"result"`) {
		t.Errorf("the rest: got %q, want the answer", rest)
	}
}
