package session

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/leasehold/leasehold/dataplane/mcp"
)

// letter is an answer that goes out on a Connection: as one event if it is JSON, and
// each message of a stream as one. What is no JSON-RPC answer becomes one for a
// request; otherwise it is kept for who asked. It is for one goroutine at a time,
// as every http.ResponseWriter is.
type letter struct {
	c       *Connection
	request *Request
	header  http.Header
	status  int
	stream  bool   // of events
	rest    []byte // of a stream: what is no whole block yet
	body    []byte // of anything else
	held    int64  // bytes of the connection's that body takes
	early   bool   // nothing may go out yet
	waiting [][]byte

	dispatched bool // a stream began: the upstream has the request
	answered   bool
	last       string        // the newest event id
	retry      time.Duration // the upstream's wish; 0 without
}

func (c *Connection) letter(r *Request) *letter {
	return &letter{c: c, request: r, header: make(http.Header, 4)}
}

// again makes room for another part of the answer.
func (l *letter) again() {
	l.header, l.status, l.stream, l.rest, l.retry = make(http.Header, 4), 0, false, nil, 0
}

// resumable reports whether the upstream can be asked for what is missing.
func (l *letter) resumable() bool { return l.stream && !l.answered && l.last != "" }

// wait returns how long to wait before a stream is asked for again.
func (l *letter) wait(least time.Duration) time.Duration {
	return min(max(l.retry, least), max(least, listenAtMost))
}

// Header implements http.ResponseWriter.
func (l *letter) Header() http.Header { return l.header }

// WriteHeader implements http.ResponseWriter.
func (l *letter) WriteHeader(status int) {
	if l.status != 0 {
		return
	}
	l.status, l.stream = status, status == http.StatusOK && isEventStream(l.header)
	l.dispatched = l.dispatched || l.stream
}

// Flush implements http.Flusher: whole messages go out at once anyway.
func (l *letter) Flush() {}

// Write implements http.ResponseWriter.
func (l *letter) Write(p []byte) (int, error) {
	l.WriteHeader(http.StatusOK)
	var err error
	switch {
	case l.stream:
		err = l.writeBlocks(p)
	case l.body == nil && l.length() == len(p) && l.whole(p):
		l.answered = true
		err = l.send(p)
	default:
		err = l.keep(p)
	}
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// length is how long the answer is, or -1.
func (l *letter) length() int {
	if v := l.header["Content-Length"]; len(v) == 1 {
		if n, err := strconv.Atoi(v[0]); err == nil && n >= 0 {
			return n
		}
	}
	return -1
}

// whole reports whether body is the answer to the request as the client wants it.
func (l *letter) whole(body []byte) bool {
	return l.request.ID() != nil && l.status == http.StatusOK && mcp.IsResponse(body)
}

// keep keeps a part of the answer. All that is kept for a client is bounded, so one
// that does not read holds up its upstream.
func (l *letter) keep(p []byte) error {
	if l.body == nil {
		n := min(max(int64(l.length()), int64(len(p))), MaxResponse)
		if err := l.c.held.Acquire(l.c.ctx, n); err != nil {
			return errClientGone
		}
		l.held, l.body = n, make([]byte, 0, n)
	}
	if len(l.body)+len(p) > MaxResponse {
		return errTooLarge
	}
	l.body = append(l.body, p...)
	return nil
}

// release gives back what keep took.
func (l *letter) release() {
	l.c.held.Release(l.held)
	l.held = 0
}

// writeBlocks sends the messages of the blocks that are whole.
func (l *letter) writeBlocks(p []byte) error {
	if l.rest = append(l.rest, p...); len(l.rest) > 2*MaxEvent {
		return errTooLarge
	}
	events := mcp.NewEventReader(bytes.NewReader(l.rest), 2*MaxEvent)
	used := 0
	for {
		event, err := events.Next()
		if err != nil || event.Partial {
			break // the rest comes with the next part
		}
		used += len(event.Raw)
		if err := l.block(event); err != nil {
			return err
		}
	}
	l.rest = append(l.rest[:0], l.rest[used:]...)
	if len(l.rest) == 0 {
		l.rest = nil
	}
	return nil
}

// block sends a block's message, if it has one.
func (l *letter) block(event mcp.Event) error {
	if id, ok := event.ID(); ok {
		l.last = id
	}
	if retry, ok := event.Retry(); ok {
		l.retry = retry
	}
	data := event.Data(nil)
	if len(data) == 0 {
		return nil // an id to come back by, or a comment
	}
	if l.request.Method == http.MethodPost && mcp.IsResponse(data) {
		l.answered = true
	}
	return l.send(data)
}

// finish sees to it that a request has its answer. err is why there may be none; s is
// nil while there is no session.
func (l *letter) finish(s *Session, err error) {
	defer l.release()
	id := l.request.ID()
	switch {
	case l.answered || id == nil:
	case s != nil && (l.dispatched || errors.Is(err, errBroke)):
		s.table.CountUnknown()
		l.fail(l.request.unknown(s.upstream().Name, s.epoch, fmt.Sprintf("the answer of upstream %q broke off", s.upstream().Name)))
	case err != nil || l.status == 0:
		l.fail(&mcp.Error{Code: mcp.CodeUnavailable, ID: id, Message: "this worker's lease is uncertain; the request was not carried out"})
	case l.whole(l.body):
		l.send(l.body) // nobody reads it if that fails
	default:
		l.send(l.failure())
	}
}

func (l *letter) fail(e *mcp.Error) { l.send(mcp.AppendError(nil, e)) }

// send sends a message, or keeps it as long as nothing may go out.
func (l *letter) send(data []byte) error {
	if l.early {
		l.waiting = append(l.waiting, bytes.Clone(data))
		return nil
	}
	return l.c.send(data)
}

// open lets out what waits.
func (l *letter) open() {
	l.early = false
	for _, data := range l.waiting {
		l.send(data)
	}
	l.waiting = nil
}

// failure is an answer that is no JSON-RPC answer to the request made into one.
func (l *letter) failure() []byte {
	id := l.request.ID()
	if e, err := mcp.Parse(l.body, mcp.Limits{Depth: mcp.MaxDepth}); err == nil && !e.Batch && e.First().Error != nil {
		if bytes.Equal(e.First().ID, id) {
			return l.body
		}
		return append(append(append(append([]byte(`{"jsonrpc":"2.0","id":`), id...), `,"error":`...), e.First().Error...), '}')
	}
	message := fmt.Sprintf("the upstream answered HTTP %d", l.status)
	if text := bytes.TrimSpace(l.body); len(text) > 0 && l.status != http.StatusOK {
		message += ": " + clip(string(text))
	}
	return mcp.AppendError(nil, &mcp.Error{Code: mcp.CodeUpstream, ID: id, Message: message})
}
