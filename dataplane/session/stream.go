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

// primeAfter is how long a call's stream may be silent before its client is given
// an event id, by which it can ask for the answer if its connection breaks.
const primeAfter = time.Second

// stream is an answer that is a stream of events. Between them it writes a comment
// whenever it was silent for long.
type stream struct {
	silence time.Duration
	timer   *time.Timer

	mu      sync.Mutex // guards what follows
	w       http.ResponseWriter
	flusher http.Flusher
	settler Settler       // nil if nobody wants to know
	prime   func() []byte // what to write at the first silence; nil if nothing
	stopped bool
}

// startStream returns a stream on w, whose head is written. The caller stops it
// before it gives w back. prime may be nil; it is called with the stream locked.
func startStream(w http.ResponseWriter, silence time.Duration, prime func() []byte) *stream {
	s := &stream{w: w, silence: silence, prime: prime}
	s.flusher, _ = w.(http.Flusher)
	s.settler, _ = w.(Settler)
	first := silence
	if prime != nil {
		first = min(first, primeAfter)
	}
	s.timer = time.AfterFunc(first, s.fill)
	return s
}

// write writes a whole event.
func (s *stream) write(event []byte, flush bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writeLocked(event, flush)
}

func (s *stream) writeLocked(event []byte, flush bool) error {
	s.timer.Reset(s.silence)
	s.prime = nil
	_, err := s.w.Write(event)
	if flush && err == nil {
		s.flusher.Flush()
	}
	return err
}

// settleLocked is called before the event is written that settles the stream.
func (s *stream) settleLocked() {
	if s.settler != nil {
		s.settler.Settled()
		s.settler = nil
	}
}

func (s *stream) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flusher.Flush()
}

var comment = []byte(": keep-alive\n\n")

// fill breaks a silence.
func (s *stream) fill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return
	}
	text := comment
	if s.prime != nil {
		if text = s.prime(); text == nil {
			text = comment
		}
		s.prime = nil
	}
	if _, err := s.w.Write(text); err == nil {
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
