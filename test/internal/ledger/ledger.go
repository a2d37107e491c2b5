// Package ledger is a small stateful MCP server that keeps a ledger: for every
// request it writes down the session, what was asked, when, and which process
// asked. Tests put it behind a gateway and afterwards read from the ledger what
// really reached the upstream.
//
// It speaks streamable HTTP for the protocol versions 2025-03-26 to 2025-11-25
// and is written on net/http by hand, so that what it records is what was on
// the wire. Its tools are in tools.go, its control endpoints in control.go.
package ledger

import (
	"encoding/json"
	"sync"
	"time"
)

// Entry is one HTTP request that reached the server.
type Entry struct {
	// Time is when the request had been read.
	Time time.Time `json:"time"`
	// Session is the session id the request named; at initialize, the one it got.
	Session string `json:"session,omitempty"`
	// HTTP is the HTTP method.
	HTTP string `json:"http"`
	// Method is the JSON-RPC method; "response" for a response; empty without a body.
	Method string `json:"method,omitempty"`
	// Tool is the tool's name at tools/call.
	Tool string `json:"tool,omitempty"`
	// ID is the JSON-RPC id as it came.
	ID json.RawMessage `json:"id,omitempty"`
	// Cancels is the id of the request that notifications/cancelled is about.
	Cancels json.RawMessage `json:"cancels,omitempty"`
	// Protocol is the MCP-Protocol-Version header.
	Protocol string `json:"protocol,omitempty"`
	// Authorization is the Authorization header.
	Authorization string `json:"authorization,omitempty"`
	// Port is the source port of the connection.
	Port int `json:"port"`
	// PID is the process at the other end of the connection, 0 if it is none of
	// those that the ledger was told about.
	PID int `json:"pid"`
	// Status is the HTTP status of the answer.
	Status int `json:"status"`
	// Result is what a tool returned, as text.
	Result string `json:"result,omitempty"`
	// Tag is the argument tag of the tool mark.
	Tag string `json:"tag,omitempty"`
	// Count is the session's counter once mark had added to it.
	Count int64 `json:"count,omitempty"`
	// End is when the answer had been written, or given up.
	End time.Time `json:"end"`
}

// Report is what the ledger says at one moment.
type Report struct {
	// Live are the sessions that have not been ended.
	Live []string `json:"live"`
	// Opened counts the sessions ever opened.
	Opened int `json:"opened"`
	// Streams counts the GET streams that are open.
	Streams int `json:"streams"`
	// Running counts the tool calls that have not returned.
	Running int `json:"running"`
	// Entries are the requests, in the order in which they were answered.
	Entries []Entry `json:"entries,omitempty"`
}

// Ledger is the server's state. It is safe for concurrent use.
type Ledger struct {
	mu       sync.Mutex // guards all below
	sessions map[string]*session
	gates    map[string]chan struct{}
	entries  []Entry
	opened   int
	streams  int
	running  int
	pids     []int
}

// session is one client's state.
type session struct {
	id       string
	protocol string
	done     chan struct{} // closed when the session ends
	spoken   *spoken       // guarded by mu; nil if its stream is not numbered

	mu      sync.Mutex // guards all below
	counter int64
	stream  chan []byte              // what goes out on the GET stream; nil without one
	calls   map[string]chan struct{} // under way, by id; closed when one is cancelled
}

// New returns an empty ledger.
func New() *Ledger {
	return &Ledger{sessions: map[string]*session{}, gates: map[string]chan struct{}{}}
}

// Know tells the ledger which processes may turn up as clients. It applies to
// connections that are accepted afterwards.
func (l *Ledger) Know(pids []int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pids = append([]int(nil), pids...)
}

// Report returns what the ledger knows now; the entries only if asked for.
func (l *Ledger) Report(entries bool) Report {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.report()
	if entries {
		r.Entries = append(r.Entries, l.entries...)
	}
	return r
}

// report returns what the ledger knows now, without entries. The caller holds mu.
func (l *Ledger) report() Report {
	r := Report{Live: []string{}, Opened: l.opened, Streams: l.streams, Running: l.running}
	for id := range l.sessions {
		r.Live = append(r.Live, id)
	}
	return r
}

// Take returns what the ledger knows now, and forgets the entries.
func (l *Ledger) Take() Report {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.report()
	r.Entries, l.entries = l.entries, nil
	return r
}

// Reset forgets the entries and the count of opened sessions. Sessions live on.
func (l *Ledger) Reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries, l.opened = nil, 0
}

// Release lets the calls of the tool gate go that wait at the gate of that
// name, and all that come later.
func (l *Ledger) Release(name string) {
	gate := l.gate(name)
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-gate:
	default:
		close(gate)
	}
}

// Forget ends a session without anybody having asked for it, as a server does
// that was restarted.
func (l *Ledger) Forget(id string) { l.end(id) }

// gate returns the gate of that name; it is closed once it has been released.
func (l *Ledger) gate(name string) chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.gates[name] == nil {
		l.gates[name] = make(chan struct{})
	}
	return l.gates[name]
}

// write adds an entry.
func (l *Ledger) write(e Entry) {
	e.End = time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries = append(l.entries, e)
}

// count changes one of the counters of what is going on.
func (l *Ledger) count(what *int, by int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	*what += by
}

// open adds a session.
func (l *Ledger) open(s *session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sessions[s.id] = s
	l.opened++
}

// find returns a live session, or nil.
func (l *Ledger) find(id string) *session {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sessions[id]
}

// end removes a session and reports whether it was there.
func (l *Ledger) end(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.sessions[id]
	if s == nil {
		return false
	}
	delete(l.sessions, id)
	close(s.done)
	return true
}
