package merge

import (
	"context"
	"net/http"

	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/session"
)

// request is one message of the client, with the HTTP request that brought it.
type request struct {
	*session.Dispatch
	message *mcp.Message
	body    []byte // the message alone
}

// post serves a client's POST.
func (m *merged) post(ctx context.Context, d *session.Dispatch) (*http.Response, error) {
	envelope, err := mcp.Parse(d.Body, mcp.Limits{})
	if err != nil {
		return refuse(http.StatusBadRequest, &mcp.Error{Code: mcp.CodeInvalidRequest, Message: err.Error()}), nil
	}
	if envelope.Batch {
		return m.batch(ctx, d, &envelope)
	}
	return m.one(ctx, &request{d, envelope.First(), d.Body})
}

// one serves one message.
func (m *merged) one(ctx context.Context, r *request) (*http.Response, error) {
	switch r.message.Kind {
	case mcp.KindResponse:
		return m.respond(ctx, r)
	case mcp.KindNotification:
		return m.notify(ctx, r)
	}
	return m.request(ctx, r)
}

// request serves a request.
func (m *merged) request(ctx context.Context, r *request) (*http.Response, error) {
	switch method := r.message.Method; method {
	case mcp.MethodPing:
		return result(r.message.ID, []byte("{}")), nil
	case mcp.MethodToolsList, mcp.MethodPromptsList, mcp.MethodResourcesList, mcp.MethodResourcesTemplates:
		return m.list(ctx, r)
	case mcp.MethodToolsCall, mcp.MethodPromptsGet:
		return m.byName(ctx, r)
	case mcp.MethodResourcesRead, mcp.MethodResourcesSubscribe, mcp.MethodResourcesUnsubscribe:
		return m.byURI(ctx, r)
	case mcp.MethodComplete:
		return m.byReference(ctx, r)
	case mcp.MethodSetLevel:
		return m.setLevel(ctx, r)
	case mcp.MethodTasksList:
		return m.listTasks(ctx, r)
	case mcp.MethodTasksGet, mcp.MethodTasksResult, mcp.MethodTasksCancel:
		return m.byTask(ctx, r)
	case mcp.MethodInitialize:
		return r.refuse(mcp.CodeInvalidRequest, "the session is initialized already"), nil
	}
	return m.byMethod(ctx, r)
}

// refuse answers the request with an error.
func (r *request) refuse(code int, message string) *http.Response {
	return refuse(http.StatusOK, &mcp.Error{Code: code, Message: message, ID: r.message.ID})
}

// splice returns the request's body with other values at paths.
func (r *request) splice(paths [][]string, edit func(path int, value []byte) []byte) []byte {
	return splice(r.body, paths, edit)
}

// param returns a member of the params; nil if it is not there.
func (r *request) param(path ...string) []byte {
	if r.message.Params == nil {
		return nil
	}
	value, _ := mcp.Lookup(r.message.Params, path...)
	return value
}
