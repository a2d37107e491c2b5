package mcp

import (
	"strconv"
	"unicode/utf8"
)

// Codes of JSON-RPC errors.
const (
	// CodeParse says that the body is not JSON.
	CodeParse = -32700
	// CodeInvalidRequest says that the body is JSON but not a message, or that
	// it passes a bound on its depth or its number of messages.
	CodeInvalidRequest = -32600
	// CodeMethodNotFound says that the method does not exist or is not offered.
	CodeMethodNotFound = -32601
	// CodeInvalidParams says that params do not fit the method, or that the
	// _meta which a stateless request needs is missing or malformed.
	CodeInvalidParams = -32602
	// CodeInternal says that the gateway itself failed.
	CodeInternal = -32603
	// CodeSessionNotFound says that the session is unknown, has ended, or is
	// not the caller's: start again with initialize. It comes with HTTP 404.
	CodeSessionNotFound = -32001
	// CodeHeaderMismatch says that a mirrored header of a stateless request is
	// missing, malformed or different from the body.
	CodeHeaderMismatch = -32020
	// CodeUnsupportedVersion says that the protocol version is not served; data
	// names the supported ones and the one requested.
	CodeUnsupportedVersion = -32022
)

// Codes of our own, outside the range that JSON-RPC and the protocol reserve.
const (
	// CodeUpstream says that the upstream failed: it could not be reached, or
	// answered with something that is not MCP.
	CodeUpstream = 5020
	// CodeUpstreamRenewed says that the upstream had lost its session, that it has
	// a new one, and that the request was not carried out.
	CodeUpstreamRenewed = 5021
	// CodeLimit says that a bound of the gateway was passed; the message names it.
	CodeLimit = 5030
	// CodeUnavailable says that the request was not executed and may be sent
	// again later. It comes with HTTP 503 and Retry-After.
	CodeUnavailable = 5031
	// CodeOutcomeUnknown says that the request may or may not have been executed
	// and that nobody can tell any more: do not repeat it blindly.
	CodeOutcomeUnknown = 5040
	// CodeClientGone is for upstreams: what they asked the client cannot be
	// answered, since its connection broke and it did not come back.
	CodeClientGone = 5041
)

// Error is a JSON-RPC error.
type Error struct {
	Code    int
	Message string
	// ID is the raw JSON id of the message that the error is about, nil if it
	// had none or it could not be read. It may alias that message.
	ID []byte
	// Data is raw JSON, or nil.
	Data []byte
}

// Error returns the message and the code.
func (e *Error) Error() string {
	return e.Message + " (code " + strconv.Itoa(e.Code) + ")"
}

// AppendError appends e as a JSON-RPC error response; a nil ID becomes null.
func AppendError(dst []byte, e *Error) []byte {
	dst = append(dst, `{"jsonrpc":"2.0","id":`...)
	if len(e.ID) == 0 {
		dst = append(dst, "null"...)
	}
	dst = append(dst, e.ID...)
	dst = append(dst, `,"error":{"code":`...)
	dst = strconv.AppendInt(dst, int64(e.Code), 10)
	dst = append(dst, `,"message":`...)
	dst = AppendQuoted(dst, e.Message)
	if len(e.Data) > 0 {
		dst = append(dst, `,"data":`...)
		dst = append(dst, e.Data...)
	}
	return append(dst, "}}"...)
}

// AppendQuoted appends s as a JSON string token. Bytes that are not UTF-8
// become U+FFFD.
func AppendQuoted(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			dst = append(dst, '\\', byte(r))
		case r == '\n':
			dst = append(dst, '\\', 'n')
		case r < 0x20:
			dst = append(dst, '\\', 'u', '0', '0', hex[r>>4], hex[r&0xf])
		default:
			dst = utf8.AppendRune(dst, r)
		}
	}
	return append(dst, '"')
}
