package pairs

//lint:file-ignore SA1019 sampling and the like are part of the protocol versions that have sessions

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"
)

// mcpGoServer is a server of mcp-go with a store of events.
type mcpGoServer struct {
	*server.MCPServer

	mu         sync.Mutex // guards all below
	counted    map[string]int
	cancelled  map[string]int
	subscribed map[string]bool
}

// mcpGoHandler is a server of mcp-go that has sessions.
func mcpGoHandler() http.Handler {
	s := &mcpGoServer{counted: map[string]int{}, cancelled: map[string]int{}, subscribed: map[string]bool{}}
	hooks := &server.Hooks{}
	hooks.AddAfterSubscribe(func(ctx context.Context, _ any, _ *mcp.SubscribeRequest, _ *mcp.EmptyResult) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.subscribed[mcpGoID(ctx)] = true
	})
	s.MCPServer = server.NewMCPServer("mcp-go", "1",
		server.WithToolCapabilities(true), server.WithPromptCapabilities(true), server.WithResourceCapabilities(true, true),
		server.WithElicitation(), server.WithHooks(hooks))
	s.EnableSampling()
	s.offer()
	return server.NewStreamableHTTPServer(s.MCPServer, server.WithStateful(true), server.WithEventStore(server.NewInMemoryEventStore()),
		server.WithStreamableHTTPProtocolVersions(mcp.ProtocolVersion20251125, mcp.ProtocolVersion20250618))
}

// mcpGoID is the id of the session that a request belongs to.
func mcpGoID(ctx context.Context) string { return server.ClientSessionFromContext(ctx).SessionID() }

// mcpGoTool is a tool that returns a text.
type mcpGoTool func(ctx context.Context, r mcp.CallToolRequest) (string, error)

// offer adds all that the server offers.
func (s *mcpGoServer) offer() {
	tools := map[string]mcpGoTool{
		toolPlain: func(_ context.Context, r mcp.CallToolRequest) (string, error) {
			return r.GetString("text", ""), nil
		},
		toolProgress:  s.progress,
		toolSampling:  s.sample,
		toolElicit:    s.elicit,
		toolTouch:     s.touch,
		toolLong:      s.long,
		toolSlow:      s.slow(slowness),
		toolSlower:    s.slow(greatSlowness),
		toolCount:     s.count,
		toolCancelled: s.cancellations,
	}
	for name, tool := range tools {
		s.AddTool(mcp.NewTool(name), func(ctx context.Context, r mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			text, err := tool(ctx, r)
			if err != nil {
				return nil, err
			}
			return mcp.NewToolResultText(text), nil
		})
	}
	s.AddPrompt(mcp.NewPrompt("greet"), func(context.Context, mcp.GetPromptRequest) (*mcp.GetPromptResult, error) {
		return &mcp.GetPromptResult{Messages: []mcp.PromptMessage{{Role: mcp.RoleUser, Content: mcp.NewTextContent("hello")}}}, nil
	})
	s.AddResource(mcp.NewResource(note, "note"), func(context.Context, mcp.ReadResourceRequest) ([]mcp.ResourceContents, error) {
		return []mcp.ResourceContents{mcp.TextResourceContents{URI: note, Text: "a note"}}, nil
	})
}

// report reports progress if the client asked for it.
func (s *mcpGoServer) report(ctx context.Context, r mcp.CallToolRequest, step int) error {
	if r.Params.Meta == nil || r.Params.Meta.ProgressToken == nil {
		return nil
	}
	return s.SendNotificationToClient(ctx, "notifications/progress", map[string]any{
		"progressToken": r.Params.Meta.ProgressToken, "progress": step, "total": 5,
	})
}

// progress reports progress. What it reports may go out on any of the session's
// streams, so that it waits a little for it to arrive before its result does.
func (s *mcpGoServer) progress(ctx context.Context, r mcp.CallToolRequest) (string, error) {
	for step := range 5 {
		if err := s.report(ctx, r, step+1); err != nil {
			return "", err
		}
	}
	<-time.After(slowness)
	return "all reported", nil
}

// sample asks the client for a message.
func (s *mcpGoServer) sample(ctx context.Context, _ mcp.CallToolRequest) (string, error) {
	result, err := s.RequestSampling(ctx, mcp.CreateMessageRequest{CreateMessageParams: mcp.CreateMessageParams{
		MaxTokens: 7, Messages: []mcp.SamplingMessage{{Role: mcp.RoleUser, Content: mcp.NewTextContent("say something")}},
	}})
	if err != nil {
		return "", err
	}
	return mcp.GetTextFromContent(result.Content), nil
}

// elicit asks the client's user for a name.
func (s *mcpGoServer) elicit(ctx context.Context, _ mcp.CallToolRequest) (string, error) {
	result, err := s.RequestElicitation(ctx, mcp.ElicitationRequest{Params: mcp.ElicitationParams{
		Message: "who are you?",
		RequestedSchema: map[string]any{
			"type": "object", "properties": map[string]any{"name": map[string]any{"type": "string"}},
		},
	}})
	if err != nil {
		return "", err
	}
	return fmt.Sprint(result.Action, ": ", result.Content), nil
}

// touch updates the resource.
func (s *mcpGoServer) touch(ctx context.Context, _ mcp.CallToolRequest) (string, error) {
	s.mu.Lock()
	subscribed := s.subscribed[mcpGoID(ctx)]
	s.mu.Unlock()
	if !subscribed {
		return "nobody has subscribed", nil
	}
	return "touched", s.SendNotificationToClient(ctx, "notifications/resources/updated", map[string]any{"uri": note})
}

// long goes on until it is cancelled.
func (s *mcpGoServer) long(ctx context.Context, r mcp.CallToolRequest) (string, error) {
	if err := s.report(ctx, r, 1); err != nil {
		return "", err
	}
	<-ctx.Done()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cancelled[mcpGoID(ctx)]++
	return "", ctx.Err()
}

// cancellations says how many calls were cancelled.
func (s *mcpGoServer) cancellations(ctx context.Context, _ mcp.CallToolRequest) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fmt.Sprintf("cancelled: %d", s.cancelled[mcpGoID(ctx)]), nil
}

// slow takes its time. Of all that it could say first, only this request goes out
// on the stream of the call for certain. It does not mind if that stream breaks.
func (s *mcpGoServer) slow(long time.Duration) mcpGoTool {
	return func(ctx context.Context, r mcp.CallToolRequest) (string, error) {
		if _, err := s.elicit(context.WithoutCancel(ctx), r); err != nil {
			return "", err
		}
		<-time.After(long)
		return "slow is done", nil
	}
}

// count counts the calls in a session.
func (s *mcpGoServer) count(ctx context.Context, _ mcp.CallToolRequest) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := mcpGoID(ctx)
	s.counted[id]++
	return fmt.Sprintf("count %d of %s", s.counted[id], id), nil
}
