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
	told    told
	roots   *mcpGoRoots
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

// mcpGoRoots are the client's roots.
type mcpGoRoots struct {
	mu  sync.Mutex // guards all below
	uri string
}

// ListRoots implements client.RootsHandler.
func (r *mcpGoRoots) ListRoots(context.Context, mcp.ListRootsRequest) (*mcp.ListRootsResult, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return &mcp.ListRootsResult{Roots: []mcp.Root{{URI: r.uri}}}, nil
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
	s := &mcpGoSession{roots: &mcpGoRoots{uri: "file:///none"}, updated: make(chan string, updates), progress: map[string]func(){}}
	if to.Roots {
		options = append(options, client.WithRootsHandler(s.roots))
	}
	s.Client = client.NewClient(over, options...)
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
		s.told.add(fmt.Sprint("updated ", fields["uri"]))
	case "notifications/tools/list_changed":
		s.told.add("tools changed")
	case "notifications/message":
		s.told.add(fmt.Sprint("log ", fields["data"]))
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

// Prompt implements wholeSession.
func (s *mcpGoSession) Prompt(ctx context.Context, name string) (string, error) {
	var request mcp.GetPromptRequest
	request.Params.Name = name
	result, err := s.GetPrompt(ctx, request)
	if err != nil {
		return "", err
	}
	var texts []string
	for _, message := range result.Messages {
		texts = append(texts, mcp.GetTextFromContent(message.Content))
	}
	return strings.Join(texts, "\n"), nil
}

// Read implements wholeSession.
func (s *mcpGoSession) Read(ctx context.Context, uri string) (uris []string, err error) {
	var request mcp.ReadResourceRequest
	request.Params.URI = uri
	result, err := s.ReadResource(ctx, request)
	if err != nil {
		return nil, err
	}
	for _, contents := range result.Contents {
		if text, ok := contents.(mcp.TextResourceContents); ok {
			uris = append(uris, text.URI)
		}
	}
	return uris, nil
}

// Complete implements wholeSession.
func (s *mcpGoSession) Complete(ctx context.Context, prompt, argument, value string) ([]string, error) {
	var request mcp.CompleteRequest
	request.Params.Ref = mcp.PromptReference{Type: "ref/prompt", Name: prompt}
	request.Params.Argument = mcp.CompleteArgument{Name: argument, Value: value}
	result, err := s.Client.Complete(ctx, request)
	if err != nil {
		return nil, err
	}
	return result.Completion.Values, nil
}

// Level implements wholeSession.
func (s *mcpGoSession) Level(ctx context.Context, level string) error {
	var request mcp.SetLevelRequest
	request.Params.Level = mcp.LoggingLevel(level)
	return s.SetLevel(ctx, request)
}

// Roots implements wholeSession.
func (s *mcpGoSession) Roots(ctx context.Context, uri string) error {
	s.roots.mu.Lock()
	s.roots.uri = uri
	s.roots.mu.Unlock()
	return s.RootListChanges(ctx)
}

// Told implements wholeSession.
func (s *mcpGoSession) Told() *told { return &s.told }
