package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/leasehold/leasehold/dataplane/mcp"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Bounds of an upstream's answer.
const (
	// MaxResponse bounds an answer that is not a stream.
	MaxResponse = 16 << 20
	// MaxEvent bounds one SSE event.
	MaxEvent = 4 << 20
	// wholeAnswer is up to which size an answer of known length is read before
	// any of it is written, so that a broken one can still become an error.
	wholeAnswer = 64 << 10
)

// relayed are the header fields of an upstream's answer that reach the client.
// The upstream's session id and its challenges are not among them.
var relayed = [...]string{"Content-Type", "Cache-Control", "Allow", "Retry-After"}

// relay passes the upstream's answer on as it comes. It fails as Serve does.
func (s *Session) relay(ctx context.Context, w http.ResponseWriter, r *Request, x *exchange, up *upstreamSession, answer *http.Response) error {
	if err := s.Pass(); err != nil {
		return s.unknown(w, r, err)
	}
	switch code := answer.StatusCode; {
	case code == http.StatusNotFound && r.Method == http.MethodGet && !s.stood.Load():
		// It may only mean that there is no such route: the next POST tells.
		w.Header().Set("Allow", "POST, DELETE")
		mcp.WriteError(w, http.StatusMethodNotAllowed, &mcp.Error{Code: mcp.CodeUpstream,
			Message: fmt.Sprintf("upstream %q has no stream to listen on", s.upstream().Name)})
		return nil
	case code == http.StatusConflict && r.Method == http.MethodGet:
		mcp.WriteUnavailable(w, nil, "the upstream still holds an earlier stream of the session")
		return nil
	case code == http.StatusNotFound && up.id != "":
		return s.lostUpstream(ctx, w, r, up)
	case code == http.StatusUnauthorized || code == http.StatusForbidden || code >= 300 && code < 400:
		// A challenge or a redirect is for us, not for the client: it names an
		// address or wants a credential that the client does not have.
		s.upstreamError(w, r, fmt.Sprintf("upstream %q answered HTTP %d", s.upstream().Name, code))
		return nil
	}
	if r.Method == http.MethodPost && answer.StatusCode >= 400 && isInitialized(r.Body) && s.close(leaseholdv1.EndReason_END_REASON_OPEN_FAILED) {
		// Without it the upstream session is of no use to anybody.
		defer s.table.queue(s)
	}
	if r.Method == http.MethodPost && answer.StatusCode == http.StatusOK {
		s.proven.Store(true)
	}
	copyRelayed(w.Header(), answer.Header)
	if isEventStream(answer.Header) {
		s.relayEvents(ctx, w, r, x, answer)
		return nil
	}
	return s.relayBody(ctx, w, r, up, answer)
}

func copyRelayed(to, from http.Header) {
	for _, name := range relayed {
		if v := from[name]; v != nil && utf8.ValidString(v[0]) {
			to[name] = v[:1]
		}
	}
}

func isEventStream(h http.Header) bool {
	kind, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	return strings.EqualFold(strings.TrimSpace(kind), "text/event-stream")
}

var initializedMethod = []byte(mcp.MethodInitialized)

func isInitialized(body []byte) bool {
	if !bytes.Contains(body, initializedMethod) {
		return false
	}
	e, err := mcp.Parse(body, mcp.Limits{})
	return err == nil && e.First().Method == mcp.MethodInitialized
}

func (s *Session) upstreamError(w http.ResponseWriter, r *Request, message string) {
	s.table.cfg.Logger.Warn("upstream failed", "gateway", s.gateway, "upstream", s.upstream().Name, "error", message)
	mcp.WriteError(w, http.StatusBadGateway, &mcp.Error{Code: mcp.CodeUpstream, ID: r.ID(), Message: message})
}

// buffers holds scratch space for answers; larger ones are left to the
// collector.
var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 8<<10); return &b }}

func release(b *[]byte) {
	if cap(*b) <= 256<<10 {
		*b = (*b)[:0]
		buffers.Put(b)
	}
}

// relayBody passes on an answer that is not a stream. A client can do nothing
// with a part of a JSON text, so an answer of unknown length is read whole and
// can still be refused with an error that says why.
func (s *Session) relayBody(ctx context.Context, w http.ResponseWriter, r *Request, up *upstreamSession, answer *http.Response) error {
	length := answer.ContentLength
	if length > MaxResponse {
		s.upstreamError(w, r, s.tooLarge(strconv.FormatInt(length, 10)))
		return nil
	}
	buffer := buffers.Get().(*[]byte)
	defer release(buffer)
	if length > wholeAnswer {
		s.relayLong(w, answer, buffer)
		return nil
	}
	body, err := readAll((*buffer)[:0], answer.Body, length)
	*buffer = body
	switch {
	case err == nil && answer.StatusCode == http.StatusBadRequest && up.id != "" && s.proven.Load() && mcp.IsSessionLost(body):
		clear(w.Header())
		return s.lostUpstream(ctx, w, r, up)
	case errors.Is(err, errTooLarge):
		s.upstreamError(w, r, s.tooLarge("more than "+strconv.Itoa(MaxResponse)))
		return nil
	case err != nil:
		clear(w.Header())
		return s.answerFailure(ctx, w, r, up, err)
	}
	if err := s.Pass(); err != nil {
		return s.unknown(w, r, err)
	}
	if len(body) > 0 || length >= 0 {
		w.Header()["Content-Length"] = []string{strconv.Itoa(len(body))}
	}
	w.WriteHeader(answer.StatusCode)
	w.Write(body) // a client that is gone shows in ctx
	return nil
}

func (s *Session) tooLarge(size string) string {
	return fmt.Sprintf("upstream %q answered with %s bytes, at most %d are passed on", s.upstream().Name, size, MaxResponse)
}

func (s *Session) relayLong(w http.ResponseWriter, answer *http.Response, buffer *[]byte) {
	w.Header()["Content-Length"] = []string{strconv.FormatInt(answer.ContentLength, 10)}
	w.WriteHeader(answer.StatusCode)
	scratch := *buffer
	if cap(scratch) < wholeAnswer {
		scratch = make([]byte, wholeAnswer)
		*buffer = scratch
	}
	if _, err := io.CopyBuffer(onlyWriter{w}, onlyReader{answer.Body}, scratch[:cap(scratch)]); err != nil {
		panic(http.ErrAbortHandler)
	}
}

// onlyWriter and onlyReader hide other methods, so that CopyBuffer uses the
// buffer that it is given.
type (
	onlyWriter struct{ io.Writer }
	onlyReader struct{ io.Reader }
)

var errTooLarge = errors.New("answer too large")

// readAll appends all of body, of length bytes or of unknown length if that is
// negative, to buffer.
func readAll(buffer []byte, body io.Reader, length int64) ([]byte, error) {
	if length >= 0 {
		if int64(cap(buffer)) < length {
			buffer = make([]byte, 0, length)
		}
		buffer = buffer[:length]
		if _, err := io.ReadFull(body, buffer); err != nil {
			return buffer, err
		}
		_, err := body.Read(nil) // the connection can be used again only after the end
		return buffer, ignoreEOF(err)
	}
	for {
		if len(buffer) == cap(buffer) {
			buffer = append(buffer, 0)[:len(buffer)]
		}
		n, err := body.Read(buffer[len(buffer):cap(buffer)])
		buffer = buffer[:len(buffer)+n]
		switch {
		case len(buffer) > MaxResponse:
			return buffer, errTooLarge
		case err == io.EOF:
			return buffer, nil
		case err != nil:
			return buffer, err
		}
	}
}

func ignoreEOF(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}
