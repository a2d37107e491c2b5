// Package merge makes one MCP server of several upstreams, for each client session: an
// upstream session at each of them, presented together as a session of one streamable
// HTTP server in this process. So whatever relays to upstreams does not know the
// difference.
//
//	POST ─▶ a request goes to the part that has what it names; lists, ping, log levels
//	        are answered here
//	GET  ─▶ one stream, of what all parts say on theirs
//
// What a part says is passed on as it came but for what has to differ: names, URIs, ids
// that a part made up. A part that fails costs what it has and no more, and is opened
// again without anybody's help. Nothing of an idle session runs: no goroutine, no timer.
package merge

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"net/http"
	"sync"

	"github.com/hashicorp/go-hclog"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/session"
)

// Config says what an Upstream works with.
type Config struct {
	// Inner makes requests to the parts.
	Inner session.Upstream
	// World has the newest definitions.
	World *config.Holder
	// Version is the binary's, as clients see it.
	Version string
	// Changed is told that what Parts or Wishes returns of a session has changed, but for cursors
	// and for what an upstream has lost; nil tells nobody. It is called without locks,
	// and does not wait.
	Changed func(id string)
	Logger  hclog.Logger
}

// Upstream is the sessions of several upstreams. It implements session.Upstream: the
// session ids that it gives mean something in this process only. Safe for concurrent
// use.
type Upstream struct {
	cfg Config
	// work ends when the worker stops: what goes on for no request ends with it.
	work context.Context
	stop context.CancelFunc

	known   known
	sharing sharing
	metrics metrics

	mu        sync.Mutex // guards what follows
	sessions  map[string]*merged
	reopening map[place]*recovery
	stopped   bool
	group     sync.WaitGroup // of goroutines; begun under mu, before stopped
}

// New returns an Upstream without sessions.
func New(cfg Config) *Upstream {
	u := &Upstream{cfg: cfg, metrics: newMetrics(), sessions: make(map[string]*merged), reopening: make(map[place]*recovery)}
	u.work, u.stop = context.WithCancel(context.Background())
	return u
}

// Do implements session.Upstream. A request without a session id, an initialize, opens
// a session. One for a session that is not there is answered with 404.
func (u *Upstream) Do(ctx context.Context, d *session.Dispatch) (*http.Response, error) {
	id := d.Header.Get(mcp.HeaderSessionID)
	if id == "" {
		return u.open(ctx, d)
	}
	m := u.find(id)
	if m == nil {
		return refuse(http.StatusNotFound, &mcp.Error{Code: mcp.CodeSessionNotFound, Message: "Session not found", ID: mcp.RequestID(d.Body)}), nil
	}
	m.heardFrom(d)
	m.redefine()
	switch d.Method {
	case http.MethodGet:
		return m.get(ctx, d)
	case http.MethodDelete:
		return m.delete(ctx, d)
	}
	return m.post(ctx, d)
}

// Drop implements session.Upstream: it forgets a session without telling its parts,
// since they may be somebody else's now, and ends those that nobody else can have.
// Requests in flight go on.
func (u *Upstream) Drop(_ *config.Upstream, id string) {
	m := u.take(id)
	if m == nil {
		return
	}
	for _, o := range m.end() {
		u.cfg.Inner.Drop(o.upstream, o.id)
	}
}

// Run keeps sessions to the newest definitions until ctx ends. Then what goes on for
// sessions of its own accord ends, and Run returns once nothing does.
func (u *Upstream) Run(ctx context.Context) error {
	u.follow(ctx)
	u.mu.Lock()
	u.stopped = true
	u.mu.Unlock()
	u.stop()
	u.group.Wait()
	return nil
}

// Len returns the number of sessions.
func (u *Upstream) Len() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.sessions)
}

// spawn runs f in a goroutine that Run waits for. False: the worker stops.
func (u *Upstream) spawn(f func()) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.stopped {
		return false
	}
	u.group.Go(f)
	return true
}

func (u *Upstream) find(id string) *merged {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.sessions[id]
}

// put makes a session findable.
func (u *Upstream) put(m *merged) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.sessions[m.id] = m
}

// take removes a session; nil if it is not there.
func (u *Upstream) take(id string) *merged {
	u.mu.Lock()
	defer u.mu.Unlock()
	m := u.sessions[id]
	delete(u.sessions, id)
	return m
}

// newID returns an id that nobody can guess.
func newID() string {
	var id [16]byte
	rand.Read(id[:]) // never fails
	return hex.EncodeToString(id[:])
}
