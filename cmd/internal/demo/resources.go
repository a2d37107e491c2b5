package demo

import (
	"context"
	"fmt"
	"slices"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"
)

const (
	counterURI   = "demo://counter"
	milestoneURI = "demo://milestone"
	// milestone is the counter value at which the milestone appears.
	milestone = 10
)

func (s *Server) addResources() {
	s.mcp.AddResource(
		mcp.NewResource(counterURI, "counter", mcp.WithMIMEType("text/plain"),
			mcp.WithResourceDescription("This session's counter. Subscribe to hear of changes.")),
		func(ctx context.Context, request mcp.ReadResourceRequest) ([]mcp.ResourceContents, error) {
			session := s.session(ctx)
			if session == nil {
				return nil, errUnknown
			}
			return text(request.Params.URI, fmt.Sprint(session.counter.Load())), nil
		})
	s.mcp.AddResource(
		mcp.NewResource(milestoneURI, "milestone", mcp.WithMIMEType("text/plain"),
			mcp.WithResourceDescription("Appears when the counter reaches 10.")),
		func(ctx context.Context, request mcp.ReadResourceRequest) ([]mcp.ResourceContents, error) {
			if !s.reached(ctx) {
				return nil, server.ErrResourceNotFound
			}
			return text(request.Params.URI, "This session has counted to 10."), nil
		})
}

// listed takes the milestone out of the list of a session that has not reached it.
func (s *Server) listed(ctx context.Context, _ any, _ *mcp.ListResourcesRequest, result *mcp.ListResourcesResult) {
	if s.reached(ctx) {
		return
	}
	result.Resources = slices.DeleteFunc(slices.Clone(result.Resources), func(r mcp.Resource) bool { return r.URI == milestoneURI })
}

func (s *Server) reached(ctx context.Context) bool {
	session := s.session(ctx)
	return session != nil && session.counter.Load() >= milestone
}

func (s *Server) subscribe(ctx context.Context, uri string, on bool) {
	if session := s.session(ctx); session != nil && uri == counterURI {
		session.subscribed.Store(on)
	}
}

func (s *Server) addPrompts() {
	s.mcp.AddPrompt(
		mcp.NewPrompt("greet", mcp.WithPromptDescription("Greets somebody."),
			mcp.WithArgument("name", mcp.ArgumentDescription("Whom to greet."), mcp.RequiredArgument())),
		func(_ context.Context, request mcp.GetPromptRequest) (*mcp.GetPromptResult, error) {
			return &mcp.GetPromptResult{
				Description: "A greeting",
				Messages: []mcp.PromptMessage{
					mcp.NewPromptMessage(mcp.RoleUser, mcp.NewTextContent("Say hello to "+request.Params.Arguments["name"]+".")),
				},
			}, nil
		})
}

func text(uri, content string) []mcp.ResourceContents {
	return []mcp.ResourceContents{mcp.TextResourceContents{URI: uri, MIMEType: "text/plain", Text: content}}
}

var _ server.SessionIdManager = (*sessions)(nil)
