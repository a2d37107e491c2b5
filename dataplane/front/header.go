package front

import (
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/credential"
	"github.com/leasehold/leasehold/dataplane/mcp"
)

// passed are the header fields of a client's request that reach the upstream.
// Everything else stays here: credentials, cookies, and whatever a client may
// say about where it comes from.
var passed = [...]string{
	"Accept", "Content-Type", mcp.HeaderProtocolVersion, mcp.HeaderLastEventID,
	"Traceparent", "Tracestate", "Baggage",
}

var userAgent = []string{"leasehold"}

// ownerHeader returns the fields of h for the owner, with room for its own. The one
// that an upstream of gateway is to be shown, if any, goes under a name by which it
// does not go out by itself.
func ownerHeader(h http.Header, gateway *config.Gateway) http.Header {
	to := make(http.Header, 8)
	for _, name := range passed {
		if v := h[name]; v != nil && validUTF8(v) {
			to[name] = v
		}
	}
	to["User-Agent"] = userAgent
	if gateway == nil {
		return to
	}
	for _, upstream := range gateway.Real() {
		if upstream.Credential == nil || upstream.Credential.CallerHeader == "" {
			continue
		}
		name := upstream.Credential.CallerHeader
		if v := h[name]; v != nil && validUTF8(v) {
			to[credential.CallerField(name)] = v
		}
	}
	return to
}

// validUTF8 reports whether the values can travel to another worker. Those of the
// fields that are passed on are ASCII by their definitions.
func validUTF8(values []string) bool {
	return !slices.ContainsFunc(values, func(v string) bool { return !utf8.ValidString(v) })
}

func isJSON(h http.Header) bool {
	values := h["Content-Type"]
	if len(values) != 1 {
		return false
	}
	kind, _, _ := strings.Cut(values[0], ";")
	return strings.EqualFold(strings.TrimSpace(kind), "application/json")
}

// accepts reports whether the Accept values admit the media type kind/sub, by
// name or by a wildcard.
func accepts(values []string, kind, sub string) bool {
	for _, value := range values {
		for value != "" {
			var one string
			one, value, _ = strings.Cut(value, ",")
			one, _, _ = strings.Cut(one, ";")
			k, s, _ := strings.Cut(strings.TrimSpace(one), "/")
			if (k == "*" || strings.EqualFold(k, kind)) && (s == "*" || strings.EqualFold(s, sub)) {
				return true
			}
		}
	}
	return false
}
