// Package front serves MCP clients over streamable HTTP, and old ones over HTTP+SSE:
// it checks what arrives against the protocol and the bounds, and hands it to the
// session's owner. It keeps nothing about a request.
package front

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/session"
	"github.com/leasehold/leasehold/dataplane/sessionid"
)

// Bounds of a client's request.
const (
	// MaxBody bounds a body.
	MaxBody = session.MaxBody
	// MaxHeaderBytes bounds a header.
	MaxHeaderBytes = 32 << 10
	// MaxHeaderFields bounds the fields of a header.
	MaxHeaderFields = 64
	// maxSessionID bounds a session id before it is looked at.
	maxSessionID = 512
	// promptBody is up to which length memory for a body is set aside before it
	// arrives.
	promptBody = 64 << 10
	// bodyTimeout bounds how long a client may take to send its body.
	bodyTimeout = 30 * time.Second
)

// anonymous is the principal of every client until clients are authenticated.
const anonymous = "anonymous"

// noConfiguration is why nothing is served yet.
const noConfiguration = "this worker has no configuration yet"

// Opener opens sessions on this worker.
type Opener interface {
	Open(ctx context.Context, w http.ResponseWriter, r *session.Request, message mcp.Message)
	// Connect serves the stream of a client of the HTTP+SSE transport.
	Connect(ctx context.Context, w http.ResponseWriter, r *session.Request)
}

// Router serves requests of sessions, wherever they are owned.
type Router interface {
	Serve(ctx context.Context, w http.ResponseWriter, r *session.Request, hint sessionid.Hint)
	// Message takes a message of a client of the HTTP+SSE transport.
	Message(ctx context.Context, w http.ResponseWriter, r *session.Request, hint sessionid.Hint)
}

// Config is what a front needs; all fields but Stall are required.
type Config struct {
	World  *config.Holder
	Opener Opener
	Router Router
	Access Access
	// Missing reports whether a key that the world's ring does not have is certainly in
	// no newer one, and finds out if it is not.
	Missing func(world *config.Snapshot, key [4]byte) bool
	Logger  hclog.Logger
	// Stall is how long a client may take nothing of an answer; 0 means a minute.
	Stall time.Duration
}

// Handler is the HTTP handler for clients. Safe for concurrent use.
type Handler struct {
	cfg      Config
	draining atomic.Bool
	leaving  context.Context // ends when clients' streams are to end
	leave    context.CancelFunc
}

// New returns a handler.
func New(cfg Config) *Handler {
	cfg.Stall = cmp.Or(cfg.Stall, stall)
	h := &Handler{cfg: cfg}
	h.leaving, h.leave = context.WithCancel(context.Background())
	return h
}

// SetDraining says whether clients are to go elsewhere: each connection is closed
// after the answer that it waits for.
func (h *Handler) SetDraining(draining bool) { h.draining.Store(draining) }

// EndStreams ends the GET streams of clients, for good: they are asked to open them
// again, which will be at another worker. Nothing that was sent on them is lost.
func (h *Handler) EndStreams() { h.leave() }

// streamContext returns the context of a GET, which also ends with EndStreams.
func (h *Handler) streamContext(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(h.leaving, func() { cancel(session.ErrLeaving) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h.draining.Load() {
		w.Header().Set("Connection", "close") // with HTTP/2, GOAWAY
	}
	if n := countFields(r.Header); n > MaxHeaderFields {
		refuse(w, http.StatusRequestHeaderFieldsTooLarge, mcp.CodeLimit, nil,
			fmt.Sprintf("the request has %d header fields, at most %d are accepted", n, MaxHeaderFields))
		return
	}
	origin, err := h.cfg.Access.check(r)
	if err != nil {
		refuse(w, http.StatusForbidden, mcp.CodeInvalidRequest, nil, err.Error())
		return
	}
	if origin != "" {
		allowOrigin(w.Header(), origin)
		if r.Method == http.MethodOptions {
			preflight(w)
			return
		}
	}
	if gateway, which, ok := legacyPath(r.URL.Path); ok {
		h.legacy(w, r, gateway, which)
		return
	}
	gateway, ok := gatewayOf(r.URL.Path)
	if !ok {
		refuse(w, http.StatusNotFound, mcp.CodeInvalidRequest, nil, "no such path; clients use /gateways/{gateway}/mcp, or /gateways/{gateway}/sse")
		return
	}
	world := h.cfg.World.Load()
	if world.Ring != nil && world.Gateways[gateway] == nil && len(r.Header[mcp.HeaderSessionID]) == 0 {
		// With a session id the owner decides: this worker may be behind.
		refuse(w, http.StatusNotFound, mcp.CodeInvalidRequest, nil, "no gateway "+clip(gateway))
		return
	}
	switch r.Method {
	case http.MethodPost:
		h.post(w, r, gateway, world)
	case http.MethodGet, http.MethodDelete:
		h.getOrDelete(w, r, gateway, world)
	default:
		w.Header().Set("Allow", "GET, POST, DELETE")
		refuse(w, http.StatusMethodNotAllowed, mcp.CodeInvalidRequest, nil, "method "+clip(r.Method)+" is not allowed")
	}
}

// gatewayOf returns the gateway's id in /gateways/{id}/mcp.
func gatewayOf(path string) (string, bool) {
	rest, ok := strings.CutPrefix(path, "/gateways/")
	if !ok {
		return "", false
	}
	id, ok := strings.CutSuffix(rest, "/mcp")
	return id, ok && id != "" && !strings.Contains(id, "/")
}

func countFields(h http.Header) (n int) {
	for _, values := range h {
		n += len(values)
	}
	return n
}

func refuse(w http.ResponseWriter, status, code int, id []byte, message string) {
	mcp.WriteError(w, status, &mcp.Error{Code: code, Message: message, ID: id})
}

// clip bounds text of the client's in a message to it.
func clip(s string) string { return fmt.Sprintf("%.64q", s) }

func (h *Handler) post(w http.ResponseWriter, r *http.Request, gateway string, world *config.Snapshot) {
	if !isJSON(r.Header) {
		refuse(w, http.StatusUnsupportedMediaType, mcp.CodeInvalidRequest, nil, "Content-Type: want application/json")
		return
	}
	if accepted := r.Header["Accept"]; !accepts(accepted, "application", "json") || !accepts(accepted, "text", "event-stream") {
		refuse(w, http.StatusNotAcceptable, mcp.CodeInvalidRequest, nil, "Accept: want both application/json and text/event-stream")
		return
	}
	body, envelope, ok := h.readMessage(w, r)
	if !ok || !h.checkVersion(w, r, &envelope) {
		return
	}
	request := &session.Request{Gateway: gateway, Principal: anonymous, Method: http.MethodPost, Header: ownerHeader(r.Header, world.Gateways[gateway]), Body: body, IDs: requestIDs(&envelope), Lists: lists(&envelope)}
	first := envelope.First()
	if world.Ring == nil {
		mcp.WriteUnavailable(w, first.ID, noConfiguration)
		return
	}
	id := r.Header[mcp.HeaderSessionID]
	if first.Method == mcp.MethodInitialize && first.Kind == mcp.KindRequest {
		if len(id) > 0 {
			refuse(w, http.StatusBadRequest, mcp.CodeInvalidRequest, first.ID, "the session is initialized already")
			return
		}
		h.cfg.Opener.Open(r.Context(), w, request, *first)
		return
	}
	var rpcID []byte
	if !envelope.Batch && first.Kind == mcp.KindRequest {
		rpcID = first.ID
	}
	h.route(w, r, request, id, rpcID)
}

// readMessage reads a body and checks that it is JSON-RPC.
func (h *Handler) readMessage(w http.ResponseWriter, r *http.Request) ([]byte, mcp.Envelope, bool) {
	body, ok := readBody(w, r)
	if !ok {
		return nil, mcp.Envelope{}, false
	}
	envelope, err := mcp.Parse(body, mcp.Limits{})
	if err != nil {
		var e *mcp.Error
		if !errors.As(err, &e) {
			e = &mcp.Error{Code: mcp.CodeParse, Message: err.Error()}
		}
		mcp.WriteError(w, http.StatusBadRequest, e)
		return nil, mcp.Envelope{}, false
	}
	return body, envelope, true
}

// lists are the lists that the requests in a body concern.
func lists(e *mcp.Envelope) (of session.Lists) {
	for _, m := range e.Messages() {
		if m.Kind == mcp.KindRequest {
			of |= session.ListsOf(m.Method)
		}
	}
	return of
}

// requestIDs are the ids of the requests in a body.
func requestIDs(e *mcp.Envelope) [][]byte {
	var ids [][]byte
	for _, m := range e.Messages() {
		if m.Kind == mcp.KindRequest {
			ids = append(ids, m.ID)
		}
	}
	return ids
}

func (h *Handler) getOrDelete(w http.ResponseWriter, r *http.Request, gateway string, world *config.Snapshot) {
	if r.Method == http.MethodGet && !accepts(r.Header["Accept"], "text", "event-stream") {
		refuse(w, http.StatusNotAcceptable, mcp.CodeInvalidRequest, nil, "Accept: want text/event-stream")
		return
	}
	if !h.checkVersion(w, r, nil) {
		return
	}
	if world.Ring == nil {
		mcp.WriteUnavailable(w, nil, noConfiguration)
		return
	}
	request := &session.Request{Gateway: gateway, Principal: anonymous, Method: r.Method, Header: ownerHeader(r.Header, world.Gateways[gateway])}
	h.route(w, r, request, r.Header[mcp.HeaderSessionID], nil)
}

// route passes the request on to whoever owns the session.
func (h *Handler) route(w http.ResponseWriter, r *http.Request, request *session.Request, id []string, rpcID []byte) {
	if len(id) == 0 {
		refuse(w, http.StatusBadRequest, mcp.CodeInvalidRequest, rpcID, "Mcp-Session-Id: missing; a session begins with initialize")
		return
	}
	hint, ok := h.open(w, request, id, rpcID)
	if !ok {
		return
	}
	request.Digest = sessionid.DigestOf(id[0])
	answer := newPatient(w, h.cfg.Stall)
	ctx := r.Context()
	if request.Method == http.MethodGet {
		streamCtx, done := h.streamContext(ctx)
		defer done()
		ctx = streamCtx
	}
	h.cfg.Router.Serve(ctx, answer, request, hint)
	answer.done()
}

// open opens the session id, of which there is at least one. Whatever is wrong with
// an id, the answer is the same, so that it cannot be probed.
func (h *Handler) open(w http.ResponseWriter, request *session.Request, id []string, rpcID []byte) (hint sessionid.Hint, ok bool) {
	world := h.cfg.World.Load()
	switch {
	case len(id) > 1 || len(id[0]) > maxSessionID:
		mcp.WriteSessionNotFound(w, rpcID)
		return hint, false
	case world.Ring == nil:
		mcp.WriteUnavailable(w, rpcID, noConfiguration)
		return hint, false
	}
	hint, err := world.Ring.Open(id[0], request.Gateway, request.Principal)
	switch {
	case errors.Is(err, sessionid.ErrUnknownKey) && !h.missing(world, id[0]):
		mcp.WriteUnavailable(w, rpcID, "the session id's key is not known here yet")
		return hint, false
	case err != nil:
		mcp.WriteSessionNotFound(w, rpcID)
		return hint, false
	}
	return hint, true
}

// missing reports whether there certainly is no key for a session id.
func (h *Handler) missing(world *config.Snapshot, id string) bool {
	key, ok := sessionid.KeyOf(id)
	return !ok || h.cfg.Missing(world, key)
}

// checkVersion refuses what is not of a stateful protocol version. A client that
// also speaks one of those falls back to it at this answer.
func (h *Handler) checkVersion(w http.ResponseWriter, r *http.Request, envelope *mcp.Envelope) bool {
	header := ""
	if v := r.Header[mcp.HeaderProtocolVersion]; len(v) > 0 {
		header = v[0]
	}
	requested, rpcID, stateless := header, []byte(nil), mcp.IsStateless(header)
	if envelope != nil {
		for _, m := range envelope.Messages() {
			if m.HasModernMeta || m.Method == mcp.MethodDiscover {
				stateless = true
				if m.ProtocolVersion != "" {
					requested = m.ProtocolVersion
				}
			}
		}
		if !envelope.Batch {
			rpcID = envelope.First().ID
		}
	}
	switch {
	case stateless:
		mcp.WriteError(w, http.StatusBadRequest, mcp.UnsupportedVersion(rpcID, requested))
		return false
	case header != "" && !mcp.IsStateful(header):
		mcp.WriteError(w, http.StatusBadRequest, &mcp.Error{Code: mcp.CodeInvalidRequest, ID: rpcID,
			Message: "Mcp-Protocol-Version: " + clip(header) + " is not supported, want one of " + strings.Join(mcp.StatefulVersions(), ", ")})
		return false
	}
	return true
}

// readBody reads the whole body, within its bound and its time.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, bool) {
	if r.ContentLength > MaxBody {
		tooLarge(w, fmt.Sprint(r.ContentLength))
		return nil, false
	}
	control := http.NewResponseController(w)
	control.SetReadDeadline(time.Now().Add(bodyTimeout)) // not supported only by test recorders
	var body []byte
	var size int
	var err error
	if r.ContentLength >= 0 && r.ContentLength <= promptBody {
		body = make([]byte, r.ContentLength)
		size, err = io.ReadFull(r.Body, body)
	} else {
		body, size, err = gather(r.Body)
	}
	switch {
	case err != nil || r.ContentLength > int64(size):
		w.Header().Set("Connection", "close")
		refuse(w, http.StatusBadRequest, mcp.CodeParse, nil, "the body broke off")
		return nil, false
	case size > MaxBody:
		tooLarge(w, fmt.Sprintf("more than %d", MaxBody))
		return nil, false
	}
	control.SetReadDeadline(time.Time{})
	return body, true
}

// gather reads a body in pieces, which it puts together only if they are within the
// bound. Of a longer one it reads a byte more than that, and returns the size.
func gather(r io.Reader) (body []byte, size int, err error) {
	var pieces [][]byte
	for err == nil && size <= MaxBody {
		piece := make([]byte, min(max(size, 8<<10), 512<<10, MaxBody+1-size))
		n := 0
		for err == nil && n < len(piece) {
			var more int
			more, err = r.Read(piece[n:])
			n += more
		}
		pieces, size = append(pieces, piece[:n]), size+n
	}
	switch {
	case err != nil && err != io.EOF:
		return nil, size, err
	case size > MaxBody:
		return nil, size, nil
	}
	return bytes.Join(pieces, nil), size, nil
}

func tooLarge(w http.ResponseWriter, size string) {
	w.Header().Set("Connection", "close")
	refuse(w, http.StatusRequestEntityTooLarge, mcp.CodeLimit, nil,
		fmt.Sprintf("the body has %s bytes, at most %d are accepted", size, MaxBody))
}
