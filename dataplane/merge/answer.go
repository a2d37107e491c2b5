package merge

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/session"
)

// answerJSON returns an answer with a whole body.
func answerJSON(status int, body []byte) *http.Response {
	answer := mcp.NewAnswer(status)
	answer.Header["Content-Type"] = jsonType
	answer.Body, answer.ContentLength = newWhole(body), int64(len(body))
	return answer
}

// whole is an answer's body that is there already. It implements io.ReadCloser.
type whole struct{ bytes.Reader }

func newWhole(body []byte) *whole {
	w := &whole{}
	w.Reset(body)
	return w
}

// Close implements io.Closer.
func (*whole) Close() error { return nil }

// Buffered returns how many bytes can be read without waiting.
func (w *whole) Buffered() int { return w.Len() }

// accepted is the answer to what needs none.
func accepted() *http.Response {
	answer := mcp.NewAnswer(http.StatusAccepted)
	answer.Body = http.NoBody
	return answer
}

// answerEvents returns an answer whose body is a stream of events.
func answerEvents(body io.ReadCloser) *http.Response {
	answer := mcp.NewAnswer(http.StatusOK)
	answer.Header["Content-Type"] = eventStream
	answer.Header["Cache-Control"] = []string{"no-cache"}
	answer.Body, answer.ContentLength = body, -1
	return answer
}

// refuse returns an answer with a JSON-RPC error.
func refuse(status int, e *mcp.Error) *http.Response {
	return answerJSON(status, mcp.AppendError(nil, e))
}

// result returns the answer to a request with a result.
func result(id, result []byte) *http.Response {
	body := append(append([]byte(`{"jsonrpc":"2.0","id":`), id...), `,"result":`...)
	return answerJSON(http.StatusOK, append(append(body, result...), '}'))
}

func isEventStream(h http.Header) bool {
	kind, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	return strings.EqualFold(strings.TrimSpace(kind), "text/event-stream")
}

// discard reads what little is left of an answer, so that its connection can be used
// again, and closes it.
func discard(answer *http.Response) {
	io.Copy(io.Discard, io.LimitReader(answer.Body, 64<<10))
	answer.Body.Close()
}

// readBody reads a whole body of at most most bytes.
func readBody(body io.Reader, most int) ([]byte, error) {
	read, err := io.ReadAll(io.LimitReader(body, int64(most)+1))
	switch {
	case err != nil:
		return nil, err
	case len(read) > most:
		return nil, fmt.Errorf("answer has more than %d bytes", most)
	}
	return read, nil
}

// readKnown is readBody for a body whose length may be known.
func readKnown(body io.Reader, length int64, most int) ([]byte, error) {
	if length < 0 || length > int64(most) {
		return readBody(body, most)
	}
	read := make([]byte, length)
	if _, err := io.ReadFull(body, read); err != nil {
		return nil, err
	}
	_, err := body.Read(nil) // the connection can be used again only after the end
	if err == io.EOF {
		err = nil
	}
	return read, err
}

// readResponse reads the JSON-RPC answer in an HTTP answer to a request of ours. What
// comes before it on a stream goes to beside. The answer may be large, and is bounded.
func readResponse(answer *http.Response, beside func(data []byte)) ([]byte, error) {
	if !isEventStream(answer.Header) {
		return readBody(answer.Body, session.MaxResponse)
	}
	events := mcp.NewEventReader(answer.Body, session.MaxResponse)
	for {
		event, err := events.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil, errors.New("the stream ended without an answer")
		case err != nil:
			return nil, err
		}
		data := event.Data(nil)
		if event.Partial || len(data) == 0 {
			continue
		}
		if mcp.IsResponse(data) {
			return bytes.Clone(data), nil
		}
		beside(data)
	}
}

// statusError is an HTTP status of a part that is not what was hoped for.
type statusError struct {
	status  int
	message string // of the JSON-RPC error in it, or empty
	code    int    // of that
}

// Error returns both.
func (e *statusError) Error() string { return "answered " + e.ForClient() }

// ForClient returns the same for a client.
func (e *statusError) ForClient() string {
	if e.message == "" {
		return "HTTP " + strconv.Itoa(e.status)
	}
	return fmt.Sprintf("HTTP %d: %s", e.status, e.message)
}

// statusOf returns what is wrong with the status of an answer, which it reads then.
func statusOf(answer *http.Response) error {
	if answer.StatusCode < 300 {
		return nil
	}
	body, _ := readBody(answer.Body, 64<<10)
	e := &statusError{status: answer.StatusCode}
	if failure, ok := failureOf(body); ok {
		e.message, e.code = failure.message, failure.code
	}
	return e
}
