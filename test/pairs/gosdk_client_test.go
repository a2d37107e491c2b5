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
	updated chan string
	stop    context.CancelFunc // ends what the client does beside its calls

	mu       sync.Mutex        // guards all below
	progress map[string]func() // by token
	next     int
}

// connectGoSDK connects go-sdk's client.
func connectGoSDK(ctx context.Context, to target) (session, greeting, error) {
	s := &goSDKSession{updated: make(chan string, updates), progress: map[string]func(){}}
	client := mcp.NewClient(&mcp.Implementation{Name: "pairs", Version: "1"}, &mcp.ClientOptions{
		Capabilities: &mcp.ClientCapabilities{},
		CreateMessageHandler: func(context.Context, *mcp.CreateMessageRequest) (*mcp.CreateMessageResult, error) {
			return &mcp.CreateMessageResult{Model: "m", Role: "assistant", Content: &mcp.TextContent{Text: "sampled by pairs"}}, nil
		},
		ElicitationHandler: func(context.Context, *mcp.ElicitRequest) (*mcp.ElicitResult, error) {
			return &mcp.ElicitResult{Action: "accept", Content: map[string]any{"name": "Ada"}}, nil
		},
		ResourceUpdatedHandler: func(_ context.Context, r *mcp.ResourceUpdatedNotificationRequest) {
			heard(s.updated, r.Params.URI)
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
	s.ClientSession, err = client.Connect(running, transport, nil)
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
