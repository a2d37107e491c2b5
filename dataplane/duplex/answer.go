package duplex

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strconv"

	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/session"
)

// Refused is an error that has an answer of its own: the server gave it, or it is
// given in the server's place.
type Refused struct{ Answer *http.Response }

// Error returns the answer's status.
func (r *Refused) Error() string { return "refused with HTTP " + strconv.Itoa(r.Answer.StatusCode) }

// Refuse returns a refusal of d with a JSON-RPC error that has the id of its
// request.
func Refuse(d *session.Dispatch, status, code int, message string) *Refused {
	return &Refused{newAnswer(status, "application/json", mcp.AppendError(nil, &mcp.Error{Code: code, Message: message, ID: mcp.RequestID(d.Body)}))}
}

// RefuseWith returns a refusal with what a server answered, of which body is what
// was read.
func RefuseWith(answer *http.Response, body []byte) *Refused {
	own := newAnswer(answer.StatusCode, answer.Header.Get("Content-Type"), body)
	if after := answer.Header.Get("Retry-After"); after != "" {
		own.Header.Set("Retry-After", after)
	}
	return &Refused{own}
}

// answered makes the answer of a refusal the answer.
func answered(answer *http.Response, err error) (*http.Response, error) {
	if refused := (*Refused)(nil); errors.As(err, &refused) {
		return refused.Answer, nil
	}
	return answer, err
}

func sessionNotFound(d *session.Dispatch) *http.Response {
	return Refuse(d, http.StatusNotFound, mcp.CodeSessionNotFound, "Session not found").Answer
}

// newAnswer returns an answer whose body is known.
func newAnswer(status int, kind string, body []byte) *http.Response {
	answer := mcp.NewAnswer(status)
	if kind != "" {
		answer.Header.Set("Content-Type", kind)
	}
	answer.Body, answer.ContentLength = http.NoBody, int64(len(body))
	if len(body) > 0 {
		answer.Body = io.NopCloser(bytes.NewReader(body))
	}
	return answer
}

// newStreamAnswer returns an answer whose body is a stream of events.
func newStreamAnswer(s *stream) *http.Response {
	answer := mcp.NewAnswer(http.StatusOK)
	answer.Header.Set("Content-Type", "text/event-stream")
	answer.Header.Set("Cache-Control", "no-cache")
	answer.Body, answer.ContentLength = s, -1
	return answer
}
