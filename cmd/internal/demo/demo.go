// Package demo is a small MCP server to try Leasehold with. It keeps state for
// each session, so that a request which reaches the wrong session, or a session
// which was silently replaced, can be seen at once.
//
// Tools: echo, counter_increment, counter_value, slow (progress, can be
// cancelled), ask_sampling and ask_elicitation (ask the client something).
// Resources: demo://counter, which changes with the counter and tells those who
// subscribed, and demo://milestone, which appears when the counter reaches ten.
// Prompt: greet.
package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"

	"github.com/leasehold/leasehold/cmd/internal/logs"
)

// Path is where the server answers.
const Path = "/mcp"

// idleLimit is after how long without use a session is forgotten that nobody
// ended. It is longer than any client session of a gateway lives by default.
const idleLimit = 25 * time.Hour

// Server is the demo upstream. Make one with New.
type Server struct {
	mcp      *server.MCPServer
	http     *server.StreamableHTTPServer
	sessions *sessions
	logger   hclog.Logger
}

// New returns a server that logs to logger. It holds a goroutine until Run
// returns, or Close is called.
func New(version string, logger hclog.Logger) *Server {
	s := &Server{sessions: newSessions(), logger: logger}
	hooks := &server.Hooks{}
	hooks.AddAfterInitialize(s.initialized)
	hooks.AddAfterSubscribe(func(ctx context.Context, _ any, request *mcp.SubscribeRequest, _ *mcp.EmptyResult) {
		s.subscribe(ctx, request.Params.URI, true)
	})
	hooks.AddAfterUnsubscribe(func(ctx context.Context, _ any, request *mcp.UnsubscribeRequest, _ *mcp.EmptyResult) {
		s.subscribe(ctx, request.Params.URI, false)
	})
	hooks.AddAfterListResources(s.listed)
	s.mcp = server.NewMCPServer("leasehold-demo", version,
		server.WithToolCapabilities(true),
		server.WithResourceCapabilities(true, true),
		server.WithPromptCapabilities(true),
		server.WithElicitation(),
		server.WithRecovery(),
		server.WithHooks(hooks),
		server.WithInstructions("A demo: every session has a counter of its own."),
	)
	s.mcp.EnableSampling()
	s.addTools()
	s.addResources()
	s.addPrompts()
	s.http = server.NewStreamableHTTPServer(s.mcp,
		server.WithEndpointPath(Path),
		server.WithSessionIdManager(s.sessions),
		server.WithSessionIdleTTL(idleLimit),
		server.WithStreamableHTTPLogger(logs.Slog(logger)),
	)
	return s
}

// Sessions returns how many sessions are open.
func (s *Server) Sessions() int { return s.sessions.count() }

// Handler serves MCP at Path.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle(Path, s.withStreams(s.http))
	return mux
}

// Run serves on listener, which it closes, until ctx ends. Then it ends all
// sessions and returns within two seconds.
func (s *Server) Run(ctx context.Context, listener net.Listener) error {
	httpServer := &http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          s.logger.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		s.Close()
		if httpServer.Shutdown(limit) != nil {
			_ = httpServer.Close()
		}
	})
	err := httpServer.Serve(listener)
	if !stop() {
		<-stopped
	}
	s.Close()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve demo upstream: %w", err)
}

// Close ends all sessions and the goroutine of New.
func (s *Server) Close() {
	_ = s.http.Shutdown(context.Background()) // has no listener of its own: only ends sessions
}

func (s *Server) initialized(ctx context.Context, _ any, request *mcp.InitializeRequest, _ *mcp.InitializeResult) {
	if session := s.session(ctx); session != nil {
		session.capabilities.Store(&request.Params.Capabilities)
	}
}

// session returns the state of the session that ctx belongs to, or nil when it
// has ended.
func (s *Server) session(ctx context.Context) *session {
	client := server.ClientSessionFromContext(ctx)
	if client == nil {
		return nil
	}
	return s.sessions.get(client.SessionID())
}
