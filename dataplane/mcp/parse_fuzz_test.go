package mcp

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"
)

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		toolsCall,
		`{"jsonrpc":"2.0","id":1,"method":"ping"}`,
		`[{"jsonrpc":"2.0","id":"a","method":"ping"},{"jsonrpc":"2.0","id":1,"result":{"x":[1,-2.5e+3,true,null]}}]`,
		`{"jsonrpc":"2.0","id":null,"error":{"code":-1,"message":"é\n"}}`,
		`{"jsonrpc":"2.0","id":1,"method":"a\u0041","m\u0065thod":"b","METHOD\u0000":1}`,
		`{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"a","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}`,
		`{"jsonrpc":"2.0","id":1,"method":"x","params":{"Name":1,"_meta":{"io.modelcontextprotocol\/protocolVer\u017fion":1}}}`,
		"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xff\"}",
		`{"jsonrpc":"2.0","id":1,"method":"\ud83d\ude00\udc00"}`,
		strings.Repeat("[", 100),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		valid := json.Valid(body) && utf8.Valid(body)
		env, err := Parse(bytes.Clone(body), Limits{})
		if err != nil {
			checkRefusal(t, err, valid)
			return
		}
		if !valid {
			t.Fatal("accepted what is not JSON")
		}
		texts := []json.RawMessage{body}
		if env.Batch {
			texts = nil
			if err := json.Unmarshal(body, &texts); err != nil {
				t.Fatal(err)
			}
		}
		if len(texts) != len(env.Messages()) {
			t.Fatalf("got %d messages, want %d", len(env.Messages()), len(texts))
		}
		for i, m := range env.Messages() {
			checkMessage(t, m, texts[i])
		}
	})
}

func checkRefusal(t *testing.T, err error, valid bool) {
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("not an *Error: %v", err)
	}
	bound := strings.Contains(e.Message, "at most")
	if !bound && valid != (e.Code == CodeInvalidRequest) || e.Code != CodeParse && e.Code != CodeInvalidRequest {
		t.Fatalf("%v, while the JSON is valid: %v", err, valid)
	}
	if out := AppendError(nil, e); !json.Valid(out) || !utf8.Valid(out) {
		t.Fatalf("not JSON: %s", out)
	}
}

// checkMessage compares m to what encoding/json makes of text. It ignores case
// and takes the last of duplicates, so any disagreement is a way around us.
func checkMessage(t *testing.T, m Message, text []byte) {
	var want struct {
		Version string          `json:"jsonrpc"`
		ID      json.RawMessage `json:"id"`
		Method  string          `json:"method"`
		Params  json.RawMessage `json:"params"`
		Result  json.RawMessage `json:"result"`
		Error   json.RawMessage `json:"error"`
	}
	if err := json.Unmarshal(text, &want); err != nil {
		t.Fatal(err)
	}
	if string(want.ID) == "null" {
		want.ID = nil
	}
	if want.Version != "2.0" || m.Method != want.Method {
		t.Fatalf("got %s, want version %q, method %q", show(m), want.Version, want.Method)
	}
	for _, pair := range [][2][]byte{{m.ID, want.ID}, {m.Params, want.Params}, {m.Result, want.Result}, {m.Error, want.Error}} {
		if !bytes.Equal(pair[0], pair[1]) || (pair[0] == nil) != (pair[1] == nil) {
			t.Fatalf("got %q, want %q in %s", pair[0], pair[1], text)
		}
	}
	checkKeys(t, text, "jsonrpc", "id", "method", "params", "result", "error")
	if m.Params == nil {
		return
	}
	checkKeys(t, m.Params, "_meta", "name", "uri")
	var params struct {
		Meta json.RawMessage `json:"_meta"`
		Name json.RawMessage `json:"name"`
		URI  json.RawMessage `json:"uri"`
	}
	if err := json.Unmarshal(m.Params, &params); err != nil {
		t.Fatal(err)
	}
	if strings.HasPrefix(m.Method, "resources/") {
		params.Name = params.URI
	}
	if !bytes.Equal(m.Name, params.Name) {
		t.Fatalf("got name %q, want %q", m.Name, params.Name)
	}
	checkMeta(t, m, params.Meta)
}

func checkMeta(t *testing.T, m Message, raw []byte) {
	var meta map[string]json.RawMessage
	if len(raw) > 0 && raw[0] == '{' {
		if err := json.Unmarshal(raw, &meta); err != nil {
			t.Fatal(err)
		}
		checkKeys(t, raw, MetaProtocolVersion)
	}
	value, has := meta[MetaProtocolVersion]
	var version string
	if len(value) > 0 && value[0] == '"' && json.Unmarshal(value, &version) == nil && strings.ContainsRune(version, utf8.RuneError) {
		return // half a surrogate pair: no version for us
	}
	if m.HasModernMeta != has || m.ProtocolVersion != version {
		t.Fatalf("got %v, %q, want %v, %q", m.HasModernMeta, m.ProtocolVersion, has, version)
	}
}

// checkKeys checks that an object has each name at most once, counting what a
// lenient parser takes for it, and that it is spelled right.
func checkKeys(t *testing.T, object []byte, names ...string) {
	d := json.NewDecoder(bytes.NewReader(object))
	if _, err := d.Token(); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for d.More() {
		token, err := d.Token()
		if err != nil {
			t.Fatal(err)
		}
		key := token.(string)
		for _, name := range names {
			if cut, _, _ := strings.Cut(key, "\x00"); !strings.EqualFold(cut, name) {
				continue
			}
			if key != name || seen[name] {
				t.Fatalf("accepted the key %q in %s", key, object)
			}
			seen[name] = true
		}
		var skip json.RawMessage
		if err := d.Decode(&skip); err != nil {
			t.Fatal(err)
		}
	}
}
