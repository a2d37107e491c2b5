package front

import (
	"net/http"
	"strings"

	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/session"
	"github.com/leasehold/leasehold/dataplane/sessionid"
)

// The HTTP+SSE transport, of protocol version 2024-11-05: a client listens on one
// stream, at /gateways/{id}/sse, which first tells it where to post its messages:
// at /gateways/{id}/messages, of any worker.
const (
	legacyStream   = "sse"
	legacyMessages = "messages"
	// sessionQuery names the session in the address of the messages.
	sessionQuery = "sessionId"
)

// legacyPath returns the gateway's id in a path of the HTTP+SSE transport, and which
// of the two it is.
func legacyPath(path string) (gateway, which string, ok bool) {
	rest, ok := strings.CutPrefix(path, "/gateways/")
	if !ok {
		return "", "", false
	}
	gateway, which, ok = strings.Cut(rest, "/")
	return gateway, which, ok && gateway != "" && (which == legacyStream || which == legacyMessages)
}

// legacy serves a request of the HTTP+SSE transport.
func (h *Handler) legacy(w http.ResponseWriter, r *http.Request, gateway, which string) {
	serve, method := h.legacyStream, http.MethodGet
	if which == legacyMessages {
		serve, method = h.legacyMessage, http.MethodPost
	}
	if r.Method != method {
		w.Header().Set("Allow", method)
		refuse(w, http.StatusMethodNotAllowed, mcp.CodeInvalidRequest, nil, "method "+clip(r.Method)+" is not allowed")
		return
	}
	serve(w, r, gateway)
}

// legacyStream serves the stream on which a client gets everything.
func (h *Handler) legacyStream(w http.ResponseWriter, r *http.Request, gateway string) {
	if !accepts(r.Header["Accept"], "text", "event-stream") {
		refuse(w, http.StatusNotAcceptable, mcp.CodeInvalidRequest, nil, "Accept: want text/event-stream")
		return
	}
	if !h.checkVersion(w, r, nil) {
		return
	}
	world := h.cfg.World.Load()
	switch {
	case world.Ring == nil:
		mcp.WriteUnavailable(w, nil, noConfiguration)
		return
	case world.Gateways[gateway] == nil:
		refuse(w, http.StatusNotFound, mcp.CodeInvalidRequest, nil, "no gateway "+clip(gateway))
		return
	}
	answer := newPatient(w, h.cfg.Stall)
	h.cfg.Opener.Connect(r.Context(), answer, &session.Request{Gateway: gateway, Principal: anonymous})
	answer.done()
}

// legacyMessage takes one message.
func (h *Handler) legacyMessage(w http.ResponseWriter, r *http.Request, gateway string) {
	if !isJSON(r.Header) {
		refuse(w, http.StatusUnsupportedMediaType, mcp.CodeInvalidRequest, nil, "Content-Type: want application/json")
		return
	}
	body, envelope, ok := h.readMessage(w, r)
	if !ok || !h.checkVersion(w, r, nil) { // whoever has the stream looks at the message's own version
		return
	}
	request := &session.Request{Gateway: gateway, Principal: anonymous, Header: ownerHeader(r.Header, h.cfg.World.Load().Gateways[gateway]), Body: body, IDs: requestIDs(&envelope)}
	id := r.URL.Query()[sessionQuery]
	switch {
	case envelope.Batch:
		refuse(w, http.StatusBadRequest, mcp.CodeInvalidRequest, nil, "batches are not part of this transport")
		return
	case len(id) == 0:
		refuse(w, http.StatusBadRequest, mcp.CodeInvalidRequest, request.ID(), sessionQuery+": missing; the stream of /sse says where to post messages")
		return
	}
	hint, ok := h.open(w, request, id, request.ID())
	if !ok {
		return
	}
	request.Digest = sessionid.DigestOf(id[0])
	answer := newPatient(w, h.cfg.Stall)
	h.cfg.Router.Message(r.Context(), answer, request, hint)
	answer.done()
}
