package session

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/leasehold/leasehold/dataplane/mcp"
)

const (
	// linger is how long the upstream's GET stream stays open without a client, if
	// what comes meanwhile is kept here for one that comes back.
	linger = 5 * time.Second
	// waiting bounds, in bytes, the events that wait for a client that reads
	// slowly. Beyond it, the upstream waits.
	waiting = 256 << 10
	// stillThere is how long the upstream may take to notice that an earlier GET
	// stream of the session, this worker's or its former owner's, is over.
	stillThere = 3 * time.Second
)

// errReplaced says that a client wants the upstream's GET stream from an earlier
// event on.
var errReplaced = errors.New("the stream begins again at an earlier event")

// standing is the one GET stream of a session at its upstream. The clients' GET
// streams are served from it: an event goes to the newest of them, since the
// others may be connections that broke unnoticed, and to an older one if that is
// gone.
type standing struct {
	session  *Session
	exchange *exchange
	header   http.Header // of the request to the upstream
	up       *upstreamSession

	opened chan struct{}  // closed once the following are set
	answer *http.Response // what the upstream said; a stream if begun
	begun  bool
	err    error

	done chan struct{} // closed when nothing of it goes on

	mu        sync.Mutex // guards what follows
	changed   *sync.Cond
	listeners []*listener // the newest last
	attached  bool        // a client has listened
	numbered  bool        // the upstream gives event ids
	delivered uint64      // the last number of what is kept for clients that went to one
	last      string      // the last one that came
	written   string      // the last one that was written to a client, or that the stream began after
	over      bool
	entry     *entry // what is kept for clients, if the upstream gives no event ids
	closer    *time.Timer
	leaving   bool   // clients' streams end, and what comes is for the session's next owner
	late      []byte // what has come since

	early []byte // what came on the stream before this one, and is to be delivered first
}

// listener is a client's GET stream.
type listener struct {
	pending []queued
	size    int
	wake    chan struct{} // capacity 1
	// from and upto are which of the kept events it was given again when it began:
	// those after from, up to and with upto.
	from, upto uint64
}

// queued is an event that waits for a client.
type queued struct {
	raw    []byte
	number uint64 // in what is kept for clients; 0 if it is not
	id     string // the upstream's; empty without
}

// deserted reports whether no client listens.
func (st *standing) deserted() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return len(st.listeners) == 0
}

// givenUp reports whether this worker itself broke off the opening of the stream,
// for a client that has gone or since there is a new upstream session.
func (st *standing) givenUp() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.over && st.err != nil
}

// run opens the stream and passes on what comes until it ends.
func (st *standing) run(ctx context.Context) {
	s := st.session
	defer close(st.done)
	defer s.finish(st.exchange)
	defer st.exchange.cancel(nil)
	st.answer, st.err = s.openStream(ctx, &Dispatch{Upstream: st.up.of, Method: http.MethodGet, Header: st.header, Address: st.up.address, Gate: under{s, st.up}, Session: (*unasked)(s)})
	st.begun = st.err == nil && st.answer.StatusCode == http.StatusOK && isEventStream(st.answer.Header)
	if !st.begun {
		st.keepAnswer()
		s.forgetStanding(st)
		close(st.opened)
		return
	}
	s.stood.Store(true)
	close(st.opened)
	stop := context.AfterFunc(ctx, st.cut)
	defer stop()
	defer st.answer.Body.Close()
	defer st.end()
	events := mcp.NewEventReader(io.MultiReader(bytes.NewReader(st.early), st.answer.Body), MaxEvent)
	for {
		event, err := events.Next()
		if err == nil {
			err = s.Pass()
		}
		if err != nil {
			s.table.cfg.Logger.Debug("stream of the upstream ended", "gateway", s.gateway, "upstream", s.upstream().Name, "error", err)
			return
		}
		if !event.Partial && !st.deliver(event) {
			return
		}
	}
}

// openStream makes a request for a stream. An upstream that has not noticed yet that
// an earlier stream is over refuses another one.
func (s *Session) openStream(ctx context.Context, d *Dispatch) (*http.Response, error) {
	began := time.Now()
	for wait := 2 * time.Millisecond; ; wait *= 2 {
		answer, err := s.table.cfg.Upstream.Do(ctx, d)
		if err != nil || answer.StatusCode != http.StatusConflict || time.Since(began)+wait > stillThere {
			return answer, err
		}
		answer.Body.Close()
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, context.Cause(ctx)
		}
	}
}

// keepAnswer reads an answer that is not a stream, for the client to get it.
func (st *standing) keepAnswer() {
	if st.err != nil {
		return
	}
	body, _ := io.ReadAll(io.LimitReader(st.answer.Body, wholeAnswer))
	st.answer.Body.Close()
	st.answer.Body, st.answer.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
}

// cut ends the stream when its request is.
func (st *standing) cut() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.overLocked(nil)
}

// deliver hands an event to a client, or keeps it. It reports whether the stream
// is to go on.
func (st *standing) deliver(event mcp.Event) bool {
	data := event.Data(nil)
	if kind, id := mcp.KindOf(data); kind == mcp.KindRequest {
		st.session.ask(id, nil)
	}
	numbered := st.number(event)
	if len(data) > 0 && !numbered && st.entry == nil {
		entry := st.session.newEntry(nil)
		st.mu.Lock()
		st.entry = entry
		st.mu.Unlock()
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	for !st.over {
		switch n := len(st.listeners); {
		case st.leaving && len(st.late)+len(event.Raw) <= waiting:
			st.late = append(st.late, event.Raw...)
			return true
		case st.leaving: // the upstream waits
		case n > 0 && st.listeners[n-1].hasRoom(len(event.Raw)):
			e := st.identifyLocked(event, data)
			st.delivered = max(st.delivered, e.number)
			st.listeners[n-1].queue(e)
			return true
		case n == 0 && st.attached:
			st.identifyLocked(event, data)
			return st.entry != nil
		}
		st.changed.Wait()
	}
	return false
}

// number notes an event's id, and reports whether the upstream gives ids.
func (st *standing) number(event mcp.Event) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	if id, ok := event.ID(); ok {
		st.numbered, st.last = true, id
	}
	return st.numbered
}

// wrote notes that an event was written to a client.
func (st *standing) wrote(event queued) {
	if event.id == "" {
		return
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	st.written = event.id
}

// lastWritten returns the upstream's id of the last event that a client was sent.
func (st *standing) lastWritten() string {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.written
}

// handOver ends the clients' streams, since the session is to have another owner: they get
// what has come, and when and how to come back. It reports whether clients listened,
// and whether the upstream gives no event ids. What it says in between is lost then; so
// its stream ends only with leave, but otherwise at once.
func (st *standing) handOver() (listening, unnumbered bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	select {
	case <-st.opened:
	default:
		st.overLocked(errHanding) // nobody has heard anything yet
		return false, false
	}
	if st.over || !st.begun {
		return false, false
	}
	var id []byte
	switch {
	case st.numbered && st.last != "":
		id = append([]byte(st.session.prefix(kindGet)), st.last...)
	case st.entry != nil:
		id = st.session.appendReplay(nil, st.entry.number, st.entry.log.Next()-1, nil)
	}
	for _, l := range st.listeners {
		l.push(st.session.farewell(id))
	}
	listening, unnumbered = len(st.listeners) > 0 || st.closer != nil, !st.numbered && st.written == ""
	if !listening || !unnumbered {
		st.overLocked(errHanding)
		return listening, unnumbered
	}
	st.leaving = true
	st.wakeLocked()
	return true, true
}

// leave ends the stream and returns what came after handOver.
func (st *standing) leave() []byte {
	st.mu.Lock()
	st.overLocked(errHanding)
	st.mu.Unlock()
	<-st.done
	return st.late
}

// identifyLocked returns a copy of the event as a client gets it, and keeps it if
// the upstream does not.
func (st *standing) identifyLocked(event mcp.Event, data []byte) queued {
	s := st.session
	e := queued{raw: event.AppendPrefixed(nil, s.prefix(kindGet))}
	e.id, _ = event.ID()
	if len(data) == 0 || st.entry == nil {
		return e
	}
	e.number = st.entry.log.Next()
	if !st.numbered {
		e.raw = event.AppendIdentified(nil, s.appendReplay(nil, st.entry.number, e.number, nil))
	}
	st.entry.log.Append(e.raw) // with an id of the upstream too: the client may have one of ours
	return e
}

// hasRoom reports whether an event may still wait for the client.
func (l *listener) hasRoom(size int) bool { return l.size == 0 || l.size+size <= waiting }

// push queues an event of our own.
func (l *listener) push(raw []byte) { l.queue(queued{raw: raw}) }

func (l *listener) queue(event queued) {
	l.pending = append(l.pending, event)
	l.size += len(event.raw)
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// attach adds a client's stream, and what the client missed: what is kept in kept,
// if that is not nil, after a number. False: the stream is over.
func (st *standing) attach(l *listener, kept *entry, number uint64) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.over || st.leaving {
		return false
	}
	if st.closer != nil {
		st.closer.Stop()
		st.closer = nil
	}
	if kept != nil && kept != st.entry { // of an earlier stream
		missed, _, _ := kept.log.After(number) // what is gone is gone
		for _, raw := range missed {
			l.queue(queued{raw: raw})
		}
		kept = nil
	}
	if kept == nil {
		number = st.delivered // what came while nobody listened
	}
	if st.entry != nil {
		missed, _, _ := st.entry.log.After(number)
		for i, raw := range missed {
			event := queued{raw: raw, number: number + 1 + uint64(i)}
			l.from, l.upto = number, event.number
			st.delivered = max(st.delivered, event.number)
			l.queue(event)
		}
	}
	st.listeners, st.attached = append(st.listeners, l), true
	st.changed.Broadcast()
	return true
}

// take returns what is to be written on a client's stream, and whether that is all
// there will be.
func (st *standing) take(l *listener) (pending []queued, over bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	pending, l.pending, l.size = l.pending, nil, 0
	st.changed.Broadcast()
	return pending, st.over || st.leaving
}

// detach removes a client's stream that got no further than rest, which goes to
// another one, unless that was given it again already: a client may be back before
// its earlier stream is known to be gone. Without another one, the stream ends: at
// once, or after a while if the client may come back for what is kept.
func (st *standing) detach(l *listener, rest []queued) {
	st.mu.Lock()
	defer st.mu.Unlock()
	for i, other := range st.listeners {
		if other == l {
			st.listeners = append(st.listeners[:i], st.listeners[i+1:]...)
			break
		}
	}
	rest = append(rest, l.pending...)
	if n := len(st.listeners); n > 0 {
		newest := st.listeners[n-1]
		for _, event := range rest {
			if event.number <= newest.from || event.number > newest.upto {
				newest.queue(event)
			}
		}
	} else if !st.over && !st.leaving {
		st.desertLocked()
	}
	st.changed.Broadcast()
}

func (st *standing) desertLocked() {
	if st.entry == nil {
		st.overLocked(nil)
		return
	}
	st.closer = time.AfterFunc(linger, st.closeDeserted)
}

func (st *standing) closeDeserted() {
	st.mu.Lock()
	defer st.mu.Unlock()
	if len(st.listeners) == 0 && !st.leaving {
		st.overLocked(nil)
	}
}

// overLocked ends the stream.
func (st *standing) overLocked(cause error) {
	if st.over {
		return
	}
	st.over = true
	st.exchange.cancel(cause)
	st.wakeLocked()
	if st.closer != nil {
		st.closer.Stop()
	}
}

// wakeLocked has those who wait look at the stream again.
func (st *standing) wakeLocked() {
	for _, l := range st.listeners {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
	st.changed.Broadcast()
}

// lastWords ends the stream after events of our own. It reports whether a client
// gets them.
func (st *standing) lastWords(events [][]byte) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	n := len(st.listeners)
	if st.over || n == 0 {
		st.overLocked(nil)
		return false
	}
	for _, event := range events {
		st.listeners[n-1].push(event)
	}
	st.overLocked(nil)
	return true
}

// end ends the clients' streams, once they have what there is.
func (st *standing) end() {
	st.session.forgetStanding(st)
	st.mu.Lock()
	defer st.mu.Unlock()
	st.overLocked(nil)
	if st.entry != nil {
		st.entry.log.End()
		st.session.table.poke() // its time counts from now
	}
}

// replace ends the stream so that it can be opened again at an earlier event.
func (st *standing) replace() {
	st.mu.Lock()
	st.overLocked(errReplaced)
	st.mu.Unlock()
	<-st.done
}
