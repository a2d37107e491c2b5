package mcp

import "bytes"

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
