package duplex

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/session"
)

// maxQueued is how many bytes of messages wait on one stream before the server has
// to wait too. A message of any size has room on an empty stream.
const maxQueued = 1 << 20

// stream is an answer's body: messages of the server as events, in their order. It
// implements io.ReadCloser; what writes to it may be another goroutine.
type stream struct {
	// leave is called once nobody reads the stream any more, if it had not ended.
	leave func(*stream)
	stop  func() bool // ends the watch over the request's context
	// full is closed when a message had to wait for room for the first time.
	full chan struct{}
	// silent is closed when the server said nothing for too long.
	silent chan struct{}

	asked
	open int // requests without an answer; guarded by the link

	mu      sync.Mutex // guards what follows
	changed sync.Cond  // on mu
	queue   []*message
	size    int   // of the queue
	err     error // what follows the queue; nil while more may come
	closed  bool  // nobody reads
	rest    []byte
	scratch []byte
	patience
}

// patience bounds the silence of the server.
type patience struct {
	silence time.Duration
	timer   *time.Timer // nil without a bound
}

// newStream returns a stream that is cut when ctx ends, or when the server says
// nothing on it for as long as silence, unless that is 0.
func newStream(ctx context.Context, a asked, silence time.Duration, leave func(*stream)) *stream {
	s := &stream{asked: a, open: len(a.ids), leave: leave, full: make(chan struct{}), silent: make(chan struct{})}
	s.changed.L = &s.mu
	s.stop = context.AfterFunc(ctx, func() { s.abandon(context.Cause(ctx)) })
	if silence > 0 {
		s.mu.Lock()
		s.patience = patience{silence, time.AfterFunc(silence, s.expire)}
		s.mu.Unlock()
	}
	return s
}

// expire cuts a stream on which nothing came for too long. While something waits
// to be read, it is not the server that is slow.
func (s *stream) expire() {
	s.mu.Lock()
	waits := len(s.queue)+len(s.rest) > 0
	switch {
	case s.err != nil:
		s.mu.Unlock()
		return
	case waits:
		s.timer.Reset(s.silence)
		s.mu.Unlock()
		return
	}
	s.err = s.whySilent()
	s.mu.Unlock()
	close(s.silent)
	s.abandon(s.whySilent())
}

func (s *stream) whySilent() error { return fmt.Errorf("%w for %v", session.ErrSilent, s.silence) }

// done ends the watches over the stream.
func (s *stream) done() {
	s.stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.timer != nil {
		s.timer.Stop()
	}
}

// push adds a message, and waits while the stream is full. It reports whether
// somebody may still read it.
func (s *stream) push(m *message) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.size >= maxQueued && s.err == nil {
		select {
		case <-s.full:
		default:
			close(s.full)
		}
		s.changed.Wait()
	}
	if s.err != nil {
		return false
	}
	s.addLocked(m)
	return true
}

// add adds messages without waiting.
func (s *stream) add(all []*message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range all {
		s.addLocked(m)
	}
}

func (s *stream) addLocked(m *message) {
	s.queue = append(s.queue, m)
	s.size += len(m.data)
	if s.timer != nil {
		s.timer.Reset(s.silence)
	}
	s.changed.Broadcast()
}

// end makes err follow what is in the stream.
func (s *stream) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
	s.changed.Broadcast()
}

// Read implements io.Reader.
func (s *stream) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.rest) == 0 {
		switch {
		case len(s.queue) > 0:
			s.takeLocked()
		case s.err != nil:
			return 0, s.err
		default:
			s.changed.Wait()
		}
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// takeLocked makes the next message the one that is read.
func (s *stream) takeLocked() {
	m := s.queue[0]
	s.queue[0] = nil
	s.queue = s.queue[1:]
	s.size -= len(m.data)
	if cap(s.scratch) > maxQueued {
		s.scratch = nil
	}
	s.scratch = mcp.AppendEvent(s.scratch[:0], m.data)
	s.rest = s.scratch
	s.changed.Broadcast()
}

// Buffered returns how many bytes can be read without waiting.
func (s *stream) Buffered() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.rest) + s.size
}

// Close implements io.Closer. It may be called again.
func (s *stream) Close() error {
	s.done()
	s.abandon(http.ErrBodyReadAfterClose)
	return nil
}

// abandon ends the stream at once, with what is in it.
func (s *stream) abandon(why error) {
	s.mu.Lock()
	first := !s.closed
	s.closed, s.err, s.rest = true, why, nil
	s.changed.Broadcast()
	s.mu.Unlock()
	if first {
		s.leave(s)
	}
}

// unread takes the messages out of an abandoned stream that nobody read and that
// belong to none of its requests.
func (s *stream) unread() []*message {
	s.mu.Lock()
	defer s.mu.Unlock()
	left := slices.DeleteFunc(s.queue, func(m *message) bool { return m.claimed })
	s.queue, s.size = nil, 0
	return left
}
