package session

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/sessionid"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// MethodMessage is the Method of a Request that is one message of a client which
// has a Connection. It is for that, and not for the session.
const MethodMessage = "MESSAGE"

// MethodOpen is the Method of a Request that is an initialize which another worker is
// to serve as its own.
const MethodOpen = "OPEN"

// initializeTime is how long a client may be connected without a session.
const initializeTime = 30 * time.Second

// Connection is the one stream on which a client of the HTTP+SSE transport gets all
// that is for it; what it says itself it posts, at any worker. The connection is the
// session: each ends with the other.
//
//	connected ──initialize──▶ in session ── the client is gone ──▶ the session ends
//	    │                         └── the session is over: calls get their answers, the stream ends
//	    └── 30 s without a session: the stream ends
//
// Until there is a session, the connection has the place of one in its table. Safe
// for concurrent use.
type Connection struct {
	table       *Table
	gateway     string
	principal   string
	id          string // of the session
	digest      sessionid.Digest
	incarnation int64
	out         *stream
	held        *semaphore.Weighted // bytes of long answers in memory
	ctx         context.Context     // ends when nobody reads any more
	hangUp      context.CancelFunc
	freed       chan struct{} // capacity 1: a request is done
	over        chan struct{} // closed when the session, or what is to become one, is over
	end         func()        // closes over

	mu        sync.Mutex // guards what follows
	session   *Session   // nil before the client has initialized
	exchange  *exchange  // keeps the session from being idle, and learns of its end
	opening   bool       // initialize is under way
	late      bool       // the time to initialize is up
	gone      bool       // nobody reads any more
	place     bool       // in the table is still this connection's
	listening bool
	calls     map[string]*Request // the requests in flight, by id
	busy      int                 // requests that are being answered
}

// connections are the legacy clients of a worker. Safe for concurrent use.
type connections struct {
	mu      sync.Mutex // guards what follows
	of      map[sessionid.Digest]*Connection
	retired bool
}

// Connect serves the stream of a client of the HTTP+SSE transport, until the client
// is gone or its session is over. r names the gateway and the principal.
func (t *Table) Connect(ctx context.Context, w http.ResponseWriter, r *Request) {
	world, incarnation := t.cfg.World(), t.cfg.Authority.Incarnation()
	if world.Gateways[r.Gateway] == nil {
		mcp.WriteError(w, http.StatusNotFound, unknownGateway(r.Gateway, nil))
		return
	}
	if world.Ring == nil || !t.cfg.Authority.Holds(incarnation) {
		mcp.WriteUnavailable(w, nil, "this worker cannot open sessions now: it has no lease")
		return
	}
	id, err := world.Ring.Mint(sessionid.Hint{Worker: t.cfg.Worker, Incarnation: incarnation, Created: t.now()}, r.Gateway, r.Principal)
	if err != nil {
		mcp.WriteError(w, http.StatusInternalServerError, &mcp.Error{Code: mcp.CodeInternal, Message: "no session id could be made"})
		return
	}
	if !t.reserve() {
		t.writeFull(w, nil)
		return
	}
	c := &Connection{table: t, gateway: r.Gateway, principal: r.Principal, id: id, digest: sessionid.DigestOf(id), incarnation: incarnation,
		held: semaphore.NewWeighted(MaxResponse), freed: make(chan struct{}, 1), over: make(chan struct{}), place: true, calls: make(map[string]*Request)}
	c.end = sync.OnceFunc(func() { close(c.over) })
	c.ctx, c.hangUp = context.WithCancel(ctx)
	c.out = startStream(w, t.cfg.KeepAlive, nil)
	defer c.out.stop()
	defer c.leave()
	if c.begin(w) {
		c.stay()
	}
}

// begin tells the client where to post its messages.
func (c *Connection) begin(w http.ResponseWriter) bool {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	if !c.table.clients.add(c) {
		c.out.stopped = true
		mcp.WriteUnavailable(w, nil, "this worker cannot open sessions any more")
		return false
	}
	beginEvents(w)
	return c.out.writeLocked(fmt.Appendf(nil, "event: endpoint\ndata: /gateways/%s/messages?sessionId=%s\n\n", c.gateway, c.id), true) == nil
}

// stay returns when the stream is to end.
func (c *Connection) stay() {
	timer := time.NewTimer(initializeTime)
	defer timer.Stop()
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-c.over:
			c.drain()
			return
		case <-timer.C:
			if c.expire() {
				return
			}
		}
	}
}

// expire reports whether the client has had the time to initialize and has not.
func (c *Connection) expire() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.late = true
	return c.session == nil && !c.opening
}

// drain lets the requests in flight have their answers; what cuts them otherwise is
// the end of the session.
func (c *Connection) drain() {
	c.detach()
	patience := time.NewTimer(callGrace + cutTime)
	defer patience.Stop()
	for c.answering() {
		select {
		case <-c.freed:
		case <-patience.C:
			return
		case <-c.ctx.Done():
			return
		}
	}
}

func (c *Connection) answering() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.busy > 0
}

// attach makes s, which was just opened, the connection's session. It reports false
// if one of the two is over.
func (c *Connection) attach(s *Session) bool {
	x := &exchange{session: s, kind: aStream, cancel: c.cut}
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.over:
		return false
	default:
	}
	if c.gone || s.begin(x) != admitted {
		return false
	}
	c.session, c.exchange = s, x
	return true
}

// cut is told that requests of the session are to end. A fence is not the end of the
// session.
func (c *Connection) cut(cause error) {
	if cause != ErrFenced {
		c.end()
	}
}

// detach lets go of the session, which can end then.
func (c *Connection) detach() {
	c.mu.Lock()
	x := c.exchange
	c.exchange = nil
	c.mu.Unlock()
	if x != nil {
		x.session.finish(x)
	}
}

// leave ends the session of a client that is gone, and gives back its place if
// there was none.
func (c *Connection) leave() {
	c.hangUp()
	c.end()
	c.table.clients.remove(c)
	c.mu.Lock()
	c.gone = true
	s := c.session
	c.mu.Unlock()
	c.detach()
	c.giveBack()
	if s != nil {
		c.table.End(c.digest, leaseholdv1.EndReason_END_REASON_CLIENT)
	}
}

// giveBack gives back the place of a connection that is gone and needs none.
func (c *Connection) giveBack() {
	c.mu.Lock()
	back := c.gone && c.place && !c.opening
	c.place = c.place && !back
	c.mu.Unlock()
	if back {
		c.table.unreserve()
	}
}

// send writes a message as one event.
func (c *Connection) send(data []byte) error {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	if c.out.stopped || c.ctx.Err() != nil {
		return errClientGone
	}
	err := c.out.writeLocked(mcp.AppendEvent(nil, data), true)
	if err != nil {
		c.hangUp()
	}
	return err
}

// Connection returns the connection whose session has, or will have, this digest.
func (t *Table) Connection(d sessionid.Digest) (*Connection, bool) {
	t.clients.mu.Lock()
	defer t.clients.mu.Unlock()
	c, ok := t.clients.of[d]
	return c, ok
}

// Retire ends the sessions that are connections, and takes no more of them, since
// the worker is about to stop. Calls in flight get their grace.
func (t *Table) Retire() {
	t.clients.mu.Lock()
	t.clients.retired = true
	all := make([]*Connection, 0, len(t.clients.of))
	for _, c := range t.clients.of {
		all = append(all, c)
	}
	t.clients.mu.Unlock()
	for _, c := range all {
		if !t.End(c.digest, leaseholdv1.EndReason_END_REASON_OWNER_LOST) {
			c.end()
		}
	}
}

// add makes a connection findable. It refuses when the incarnation in its id is over:
// no message would reach it.
func (cs *connections) add(c *Connection) bool {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.retired || c.incarnation != c.table.cfg.Authority.Incarnation() {
		return false
	}
	if cs.of == nil {
		cs.of = make(map[sessionid.Digest]*Connection)
	}
	cs.of[c.digest] = c
	return true
}

func (cs *connections) remove(c *Connection) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.of[c.digest] == c {
		delete(cs.of, c.digest)
	}
}

// close ends all connections: their sessions, and those that were to come, are over.
func (cs *connections) close() {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	for _, c := range cs.of {
		c.end()
	}
}
