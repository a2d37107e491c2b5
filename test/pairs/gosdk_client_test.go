package pairs

//lint:file-ignore SA1019 sampling and the like are part of the protocol versions that have sessions

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"sync"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// goSDKSession is a session of go-sdk's client.
type goSDKSession struct {
	*mcp.ClientSession
	client  *mcp.Client
	updated chan string
	told    told
	stop    context.CancelFunc // ends what the client does beside its calls

	mu       sync.Mutex        // guards all below
	progress map[string]func() // by token
	next     int
}

// connectGoSDK connects go-sdk's client.
func connectGoSDK(ctx context.Context, to target) (session, greeting, error) {
	s := &goSDKSession{updated: make(chan string, updates), progress: map[string]func(){}}
	capabilities := &mcp.ClientCapabilities{}
	if to.Roots {
		capabilities.RootsV2 = &mcp.RootCapabilities{ListChanged: true}
	}
	s.client = mcp.NewClient(&mcp.Implementation{Name: "pairs", Version: "1"}, &mcp.ClientOptions{
		Capabilities: capabilities,
		CreateMessageHandler: func(context.Context, *mcp.CreateMessageRequest) (*mcp.CreateMessageResult, error) {
			return &mcp.CreateMessageResult{Model: "m", Role: "assistant", Content: &mcp.TextContent{Text: "sampled by pairs"}}, nil
		},
		ElicitationHandler: func(context.Context, *mcp.ElicitRequest) (*mcp.ElicitResult, error) {
			return &mcp.ElicitResult{Action: "accept", Content: map[string]any{"name": "Ada"}}, nil
		},
		ResourceUpdatedHandler: func(_ context.Context, r *mcp.ResourceUpdatedNotificationRequest) {
			heard(s.updated, r.Params.URI)
			s.told.add("updated " + r.Params.URI)
		},
		ToolListChangedHandler: func(context.Context, *mcp.ToolListChangedRequest) { s.told.add("tools changed") },
		LoggingMessageHandler: func(_ context.Context, r *mcp.LoggingMessageRequest) {
			s.told.add(fmt.Sprint("log ", r.Params.Data))
		},
		ProgressNotificationHandler: func(_ context.Context, r *mcp.ProgressNotificationClientRequest) {
			s.mu.Lock()
			report := s.progress[fmt.Sprint(r.Params.ProgressToken)]
			s.mu.Unlock()
			if report != nil {
				report()
			}
		},
	})
	var transport mcp.Transport
	switch to.Kind {
	case "http":
		transport = &mcp.StreamableClientTransport{Endpoint: to.URL}
	case "sse":
		transport = &mcp.SSEClientTransport{Endpoint: to.URL}
	default:
		transport = &mcp.CommandTransport{Command: exec.Command(to.Command, to.Args...)}
	}
	var running context.Context
	running, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	undo := context.AfterFunc(ctx, s.stop)
	var err error
	s.ClientSession, err = s.client.Connect(running, transport, nil)
	if undo(); err != nil {
		s.stop()
		return nil, greeting{}, err
	}
	result := s.InitializeResult()
	return s, greeting{result.ProtocolVersion, result.ServerInfo.Name, s.ID()}, nil
}

// List implements session.
func (s *goSDKSession) List(ctx context.Context, kind string) (names []string, err error) {
	switch kind {
	case "tools":
		for tool, failure := range s.Tools(ctx, nil) {
			if failure != nil {
				return nil, failure
			}
			names = append(names, tool.Name)
		}
	case "prompts":
		for prompt, failure := range s.Prompts(ctx, nil) {
			if failure != nil {
				return nil, failure
			}
			names = append(names, prompt.Name)
		}
	default:
		for resource, failure := range s.Resources(ctx, nil) {
			if failure != nil {
				return nil, failure
			}
			names = append(names, resource.URI)
		}
	}
	return names, nil
}

// Call implements session.
func (s *goSDKSession) Call(ctx context.Context, name string, args map[string]any, progress func()) (string, error) {
	params := &mcp.CallToolParams{Name: name, Arguments: args}
	if progress != nil {
		s.mu.Lock()
		s.next++
		token := fmt.Sprint("p", s.next)
		s.progress[token] = progress
		s.mu.Unlock()
		params.SetProgressToken(token)
	}
	result, err := s.CallTool(ctx, params)
	if err != nil {
		return "", err
	}
	var texts []string
	for _, content := range result.Content {
		if text, ok := content.(*mcp.TextContent); ok {
			texts = append(texts, text.Text)
		}
	}
	return strings.Join(texts, "\n"), nil
}

// Subscribe implements session.
func (s *goSDKSession) Subscribe(ctx context.Context, uri string) error {
	return s.ClientSession.Subscribe(ctx, &mcp.SubscribeParams{URI: uri})
}

// Updated implements session.
func (s *goSDKSession) Updated() <-chan string { return s.updated }

// Close implements session.
func (s *goSDKSession) Close(context.Context) error {
	defer s.stop()
	return s.ClientSession.Close()
}

// Prompt implements wholeSession.
func (s *goSDKSession) Prompt(ctx context.Context, name string) (string, error) {
	result, err := s.GetPrompt(ctx, &mcp.GetPromptParams{Name: name})
	if err != nil {
		return "", err
	}
	var texts []string
	for _, message := range result.Messages {
		if text, ok := message.Content.(*mcp.TextContent); ok {
			texts = append(texts, text.Text)
		}
	}
	return strings.Join(texts, "\n"), nil
}

// Read implements wholeSession.
func (s *goSDKSession) Read(ctx context.Context, uri string) (uris []string, err error) {
	result, err := s.ReadResource(ctx, &mcp.ReadResourceParams{URI: uri})
	if err != nil {
		return nil, err
	}
	for _, contents := range result.Contents {
		uris = append(uris, contents.URI)
	}
	return uris, nil
}

// Complete implements wholeSession.
func (s *goSDKSession) Complete(ctx context.Context, prompt, argument, value string) ([]string, error) {
	result, err := s.ClientSession.Complete(ctx, &mcp.CompleteParams{
		Ref:      &mcp.CompleteReference{Type: "ref/prompt", Name: prompt},
		Argument: mcp.CompleteParamsArgument{Name: argument, Value: value},
	})
	if err != nil {
		return nil, err
	}
	return result.Completion.Values, nil
}

// Level implements wholeSession.
func (s *goSDKSession) Level(ctx context.Context, level string) error {
	return s.SetLoggingLevel(ctx, &mcp.SetLoggingLevelParams{Level: mcp.LoggingLevel(level)})
}

// Roots implements wholeSession.
func (s *goSDKSession) Roots(_ context.Context, uri string) error {
	s.client.AddRoots(&mcp.Root{URI: uri})
	return nil
}

// Told implements wholeSession.
func (s *goSDKSession) Told() *told { return &s.told }
