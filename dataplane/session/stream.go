package session

import (
	"net/http"
	"sync"
	"time"
)

// DefaultKeepAlive is how long a stream to a client is silent at most. Proxies on
// the way cut streams that are silent for a minute or so.
const DefaultKeepAlive = 25 * time.Second

// Settler is an answer that wants to know when nothing needs to be added to it if
// it breaks off: the JSON-RPC answer goes by, or the client can ask for the rest.
type Settler interface{ Settled() }

// stream is an answer that is a stream of events. Between them it writes a comment
// whenever it was silent for long.
type stream struct {
	silence time.Duration
	timer   *time.Timer

	mu      sync.Mutex // guards what follows
	w       http.ResponseWriter
	flusher http.Flusher
	settler Settler // nil if nobody wants to know
	stopped bool
}

// startStream returns a stream on w, whose head is written. The caller stops it
// before it gives w back.
func startStream(w http.ResponseWriter, silence time.Duration) *stream {
	s := &stream{w: w, silence: silence}
	s.flusher, _ = w.(http.Flusher)
	s.settler, _ = w.(Settler)
	s.timer = time.AfterFunc(silence, s.comment)
	return s
}

// write writes a whole event.
func (s *stream) write(event []byte, flush bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.timer.Reset(s.silence)
	_, err := s.w.Write(event)
	if flush && err == nil {
		s.flusher.Flush()
	}
	return err
}

// settled is called before the event is written that settles the stream.
func (s *stream) settled() {
	if s.settler == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settler.Settled()
	s.settler = nil
}

func (s *stream) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flusher.Flush()
}

var comment = []byte(": keep-alive\n\n")

func (s *stream) comment() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return
	}
	if _, err := s.w.Write(comment); err == nil {
		s.flusher.Flush()
		s.timer.Reset(s.silence)
	}
}

// stop returns once nothing is written any more.
func (s *stream) stop() {
	s.timer.Stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
}
