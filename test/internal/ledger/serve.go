package ledger

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/leasehold/leasehold/test/internal/sockets"
)

// Path is where the server speaks MCP.
const Path = "/mcp"

// versions are the protocol versions the server speaks, the newest last.
var versions = []string{"2025-03-26", "2025-06-18", "2025-11-25"}

// maxBody bounds a request's body.
const maxBody = 32 << 20

// caller is what the server knows of the connection a request came over.
type caller struct{ port, pid int }

// callerKey is the context key of a caller.
type callerKey struct{}

// message is a JSON-RPC message from a client, as far as the server reads it.
type message struct {
	ID     json.RawMessage `json:"id"`
	Method string          `json:"method"`
	Params params          `json:"params"`
}

// params are the parameters of the few methods that the server knows.
type params struct {
	ProtocolVersion string          `json:"protocolVersion"`
	Name            string          `json:"name"`
	Arguments       json.RawMessage `json:"arguments"`
	RequestID       json.RawMessage `json:"requestId"`
	Meta            struct {
		ProgressToken json.RawMessage `json:"progressToken"`
	} `json:"_meta"`
}

// Server returns an HTTP server that serves the ledger and resolves, for each
// connection it accepts, the process at the other end.
func (l *Ledger) Server() *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc(Path, l.serveMCP)
	l.handleControl(mux)
	return &http.Server{Handler: mux, ConnContext: l.identify, ReadHeaderTimeout: time.Minute}
}

// identify finds out who is at the other end of a connection, while it is open
// for certain.
func (l *Ledger) identify(ctx context.Context, conn net.Conn) context.Context {
	c := caller{}
	if tcp, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		c.port = tcp.Port
	}
	l.mu.Lock()
	pids := l.pids
	l.mu.Unlock()
	if len(pids) > 0 {
		c.pid, _ = sockets.Peer(conn, pids)
	}
	return context.WithValue(ctx, callerKey{}, c)
}

// serveMCP answers one request and writes it down.
func (l *Ledger) serveMCP(w http.ResponseWriter, r *http.Request) {
	c, _ := r.Context().Value(callerKey{}).(caller)
	x := &exchange{ledger: l, w: w, r: r, entry: Entry{
		Session:       r.Header.Get("Mcp-Session-Id"),
		HTTP:          r.Method,
		Protocol:      r.Header.Get("MCP-Protocol-Version"),
		Authorization: r.Header.Get("Authorization"),
		Port:          c.port,
		PID:           c.pid,
		Status:        http.StatusOK,
	}}
	switch r.Method {
	case http.MethodPost:
		x.post()
	case http.MethodGet:
		x.get()
	case http.MethodDelete:
		x.delete()
	default:
		w.Header().Set("Allow", "GET, POST, DELETE")
		x.fail(http.StatusMethodNotAllowed, -32600, "method not allowed")
	}
	l.write(x.entry)
}

// exchange is one request and its answer.
type exchange struct {
	ledger *Ledger
	w      http.ResponseWriter
	r      *http.Request
	entry  Entry
	msg    message
	cancel <-chan struct{} // closed when the call is cancelled; nil if it is none
}

// post answers a message.
func (x *exchange) post() {
	body, err := io.ReadAll(http.MaxBytesReader(x.w, x.r.Body, maxBody))
	x.entry.Time = time.Now()
	if err != nil {
		x.fail(http.StatusBadRequest, -32700, "the body could not be read")
		return
	}
	if err := json.Unmarshal(body, &x.msg); err != nil {
		x.fail(http.StatusBadRequest, -32700, "the body is not a JSON-RPC message")
		return
	}
	x.entry.ID, x.entry.Method, x.entry.Tool = x.msg.ID, x.msg.Method, x.msg.Params.Name
	if x.msg.Method == "" {
		x.entry.Method = "response"
	}
	if x.msg.Method == "initialize" {
		x.initialize()
		return
	}
	s := x.session()
	if s == nil {
		return
	}
	if x.msg.Method == "notifications/cancelled" {
		x.entry.Cancels = x.msg.Params.RequestID
		s.cancel(string(x.msg.Params.RequestID))
	}
	if x.msg.Method == "" || x.msg.ID == nil {
		x.entry.Status = http.StatusAccepted
		x.w.WriteHeader(http.StatusAccepted)
		return
	}
	x.request(s)
}

// request answers a request other than initialize.
func (x *exchange) request(s *session) {
	switch x.msg.Method {
	case "tools/call":
		x.call(s)
	case "tools/list":
		x.answer(toolList)
	case "ping", "logging/setLevel":
		x.answer("{}")
	default:
		x.fail(http.StatusOK, -32601, "method not found")
	}
}

// initialize opens a session.
func (x *exchange) initialize() {
	version := x.msg.Params.ProtocolVersion
	if !slices.Contains(versions, version) {
		version = versions[len(versions)-1]
	}
	s := &session{id: rand.Text(), protocol: version, done: make(chan struct{}), calls: map[string]chan struct{}{}}
	if x.r.URL.Query().Has("numbered") {
		s.spoken = &spoken{more: make(chan struct{})}
	}
	x.ledger.open(s)
	x.entry.Session = s.id
	x.w.Header().Set("Mcp-Session-Id", s.id)
	x.answer(fmt.Sprintf(`{"protocolVersion":%q,"capabilities":{"tools":{},"logging":{}},`+
		`"serverInfo":{"name":"ledger","version":"1"}}`, version))
}

// get opens the session's stream for what the server says unasked. A session
// has one at a time.
func (x *exchange) get() {
	x.entry.Time = time.Now()
	s := x.session()
	if s == nil {
		return
	}
	stream := make(chan []byte, 16)
	if !s.attach(stream) {
		x.fail(http.StatusConflict, -32000, "the session has a stream already")
		return
	}
	defer s.detach()
	x.ledger.count(&x.ledger.streams, 1)
	defer x.ledger.count(&x.ledger.streams, -1)
	if s.spoken != nil {
		x.numbered(s)
		return
	}
	x.beginEvents()
	for {
		select {
		case event := <-stream:
			x.event(event)
		case <-s.done:
			return
		case <-x.r.Context().Done():
			return
		}
	}
}

// delete ends a session.
func (x *exchange) delete() {
	x.entry.Time = time.Now()
	s := x.session()
	if s == nil {
		return
	}
	x.ledger.end(s.id)
	x.entry.Status = http.StatusNoContent
	x.w.WriteHeader(http.StatusNoContent)
}

// session returns the session that the request names, or answers and returns nil.
func (x *exchange) session() *session {
	if x.entry.Session == "" {
		x.fail(http.StatusBadRequest, -32000, "no session id")
		return nil
	}
	s := x.ledger.find(x.entry.Session)
	if s == nil {
		x.fail(http.StatusNotFound, -32001, "session not found")
	}
	return s
}

// answer sends a result as JSON.
func (x *exchange) answer(result string) {
	x.w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(x.w, `{"jsonrpc":"2.0","id":%s,"result":%s}`, x.msg.ID, result)
}

// fail sends an error as JSON.
func (x *exchange) fail(status, code int, text string) {
	id := x.msg.ID
	if id == nil {
		id = json.RawMessage("null")
	}
	x.entry.Status = status
	x.w.Header().Set("Content-Type", "application/json")
	x.w.WriteHeader(status)
	fmt.Fprintf(x.w, `{"jsonrpc":"2.0","id":%s,"error":{"code":%d,"message":%q}}`, id, code, text)
}

// beginEvents starts an answer that is an event stream.
func (x *exchange) beginEvents() {
	x.w.Header().Set("Content-Type", "text/event-stream")
	x.w.Header().Set("Cache-Control", "no-cache")
	x.w.WriteHeader(http.StatusOK)
	http.NewResponseController(x.w).Flush()
}

// event sends one event at once.
func (x *exchange) event(data []byte) {
	fmt.Fprintf(x.w, "data: %s\n\n", data)
	http.NewResponseController(x.w).Flush()
}

// attach makes stream the session's stream; it reports false if there is one.
func (s *session) attach(stream chan []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stream != nil {
		return false
	}
	s.stream = stream
	return true
}

// detach takes the session's stream away.
func (s *session) detach() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stream = nil
}
