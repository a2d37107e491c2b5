package pairs

//lint:file-ignore SA1019 sampling and the like are part of the protocol versions that have sessions

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/mark3labs/mcp-go/client"
	"github.com/mark3labs/mcp-go/client/transport"
	"github.com/mark3labs/mcp-go/mcp"
)

// mcpGoSession is a session of mcp-go's client.
type mcpGoSession struct {
	*client.Client
	updated chan string
	stop    context.CancelFunc // ends what the client does beside its calls

	mu       sync.Mutex        // guards all below
	progress map[string]func() // by token
	next     int
}

// mcpGoAnswers answers what servers ask.
type mcpGoAnswers struct{}

// CreateMessage implements client.SamplingHandler.
func (mcpGoAnswers) CreateMessage(context.Context, mcp.CreateMessageRequest) (*mcp.CreateMessageResult, error) {
	return &mcp.CreateMessageResult{Model: "m", SamplingMessage: mcp.SamplingMessage{
		Role: mcp.RoleAssistant, Content: mcp.NewTextContent("sampled by pairs"),
	}}, nil
}

// Elicit implements client.ElicitationHandler.
func (mcpGoAnswers) Elicit(context.Context, mcp.ElicitationRequest) (*mcp.ElicitationResult, error) {
	return &mcp.ElicitationResult{ElicitationResponse: mcp.ElicitationResponse{
		Action: mcp.ElicitationResponseActionAccept, Content: map[string]any{"name": "Ada"},
	}}, nil
}

// mcpGoTransport makes mcp-go's transport to a server.
func mcpGoTransport(to target) (transport.Interface, error) {
	switch to.Kind {
	case "http":
		// Only a client that listens hears what a server says unasked; it keeps to
		// versions that have sessions.
		return transport.NewStreamableHTTP(to.URL, transport.WithContinuousListening())
	case "sse":
		return transport.NewSSE(to.URL)
	default:
		return transport.NewStdio(to.Command, nil, to.Args...), nil
	}
}

// connectMCPGo connects mcp-go's client.
func connectMCPGo(ctx context.Context, to target) (session, greeting, error) {
	over, err := mcpGoTransport(to)
	if err != nil {
		return nil, greeting{}, err
	}
	options := []client.ClientOption{client.WithSamplingHandler(mcpGoAnswers{}), client.WithElicitationHandler(mcpGoAnswers{})}
	if to.legacy {
		options = append(options, client.WithLegacyProtocolOnly())
	}
	s := &mcpGoSession{Client: client.NewClient(over, options...), updated: make(chan string, updates), progress: map[string]func(){}}
	s.OnNotification(s.notified)
	var running context.Context
	running, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	if err := s.Start(running); err != nil {
		s.stop()
		return nil, greeting{}, err
	}
	var request mcp.InitializeRequest
	request.Params.ClientInfo = mcp.Implementation{Name: "pairs", Version: "1"}
	result, err := s.Initialize(ctx, request)
	if err != nil {
		s.Client.Close()
		s.stop()
		return nil, greeting{}, err
	}
	return s, greeting{result.ProtocolVersion, result.ServerInfo.Name, s.GetSessionId()}, nil
}

// notified is called for every notification.
func (s *mcpGoSession) notified(n mcp.JSONRPCNotification) {
	fields := n.Params.AdditionalFields
	switch n.Method {
	case "notifications/resources/updated":
		heard(s.updated, fmt.Sprint(fields["uri"]))
	case "notifications/progress":
		s.mu.Lock()
		report := s.progress[fmt.Sprint(fields["progressToken"])]
		s.mu.Unlock()
		if report != nil {
			report()
		}
	}
}

// List implements session.
func (s *mcpGoSession) List(ctx context.Context, kind string) (names []string, err error) {
	switch kind {
	case "tools":
		result, err := s.ListTools(ctx, mcp.ListToolsRequest{})
		if err != nil {
			return nil, err
		}
		for _, tool := range result.Tools {
			names = append(names, tool.Name)
		}
	case "prompts":
		result, err := s.ListPrompts(ctx, mcp.ListPromptsRequest{})
		if err != nil {
			return nil, err
		}
		for _, prompt := range result.Prompts {
			names = append(names, prompt.Name)
		}
	default:
		result, err := s.ListResources(ctx, mcp.ListResourcesRequest{})
		if err != nil {
			return nil, err
		}
		for _, resource := range result.Resources {
			names = append(names, resource.URI)
		}
	}
	return names, nil
}

// Call implements session.
func (s *mcpGoSession) Call(ctx context.Context, name string, args map[string]any, progress func()) (string, error) {
	var request mcp.CallToolRequest
	request.Params.Name, request.Params.Arguments = name, args
	if progress != nil {
		s.mu.Lock()
		s.next++
		token := fmt.Sprint("p", s.next)
		s.progress[token] = progress
		s.mu.Unlock()
		request.Params.Meta = &mcp.Meta{ProgressToken: token}
	}
	result, err := s.CallTool(ctx, request)
	if err != nil {
		return "", err
	}
	var texts []string
	for _, content := range result.Content {
		if text, ok := content.(mcp.TextContent); ok {
			texts = append(texts, text.Text)
		}
	}
	return strings.Join(texts, "\n"), nil
}

// Subscribe implements session.
func (s *mcpGoSession) Subscribe(ctx context.Context, uri string) error {
	var request mcp.SubscribeRequest
	request.Params.URI = uri
	return s.Client.Subscribe(ctx, request)
}

// Updated implements session.
func (s *mcpGoSession) Updated() <-chan string { return s.updated }

// Close implements session.
func (s *mcpGoSession) Close(context.Context) error {
	defer s.stop()
	return s.Client.Close()
}
