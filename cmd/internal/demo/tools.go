package demo

import (
	"context"
	"encoding/json"
	"strconv"
	"time"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"
)

const (
	maxSteps     = 1000
	maxStepDelay = 10_000 // milliseconds
	// askLimit is how long the client may take to answer a question.
	askLimit = 2 * time.Minute
)

func (s *Server) addTools() {
	s.mcp.AddTools(
		server.ServerTool{
			Tool: mcp.NewTool("echo", mcp.WithDescription("Returns the message."),
				mcp.WithString("message", mcp.Required(), mcp.Description("The text to return."))),
			Handler: echo,
		},
		server.ServerTool{
			Tool: mcp.NewTool("counter_increment", mcp.WithDescription("Adds to this session's counter and returns its new value."),
				mcp.WithNumber("by", mcp.DefaultNumber(1), mcp.Description("How much to add."))),
			Handler: s.increment,
		},
		server.ServerTool{
			Tool:    mcp.NewTool("counter_value", mcp.WithDescription("Returns this session's counter."), mcp.WithReadOnlyHintAnnotation(true)),
			Handler: s.value,
		},
		server.ServerTool{
			Tool: mcp.NewTool("slow", mcp.WithDescription("Works in steps and reports progress after each of them."),
				mcp.WithNumber("steps", mcp.DefaultNumber(5), mcp.Min(1), mcp.Max(maxSteps), mcp.Description("How many steps.")),
				mcp.WithNumber("delay_ms", mcp.DefaultNumber(200), mcp.Min(0), mcp.Max(maxStepDelay), mcp.Description("How long each step takes, in milliseconds."))),
			Handler: slow,
		},
		server.ServerTool{
			Tool: mcp.NewTool("ask_sampling", mcp.WithDescription("Asks the client's model and returns its answer."),
				mcp.WithString("prompt", mcp.Required(), mcp.Description("What to ask the model."))),
			Handler: s.askSampling,
		},
		server.ServerTool{
			Tool: mcp.NewTool("ask_elicitation", mcp.WithDescription("Asks the user for an answer and returns it."),
				mcp.WithString("message", mcp.Required(), mcp.Description("What to ask the user."))),
			Handler: s.askElicitation,
		},
	)
}

func echo(_ context.Context, request mcp.CallToolRequest) (*mcp.CallToolResult, error) {
	message, err := request.RequireString("message")
	if err != nil {
		return mcp.NewToolResultError(err.Error()), nil
	}
	return mcp.NewToolResultText(message), nil
}

func (s *Server) increment(ctx context.Context, request mcp.CallToolRequest) (*mcp.CallToolResult, error) {
	session := s.session(ctx)
	if session == nil {
		return mcp.NewToolResultError("this call has no session; start with initialize"), nil
	}
	by := int64(request.GetInt("by", 1))
	value := session.counter.Add(by)
	if session.subscribed.Load() {
		session.tell(ctx, mcp.MethodNotificationResourceUpdated, map[string]any{"uri": counterURI})
	}
	if value >= milestone && value-by < milestone {
		session.tell(ctx, mcp.MethodNotificationResourcesListChanged, nil)
	}
	return mcp.NewToolResultText(strconv.FormatInt(value, 10)), nil
}

func (s *Server) value(ctx context.Context, _ mcp.CallToolRequest) (*mcp.CallToolResult, error) {
	session := s.session(ctx)
	if session == nil {
		return mcp.NewToolResultError("this call has no session; start with initialize"), nil
	}
	return mcp.NewToolResultText(strconv.FormatInt(session.counter.Load(), 10)), nil
}

func slow(ctx context.Context, request mcp.CallToolRequest) (*mcp.CallToolResult, error) {
	steps, delay := request.GetInt("steps", 5), request.GetInt("delay_ms", 200)
	if steps < 1 || steps > maxSteps || delay < 0 || delay > maxStepDelay {
		return mcp.NewToolResultErrorf("steps must be 1 to %d and delay_ms 0 to %d", maxSteps, maxStepDelay), nil
	}
	tick := time.NewTimer(0)
	defer tick.Stop()
	for step := 1; step <= steps; step++ {
		tick.Reset(time.Duration(delay) * time.Millisecond)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if meta := request.Params.Meta; meta != nil && meta.ProgressToken != nil {
			reply(ctx, string(mcp.MethodNotificationProgress), map[string]any{
				"progressToken": meta.ProgressToken, "progress": step, "total": steps,
				"message": "step " + strconv.Itoa(step) + " of " + strconv.Itoa(steps),
			})
		}
	}
	return mcp.NewToolResultText("did " + strconv.Itoa(steps) + " steps"), nil
}

func (s *Server) askSampling(ctx context.Context, request mcp.CallToolRequest) (*mcp.CallToolResult, error) {
	prompt, err := request.RequireString("prompt")
	if err != nil {
		return mcp.NewToolResultError(err.Error()), nil
	}
	if !s.clientHas(ctx, func(c *mcp.ClientCapabilities) bool { return c.Sampling != nil }) {
		return mcp.NewToolResultError("the client does not offer sampling: it did not name that capability at initialize"), nil
	}
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	//lint:ignore SA1019 deprecated from protocol 2026-07-28 on; this server shows what clients of earlier versions do
	answer, err := s.mcp.RequestSampling(ctx, mcp.CreateMessageRequest{CreateMessageParams: mcp.CreateMessageParams{
		Messages:  []mcp.SamplingMessage{{Role: mcp.RoleUser, Content: mcp.NewTextContent(prompt)}},
		MaxTokens: 200,
	}})
	if err != nil {
		return mcp.NewToolResultError("sampling failed: " + err.Error()), nil
	}
	if text, ok := answer.Content.(mcp.TextContent); ok {
		return mcp.NewToolResultText("the model " + answer.Model + " said: " + text.Text), nil
	}
	return mcp.NewToolResultText("the model " + answer.Model + " answered with something else than text"), nil
}

func (s *Server) askElicitation(ctx context.Context, request mcp.CallToolRequest) (*mcp.CallToolResult, error) {
	message, err := request.RequireString("message")
	if err != nil {
		return mcp.NewToolResultError(err.Error()), nil
	}
	if !s.clientHas(ctx, func(c *mcp.ClientCapabilities) bool { return c.Elicitation != nil }) {
		return mcp.NewToolResultError("the client does not offer elicitation: it did not name that capability at initialize"), nil
	}
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	answer, err := s.mcp.RequestElicitation(ctx, mcp.ElicitationRequest{Params: mcp.ElicitationParams{
		Message: message,
		RequestedSchema: map[string]any{
			"type":       "object",
			"properties": map[string]any{"answer": map[string]any{"type": "string", "description": "Your answer."}},
			"required":   []string{"answer"},
		},
	}})
	if err != nil {
		return mcp.NewToolResultError("elicitation failed: " + err.Error()), nil
	}
	if answer.Action != mcp.ElicitationResponseActionAccept {
		return mcp.NewToolResultText("the user chose to " + string(answer.Action)), nil
	}
	content, err := json.Marshal(answer.Content)
	if err != nil {
		return nil, err
	}
	return mcp.NewToolResultText("the user answered: " + string(content)), nil
}

// clientHas reports whether the client of this session named a capability. The
// server remembers what it said at initialize: mcp-go's own record of it belongs
// to a connection and can be another one than this call's.
func (s *Server) clientHas(ctx context.Context, has func(*mcp.ClientCapabilities) bool) bool {
	session := s.session(ctx)
	if session == nil {
		return false
	}
	capabilities := session.capabilities.Load()
	return capabilities != nil && has(capabilities)
}
