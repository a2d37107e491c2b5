package merge

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/session"
)

// Times after which a part's GET stream that ended is opened again.
const (
	listenAgain     = 200 * time.Millisecond
	listenAgainMost = 30 * time.Second
)

// listener is the client's GET stream: what all parts say on theirs, each of which is
// open for as long as this one.
type listener struct {
	of     *merged
	out    *queue
	ctx    context.Context // of the parts' streams
	cancel context.CancelFunc
	stop   func() bool // ends the watch over the request's context

	reading map[*link]*reading // guarded by the session's mu

	// Guarded by out.mu:
	at    map[string]position // of each part that gives event ids
	plain bool                // a part gives none: no event has an id
}

// reading is a part's stream that is read.
type reading struct {
	cancel context.CancelFunc
	there  bool
}

// get serves a client's GET: it listens, or comes back for the rest of a stream.
func (m *merged) get(ctx context.Context, d *session.Dispatch) (*http.Response, error) {
	if err := d.LetOut(); err != nil {
		return nil, err
	}
	last := d.Header.Get(mcp.HeaderLastEventID)
	at, ok := parseCursor(last)
	if !ok && last != "" {
		if name, id, ok := strings.Cut(last, "/"); ok && m.part(name) != nil {
			return m.resume(ctx, d, m.part(name), id)
		}
	}
	ls := &listener{of: m, reading: make(map[*link]*reading), at: make(map[string]position)}
	ls.ctx, ls.cancel = context.WithCancel(m.up.work)
	ls.out = newQueue(func() { ls.close(io.ErrClosedPipe) })
	ls.stop = context.AfterFunc(ctx, func() { ls.close(context.Cause(ctx)) })
	m.mu.Lock()
	old := m.listener
	if m.over {
		m.mu.Unlock()
		ls.close(errEnded)
		return nil, fmt.Errorf("%w: %w", session.ErrNotSent, errEnded)
	}
	m.listener = ls
	for _, p := range m.parts {
		if p.now != nil {
			if from, ok := at[p.upstream.Name]; ok && from.tag == tagOf(p.now) {
				p.after = from.id
			}
			ls.plain = ls.plain || p.now.plain.Load()
			ls.beginLocked(p.now)
		}
	}
	m.pendLocked(0)
	m.mu.Unlock()
	if old != nil {
		old.close(io.EOF)
	}
	return answerEvents(ls.out), nil
}

// listenTo adds the stream of a part that is open now.
func (m *merged) listenTo(l *link) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.listener != nil && l.part.now == l {
		m.listener.beginLocked(l)
	}
}

func (ls *listener) beginLocked(l *link) {
	if l.silent || ls.reading[l] != nil {
		return
	}
	ctx, cancel := context.WithCancel(ls.ctx)
	r := &reading{cancel: cancel}
	after := l.part.after
	l.part.after = ""
	ls.goOn(l, after)
	if ls.of.up.spawn(func() {
		defer cancel()
		ls.read(ctx, l, r, after)
	}) {
		ls.reading[l] = r
	}
}

// hears reports whether the stream of a part is there. It is called with the session's
// mu, and may be called without a listener.
func (ls *listener) hears(l *link) bool {
	return ls != nil && ls.reading[l] != nil && ls.reading[l].there
}

// unlistenLocked ends the stream of a part.
func (m *merged) unlistenLocked(l *link) {
	if m.listener == nil {
		return
	}
	if r := m.listener.reading[l]; r != nil {
		r.cancel()
		delete(m.listener.reading, l)
	}
}

// read reads a part's stream, and opens it again when it ends, until the listener is
// closed or the part has no stream.
func (ls *listener) read(ctx context.Context, l *link, r *reading, after string) {
	wait := listenAgain
	for ctx.Err() == nil {
		s := &partStream{listener: ls, link: l, after: after}
		again := s.run(ctx, r)
		after = s.after
		if !again {
			return
		}
		if s.spoke {
			wait = listenAgain
		}
		timer := time.NewTimer(max(s.hint, jittered(wait, rand.Float64())))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
		wait = min(2*wait, listenAgainMost)
	}
}

// note notes an event id of a part that says nothing else: the client learns of it with
// the next event.
func (ls *listener) note(l *link, id string) bool {
	ls.out.mu.Lock()
	defer ls.out.mu.Unlock()
	ls.noteLocked(l, &id)
	return ls.out.err == nil
}

func (ls *listener) noteLocked(l *link, id *string) {
	switch name := l.upstream.Name; {
	case id == nil && ls.at[name].id == "":
		ls.plain = true
		l.plain.Store(true)
	case id != nil && *id == "":
		delete(ls.at, name)
	case id != nil:
		ls.at[name] = position{tagOf(l), *id}
	}
}

// goOn notes where the stream of a part begins; after may be empty.
func (ls *listener) goOn(l *link, after string) {
	ls.out.mu.Lock()
	defer ls.out.mu.Unlock()
	delete(ls.at, l.upstream.Name) // it may be of an earlier session
	if after != "" {
		ls.at[l.upstream.Name] = position{tagOf(l), after}
	}
}

// push adds a message of a part, with the event id that it has there or nil, and waits
// while the client reads slowly. False: nobody listens any more.
func (ls *listener) push(l *link, id *string, message []byte) bool {
	return ls.out.push(func() []byte {
		ls.noteLocked(l, id)
		return ls.eventLocked(message)
	})
}

// announce adds messages of our own, without waiting.
func (ls *listener) announce(messages [][]byte) {
	for _, message := range messages {
		ls.out.add(func() []byte { return ls.eventLocked(message) })
	}
}

func (ls *listener) eventLocked(message []byte) []byte {
	var event []byte
	if !ls.plain {
		if id := formatCursor(ls.at); id != "" {
			event = mcp.AppendID(event, []byte(id))
		}
	}
	return mcp.AppendEvent(event, message)
}

// close ends the client's stream with err, and those of the parts.
func (ls *listener) close(err error) {
	ls.cancel()
	if ls.stop != nil {
		ls.stop()
	}
	ls.out.end(err)
	m := ls.of
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.listener == ls {
		m.listener = nil
	}
}

// pendingForPOST returns the notifications that go out with what comes on the stream of
// a POST, since the client has no GET stream.
func (m *merged) pendingForPOST() [][]byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.listener != nil || m.shown.pending == 0 {
		return nil
	}
	return m.takePendingLocked()
}
