package front

import (
	"net/http"
	"net/netip"
	"testing"
)

func TestAccess(t *testing.T) {
	loopback := Access{Loopback: true, Hosts: []string{"dev.example"}, Origins: []string{"https://app.example"}}
	public := Access{Origins: []string{"https://app.example"}}
	named := Access{Hosts: []string{"mcp.example"}}
	proxied := Access{Hosts: []string{"mcp.example"}, Proxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
	for _, tc := range []struct {
		name                         string
		access                       Access
		host, origin, forwarded, via string
		admitted                     bool
	}{
		{"loopback address", loopback, "127.0.0.1:8080", "", "", "", true},
		{"another loopback address", loopback, "127.8.9.1", "", "", "", true},
		{"IPv6 loopback", loopback, "[::1]:8080", "", "", "", true},
		{"IPv6 loopback without port", loopback, "[::1]", "", "", "", true},
		{"localhost", loopback, "LocalHost:1", "", "", "", true},
		{"listed host", loopback, "dev.example:80", "", "", "", true},
		{"rebound name", loopback, "evil.example:8080", "", "", "", false},
		{"suffix of a listed host", loopback, "evil-dev.example", "", "", "", false},
		{"localhost as a prefix", loopback, "localhost.evil.example", "", "", "", false},
		{"no host", loopback, "", "", "", "", false},
		{"loopback origin", loopback, "localhost", "http://localhost:6274", "", "", true},
		{"listed origin", loopback, "localhost", "https://app.example", "", "", true},
		{"listed origin, other scheme", loopback, "localhost", "http://app.example", "", "", false},
		{"other origin", loopback, "localhost", "https://evil.example", "", "", false},
		{"null origin", loopback, "localhost", "null", "", "", false},
		{"origin with a loopback user", loopback, "localhost", "http://localhost@evil.example", "", "", false},
		{"same origin", public, "mcp.example", "https://mcp.example", "", "", true},
		{"same host, other port", public, "mcp.example:8443", "https://mcp.example", "", "", false},
		{"public, any host", public, "anything", "", "", "", true},
		{"public, other origin", public, "mcp.example", "https://evil.example", "", "", false},
		{"named", named, "mcp.example", "", "", "", true},
		{"named, loopback name", named, "localhost", "", "", "", false},
		{"trusted proxy", proxied, "10.1.1.1", "https://mcp.example", "mcp.example", "10.2.3.4:99", true},
		{"trusted proxy over a mapped address", proxied, "10.1.1.1", "", "mcp.example", "[::ffff:10.2.3.4]:99", true},
		{"anybody as a proxy", proxied, "10.1.1.1", "", "mcp.example", "192.0.2.1:99", false},
		{"trusted proxy, other host", proxied, "mcp.example", "", "evil.example", "10.2.3.4:99", false},
	} {
		r := &http.Request{Host: tc.host, Header: http.Header{}, RemoteAddr: tc.via}
		if tc.origin != "" {
			r.Header.Set("Origin", tc.origin)
		}
		if tc.forwarded != "" {
			r.Header.Set("X-Forwarded-Host", tc.forwarded)
		}
		origin, err := tc.access.check(r)
		if (err == nil) != tc.admitted {
			t.Errorf("%s: got %v, want admitted %v", tc.name, err, tc.admitted)
		}
		if err == nil && origin != tc.origin {
			t.Errorf("%s: origin: got %q, want %q", tc.name, origin, tc.origin)
		}
	}
	two := &http.Request{Host: "localhost", Header: http.Header{"Origin": {"http://localhost", "https://evil.example"}}}
	if _, err := loopback.check(two); err == nil {
		t.Error("two origins were admitted")
	}
}

func TestAccepts(t *testing.T) {
	for value, want := range map[string]bool{
		"application/json":                      true,
		"text/html, application/json;q=0.5":     true,
		"Application/JSON":                      true,
		"*/*":                                   true,
		"application/*":                         true,
		"application/jsonp":                     false,
		"text/*":                                false,
		"":                                      false,
		";;,,/,":                                false,
		"application / json":                    false,
		"text/event-stream , application/json ": true,
	} {
		if got := accepts([]string{value}, "application", "json"); got != want {
			t.Errorf("%q: got %v, want %v", value, got, want)
		}
	}
}
