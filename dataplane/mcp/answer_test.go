package mcp

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestAnswersCarryStatusAndID(t *testing.T) {
	tests := []struct {
		name   string
		write  func(http.ResponseWriter)
		status int
		retry  string
		body   string
	}{
		{"error", func(w http.ResponseWriter) { WriteError(w, 400, &Error{Code: CodeParse, Message: "m"}) }, 400, "", `{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"m"}}`},
		{"unavailable", func(w http.ResponseWriter) { WriteUnavailable(w, []byte("7"), "m") }, 503, "1", `{"jsonrpc":"2.0","id":7,"error":{"code":5031,"message":"m"}}`},
		{"no session", func(w http.ResponseWriter) { WriteSessionNotFound(w, []byte(`"x"`)) }, 404, "", `{"jsonrpc":"2.0","id":"x","error":{"code":-32001,"message":"Session not found"}}`},
	}
	for _, tt := range tests {
		w := httptest.NewRecorder()
		tt.write(w)
		h := w.Header()
		if w.Code != tt.status || w.Body.String() != tt.body || h.Get("Content-Type") != "application/json" || h.Get("Retry-After") != tt.retry {
			t.Errorf("%s: got %d %v %s", tt.name, w.Code, h, w.Body)
		}
	}
}

func TestBatchesAreForOldVersions(t *testing.T) {
	tests := []struct {
		body, session, header string
		want                  bool
	}{
		{`{}`, V20251125, "", true},
		{` [{}]`, V20251125, "", false},
		{"\r\n\t[{}]", V20250618, "", false},
		{`[{}]`, V20250326, "", true},
		{`[{}]`, V20241105, "", true},
		{`[{}]`, V20251125, V20250326, true},
		{`[{}]`, V20250326, V20250618, false},
	}
	for _, tt := range tests {
		h := http.Header{}
		if tt.header != "" {
			h.Set(HeaderProtocolVersion, tt.header)
		}
		if got := BatchAllowed([]byte(tt.body), tt.session, h); got != tt.want {
			t.Errorf("BatchAllowed(%q, %s, %q) = %v", tt.body, tt.session, tt.header, got)
		}
	}
}

func TestHeaderNamesAreCanonical(t *testing.T) {
	for _, name := range []string{HeaderSessionID, HeaderProtocolVersion, HeaderLastEventID, HeaderMethod, HeaderName, HeaderParamPrefix} {
		if got := http.CanonicalHeaderKey(name); got != name {
			t.Errorf("%s is not canonical: %s is", name, got)
		}
	}
}

func TestIsResponse(t *testing.T) {
	for text, want := range map[string]bool{
		`{"jsonrpc":"2.0","id":1,"result":{}}`:                  true,
		` {"error":{"code":1},"id":null}`:                       true,
		`[{"id":1,"result":{}},{"method":"x"}]`:                 true,
		`{"jsonrpc":"2.0","id":1,"method":"ping"}`:              false,
		`{"method":"x","params":{"result":1}}`:                  false,
		`{"params":{"result":1,"error":[{"result":1}]},"id":1}`: false,
		`[[{"result":1}]]`:                                      false,
		`[]`:                                                    false,
		`{}`:                                                    false,
		``:                                                      false,
		`null`:                                                  false,
		`{"id":1,"result"`:                                      false,
		`{"id":`:                                                false,
		strings.Repeat(`{"a":`, 100_000) + strings.Repeat("}", 10): false,
	} {
		if got := IsResponse([]byte(text)); got != want {
			t.Errorf("IsResponse(%.60s) = %v", text, got)
		}
	}
}

func TestUnsupportedVersionNamesTheStatefulOnes(t *testing.T) {
	got := string(AppendError(nil, UnsupportedVersion([]byte("1"), "20\"26")))
	if want := `{"jsonrpc":"2.0","id":1,"error":{"code":-32022,"message":"Unsupported protocol version","data":{"supported":["2025-11-25","2025-06-18","2025-03-26"],"requested":"20\"26"}}}`; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestAnAnswerThatTheSessionIsLostIsTold(t *testing.T) {
	for body, want := range map[string]bool{
		`{"jsonrpc":"2.0","error":{"code":-32000,"message":"Bad Request: No valid session ID provided"}}`:        true,
		`{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"Bad Request: Server not initialized"}}`:    true,
		`{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"no such session in the arguments"}}`:          false,
		`{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"Bad Request: Unsupported protocol version"}}`: false,
		`{"jsonrpc":"2.0","id":1,"error":{"code":-32000}}`:                                                       false,
		`{"jsonrpc":"2.0","id":1,"result":{"error":{"code":-32000,"message":"session"}}}`:                        false,
		`no session`: false,
		``:           false,
	} {
		if got := IsSessionLost([]byte(body)); got != want {
			t.Errorf("%s: got %v, want %v", body, got, want)
		}
	}
}
