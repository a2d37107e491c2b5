package pairs

//lint:file-ignore SA1019 sampling and the like are part of the protocol versions that have sessions

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// goSDKHandler is a server of go-sdk with a store of events. Each session has a
// server of its own, and so a state of its own.
func goSDKHandler() http.Handler {
	return mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return goSDKServer() },
		&mcp.StreamableHTTPOptions{EventStore: mcp.NewMemoryEventStore(nil)})
}

// goSDKTool is a tool that returns a text.
type goSDKTool func(ctx context.Context, r *mcp.CallToolRequest) (string, error)

// goSDKServer makes the server of one session.
func goSDKServer() *mcp.Server {
	s := mcp.NewServer(&mcp.Implementation{Name: "go-sdk", Version: "1"}, &mcp.ServerOptions{
		SubscribeHandler:   func(context.Context, *mcp.SubscribeRequest) error { return nil },
		UnsubscribeHandler: func(context.Context, *mcp.UnsubscribeRequest) error { return nil },
	})
	var counted, cancelled, grown atomic.Int64
	tools := map[string]goSDKTool{
		toolPlain:    goSDKPlain,
		toolProgress: goSDKProgress,
		toolSampling: goSDKSampling,
		toolElicit:   goSDKElicit,
		toolLog:      goSDKLog,
		toolTouch: func(ctx context.Context, _ *mcp.CallToolRequest) (string, error) {
			return "touched", s.ResourceUpdated(ctx, &mcp.ResourceUpdatedNotificationParams{URI: note})
		},
		toolLong: func(ctx context.Context, r *mcp.CallToolRequest) (string, error) {
			if err := goSDKReport(ctx, r, 1); err != nil {
				return "", err
			}
			<-ctx.Done()
			cancelled.Add(1)
			return "", ctx.Err()
		},
		toolCancelled: func(context.Context, *mcp.CallToolRequest) (string, error) {
			return fmt.Sprintf("cancelled: %d", cancelled.Load()), nil
		},
		toolSlow:   goSDKSlow(slowness),
		toolSlower: goSDKSlow(greatSlowness),
		toolCount: func(_ context.Context, r *mcp.CallToolRequest) (string, error) {
			return fmt.Sprintf("count %d of %s", counted.Add(1), r.Session.ID()), nil
		},
	}
	tools[toolGrow] = func(context.Context, *mcp.CallToolRequest) (string, error) {
		name := fmt.Sprint("grown-", grown.Add(1))
		more := goSDKTool(func(context.Context, *mcp.CallToolRequest) (string, error) { return name, nil })
		s.AddTool(&mcp.Tool{Name: name, InputSchema: json.RawMessage(`{"type":"object"}`)}, more.handle)
		return name, nil
	}
	for name, tool := range tools {
		s.AddTool(&mcp.Tool{Name: name, InputSchema: json.RawMessage(`{"type":"object"}`)}, tool.handle)
	}
	s.AddPrompt(&mcp.Prompt{Name: "greet"}, func(context.Context, *mcp.GetPromptRequest) (*mcp.GetPromptResult, error) {
		return &mcp.GetPromptResult{Messages: []*mcp.PromptMessage{{Role: "user", Content: &mcp.TextContent{Text: "hello"}}}}, nil
	})
	s.AddResource(&mcp.Resource{Name: "note", URI: note}, func(context.Context, *mcp.ReadResourceRequest) (*mcp.ReadResourceResult, error) {
		return &mcp.ReadResourceResult{Contents: []*mcp.ResourceContents{{URI: note, Text: "a note"}}}, nil
	})
	s.AddResource(&mcp.Resource{Name: "own", URI: ownNote}, func(context.Context, *mcp.ReadResourceRequest) (*mcp.ReadResourceResult, error) {
		return &mcp.ReadResourceResult{Contents: []*mcp.ResourceContents{{URI: ownNote, Text: "a note that no other server has"}}}, nil
	})
	return s
}

// handle implements mcp.ToolHandler.
func (tool goSDKTool) handle(ctx context.Context, r *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
	text, err := tool(ctx, r)
	if err != nil {
		return nil, err
	}
	return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: text}}}, nil
}

// goSDKReport reports progress if the client asked for it.
func goSDKReport(ctx context.Context, r *mcp.CallToolRequest, step int) error {
	token := r.Params.GetProgressToken()
	if token == nil {
		return nil
	}
	return r.Session.NotifyProgress(ctx, &mcp.ProgressNotificationParams{ProgressToken: token, Progress: float64(step), Total: 5})
}

// goSDKLog logs something that is no warning, and something that is one.
func goSDKLog(ctx context.Context, r *mcp.CallToolRequest) (string, error) {
	for _, one := range []mcp.LoggingMessageParams{{Level: "info", Data: quiet}, {Level: "warning", Data: loud}} {
		if err := r.Session.Log(ctx, &one); err != nil {
			return "", err
		}
	}
	return "logged", nil
}

// goSDKSlow takes its time. It does not mind being cancelled.
func goSDKSlow(long time.Duration) goSDKTool {
	return func(ctx context.Context, r *mcp.CallToolRequest) (string, error) {
		if err := goSDKReport(ctx, r, 1); err != nil {
			return "", err
		}
		<-time.After(long)
		return "slow is done", nil
	}
}

// goSDKPlain returns its argument.
func goSDKPlain(_ context.Context, r *mcp.CallToolRequest) (string, error) {
	var args struct {
		Text string `json:"text"`
	}
	err := json.Unmarshal(r.Params.Arguments, &args)
	return args.Text, err
}

// goSDKProgress reports progress.
func goSDKProgress(ctx context.Context, r *mcp.CallToolRequest) (string, error) {
	for step := range 5 {
		if err := goSDKReport(ctx, r, step+1); err != nil {
			return "", err
		}
	}
	return "all reported", nil
}

// goSDKSampling asks the client for a message.
func goSDKSampling(ctx context.Context, r *mcp.CallToolRequest) (string, error) {
	result, err := r.Session.CreateMessage(ctx, &mcp.CreateMessageParams{MaxTokens: 7, Messages: []*mcp.SamplingMessage{
		{Role: "user", Content: &mcp.TextContent{Text: "say something"}},
	}})
	if err != nil {
		return "", err
	}
	text, ok := result.Content.(*mcp.TextContent)
	if !ok {
		return "", fmt.Errorf("sampled %T", result.Content)
	}
	return text.Text, nil
}

// goSDKElicit asks the client's user for a name.
func goSDKElicit(ctx context.Context, r *mcp.CallToolRequest) (string, error) {
	result, err := r.Session.Elicit(ctx, &mcp.ElicitParams{
		Message:         "who are you?",
		RequestedSchema: json.RawMessage(`{"type":"object","properties":{"name":{"type":"string"}}}`),
	})
	if err != nil {
		return "", err
	}
	return fmt.Sprint(result.Action, ": ", result.Content["name"]), nil
}
