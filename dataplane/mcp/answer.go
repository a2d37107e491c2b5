package mcp

import (
	"bytes"
	"net/http"
	"strconv"
)

// NewAnswer returns an answer of this process without a body.
func NewAnswer(status int) *http.Response {
	return &http.Response{
		StatusCode: status, Status: strconv.Itoa(status) + " " + http.StatusText(status),
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: make(http.Header),
	}
}

// RequestID returns the id of the request that body is; nil if it is a batch, no request,
// or no message.
func RequestID(body []byte) []byte {
	e, err := Parse(body, Limits{})
	if err != nil || e.Batch {
		return nil
	}
	return e.First().ID
}

// WriteError answers a request with a JSON-RPC error under an HTTP status.
func WriteError(w http.ResponseWriter, status int, e *Error) {
	body := AppendError(nil, e)
	h := w.Header()
	h["Content-Type"] = jsonType
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(status)
	w.Write(body) // the client may be gone; there is nobody else to tell
}

// WriteUnavailable answers 503 and asks the client to repeat the request: it was
// not carried out.
func WriteUnavailable(w http.ResponseWriter, id []byte, message string) {
	w.Header()["Retry-After"] = retryAfter
	WriteError(w, http.StatusServiceUnavailable, &Error{Code: CodeUnavailable, Message: message, ID: id})
}

// WriteSessionNotFound answers 404, which tells the client to initialize anew:
// for sessions that are over and ids that never were. All such answers are the
// same but for the request's id.
func WriteSessionNotFound(w http.ResponseWriter, id []byte) {
	WriteError(w, http.StatusNotFound, &Error{Code: CodeSessionNotFound, Message: "Session not found", ID: id})
}

var (
	jsonType   = []string{"application/json"}
	retryAfter = []string{"1"}
)

// IsBatch reports whether body, which Parse accepted, is a batch.
func IsBatch(body []byte) bool {
	trimmed := bytes.TrimLeft(body, " \t\r\n")
	return len(trimmed) > 0 && trimmed[0] == '['
}

// BatchAllowed reports whether body may be sent in a session that negotiated
// version: a batch is part of 2025-03-26 and older versions only. The request's
// own version header, if it has one, decides instead of the session's.
func BatchAllowed(body []byte, version string, header http.Header) bool {
	if !IsBatch(body) {
		return true
	}
	if v := header[HeaderProtocolVersion]; len(v) > 0 {
		version = v[0]
	}
	return !AtLeast(version, V20250618)
}
