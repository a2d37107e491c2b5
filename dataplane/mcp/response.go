package mcp

import "bytes"

// IsResponse reports whether data, a message that an upstream sent, is an answer
// rather than a request or a notification. It reads no further than the member
// that tells, and says false of what is not JSON. A batch is an answer if its
// first message is.
func IsResponse(data []byte) bool {
	s := scanner{b: data, max: MaxDepth}
	i, depth := s.space(0), 0
	if s.at(i) == '[' {
		if i, _ = s.open(i, &depth, ']'); i < 0 {
			return false
		}
	}
	if s.at(i) != '{' {
		return false
	}
	i, more := s.open(i, &depth, '}')
	for more {
		var k span
		if i, k = s.key(i); i < 0 {
			return false
		}
		switch string(data[k.from:k.to]) {
		case `"result"`, `"error"`:
			return true
		case `"method"`:
			return false
		}
		if i = s.value(i, depth); i < 0 {
			return false
		}
		i, more = s.next(i, '}')
	}
	return false
}

// UnsupportedVersion is the answer to a request of a protocol version that is
// not served here. It lists the stateful versions, at which clients that know
// both eras fall back to initialize.
func UnsupportedVersion(id []byte, requested string) *Error {
	data := []byte(`{"supported":[`)
	for i, v := range StatefulVersions() {
		if i > 0 {
			data = append(data, ',')
		}
		data = AppendQuoted(data, v)
	}
	data = append(data, `],"requested":`...)
	data = append(AppendQuoted(data, requested), '}')
	return &Error{Code: CodeUnsupportedVersion, Message: "Unsupported protocol version", ID: id, Data: data}
}

// IsSessionLost reports whether the body of an HTTP 400 says that the server does
// not know the session. The protocol has 404 for that, but several servers
// answer 400 with the code -32000 and a text that names the session or its
// initialization.
func IsSessionLost(body []byte) bool {
	failure, ok := Lookup(body, "error")
	if !ok {
		return false
	}
	code, _ := Lookup(failure, "code")
	message, _ := Lookup(failure, "message")
	text := bytes.ToLower(message)
	return string(code) == "-32000" && (bytes.Contains(text, []byte("session")) || bytes.Contains(text, []byte("not initialized")))
}
