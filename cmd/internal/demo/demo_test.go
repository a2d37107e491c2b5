package demo

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mark3labs/mcp-go/client"
	"github.com/mark3labs/mcp-go/client/transport"
	"github.com/mark3labs/mcp-go/mcp"
	"go.uber.org/goleak"
)

const limit = 20 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestEachSessionHasItsOwnCounter(t *testing.T) {
	server, url := serve(t)
	one, two := connect(t, url), connect(t, url)
	for i := 1; i <= 3; i++ {
		if got := one.call("counter_increment", nil); got != fmt.Sprint(i) {
			t.Errorf("increment %d of one: got %q", i, got)
		}
	}
	if got := two.call("counter_increment", map[string]any{"by": 5}); got != "5" {
		t.Errorf("increment of two: got %q, want 5", got)
	}
	if got := one.call("counter_value", nil); got != "3" {
		t.Errorf("value of one: got %q, want 3", got)
	}
	if got := one.call("echo", map[string]any{"message": "hello"}); got != "hello" {
		t.Errorf("echo: got %q, want hello", got)
	}
	if got := server.Sessions(); got != 2 {
		t.Errorf("open sessions: got %d, want 2", got)
	}
}

func TestSessionsThatAreNotOpenAre404(t *testing.T) {
	server, url := serve(t)
	session := connect(t, url)
	id := session.transport.GetSessionId()
	if got := post(t, url, id); got != http.StatusOK {
		t.Errorf("open session: got %d, want 200", got)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Mcp-Session-Id", id)
	if got := do(t, request); got != http.StatusOK {
		t.Errorf("DELETE: got %d, want 200", got)
	}
	for what, id := range map[string]string{"ended": id, "forged": "demo-" + strings.Repeat("A", 26), "of another form": "mcp-session-00000000-0000-0000-0000-000000000000"} {
		if got := post(t, url, id); got != http.StatusNotFound {
			t.Errorf("session %s: got %d, want 404", what, got)
		}
	}
	if got := server.Sessions(); got != 0 {
		t.Errorf("open sessions: got %d, want 0", got)
	}
}

func TestSlowReportsProgressAndCanBeCancelled(t *testing.T) {
	_, url := serve(t)
	session := connect(t, url)
	request := mcp.CallToolRequest{Params: mcp.CallToolParams{
		Name: "slow", Arguments: map[string]any{"steps": 3, "delay_ms": 1}, Meta: &mcp.Meta{ProgressToken: "p"},
	}}
	if _, err := session.CallTool(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	for i := 1; i <= 3; i++ {
		if got := session.next("notifications/progress"); got.Params.AdditionalFields["progress"] != float64(i) {
			t.Errorf("progress %d: got %v", i, got.Params.AdditionalFields)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	request.Params.Arguments = map[string]any{"steps": 1000, "delay_ms": 100}
	done := make(chan error, 1)
	go func() {
		_, err := session.CallTool(ctx, request)
		done <- err
	}()
	session.next("notifications/progress")
	cancel()
	select {
	case err := <-done:
		if err == nil {
			t.Error("cancelled call: got no error")
		}
	case <-time.After(limit):
		t.Fatal("cancelled call goes on")
	}
}

func TestSubscriberHearsOfTheCounter(t *testing.T) {
	_, url := serve(t)
	session := connect(t, url)
	//lint:ignore SA1019 it is what clients of earlier protocol versions do
	if err := session.Subscribe(t.Context(), mcp.SubscribeRequest{Params: mcp.SubscribeParams{URI: counterURI}}); err != nil {
		t.Fatal(err)
	}
	if got := session.resources(); got != "[demo://counter]" {
		t.Errorf("resources before: got %s", got)
	}
	session.call("counter_increment", map[string]any{"by": 10})
	if got := session.next("notifications/resources/updated"); got.Params.AdditionalFields["uri"] != counterURI {
		t.Errorf("updated: got %v, want %s", got.Params.AdditionalFields, counterURI)
	}
	session.next("notifications/resources/list_changed")
	if got := session.resources(); got != "[demo://counter demo://milestone]" {
		t.Errorf("resources after: got %s", got)
	}
	for uri, want := range map[string]string{counterURI: "10", milestoneURI: "This session has counted to 10."} {
		read, err := session.ReadResource(t.Context(), mcp.ReadResourceRequest{Params: mcp.ReadResourceParams{URI: uri}})
		if err != nil {
			t.Fatal(err)
		}
		if content, ok := read.Contents[0].(mcp.TextResourceContents); !ok || content.Text != want {
			t.Errorf("%s: got %v, want %q", uri, read.Contents[0], want)
		}
	}
}

func TestGreetIsAPrompt(t *testing.T) {
	_, url := serve(t)
	session := connect(t, url)
	got, err := session.GetPrompt(t.Context(), mcp.GetPromptRequest{Params: mcp.GetPromptParams{Name: "greet", Arguments: map[string]string{"name": "Ada"}}})
	if err != nil {
		t.Fatal(err)
	}
	if content, ok := got.Messages[0].Content.(mcp.TextContent); !ok || content.Text != "Say hello to Ada." {
		t.Errorf("got %v", got.Messages[0])
	}
}

func TestQuestionsReachTheClient(t *testing.T) {
	_, url := serve(t)
	session := connect(t, url, client.WithSamplingHandler(answers{}), client.WithElicitationHandler(answers{}))
	if got := session.call("ask_sampling", map[string]any{"prompt": "why?"}); got != "the model test said: because of why?" {
		t.Errorf("sampling: got %q", got)
	}
	if got := session.call("ask_elicitation", map[string]any{"message": "your name?"}); got != `the user answered: {"answer":"to your name?"}` {
		t.Errorf("elicitation: got %q", got)
	}
}

func TestQuestionsWithoutTheCapabilityAreToolErrors(t *testing.T) {
	_, url := serve(t)
	session := connect(t, url)
	for tool, argument := range map[string]string{"ask_sampling": "prompt", "ask_elicitation": "message"} {
		result, err := session.CallTool(t.Context(), mcp.CallToolRequest{Params: mcp.CallToolParams{Name: tool, Arguments: map[string]any{argument: "x"}}})
		if err != nil {
			t.Fatal(err)
		}
		if text := result.Content[0].(mcp.TextContent).Text; !result.IsError || !strings.Contains(text, "does not offer") {
			t.Errorf("%s: got error %v with %q, want an error that says what the client does not offer", tool, result.IsError, text)
		}
	}
}

// answers is a client that answers what it is asked.
type answers struct{}

func (answers) CreateMessage(_ context.Context, request mcp.CreateMessageRequest) (*mcp.CreateMessageResult, error) {
	asked, _ := mcp.ParseSamplingContent(request.Messages[0].Content)
	content, _ := asked.(mcp.TextContent)
	return &mcp.CreateMessageResult{
		SamplingMessage: mcp.SamplingMessage{Role: mcp.RoleAssistant, Content: mcp.NewTextContent("because of " + content.Text)},
		Model:           "test",
	}, nil
}

func (answers) Elicit(_ context.Context, request mcp.ElicitationRequest) (*mcp.ElicitationResult, error) {
	return &mcp.ElicitationResult{ElicitationResponse: mcp.ElicitationResponse{
		Action: mcp.ElicitationResponseActionAccept, Content: map[string]any{"answer": "to " + request.Params.Message},
	}}, nil
}

// tester is a client with what it was told.
type tester struct {
	*client.Client
	t         *testing.T
	transport *transport.StreamableHTTP
	heard     chan mcp.JSONRPCNotification
}

func connect(t *testing.T, url string, options ...client.ClientOption) *tester {
	t.Helper()
	httpClient := &http.Client{Transport: &http.Transport{}}
	listening := make(chan struct{}, 1)
	wire, err := transport.NewStreamableHTTP(url,
		//lint:ignore SA1019 it is what clients of earlier protocol versions do
		transport.WithContinuousListening(), transport.WithHTTPLogger(slog.New(slog.DiscardHandler)),
		transport.WithHTTPBasicClient(&http.Client{Transport: tapped{httpClient.Transport, listening}}))
	if err != nil {
		t.Fatal(err)
	}
	c := &tester{
		//lint:ignore SA1019 the demo is for protocol versions with sessions
		Client: client.NewClient(wire, append(options, client.WithLegacyProtocolOnly())...),
		t:      t, transport: wire, heard: make(chan mcp.JSONRPCNotification, 100),
	}
	c.OnNotification(func(notification mcp.JSONRPCNotification) { c.heard <- notification })
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Close()
		httpClient.CloseIdleConnections()
	})
	request := mcp.InitializeRequest{Params: mcp.InitializeParams{ProtocolVersion: "2025-11-25", ClientInfo: mcp.Implementation{Name: "test", Version: "1"}}}
	if _, err := c.Initialize(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	select {
	case <-listening: // what the server asks has a way to get here
	case <-time.After(limit):
		t.Fatal("the client did not open its stream")
	}
	return c
}

// tapped says when a GET was answered.
type tapped struct {
	http.RoundTripper
	listening chan<- struct{}
}

func (t tapped) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := t.RoundTripper.RoundTrip(request)
	if request.Method == http.MethodGet && err == nil {
		select {
		case t.listening <- struct{}{}:
		default:
		}
	}
	return response, err
}

// call calls a tool and returns the text it answered with.
func (c *tester) call(tool string, arguments map[string]any) string {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), limit)
	defer cancel()
	result, err := c.CallTool(ctx, mcp.CallToolRequest{Params: mcp.CallToolParams{Name: tool, Arguments: arguments}})
	if err != nil {
		c.t.Fatalf("%s: %v", tool, err)
	}
	if result.IsError {
		c.t.Fatalf("%s: %v", tool, result.Content)
	}
	return result.Content[0].(mcp.TextContent).Text
}

// next returns the next notification, which must be of that method.
func (c *tester) next(method string) mcp.JSONRPCNotification {
	c.t.Helper()
	select {
	case got := <-c.heard:
		if got.Method != method {
			c.t.Fatalf("notification: got %s, want %s", got.Method, method)
		}
		return got
	case <-time.After(limit):
		c.t.Fatalf("no %s", method)
	}
	panic("unreachable")
}

// resources returns the URIs of the session's resources.
func (c *tester) resources() string {
	c.t.Helper()
	list, err := c.ListResources(c.t.Context(), mcp.ListResourcesRequest{})
	if err != nil {
		c.t.Fatal(err)
	}
	var uris []string
	for _, resource := range list.Resources {
		uris = append(uris, resource.URI)
	}
	slices.Sort(uris)
	return fmt.Sprint(uris)
}

func serve(t *testing.T) (*Server, string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := New("test", hclog.NewNullLogger())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: got %v, want nil after the context's end", err)
		}
		http.DefaultClient.CloseIdleConnections()
	})
	return server, "http://" + listener.Addr().String() + Path
}

func post(t *testing.T, url, session string) int {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url,
		strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"tools/list"}`))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Accept", "application/json, text/event-stream")
	request.Header.Set("Mcp-Session-Id", session)
	return do(t, request)
}

func do(t *testing.T, request *http.Request) int {
	t.Helper()
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	return response.StatusCode
}
