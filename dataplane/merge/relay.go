package merge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/session"
)

// relay returns an answer that is a stream of events, each as the client gets it.
func (m *merged) relay(ctx context.Context, r *request, l *link, answer *http.Response, a asked, over func()) *http.Response {
	b := &relayed{of: m, ctx: ctx, request: r, link: l, asked: a, body: answer.Body, over: over}
	b.events = eventReaders.Get().(*mcp.EventReader)
	b.events.Reset(answer.Body)
	return answerEvents(b)
}

var eventReaders = sync.Pool{New: func() any { return mcp.NewEventReader(nil, session.MaxEvent) }}

// relayed is the body of an answer: a part's events as the client gets them. It
// implements io.ReadCloser.
type relayed struct {
	of      *merged
	ctx     context.Context // of the request
	request *request        // nil if the stream is one that goes on
	link    *link
	asked   asked
	body    io.ReadCloser
	events  *mcp.EventReader
	over    func()

	buffer   []byte
	rest     []byte // of buffer
	answered bool
	named    bool // the client was given an id to come back by
	err      error
}

// Read implements io.Reader.
func (b *relayed) Read(p []byte) (int, error) {
	for len(b.rest) == 0 {
		if b.err != nil {
			return 0, b.err
		}
		b.next()
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

// next reads the next event.
func (b *relayed) next() {
	event, err := b.events.Next()
	if err != nil {
		b.fail(err)
		return
	}
	if event.Partial {
		return // the error follows
	}
	b.buffer = b.buffer[:0]
	data := event.Data(nil)
	if len(data) > 0 {
		if pending := b.of.pendingForPOST(); len(pending) > 0 {
			for _, message := range pending {
				b.buffer = mcp.AppendEvent(b.buffer, message)
			}
		}
		b.answered = b.answered || mcp.IsResponse(data)
	}
	b.named = b.named || event.HasID()
	b.buffer = b.of.appendEvent(b.buffer, b.link, event, data, b.link.upstream.Name+"/", b.asked)
	b.rest = b.buffer
}

// fail ends the stream. A client that has no answer, and no way to come back for it, is
// told what became of its request.
func (b *relayed) fail(err error) {
	b.events.Reset(nil)
	eventReaders.Put(b.events)
	b.events, b.err = nil, err
	if b.answered || b.request == nil || b.named || b.ctx.Err() != nil || errors.Is(err, io.EOF) && b.of.isCancelled(b.request) {
		return
	}
	b.err = io.EOF
	e := b.of.unknown(b.request, b.link, err)
	if errors.Is(err, mcp.ErrEventTooLarge) {
		e.Code, e.Message = mcp.CodeLimit, fmt.Sprintf("upstream %q: %v", b.link.upstream.Name, err)
	}
	b.buffer = mcp.AppendEvent(b.buffer[:0], mcp.AppendError(nil, e))
	b.rest, b.answered = b.buffer, true
}

// Buffered returns how many bytes can be read without waiting, as far as is known.
func (b *relayed) Buffered() int {
	if inner, ok := b.body.(interface{ Buffered() int }); ok {
		return len(b.rest) + inner.Buffered()
	}
	return len(b.rest)
}

// Close implements io.Closer.
func (b *relayed) Close() error {
	defer b.over()
	return b.body.Close()
}

// appendEvent appends an event of a part as the client gets it: with the part's name
// before its id.
func (m *merged) appendEvent(dst []byte, l *link, event mcp.Event, data []byte, prefix string, a asked) []byte {
	if len(data) == 0 {
		return event.AppendPrefixed(dst, prefix)
	}
	messages, same := m.messages(l, data, a)
	if same {
		return event.AppendPrefixed(dst, prefix)
	}
	if wait, ok := event.Retry(); ok {
		dst = fmt.Appendf(dst, "retry: %d\n", wait.Milliseconds())
	}
	id, named := event.ID()
	for i, message := range messages {
		if named && id != "" && i == len(messages)-1 {
			dst = mcp.AppendID(dst, []byte(prefix+id))
		}
		dst = mcp.AppendEvent(dst, message)
	}
	if len(messages) == 0 && named && id != "" {
		dst = append(mcp.AppendID(dst, []byte(prefix+id)), '\n')
	}
	return dst
}

// messages returns the messages in an event as the client gets them, and whether they
// are what is there.
func (m *merged) messages(l *link, data []byte, a asked) (messages [][]byte, same bool) {
	if !mcp.IsBatch(data) {
		own := m.forClient(l, data, a)
		if own == nil {
			return nil, false
		}
		return [][]byte{own}, len(own) == len(data) && bytes.Equal(own, data)
	}
	for one := range mcp.Elements(data) {
		if own := m.forClient(l, one, a); own != nil {
			messages = append(messages, bytes.Clone(own))
		}
	}
	return messages, false
}
