package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/leasehold/leasehold/dataplane/mcp"
)

const (
	// listenAgain is how soon the upstream is listened to again at first, when its
	// stream has ended; that doubles as long as streams end soon.
	listenAgain = 100 * time.Millisecond
	// listenAtMost is how long that can become.
	listenAtMost = 30 * time.Second
	// resumeAfter is how soon a call's broken stream is asked for again, if the
	// upstream does not say.
	resumeAfter = time.Second
	// resumeAtMost is how often that is done in vain.
	resumeAtMost = 5
)

// errBroke says that an answer broke off.
var errBroke = errors.New("the answer broke off")

// Serve takes one message of the client in. A request is answered with 202 at once,
// and on the connection when its answer is there, be it that it is refused: clients
// take any other status for the end of the transport. Anything else is answered once
// the upstream has it, so that what the client says in turn arrives in turn.
//
// ErrFenced or ErrLost: nothing was written, and nothing was done.
func (c *Connection) Serve(ctx context.Context, w http.ResponseWriter, r *Request) error {
	switch authority := c.table.cfg.Authority; {
	case authority.Await(c.incarnation):
	case authority.Incarnation() != c.incarnation:
		return ErrLost
	default:
		return ErrFenced
	}
	e, err := mcp.Parse(r.Body, mcp.Limits{})
	if err != nil || e.Batch {
		mcp.WriteError(w, http.StatusBadRequest, &mcp.Error{Code: mcp.CodeInvalidRequest, Message: "want one message"})
		return nil
	}
	r.Method = http.MethodPost
	message := e.First()
	if message.Kind == mcp.KindRequest {
		c.request(w, r, message)
		return nil
	}
	s, _ := c.current(false)
	if s == nil || message.HasModernMeta {
		mcp.WriteError(w, http.StatusBadRequest, &mcp.Error{Code: mcp.CodeInvalidRequest, Message: notBegun})
		return nil
	}
	c.dress(r.Header, s)
	return c.tell(ctx, w, s, r, message.Method == mcp.MethodInitialized)
}

const notBegun = "a session begins with initialize"

// request takes a request in.
func (c *Connection) request(w http.ResponseWriter, r *Request, m *mcp.Message) {
	if m.HasModernMeta || m.Method == mcp.MethodDiscover {
		c.refuse(w, r, mcp.UnsupportedVersion(m.ID, m.ProtocolVersion))
		return
	}
	initialize := m.Method == mcp.MethodInitialize
	s, opens := c.current(initialize)
	switch {
	case opens:
		c.open(w, r, *m)
	case initialize:
		c.refuse(w, r, &mcp.Error{Code: mcp.CodeInvalidRequest, ID: m.ID, Message: "the session is initialized already"})
	case s == nil:
		c.refuse(w, r, &mcp.Error{Code: mcp.CodeInvalidRequest, ID: m.ID, Message: notBegun})
	default:
		c.dress(r.Header, s)
		c.accept(w, r, func() { c.call(s, r) })
	}
}

// refuse answers a request with an error, on the connection.
func (c *Connection) refuse(w http.ResponseWriter, r *Request, e *mcp.Error) {
	answer := mcp.AppendError(nil, e)
	c.accept(w, r, func() { c.send(answer) })
}

// current returns the connection's session, or nil without one. With open it
// reports whether the caller may open one, and has to say when that is over.
func (c *Connection) current(open bool) (s *Session, may bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if open && c.session == nil && !c.opening && c.place {
		c.opening, may = true, true
	}
	return c.session, may
}

// dress gives a message the header fields of the transport that the session's
// upstream is spoken to by.
func (c *Connection) dress(h http.Header, s *Session) {
	h["Content-Type"] = []string{"application/json"}
	h["Accept"] = []string{"application/json, text/event-stream"}
	h["User-Agent"] = userAgent
	if s != nil && len(h[mcp.HeaderProtocolVersion]) == 0 && mcp.AtLeast(s.version, mcp.V20250618) {
		h[mcp.HeaderProtocolVersion] = []string{s.version}
	}
}

// accept takes a request in, which answer answers.
func (c *Connection) accept(w http.ResponseWriter, r *Request, answer func()) bool {
	switch c.admit(r) {
	case refusedEnded:
		mcp.WriteSessionNotFound(w, r.ID())
		return false
	case refusedDuplicate:
		mcp.WriteError(w, http.StatusBadRequest, &mcp.Error{Code: mcp.CodeInvalidRequest, ID: r.ID(),
			Message: "id: a request of this session with the same id is in flight"})
		return false
	case refusedCalls:
		w.Header().Set("Retry-After", "1")
		mcp.WriteError(w, http.StatusTooManyRequests, &mcp.Error{Code: mcp.CodeLimit, ID: r.ID(),
			Message: fmt.Sprintf("the session has %d requests in flight, which is the bound", MaxCalls)})
		return false
	}
	c.table.pumps.Go(func() {
		defer c.done(r)
		answer()
	})
	writeAccepted(w)
	return true
}

func writeAccepted(w http.ResponseWriter) {
	w.Header()["Content-Type"] = []string{"text/plain"}
	w.WriteHeader(http.StatusAccepted)
	w.Write([]byte("Accepted"))
}

// admit notes a request that is in flight from now on.
func (c *Connection) admit(r *Request) refusal {
	c.mu.Lock()
	defer c.mu.Unlock()
	id := string(r.ID())
	switch {
	case c.gone:
		return refusedEnded
	case c.calls[id] != nil:
		return refusedDuplicate
	case c.busy >= MaxCalls:
		return refusedCalls
	}
	select {
	case <-c.over:
		return refusedEnded
	default:
	}
	c.calls[id] = r
	c.busy++
	return admitted
}

// done notes that a request has its answer.
func (c *Connection) done(r *Request) {
	c.mu.Lock()
	c.forgetLocked(r)
	c.busy--
	c.mu.Unlock()
	select {
	case c.freed <- struct{}{}:
	default:
	}
}

// forgetLocked frees the id of a request.
func (c *Connection) forgetLocked(r *Request) {
	if id := string(r.ID()); c.calls[id] == r {
		delete(c.calls, id)
	}
}

// open opens the session, as initialize does for other clients, under the id that
// the connection has already.
func (c *Connection) open(w http.ResponseWriter, r *Request, message mcp.Message) {
	c.dress(r.Header, nil)
	accepted := c.accept(w, r, func() {
		used := false
		l := c.letter(r)
		l.early = true
		err := c.guard(func() error {
			if o, ok := c.table.prepare(l, r, message); ok && o.incarnation == c.incarnation {
				o.connection = c
				used = o.run(c.ctx, l)
			}
			return nil
		})
		over := c.opened(r, used)
		l.open() // now that the client may repeat it if it failed
		l.finish(nil, err)
		if over {
			c.end()
		}
	})
	if !accepted && c.opened(r, false) {
		c.end()
	}
}

// opened notes that r, an initialize, is over, and reports whether the connection is
// too. used says that a session has used the connection's place.
func (c *Connection) opened(r *Request, used bool) (over bool) {
	c.mu.Lock()
	c.forgetLocked(r)
	c.opening = false
	c.place = c.place && !used
	over = c.session == nil && (used || c.late)
	c.mu.Unlock()
	c.giveBack()
	return over
}

// tell passes a notification, or an answer to the upstream, on.
func (c *Connection) tell(ctx context.Context, w http.ResponseWriter, s *Session, r *Request, initialized bool) error {
	l := c.letter(r)
	defer l.release()
	err := c.guard(func() error { return s.Serve(ctx, l, r) })
	switch {
	case errors.Is(err, errBroke):
		panic(http.ErrAbortHandler)
	case err != nil:
		return err
	case l.status >= 300:
		copyRelayed(w.Header(), l.header)
		w.WriteHeader(l.status)
		w.Write(l.body)
		return nil
	case initialized:
		c.listen(s)
	}
	writeAccepted(w)
	return nil
}

// call has a request answered. Where the upstream's stream breaks off and it keeps
// the rest, that is asked for: the client could not.
func (c *Connection) call(s *Session, r *Request) {
	l := c.letter(r)
	err := c.guard(func() error { return s.Serve(c.ctx, l, r) })
	for vain := 0; err == nil && l.resumable() && vain < resumeAtMost; vain++ {
		if !c.pause(l.wait(resumeAfter)) {
			break
		}
		last := l.last
		l.again()
		err = c.guard(func() error { return s.Serve(c.ctx, l, c.get(s, last)) })
		if l.last != last {
			vain = 0
		}
	}
	l.finish(s, err)
}

// get is a GET at the upstream, from an event on if last is not empty.
func (c *Connection) get(s *Session, last string) *Request {
	r := &Request{Gateway: c.gateway, Digest: c.digest, Principal: c.principal, Method: http.MethodGet, Header: make(http.Header, 5)}
	c.dress(r.Header, s)
	delete(r.Header, "Content-Type")
	r.Header["Accept"] = []string{"text/event-stream"}
	if last != "" {
		r.Header[mcp.HeaderLastEventID] = []string{last}
	}
	return r
}

// listen begins to listen to what the upstream says beside its answers.
func (c *Connection) listen(s *Session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.listening {
		return
	}
	c.listening = true
	c.table.pumps.Go(func() { c.hear(s) })
}

func (c *Connection) hear(s *Session) {
	last := ""
	for wait := listenAgain; ; wait = min(2*wait, listenAtMost) {
		began := time.Now()
		r := c.get(s, last)
		l := c.letter(r)
		err := c.guard(func() error { return s.Serve(c.ctx, l, r) })
		l.release()
		switch {
		case errors.Is(err, ErrFenced) || time.Since(began) > listenAtMost:
			wait = listenAgain
		case l.status == http.StatusMethodNotAllowed:
			return
		case l.status >= 400 && l.status != http.StatusServiceUnavailable:
			last = "" // it may not know the event any more
		}
		last = cmp.Or(l.last, last)
		if !c.pause(l.wait(wait)) {
			return
		}
	}
}

// pause reports false if the connection is over before a time has passed.
func (c *Connection) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-c.over:
	case <-c.ctx.Done():
	}
	return false
}

// guard calls f, which may break off as an HTTP handler does; that ends one request,
// and not the worker with all of its sessions.
func (c *Connection) guard(f func() error) (err error) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		if e, ok := p.(error); !ok || !errors.Is(e, http.ErrAbortHandler) {
			c.table.cfg.Logger.Error("panic while serving a message", "panic", p, "stack", string(debug.Stack()))
		}
		err = errBroke
	}()
	return f()
}
