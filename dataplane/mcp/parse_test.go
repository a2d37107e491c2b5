package mcp

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestParseReadsTheEnvelope(t *testing.T) {
	tests := []struct {
		name, body string
		want       Message
	}{
		{"request", `{"jsonrpc":"2.0","id":1,"method":"ping"}`, Message{Kind: KindRequest, ID: []byte("1"), Method: "ping"}},
		{"white space everywhere", " \r\n\t{ \"jsonrpc\" : \"2.0\" ,\n\"id\" :\t1 , \"method\" : \"ping\" } \n", Message{Kind: KindRequest, ID: []byte("1"), Method: "ping"}},
		{"string id keeps its bytes", `{"jsonrpc":"2.0","id":"a\u0041\/","method":"ping"}`, Message{Kind: KindRequest, ID: []byte(`"a\u0041\/"`), Method: "ping"}},
		{"big id keeps its digits", `{"jsonrpc":"2.0","id":9007199254740993000,"method":"ping"}`, Message{Kind: KindRequest, ID: []byte("9007199254740993000"), Method: "ping"}},
		{"fractional id", `{"jsonrpc":"2.0","id":-1.50e+2,"method":"ping"}`, Message{Kind: KindRequest, ID: []byte("-1.50e+2"), Method: "ping"}},
		{"empty string id", `{"jsonrpc":"2.0","id":"","method":"ping"}`, Message{Kind: KindRequest, ID: []byte(`""`), Method: "ping"}},
		{"notification", `{"jsonrpc":"2.0","method":"notifications/initialized"}`, Message{Kind: KindNotification, Method: "notifications/initialized"}},
		{"unknown method", `{"jsonrpc":"2.0","id":1,"method":"acme/x"}`, Message{Kind: KindRequest, ID: []byte("1"), Method: "acme/x"}},
		{"escaped method", `{"jsonrpc":"2.0","id":1,"method":"tools\/c\u0061ll\ud83d\ude00"}`, Message{Kind: KindRequest, ID: []byte("1"), Method: "tools/call😀"}},
		{"escaped key", `{"jsonrpc":"2.0","\u0069d":1,"m\u0065thod":"ping"}`, Message{Kind: KindRequest, ID: []byte("1"), Method: "ping"}},
		{"result", `{"jsonrpc":"2.0","id":1,"result":{"a":[1]}}`, Message{Kind: KindResponse, ID: []byte("1"), Result: []byte(`{"a":[1]}`)}},
		{"result of another type", `{"jsonrpc":"2.0","id":1,"result":null}`, Message{Kind: KindResponse, ID: []byte("1"), Result: []byte(`null`)}},
		{"error", `{"jsonrpc":"2.0","id":1,"error":{"code":1}}`, Message{Kind: KindResponse, ID: []byte("1"), Error: []byte(`{"code":1}`)}},
		{"error without a known id", `{"jsonrpc":"2.0","id":null,"error":{"code":1}}`, Message{Kind: KindResponse, Error: []byte(`{"code":1}`)}},
		{"params before method", `{"params":{"name":"n","uri":"u"},"method":"tools/call","id":1,"jsonrpc":"2.0"}`, Message{Kind: KindRequest, ID: []byte("1"), Method: "tools/call", Name: []byte(`"n"`), Params: []byte(`{"name":"n","uri":"u"}`)}},
		{"uri of a resource", `{"params":{"name":"n","uri":"u"},"method":"resources/read","id":1,"jsonrpc":"2.0"}`, Message{Kind: KindRequest, ID: []byte("1"), Method: "resources/read", Name: []byte(`"u"`), Params: []byte(`{"name":"n","uri":"u"}`)}},
		{"name of another type", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":{"name":1}}}`, Message{Kind: KindRequest, ID: []byte("1"), Method: "tools/call", Name: []byte(`{"name":1}`), Params: []byte(`{"name":{"name":1}}`)}},
		{"no name", `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{ }}`, Message{Kind: KindRequest, ID: []byte("1"), Method: "tools/list", Params: []byte(`{ }`)}},
		{"stateless", `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{"a":1,"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}`,
			Message{Kind: KindRequest, ID: []byte("1"), Method: "tools/list", ProtocolVersion: "2026-07-28", HasModernMeta: true, Params: []byte(`{"_meta":{"a":1,"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}`)}},
		{"version of another type", `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":1}}}`,
			Message{Kind: KindRequest, ID: []byte("1"), Method: "tools/list", HasModernMeta: true, Params: []byte(`{"_meta":{"io.modelcontextprotocol/protocolVersion":1}}`)}},
		{"escaped version", `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_met\u0061":{"io.modelcontextprotocol\/protocolVersion":"2026\u002d07-28"}}}`,
			Message{Kind: KindRequest, ID: []byte("1"), Method: "tools/list", ProtocolVersion: "2026-07-28", HasModernMeta: true, Params: []byte(`{"_met\u0061":{"io.modelcontextprotocol\/protocolVersion":"2026\u002d07-28"}}`)}},
		{"meta of another type", `{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":[]}}`, Message{Kind: KindRequest, ID: []byte("1"), Method: "ping", Params: []byte(`{"_meta":[]}`)}},
		{"our keys deeper down mean nothing", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"arguments":{"name":1,"NAME":2,"name":3,"_meta":{"io.modelcontextprotocol/protocolVersion":"x"}}},"extra":{"id":1,"ID":2}}`,
			Message{Kind: KindRequest, ID: []byte("1"), Method: "tools/call", Params: []byte(`{"arguments":{"name":1,"NAME":2,"name":3,"_meta":{"io.modelcontextprotocol/protocolVersion":"x"}}}`)}},
		{"other members are fine", `{"jsonrpc":"2.0","id":1,"method":"ping","idx":1,"":2,"methods":3,"trace":4,"trace":5,"\u0000":6}`, Message{Kind: KindRequest, ID: []byte("1"), Method: "ping"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			env, err := Parse([]byte(tt.body), Limits{})
			if err != nil {
				t.Fatalf("Parse(%s): %v", tt.body, err)
			}
			if got := env.Messages(); env.Batch || len(got) != 1 || !equal(got[0], tt.want) {
				t.Errorf("Parse(%s)\n got %s\nwant %s", tt.body, show(got[0]), show(tt.want))
			}
			if env.First() != &env.Messages()[0] {
				t.Error("First is not the first of Messages")
			}
		})
	}
}

func equal(a, b Message) bool { return show(a) == show(b) }

// show tells nil from empty.
func show(m Message) string {
	raw := func(b []byte) string {
		if b == nil {
			return "nil"
		}
		return string(b)
	}
	return fmt.Sprintf("%v id=%s method=%q version=%q %v name=%s params=%s result=%s error=%s",
		m.Kind, raw(m.ID), m.Method, m.ProtocolVersion, m.HasModernMeta, raw(m.Name), raw(m.Params), raw(m.Result), raw(m.Error))
}

func TestParseReadsBatches(t *testing.T) {
	env, err := Parse([]byte(` [ {"jsonrpc":"2.0","id":1,"method":"ping"} , {"jsonrpc":"2.0","method":"x"},{"jsonrpc":"2.0","id":2,"result":{}}] `), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	want := []Message{
		{Kind: KindRequest, ID: []byte("1"), Method: "ping"},
		{Kind: KindNotification, Method: "x"},
		{Kind: KindResponse, ID: []byte("2"), Result: []byte("{}")},
	}
	got := env.Messages()
	if !env.Batch || len(got) != len(want) || env.First() != &got[0] {
		t.Fatalf("got batch=%v with %d messages, want a batch of %d", env.Batch, len(got), len(want))
	}
	for i := range want {
		if !equal(got[i], want[i]) {
			t.Errorf("message %d\n got %s\nwant %s", i, show(got[i]), show(want[i]))
		}
	}
	if env, err = Parse([]byte(`[{"jsonrpc":"2.0","method":"x"}]`), Limits{}); err != nil || !env.Batch {
		t.Errorf("a batch of one: batch=%v, %v", env.Batch, err)
	}
}

func TestParseRefuses(t *testing.T) {
	const version = MetaProtocolVersion
	tests := []struct {
		name, body string
		code       int
		id         string // of the error, "" for none
		message    string // a part of it
	}{
		{"nothing", ``, CodeParse, "", "byte 0: the body ends where a value is due"},
		{"white space only", ` `, CodeParse, "", "byte 1"},
		{"byte order mark", "\ufeff{}", CodeParse, "", "byte 0: found byte 0xef"},
		{"trailing data", `{"jsonrpc":"2.0","id":1,"method":"ping"} x`, CodeParse, "", "byte 41: found byte 0x78 where the end is due"},
		{"two messages", `{"jsonrpc":"2.0","method":"ping"}{"jsonrpc":"2.0","method":"ping"}`, CodeParse, "", "byte 33"},
		{"trailing data after a batch", `[{"jsonrpc":"2.0","method":"ping"}]]`, CodeParse, "", "byte 35"},
		{"trailing comma", `{"jsonrpc":"2.0",}`, CodeParse, "", "byte 17: found byte 0x7d where a key is due"},
		{"comment", `{"jsonrpc":"2.0"/**/}`, CodeParse, "", "byte 16"},
		{"cut off", `{"jsonrpc":"2.0","id":1`, CodeParse, "", "byte 23: the body ends"},
		{"not UTF-8", "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"pi\xffng\"}", CodeParse, "", "byte 36: not UTF-8"},
		{"not UTF-8 deep down", "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\",\"x\":[{\"\xc0\x80\":1}]}", CodeParse, "", "byte 47: not UTF-8"},
		{"surrogates in UTF-8", "{\"x\":\"\xed\xa0\x80\"}", CodeParse, "", "byte 6: not UTF-8"},
		{"control character", "{\"jsonrpc\":\"2.0\",\"method\":\"pi\nng\"}", CodeParse, "", "byte 29"},
		{"bad JSON counts more than what came before", `{"jsonrpc":"1.0","id":1,"id":2`, CodeParse, "", "byte 30"},

		{"not an object", `"x"`, CodeInvalidRequest, "", "byte 0: not an object"},
		{"null", `null`, CodeInvalidRequest, "", "byte 0: not an object"},
		{"no version", `{"id":1,"method":"ping"}`, CodeInvalidRequest, "1", "byte 0: jsonrpc is missing"},
		{"version 1", `{"jsonrpc":"1.0","id":1,"method":"ping"}`, CodeInvalidRequest, "1", `byte 11: jsonrpc is not "2.0"`},
		{"numeric version", `{"jsonrpc":2.0,"id":"x","method":"ping"}`, CodeInvalidRequest, `"x"`, `byte 11: jsonrpc is not "2.0"`},
		{"null id", `{"jsonrpc":"2.0","id":null,"method":"ping"}`, CodeInvalidRequest, "", "id is null"},
		{"object id", `{"jsonrpc":"2.0","id":{},"method":"ping"}`, CodeInvalidRequest, "", "byte 22: id is neither"},
		{"boolean id", `{"jsonrpc":"2.0","id":true,"method":"ping"}`, CodeInvalidRequest, "", "byte 22: id is neither"},
		{"method no string", `{"jsonrpc":"2.0","method":1,"id":7}`, CodeInvalidRequest, "7", "byte 26: method is not a string"},
		{"method empty", `{"jsonrpc":"2.0","method":"","id":7}`, CodeInvalidRequest, "7", "byte 26: method is not a string"},
		{"method half a surrogate pair", `{"jsonrpc":"2.0","method":"a\ud800","id":7}`, CodeInvalidRequest, "7", "byte 26: method is not a string"},
		{"nothing to do", `{"jsonrpc":"2.0","id":1}`, CodeInvalidRequest, "1", "neither a method nor"},
		{"params array", `{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}`, CodeInvalidRequest, "1", "byte 49: params is not an object"},
		{"params null", `{"jsonrpc":"2.0","id":1,"method":"ping","params":null}`, CodeInvalidRequest, "1", "byte 49: params is not an object"},
		{"method and result", `{"jsonrpc":"2.0","id":1,"method":"ping","result":{}}`, CodeInvalidRequest, "1", "method beside a result"},
		{"method and error", `{"jsonrpc":"2.0","id":1,"error":{},"method":"ping"}`, CodeInvalidRequest, "1", "method beside a result"},
		{"result and error", `{"jsonrpc":"2.0","id":1,"result":{},"error":{}}`, CodeInvalidRequest, "1", "both a result and an error"},
		{"result without id", `{"jsonrpc":"2.0","result":{}}`, CodeInvalidRequest, "", "response without an id"},
		{"result with null id", `{"jsonrpc":"2.0","id":null,"result":{}}`, CodeInvalidRequest, "", "response without an id"},
		{"error without id", `{"jsonrpc":"2.0","error":{}}`, CodeInvalidRequest, "", "response without an id"},
		{"error no object", `{"jsonrpc":"2.0","id":1,"error":"x"}`, CodeInvalidRequest, "1", "byte 32: error is not an object"},
		{"params in a response", `{"jsonrpc":"2.0","id":1,"result":{},"params":{}}`, CodeInvalidRequest, "1", "params in a response"},

		{"two methods", `{"jsonrpc":"2.0","method":"tools/list","id":1,"method":"tools/call"}`, CodeInvalidRequest, "1", `byte 46: duplicate key "method"`},
		{"two methods, one escaped", `{"jsonrpc":"2.0","method":"tools/list","id":1,"m\u0065thod":"tools/call"}`, CodeInvalidRequest, "1", `byte 46: duplicate key "m\u0065thod"`},
		{"two ids", `{"jsonrpc":"2.0","id":1,"method":"ping","id":2}`, CodeInvalidRequest, "", `byte 40: duplicate key "id"`},
		{"two ids, one null", `{"jsonrpc":"2.0","id":null,"id":2,"error":{}}`, CodeInvalidRequest, "", `duplicate key "id"`},
		{"two versions", `{"jsonrpc":"2.0","jsonrpc":"2.0","id":1,"method":"ping"}`, CodeInvalidRequest, "1", `duplicate key "jsonrpc"`},
		{"two params", `{"jsonrpc":"2.0","params":{},"id":1,"method":"ping","params":{}}`, CodeInvalidRequest, "1", `duplicate key "params"`},
		{"two results", `{"jsonrpc":"2.0","result":{},"id":1,"result":{}}`, CodeInvalidRequest, "1", `duplicate key "result"`},
		{"two errors", `{"jsonrpc":"2.0","error":{},"id":1,"error":{}}`, CodeInvalidRequest, "1", `duplicate key "error"`},
		{"mis-cased method", `{"jsonrpc":"2.0","method":"tools/list","METHOD":"tools/call","id":1}`, CodeInvalidRequest, "1", `byte 39: key "METHOD" differs`},
		{"mis-cased method alone", `{"jsonrpc":"2.0","Method":"ping","id":1}`, CodeInvalidRequest, "1", `byte 17: key "Method" differs`},
		{"mis-cased id", `{"jsonrpc":"2.0","method":"ping","id":1,"Id":2}`, CodeInvalidRequest, "", `key "Id" differs`},
		{"escaped mis-cased id", `{"jsonrpc":"2.0","method":"ping","\u0049d":2}`, CodeInvalidRequest, "", `key "\u0049d" differs`},
		{"long s", `{"jsonrpc":"2.0","method":"ping","id":1,"paramſ":{}}`, CodeInvalidRequest, "1", `key "paramſ" differs`},
		{"escaped long s", `{"jsonrpc":"2.0","id":1,"re\u017Fult":{}}`, CodeInvalidRequest, "1", `key "re\u017Fult" differs`},
		{"dotless i", `{"jsonrpc":"2.0","method":"ping","ıd":1}`, CodeInvalidRequest, "", `key "ıd" differs`},
		{"NUL behind method", `{"jsonrpc":"2.0","method":"tools/list","id":1,"method\u0000":"tools/call"}`, CodeInvalidRequest, "1", `key "method\u0000" differs`},
		{"NUL and more behind a mis-cased key", `{"jsonrpc":"2.0","method":"tools/list","id":1,"Params\u0000x":1}`, CodeInvalidRequest, "1", `key "Params\u0000x" differs`},
		{"long mis-cased key is cut", `{"jsonrpc":"2.0","id":1,"id\u0000` + strings.Repeat("x", 1000) + `":1}`, CodeInvalidRequest, "", `xxx"… differs`},

		{"two names", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","name":"b"}}`, CodeInvalidRequest, "1", `byte 67: duplicate key "name" in params`},
		{"two names, one escaped", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","n\u0061me":"b"}}`, CodeInvalidRequest, "1", `duplicate key "n\u0061me" in params`},
		{"mis-cased name", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","Name":"b"}}`, CodeInvalidRequest, "1", `key "Name" in params differs`},
		{"NUL behind name", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name\u0000":"b"}}`, CodeInvalidRequest, "1", `key "name\u0000" in params differs`},
		{"two uris", `{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"a","uri":"b"}}`, CodeInvalidRequest, "1", `duplicate key "uri" in params`},
		{"mis-cased uri", `{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"URI":"a"}}`, CodeInvalidRequest, "1", `key "URI" in params differs`},
		{"two metas", `{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{},"_meta":{}}}`, CodeInvalidRequest, "1", `duplicate key "_meta" in params`},
		{"mis-cased meta", `{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_Meta":{}}}`, CodeInvalidRequest, "1", `key "_Meta" in params differs`},
		{"two versions in meta", `{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{"` + version + `":1,"` + version + `":"2026-07-28"}}}`, CodeInvalidRequest, "1", "in params._meta"},
		{"mis-cased version in meta", `{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{"` + strings.ToLower(version) + `":1}}}`, CodeInvalidRequest, "1", "in params._meta differs"},
		{"long s in meta", `{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{"` + strings.ReplaceAll(version, "sion", "ſion") + `":1}}}`, CodeInvalidRequest, "1", "in params._meta differs"},

		{"empty batch", ` [ ]`, CodeInvalidRequest, "", "byte 1: the batch is empty"},
		{"batch of batches", `[[{"jsonrpc":"2.0","method":"ping"}]]`, CodeInvalidRequest, "", "byte 1: not an object"},
		{"initialize in a batch", `[{"jsonrpc":"2.0","method":"ping"},{"jsonrpc":"2.0","id":5,"method":"initialize","params":{}}]`, CodeInvalidRequest, "5", "byte 35: initialize inside a batch"},
		{"one bad message in a batch", `[{"jsonrpc":"2.0","id":4,"method":"ping"},{"jsonrpc":"2.0","id":5},{"jsonrpc":"2.0","id":6}]`, CodeInvalidRequest, "5", "byte 42: neither"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			env, err := Parse([]byte(tt.body), Limits{})
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("Parse(%s) = %s, %v, want an *Error", tt.body, show(env.one[0]), err)
			}
			if e.Code != tt.code || string(e.ID) != tt.id || !strings.Contains(e.Message, tt.message) {
				t.Errorf("Parse(%s)\n got code %d, id %q: %s\nwant code %d, id %q: …%s…", tt.body, e.Code, e.ID, e.Message, tt.code, tt.id, tt.message)
			}
		})
	}
}

func TestParseNamesItsBounds(t *testing.T) {
	nested := func(n int) string {
		return `{"jsonrpc":"2.0","id":9,"method":"ping","x":` + strings.Repeat("[", n-1) + strings.Repeat("]", n-1) + "}"
	}
	batch := func(n int) string {
		return "[" + strings.Repeat(`{"jsonrpc":"2.0","method":"ping"},`, n-1) + `{"jsonrpc":"2.0","method":"ping"}]`
	}
	tests := []struct {
		name, body string
		limits     Limits
		message    string // "" if it is to be accepted
	}{
		{"default depth", nested(64), Limits{}, ""},
		{"past the default depth", nested(65), Limits{}, "nested 65 levels deep at byte 107: at most 64 are allowed"},
		{"depth", nested(5), Limits{Depth: 5}, ""},
		{"past the depth", nested(6), Limits{Depth: 5}, "nested 6 levels deep at byte 48: at most 5 are allowed"},
		{"far past the depth", nested(1e6), Limits{}, "nested 65 levels deep"},
		{"past the highest depth", nested(MaxDepth + 1), Limits{Depth: 1e9}, "at most 1000 are allowed"},
		{"a batch is a level", "[" + nested(5) + "]", Limits{Depth: 5}, "nested 6 levels deep"},
		{"params are a level", `{"jsonrpc":"2.0","id":9,"method":"ping","params":{"_meta":{}}}`, Limits{Depth: 2}, "nested 3 levels deep at byte 58"},
		{"default batch", batch(100), Limits{}, ""},
		{"past the default batch", batch(101), Limits{}, "batch goes on at byte 3401 after 100 messages: at most 100 are allowed"},
		{"batch", batch(3), Limits{Batch: 3}, ""},
		{"past the batch", batch(4), Limits{Batch: 3}, "at most 3 are allowed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse([]byte(tt.body), tt.limits)
			if tt.message == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			var e *Error
			if !errors.As(err, &e) || e.Code != CodeInvalidRequest || !strings.Contains(e.Message, tt.message) {
				t.Fatalf("got %v, want code %d: …%s…", err, CodeInvalidRequest, tt.message)
			}
			if !strings.Contains(tt.name, "batch") && string(e.ID) != "9" {
				t.Errorf("got id %q, want 9", e.ID)
			}
		})
	}
}

// Strings are read eight bytes at a time, and differently at the end of the
// body: nothing may slip through at any offset.
func TestEveryByteIsCheckedAtEveryOffset(t *testing.T) {
	for length := range 20 {
		for at := range length {
			for c := range 256 {
				for _, around := range [][2]string{{`"`, `"`}, {`"é`, `"`}, {`["`, `","        "]`}} {
					inside := bytes.Repeat([]byte("x"), length)
					inside[at] = byte(c)
					text := []byte(around[0] + string(inside) + around[1])
					_, ok := trim(text)
					if want := json.Valid(text) && utf8.Valid(text); ok != want {
						t.Fatalf("%q: got valid %v, want %v", text, ok, want)
					}
				}
			}
		}
	}
}

func TestScannerAgreesWithTheGrammar(t *testing.T) {
	for _, text := range []string{
		`0`, `-0`, `01`, `-`, `1.`, `.1`, `1.0`, `1e`, `1e+`, `1e5`, `1E-05`, `1.5e+10`, `+1`, `0x1`, `1a`, `--1`, `Infinity`, `NaN`, `- 1`,
		`true`, `false`, `null`, `tru`, `truex`, `nul`, `True`, `t`, `f`, `n`,
		`""`, `"`, `"\"`, `"\"`, `"\\"`, `"\x"`, `"\u12"`, `"\u123g"`, `"\uABCD"`, `"\ud800"`, `"\b\f\n\r\t\/\""`, `'a'`, "\"\x7f\"", "\"\t\"", "\"\x00\"",
		`[]`, `[`, `]`, `[1`, `[1,`, `[1,]`, `[,1]`, `[1 2]`, `[1,2]`, `[[]`, `[]]`, `[1}`,
		`{}`, `{`, `}`, `{"a"`, `{"a":`, `{"a":1`, `{"a":1,`, `{"a":1,}`, `{,}`, `{a:1}`, `{"a" 1}`, `{"a":1 "b":2}`, `{"a":1,"b":2}`, `{"a":1]`, `{1:2}`, `{"a"::1}`, `{"a":1;}`,
		" 1 ", "\t1\n\r", "\v1", "\u00a01", "1\x00", "", " ", "\ufeff1",
	} {
		_, ok := trim([]byte(text))
		if want := json.Valid([]byte(text)) && utf8.ValidString(text); ok != want {
			t.Errorf("%q: got valid %v, want %v", text, ok, want)
		}
	}
}

func TestParseDoesNotAllocate(t *testing.T) {
	for _, body := range []string{toolsCall, `{"jsonrpc":"2.0","id":1,"result":{"content":[]}}`, `{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}`} {
		n := testing.AllocsPerRun(100, func() {
			env, err := Parse([]byte(body), Limits{})
			if err != nil || env.Messages()[0].Kind != env.First().Kind {
				t.Fatal(err)
			}
		})
		if n > 1 { // the conversion of body
			t.Errorf("Parse(%s) allocates %v times", body, n-1)
		}
	}
}

func TestKnownNamesAreInterned(t *testing.T) {
	for _, name := range []string{MethodInitialize, MethodPing, MethodToolsCall, MethodCancelled, MethodProgress, MethodTasksStatus, V20260728, V20251125, V20241105} {
		raw := []byte(name)
		if internMethod(raw) != name || internVersion(raw) != name {
			t.Errorf("%q comes out as %q and %q", name, internMethod(raw), internVersion(raw))
		}
		intern := internMethod
		if isDate(name) {
			intern = internVersion
		}
		var got string
		if n := testing.AllocsPerRun(10, func() { got = intern(raw) }); n != 0 || got != name {
			t.Errorf("%q: %v allocations", name, n)
		}
	}
}

func TestAppendErrorIsJSON(t *testing.T) {
	tests := []struct {
		e    Error
		want string
	}{
		{Error{Code: CodeParse, Message: "x"}, `{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"x"}}`},
		{Error{Code: CodeOutcomeUnknown, Message: "a\"b\\c\n\x00é\u2028", ID: []byte(`"i"`), Data: []byte(`{"a":1}`)},
			`{"jsonrpc":"2.0","id":"i","error":{"code":5040,"message":"a\"b\\c\n\u0000é` + "\u2028" + `","data":{"a":1}}}`},
		{Error{Message: "a\xffb"}, "{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":0,\"message\":\"a\ufffdb\"}}"},
	}
	for _, tt := range tests {
		got := AppendError([]byte("x"), &tt.e)
		if string(got) != "x"+tt.want || !json.Valid(got[1:]) {
			t.Errorf("got  %s\nwant x%s", got, tt.want)
		}
	}
}

func TestVersions(t *testing.T) {
	for _, v := range append(StatefulVersions(), V20241105) {
		if !IsStateful(v) || IsStateless(v) {
			t.Errorf("%s is not stateful", v)
		}
	}
	if got := strings.Join(StatefulVersions(), " "); got != "2025-11-25 2025-06-18 2025-03-26" {
		t.Errorf("stateful versions are %s", got)
	}
	for v, want := range map[string]bool{
		V20260728: true, "2026-07-29": true, "2030-01-01": true, "9999-12-31": true,
		V20251125: false, "2026-07-27": false, "": false, "9": false, "2026-07-2": false, "2026-07-280": false, "2026-13-01": false, "2026-08-00": false, "2026-08-32": false,
		"2026/08/01": false, "20260801--": false, "draft": false, "２０２６-08": false, "2027-0a-01": false,
	} {
		if IsStateless(v) != want {
			t.Errorf("IsStateless(%q) = %v", v, !want)
		}
	}
	if !AtLeast(V20250618, V20250618) || AtLeast(V20250326, V20250618) || AtLeast("zzz", V20250618) {
		t.Error("AtLeast is wrong")
	}
}
