package mcp

// The dated versions of the protocol.
const (
	V20241105 = "2024-11-05"
	V20250326 = "2025-03-26"
	V20250618 = "2025-06-18"
	V20251125 = "2025-11-25"
	V20260728 = "2026-07-28"
)

// HTTP header names in their canonical MIME form, as they are keys of an
// http.Header.
const (
	HeaderSessionID       = "Mcp-Session-Id"
	HeaderProtocolVersion = "Mcp-Protocol-Version"
	HeaderLastEventID     = "Last-Event-Id"
	HeaderMethod          = "Mcp-Method"
	HeaderName            = "Mcp-Name"
	HeaderParamPrefix     = "Mcp-Param-"
)

// MetaProtocolVersion is the key in params._meta that carries the protocol
// version of a stateless request. Its presence makes a request stateless.
const MetaProtocolVersion = "io.modelcontextprotocol/protocolVersion"

// StatefulVersions lists the versions that clients can negotiate over
// streamable HTTP with initialize, newest first. The slice is the caller's.
func StatefulVersions() []string {
	return []string{V20251125, V20250618, V20250326}
}

// IsStateful reports whether v is one of the versions that begin with
// initialize, 2024-11-05 included.
func IsStateful(v string) bool {
	switch v {
	case V20251125, V20250618, V20250326, V20241105:
		return true
	}
	return false
}

// IsStateless reports whether v is a well-formed date from 2026-07-28 on, known
// to us or not.
func IsStateless(v string) bool { return AtLeast(v, V20260728) }

// AtLeast reports whether v is the version w or a later one. A v that is not a
// date of the form YYYY-MM-DD is never at least anything.
func AtLeast(v, w string) bool { return isDate(v) && v >= w }

// isDate reports whether v looks like YYYY-MM-DD. The number of days in a month
// does not matter: versions are compared as text.
func isDate(v string) bool {
	if len(v) != len("2006-01-02") || v[4] != '-' || v[7] != '-' {
		return false
	}
	for i := range len(v) {
		if i != 4 && i != 7 && !isDigit(v[i]) {
			return false
		}
	}
	month, day := v[5:7], v[8:10]
	return month >= "01" && month <= "12" && day >= "01" && day <= "31"
}

// internVersion returns raw as a string, without an allocation if it is a
// version that we know.
func internVersion(raw []byte) string {
	switch string(raw) {
	case V20260728:
		return V20260728
	case V20251125:
		return V20251125
	case V20250618:
		return V20250618
	case V20250326:
		return V20250326
	case V20241105:
		return V20241105
	}
	return string(raw)
}
