package merge

import (
	"errors"
	"maps"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/leasehold/leasehold/dataplane/catalogue"
	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/session"
)

// Bounds of one session.
const (
	// maxOpenings bounds the parts that are opened at the same time.
	maxOpenings = 10
	// maxCalls bounds the calls in flight.
	maxCalls = 256
	// maxSubscriptions bounds the resources that the client is subscribed to.
	maxSubscriptions = 1024
	// maxSubscribed bounds their URIs, in bytes: they are in the session's record.
	maxSubscribed = 64 << 10
)

// merged is one client's session: its upstream sessions as one. Safe for concurrent
// use.
type merged struct {
	up      *Upstream
	id      string
	gateway string
	client  session.Client
	log     hclog.Logger
	slots   chan struct{} // capacity maxOpenings: the parts that are being opened

	mu          sync.Mutex // guards what follows
	over        bool       // ended or dropped: nothing is begun any more
	published   bool       // its id was given to somebody
	definition  *config.Merged
	parts       []*part // in the definition's order
	gate        session.Gate
	caller      http.Header           // the newest request's; nil without
	initialized bool                  // the client has said notifications/initialized
	level       []byte                // the log level that the client has set, as it came; nil without
	pending     []*part               // to be opened once there is a gate
	calls       []*inFlight           // in the order in which they came
	subscribed  map[subscription]bool // nil without any
	catalogue   *catalogue.Catalogue
	shown       shown
	listener    *listener // the client's GET; nil without one
}

func (u *Upstream) newMerged(gateway string, definition *config.Merged, client session.Client) *merged {
	m := &merged{up: u, id: newID(), gateway: gateway, client: client, definition: definition,
		log: u.cfg.Logger.With("gateway", gateway), slots: make(chan struct{}, maxOpenings)}
	for _, upstream := range definition.Parts {
		m.parts = append(m.parts, &part{of: m, upstream: upstream})
	}
	return m
}

// errNobody says that no request has told yet who may act for the session.
var errNobody = errors.New("no request has come for the session since it is here")

// Pass implements session.Gate, for what is sent without a request of the client.
func (m *merged) Pass() error {
	m.mu.Lock()
	gate := m.gate
	m.mu.Unlock()
	if gate == nil {
		return errNobody
	}
	return gate.Pass()
}

// heardFrom keeps what a request tells beside what it asks for.
func (m *merged) heardFrom(d *session.Dispatch) {
	caller := callerFields(d.Header)
	m.mu.Lock()
	if d.Session != nil {
		m.gate = d.Session
	}
	if !d.Own && (caller != nil || m.caller != nil) {
		m.caller = caller
	}
	var open []*part
	if m.gate != nil {
		open, m.pending = m.pending, nil
	}
	m.mu.Unlock()
	for _, p := range open {
		m.begin(p)
	}
}

// header returns the header of a request of ours to a part.
func (m *merged) header(method string) http.Header {
	h := http.Header{"User-Agent": userAgent}
	switch method {
	case http.MethodPost:
		h["Content-Type"] = jsonType
		h["Accept"] = []string{"application/json, text/event-stream"}
	case http.MethodGet:
		h["Accept"] = eventStream
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.Copy(h, m.caller)
	return h
}

var (
	userAgent   = []string{"leasehold"}
	jsonType    = []string{"application/json"}
	eventStream = []string{"text/event-stream"}
)

// part returns the part of a name; nil if there is none.
func (m *merged) part(name string) *part {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.partLocked(name)
}

func (m *merged) partLocked(name string) *part {
	for _, p := range m.parts {
		if p.upstream.Name == name {
			return p
		}
	}
	return nil
}

// open returns the links of the parts that are open.
func (m *merged) open() []*link {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.openLocked()
}

func (m *merged) openLocked() (open []*link) {
	for _, p := range m.parts {
		if p.now != nil {
			open = append(open, p.now)
		}
	}
	return open
}

// end makes the session begin nothing any more, and returns what was open. What is
// being opened is ended by who opens it.
func (m *merged) end() []*link {
	m.mu.Lock()
	m.over = true
	open := m.openLocked()
	parts := m.parts
	for _, p := range parts {
		p.now = nil
	}
	m.shown.stopLocked()
	l := m.listener
	m.listener = nil
	m.mu.Unlock()
	m.up.forgetReopening(parts)
	if l != nil {
		l.close(errEnded)
	}
	return open
}

var errEnded = errors.New("the session has ended")

// changed tells that what Parts or Wishes returns has changed.
func (m *merged) changed() {
	m.mu.Lock()
	tell := m.published && !m.over && m.up.cfg.Changed != nil
	m.mu.Unlock()
	if tell {
		m.up.cfg.Changed(m.id)
	}
}

// jittered returns a time between a half of d and d.
func jittered(d time.Duration, random float64) time.Duration {
	return d/2 + time.Duration(random*float64(d/2))
}
