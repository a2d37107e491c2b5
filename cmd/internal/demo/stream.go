package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
)

// stream is the answer to one request, on which notifications can be sent: to a
// POST before its result, to a GET at any time.
//
// mcp-go puts all notifications of a session in one queue, from which every open
// stream of the session takes: progress arrives on streams of other requests
// and out of order, and what a stream took that has just ended is lost. So
// notifications are written here, and mcp-go writes the rest.
type stream struct {
	http.ResponseWriter
	mu      sync.Mutex
	started bool // guarded by mu; the answer's header was sent
	ours    bool // guarded by mu; it was sent by send
	ended   bool // guarded by mu; nothing may be written any more
}

// streamKey is the key of a request's stream in its context.
type streamKey struct{}

// withStreams gives every request a stream, and says which stream a session
// listens on.
func (s *Server) withStreams(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		own := &stream{ResponseWriter: w}
		defer own.end()
		if session := s.sessions.get(r.Header.Get("Mcp-Session-Id")); session != nil && r.Method == http.MethodGet {
			session.listening.Store(own)
			defer session.listening.CompareAndSwap(own, nil)
		}
		next.ServeHTTP(own, r.WithContext(context.WithValue(r.Context(), streamKey{}, own)))
	})
}

// reply sends a notification that belongs to the request of ctx on the stream of
// that request.
func reply(ctx context.Context, method string, params map[string]any) {
	if own, ok := ctx.Value(streamKey{}).(*stream); ok {
		own.send(method, params)
	}
}

// tell sends a notification that belongs to the session on the stream that its
// client listens on, or else on that of the request of ctx.
func (s *session) tell(ctx context.Context, method string, params map[string]any) {
	if listening := s.listening.Load(); listening == nil || !listening.send(method, params) {
		reply(ctx, method, params)
	}
}

// send sends a notification and reports whether that was possible.
func (s *stream) send(method string, params map[string]any) bool {
	message := map[string]any{"jsonrpc": "2.0", "method": method}
	if params != nil {
		message["params"] = params
	}
	data, err := json.Marshal(message)
	if err != nil {
		return false // never: params are our own
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || s.started && !s.events() {
		return false
	}
	if !s.started {
		s.Header().Set("Content-Type", "text/event-stream")
		s.Header().Set("Cache-Control", "no-cache")
		s.ResponseWriter.WriteHeader(http.StatusOK)
		s.started, s.ours = true, true
	}
	s.event(data)
	return true
}

func (s *stream) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
}

// WriteHeader sends the header, unless send did.
func (s *stream) WriteHeader(status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.started {
		s.started = true
		s.ResponseWriter.WriteHeader(status)
	}
}

// Write writes what mcp-go answers: events as they are, and a JSON answer as an
// event when the stream has begun with one of ours.
func (s *stream) Write(data []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.started = true
	if s.ours && !strings.HasPrefix(string(data), "event:") {
		s.event([]byte(strings.TrimSuffix(string(data), "\n")))
		return len(data), nil
	}
	return s.ResponseWriter.Write(data)
}

// Flush sends what was written.
func (s *stream) Flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flush()
}

// event writes one event. A client that is gone is noticed by mcp-go.
func (s *stream) event(data []byte) {
	_, _ = fmt.Fprintf(s.ResponseWriter, "event: message\ndata: %s\n\n", data)
	s.flush()
}

func (s *stream) flush() {
	if flusher, ok := s.ResponseWriter.(http.Flusher); ok {
		flusher.Flush()
	}
}

func (s *stream) events() bool {
	return strings.HasPrefix(s.Header().Get("Content-Type"), "text/event-stream")
}
