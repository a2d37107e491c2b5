package mcp

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestLookup(t *testing.T) {
	const raw = ` {"a":{"b":[1, 2],"c\u0064":"x","n":null},"a2":1} `
	tests := []struct {
		raw, path, want string // want "" if it is not to be found
	}{
		{raw, "a/b", `[1, 2]`},
		{raw, "a/cd", `"x"`},
		{raw, "a/n", `null`},
		{raw, "a2", `1`},
		{raw, "", strings.TrimSpace(raw)},
		{raw, "b", ""},
		{raw, "a/b/c", ""},
		{raw, "a2/b", ""},
		{raw, "A", ""},
		{`{"a":1,"a":2}`, "a", ""},
		{`{"a":1,"\u0061":2}`, "a", ""},
		{`{"a":1,"A":2}`, "a", ""},
		{`{"A":2,"a":1}`, "a", ""},
		{`{"a":1,"a\u0000":2}`, "a", ""},
		{`{"x":{"a":1,"a":2},"a":3}`, "a", `3`},
		{`{"a":1} x`, "a", ""},
		{`{"a":1`, "a", ""},
		{`[{"a":1}]`, "a", ""},
		{``, "a", ""},
		{``, "", ""},
		{`7`, "", "7"},
	}
	for _, tt := range tests {
		var path []string
		if tt.path != "" {
			path = strings.Split(tt.path, "/")
		}
		got, ok := Lookup([]byte(tt.raw), path...)
		if string(got) != tt.want || ok != (tt.want != "") {
			t.Errorf("Lookup(%s, %s) = %s, %v, want %q", tt.raw, tt.path, got, ok, tt.want)
		}
	}
}

func TestUnquote(t *testing.T) {
	for raw, want := range map[string]string{
		`""`: "", `"a"`: "a", `"\"\\\/\b\f\n\r\t"`: "\"\\/\b\f\n\r\t", `"\u00e9\uD83D\uDE00é"`: "é😀é", `"\u0000"`: "\x00", `"\ufffd"`: "\ufffd", `"\\ud800"`: `\ud800`,
	} {
		if got, ok := Unquote([]byte(raw)); !ok || got != want {
			t.Errorf("Unquote(%s) = %q, %v, want %q", raw, got, ok, want)
		}
	}
	for _, raw := range []string{``, `"`, `a`, `1`, `"a" `, ` "a"`, `"a"b"`, `"\x"`, `"\ud800"`, `"\ud800\n"`, `"\ud800\ud800"`, `"\udc00\ud800"`, "\"\xff\"", "\"\n\""} {
		if got, ok := Unquote([]byte(raw)); ok || got != "" {
			t.Errorf("Unquote(%s) = %q, %v", raw, got, ok)
		}
	}
}

func TestParseInitializeParams(t *testing.T) {
	got, err := ParseInitializeParams([]byte(`{"protocolVersion":"2025-11-25","capabilities":{"roots": {}},"clientInfo":{"name":"n\u00e9","version":"1","x":2}}`))
	if err != nil || got.ProtocolVersion != "2025-11-25" || got.ClientName != "né" || got.ClientVersion != "1" || string(got.Capabilities) != `{"roots": {}}` {
		t.Errorf("got %+v, %v", got, err)
	}
	got, err = ParseInitializeParams([]byte(`{"protocolVersion":"x"}`))
	if err != nil || got.ProtocolVersion != "x" || got.Capabilities != nil || got.ClientName != "" {
		t.Errorf("the least: got %+v, %v", got, err)
	}
	for params, message := range map[string]string{
		``:                       "params of initialize is not an object",
		`[]`:                     "params of initialize is not an object",
		`{}`:                     "protocolVersion of params of initialize is missing",
		`{"protocolVersion":1}`:  "protocolVersion of params of initialize is not a string",
		`{"protocolVersion":""}`: "is not a string of at least one character",
		`{"protocolVersion":"a","protocolVersion":"b"}`:                    "protocolVersion of params of initialize is there twice",
		`{"protocolVersion":"a","ProtocolVersion":"b"}`:                    "is there twice, or once mis-cased",
		`{"protocolversion":"a"}`:                                          "is there twice, or once mis-cased",
		`{"protocolVersion":"a","capabilities":[]}`:                        "capabilities of params of initialize is not an object",
		`{"protocolVersion":"a","capabilities":null}`:                      "capabilities of params of initialize is not an object",
		`{"protocolVersion":"a","clientInfo":"x"}`:                         "clientInfo of params of initialize is not an object",
		`{"protocolVersion":"a","clientInfo":{"name":1}}`:                  "name of clientInfo of params of initialize is not a string",
		`{"protocolVersion":"a","clientInfo":{"version":"1","VERSION":1}}`: "version of clientInfo of params of initialize is there twice",
	} {
		_, err := ParseInitializeParams([]byte(params))
		var e *Error
		if !errors.As(err, &e) || e.Code != CodeInvalidParams || !strings.Contains(e.Message, message) {
			t.Errorf("%s: got %v, want code %d: …%s…", params, err, CodeInvalidParams, message)
		}
	}
}

func TestParseInitializeResult(t *testing.T) {
	if v, err := ParseInitializeResult([]byte(`{"capabilities":{},"protocolVersion":"2025-06-18"}`)); v != "2025-06-18" || err != nil {
		t.Errorf("got %q, %v", v, err)
	}
	for _, result := range []string{``, `null`, `{}`, `{"protocolVersion":null}`, `{"protocolVersion":"a","protocolVersion":"a"}`, `{"protocolVersion":"hunter2-canary"}`} {
		if v, err := ParseInitializeResult([]byte(result)); v != "" || err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: got %q, %v", result, v, err)
		}
	}
}

func FuzzLookup(f *testing.F) {
	f.Add([]byte(`{"a":{"b\u0000":[1,"\ud800"]}}`), "a", "b")
	f.Add([]byte(`"\ud83d\ude00"`), "", "")
	f.Fuzz(func(t *testing.T, raw []byte, first, second string) {
		if text, ok := Unquote(raw); ok {
			var want string
			if err := json.Unmarshal(raw, &want); err != nil || text != want {
				t.Fatalf("Unquote(%s) = %q, want %q, %v", raw, text, want, err)
			}
		}
		if value, ok := Lookup(raw, first); ok {
			var want map[string]json.RawMessage
			if err := json.Unmarshal(raw, &want); err != nil || string(want[first]) != string(value) && utf8.ValidString(first) && !strings.ContainsRune(first, utf8.RuneError) {
				t.Fatalf("Lookup(%s, %q) = %s, want %s, %v", raw, first, value, want[first], err)
			}
		}
		Lookup(raw, first, second)
		ParseInitializeParams(raw)
		ParseInitializeResult(raw)
	})
}
