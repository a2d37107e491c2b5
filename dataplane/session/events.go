package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/leasehold/leasehold/dataplane/mcp"
)

var eventReaders = sync.Pool{New: func() any { return mcp.NewEventReader(nil, MaxEvent) }}

// delivery is a stream of events on its way from the upstream to the client of one
// request.
type delivery struct {
	session  *Session
	exchange *exchange
	request  *Request
	out      *stream

	// Guarded by out.mu, as a silence may begin the log:
	entry *entry // what is kept for the client; nil if nothing is

	answered  bool // the answer went by
	resumable bool // the upstream gives event ids: it keeps the events itself
	buffer    []byte
}

// relayEvents passes events on one by one, each as soon as it is whole, and a
// comment when the upstream is silent for long. When the client is gone, a call's
// events are read to the end still: the upstream need not notice, and the client
// may come back for them.
func (s *Session) relayEvents(ctx context.Context, w http.ResponseWriter, r *Request, x *exchange, answer *http.Response) {
	w.Header()["X-Accel-Buffering"] = []string{"no"}
	w.WriteHeader(answer.StatusCode)
	d := &delivery{session: s, exchange: x, request: r}
	d.out = startStream(w, s.table.cfg.KeepAlive, d.primer())
	defer d.end()
	if !hasMore(answer.Body) {
		d.out.flush() // the client learns at once that its request has begun
	}
	events := eventReaders.Get().(*mcp.EventReader)
	events.Reset(answer.Body)
	defer func() {
		events.Reset(nil)
		eventReaders.Put(events)
	}()
	for {
		event, err := events.Next()
		if err == nil {
			err = s.Pass()
		}
		if err != nil {
			if tail := s.streamTail(ctx, d, err); tail != nil {
				d.add(tail)
			}
			return
		}
		if event.Partial {
			continue // the upstream broke off within an event; the error follows
		}
		if e := d.readElsewhere(); e != nil {
			s.awaitReader(ctx, e, len(event.Raw)+maxCursor)
		}
		if err := d.pass(event, !events.Buffered()); err != nil && (d.answered || r.Method != http.MethodPost) {
			return
		}
	}
}

// hasMore reports whether some of the body has arrived already, so that the head
// can go out with it.
func hasMore(body io.Reader) bool {
	b, ok := body.(interface{ Buffered() int })
	return ok && b.Buffered() > 0
}

// pass passes an event on.
func (d *delivery) pass(event mcp.Event, flush bool) error {
	d.out.mu.Lock()
	defer d.out.mu.Unlock()
	raw := d.identify(event)
	if d.answered || d.resumable {
		d.out.settleLocked()
	}
	if d.exchange.muted.Load() {
		return nil
	}
	return d.out.writeLocked(raw, flush)
}

// readElsewhere returns what is kept if the client gets it by another request.
func (d *delivery) readElsewhere() *entry {
	if !d.exchange.muted.Load() {
		return nil
	}
	d.out.mu.Lock()
	defer d.out.mu.Unlock()
	return d.entry
}

// identify returns the event as the client gets it: with an id, if the client
// could need one.
func (d *delivery) identify(event mcp.Event) []byte {
	s := d.session
	data := event.Data(nil)
	kind, id := mcp.KindOf(data)
	switch {
	case kind == mcp.KindResponse:
		d.answered = true
	case kind == mcp.KindRequest && d.request.Method == http.MethodPost:
		s.ask(id, d.exchange)
	}
	if event.HasID() {
		d.resumable = true
		d.exchange.named.Store(true)
		d.exchange.kept.Store(true)
		if id, _ := event.ID(); !d.exchange.muted.Load() {
			s.gave(d.exchange, id)
		}
		d.buffer = event.AppendPrefixed(d.buffer[:0], s.prefix(kindPost))
		if d.entry != nil { // the client has an id of ours, and comes back by that perhaps
			d.entry.log.Append(d.buffer)
		}
		return d.buffer
	}
	if d.resumable && d.entry != nil && len(data) > 0 {
		d.entry.log.Append(event.Raw)
	}
	if d.resumable || len(data) == 0 || d.entry == nil && (kind == mcp.KindResponse || !d.begin()) {
		return event.Raw
	}
	d.buffer = event.AppendIdentified(d.buffer[:0], d.nextID())
	d.entry.log.Append(d.buffer)
	return d.buffer
}

// begin begins to keep the events of a call, and reports whether they are kept.
func (d *delivery) begin() bool {
	if d.request.Method == http.MethodPost && len(d.request.IDs) > 0 {
		d.entry = d.session.newEntry(d.exchange)
	}
	if d.entry == nil {
		return false
	}
	d.exchange.named.Store(true)
	return true
}

// nextID is the id of the next event that is kept.
func (d *delivery) nextID() []byte {
	return d.session.appendReplay(nil, d.entry.number, d.entry.log.Next(), d.entry.request)
}

// primer returns what gives the client of a call an id to come back by, if its
// protocol version knows of that; otherwise nil. An upstream that gives ids has
// done it by then.
func (d *delivery) primer() func() []byte {
	if d.request.Method != http.MethodPost || len(d.request.IDs) == 0 || !mcp.AtLeast(d.session.version, mcp.V20251125) {
		return nil
	}
	return func() []byte {
		if d.entry == nil && !d.begin() {
			return nil
		}
		return mcp.AppendPriming(nil, d.session.appendReplay(nil, d.entry.number, 0, d.entry.request))
	}
}

// add passes on, and keeps, an event of our own.
func (d *delivery) add(event []byte) {
	d.out.mu.Lock()
	defer d.out.mu.Unlock()
	if d.entry != nil {
		event = append(mcp.AppendID(nil, d.nextID()), event...)
		d.entry.log.Append(event)
	}
	if !d.exchange.muted.Load() {
		d.out.writeLocked(event, true)
	}
}

// end ends the delivery. What is kept is kept on for a while.
func (d *delivery) end() {
	d.out.stop()
	if d.entry != nil {
		d.entry.log.End()
		d.session.table.poke() // its time counts from now
	}
}

// streamTail returns the last event of a stream that ended with err, or nil if
// there is nothing to add: the client has its answer, can ask the upstream for it
// with Last-Event-ID, or is gone.
func (s *Session) streamTail(ctx context.Context, d *delivery, err error) []byte {
	r := d.request
	if r.Method != http.MethodPost || d.answered || err == io.EOF && (d.resumable || len(r.IDs) == 0 || d.exchange.cancelled.Load()) {
		return nil
	}
	cause := context.Cause(ctx)
	if moves := moving(ctx, err); moves != nil {
		err = moves
	} else if cause != nil && !errors.Is(cause, errEnded) {
		return nil
	}
	id := r.ID()
	if id == nil {
		return nil
	}
	var e *mcp.Error
	tooLarge := (*mcp.EventTooLargeError)(nil)
	switch {
	case errors.As(err, &tooLarge):
		e = &mcp.Error{Code: mcp.CodeLimit, ID: id, Message: fmt.Sprintf("upstream %q: %v", s.upstream().Name, err)}
	case d.resumable:
		return nil
	default:
		e = r.unknown(s.upstream().Name, s.epoch, s.whyUnknown(err))
		s.table.CountUnknown()
		s.giveUp(r, err)
	}
	s.table.cfg.Logger.Warn("upstream stream broke off", "gateway", s.gateway, "upstream", s.upstream().Name, "error", err)
	return mcp.AppendEvent(nil, mcp.AppendError(nil, e))
}
