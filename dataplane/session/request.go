package session

import (
	"encoding/json"
	"net/http"
	"strconv"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/sessionid"
)

// Request is one HTTP request of a client for a session, after the front that
// it arrived at checked it.
type Request struct {
	Gateway   string
	Digest    sessionid.Digest
	Principal string
	// Method is POST, GET or DELETE, or MethodMessage or MethodOpen.
	Method string
	// Header has the header fields that concern the owner, and belongs to it.
	Header http.Header
	// Body is a checked JSON-RPC message, or a batch; empty for GET and DELETE.
	Body []byte
	// IDs are the JSON-RPC ids of the requests in Body, as they came.
	IDs [][]byte
	// Lists are the lists that the requests in Body concern.
	Lists Lists
}

// ID returns the JSON-RPC id to echo in an error, or nil.
func (r *Request) ID() []byte {
	if len(r.IDs) != 1 || mcp.IsBatch(r.Body) {
		return nil
	}
	return r.IDs[0]
}

// Tool returns the name of the tool that the request calls, or "".
func (r *Request) Tool() string {
	e, err := mcp.Parse(r.Body, mcp.Limits{})
	if err != nil || e.Batch || e.First().Method != mcp.MethodToolsCall {
		return ""
	}
	var name string
	if json.Unmarshal(e.First().Name, &name) != nil {
		return "" // not a string: the upstream will say so
	}
	return name
}

// Repeatable reports whether the request may be sent to upstream again although
// nobody knows whether it was carried out: its method only asks, or the gateway
// says so of the tool that it calls.
func (r *Request) Repeatable(upstream *config.Upstream) bool {
	if r.Method != http.MethodPost {
		return r.Method == http.MethodGet
	}
	e, err := mcp.Parse(r.Body, mcp.Limits{})
	if err != nil || e.Batch {
		return false
	}
	switch e.First().Method {
	case mcp.MethodPing, mcp.MethodComplete, mcp.MethodToolsList, mcp.MethodPromptsList, mcp.MethodPromptsGet,
		mcp.MethodResourcesList, mcp.MethodResourcesTemplates:
		return true
	case mcp.MethodToolsCall:
		return upstream != nil && upstream.Repeatable[r.Tool()]
	}
	return false
}

// OutcomeUnknown answers a request that may or may not have been carried out and
// is never sent again by us: with HTTP 200 and a JSON-RPC error, or with 502 if
// nothing in the body could carry one.
func (r *Request) OutcomeUnknown(w http.ResponseWriter, upstream string, epoch uint64, why string) {
	status := http.StatusOK
	if r.ID() == nil {
		status = http.StatusBadGateway
	}
	mcp.WriteError(w, status, r.unknown(upstream, epoch, why))
}

// UnknownEvent is OutcomeUnknown for an answer that began as a stream of events.
func (r *Request) UnknownEvent(upstream string, epoch uint64, why string) []byte {
	return mcp.AppendEvent(nil, mcp.AppendError(nil, r.unknown(upstream, epoch, why)))
}

// unknown is the error of OutcomeUnknown.
func (r *Request) unknown(upstream string, epoch uint64, why string) *mcp.Error {
	data := []byte(`{"executed":"unknown"`)
	if tool := r.Tool(); tool != "" {
		data = mcp.AppendQuoted(append(data, `,"tool":`...), tool)
	}
	data = mcp.AppendQuoted(append(data, `,"upstream":`...), upstream)
	data = strconv.AppendUint(append(data, `,"epoch":`...), epoch, 10)
	return &mcp.Error{Code: mcp.CodeOutcomeUnknown, ID: r.ID(), Data: append(data, '}'),
		Message: "outcome unknown: " + why + "; the request may have been carried out"}
}
