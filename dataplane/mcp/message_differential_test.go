package mcp

import (
	"bytes"
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
)

// property is one member of a JSON object, its key decoded.
type property struct {
	key   string
	value json.RawMessage
}

// object is a JSON object as it came, doubles included.
type object []property

// objectOf reads valid JSON; false if it is not an object.
func objectOf(text []byte) (o object, ok bool) {
	d := json.NewDecoder(bytes.NewReader(text))
	if token, err := d.Token(); err != nil || token != json.Delim('{') {
		return nil, false
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, false
		}
		p := property{key: key.(string)}
		if d.Decode(&p.value) != nil {
			return nil, false
		}
		o = append(o, p)
	}
	return o, true
}

// get returns the member that is called exactly so, or nil.
func (o object) get(key string) json.RawMessage {
	for _, p := range o {
		if p.key == key {
			return p.value
		}
	}
	return nil
}

// clear reports whether each name is there once at most, and no key is one that a
// lenient parser takes for it: one that ignores case, that knows the dotted and
// dotless i, or that stops at a NUL.
func (o object) clear(names ...string) bool {
	dots := strings.NewReplacer("İ", "i", "ı", "i")
	for _, name := range names {
		n := 0
		for _, p := range o {
			key, _, _ := strings.Cut(p.key, "\x00")
			if !strings.EqualFold(dots.Replace(key), name) {
				continue
			}
			if n++; n > 1 || p.key != name {
				return false
			}
		}
	}
	return true
}

// message is a JSON object that may be a message. Absent members are nil.
type message struct {
	object
	version, id, method, params, result, failure json.RawMessage
}

func messageOf(text []byte) (m message, ok bool) {
	m.object, ok = objectOf(text)
	m.version, m.id, m.method = m.get("jsonrpc"), m.get("id"), m.get("method")
	m.params, m.result, m.failure = m.get("params"), m.get("result"), m.get("error")
	return m, ok
}

func is(value json.RawMessage, first string) bool {
	return value != nil && strings.IndexByte(first, value[0]) >= 0
}

func isNull(value json.RawMessage) bool { return string(value) == "null" }

// strictness is why a message is refused, each rule on its own. There is no other
// reason, and each is one that go-sdk's parser may not share.
var strictness = map[string]func(m message) bool{
	"a key of the envelope is there twice, or one resembles it": func(m message) bool {
		return !m.clear("jsonrpc", "id", "method", "params", "result", "error")
	},
	"a key of params that is looked at is there twice, or one resembles it": func(m message) bool {
		params, _ := objectOf(m.params)
		return !params.clear("_meta", "name", "uri")
	},
	"the version of a stateless request is there twice, or a key resembles it": func(m message) bool {
		params, _ := objectOf(m.params)
		meta, _ := objectOf(params.get("_meta"))
		return !meta.clear(MetaProtocolVersion)
	},
	"jsonrpc is not the very text":          func(m message) bool { return string(m.version) != `"2.0"` },
	"id is neither string, number nor null": func(m message) bool { return m.id != nil && !is(m.id, `"-0123456789n`) },
	"method is not a string with text that UTF-8 can carry": func(m message) bool {
		return m.method != nil && (!is(m.method, `"`) || len(m.method) == 2 || halfSurrogate(m.method))
	},
	"params is not an object":      func(m message) bool { return m.params != nil && !is(m.params, "{") },
	"error is not an object":       func(m message) bool { return m.failure != nil && !is(m.failure, "{") },
	"a request has a result":       func(m message) bool { return m.method != nil && (m.result != nil || m.failure != nil) },
	"a request has the id null":    func(m message) bool { return m.method != nil && isNull(m.id) },
	"it is nothing":                func(m message) bool { return m.method == nil && m.result == nil && m.failure == nil },
	"a result beside an error":     func(m message) bool { return m.result != nil && m.failure != nil },
	"a response has params":        func(m message) bool { return m.method == nil && m.params != nil },
	"a response has no id":         func(m message) bool { return m.method == nil && m.id == nil },
	"a result answers the null id": func(m message) bool { return m.result != nil && isNull(m.id) },
}

// halfSurrogate reports whether a string token has an escape that stands for half
// a character.
func halfSurrogate(token []byte) bool {
	for i := 0; i < len(token); i++ {
		if token[i] != '\\' {
			continue
		}
		if i++; token[i] != 'u' {
			continue
		}
		r, _ := strconv.ParseUint(string(token[i+1:i+5]), 16, 16)
		switch i += 4; {
		case r < 0xd800 || r > 0xdfff:
		case r >= 0xdc00 || i+6 >= len(token) || token[i+1] != '\\' || token[i+2] != 'u':
			return true
		default:
			low, err := strconv.ParseUint(string(token[i+3:i+7]), 16, 16)
			if i += 6; err != nil || low < 0xdc00 || low > 0xdfff {
				return true
			}
		}
	}
	return false
}

// depth is how deep arrays and objects nest in valid JSON.
func depth(text []byte) (deepest int) {
	now, quoted := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			now++
			deepest = max(deepest, now)
		case c == '}' || c == ']':
			now--
		}
	}
	return deepest
}

// refusals are the rules that a body breaks, and the messages in one that breaks
// none.
func refusals(body []byte) (broken []string, messages []json.RawMessage) {
	switch {
	case !json.Valid(body):
		return []string{"not JSON, or something follows it"}, nil
	case !utf8.Valid(body):
		return []string{"not UTF-8"}, nil
	case depth(body) > DefaultDepth:
		return []string{"too deep"}, nil
	}
	messages = []json.RawMessage{bytes.Clone(bytes.TrimSpace(body))}
	batch := messages[0][0] == '['
	if batch && (json.Unmarshal(body, &messages) != nil || len(messages) == 0 || len(messages) > DefaultBatch) {
		broken = append(broken, "a batch of none, or of too many")
	}
	for _, text := range messages {
		m, ok := messageOf(text)
		if !ok {
			broken = append(broken, "a message is not an object")
			continue
		}
		var method string
		if batch && json.Unmarshal(m.method, &method) == nil && method == MethodInitialize {
			broken = append(broken, "initialize in a batch")
		}
		for name, breaks := range strictness {
			if breaks(m) {
				broken = append(broken, name)
			}
		}
	}
	return broken, messages
}

// goSDKRefuses is why go-sdk's parser does not take a message that we pass on:
// the relay leaves it to the receiver.
var goSDKRefuses = map[string]func(m message) bool{
	"an error that has no id": func(m message) bool { return isNull(m.id) },
	"a number as id that a float64 cannot hold": func(m message) bool {
		_, err := strconv.ParseFloat(string(m.id), 64)
		return is(m.id, "-0123456789") && err != nil
	},
	"a code that is no int64, or a message that is no string": func(m message) bool {
		failure, _ := objectOf(m.failure)
		for _, p := range failure {
			var code int64
			if p.key == "code" && !isNull(p.value) && json.Unmarshal(p.value, &code) != nil ||
				p.key == "message" && !isNull(p.value) && !is(p.value, `"`) {
				return true
			}
		}
		return false
	},
}

func holds(rules map[string]func(message) bool, m message) bool {
	for _, rule := range rules {
		if rule(m) {
			return true
		}
	}
	return false
}

// FuzzParseAgainstGoSDK holds Parse to the rules above, and what it makes of a
// message to what go-sdk, an upstream or a client of many, makes of it.
func FuzzParseAgainstGoSDK(f *testing.F) {
	f.Add([]byte(toolsCall))
	f.Add([]byte(`[{"jsonrpc":"2.0","id":9007199254740993,"method":"ping"},{"jsonrpc":"2.0","id":1.5,"result":null}]`))
	f.Fuzz(func(t *testing.T, body []byte) {
		env, err := Parse(bytes.Clone(body), Limits{})
		broken, messages := refusals(body)
		if (err != nil) != (len(broken) > 0) {
			t.Fatalf("%q\n got %v, want a refusal only for a rule; broken are %q", body, err, broken)
		}
		if err != nil {
			return
		}
		for i, m := range env.Messages() {
			compareToGoSDK(t, m, messages[i])
		}
		first := func(kind Kind) int {
			return slices.IndexFunc(env.Messages(), func(m Message) bool { return m.Kind == kind })
		}
		want := env.Messages()[max(first(KindResponse), 0)]
		if at := first(KindRequest); at >= 0 && first(KindResponse) < 0 {
			want = env.Messages()[at]
		}
		if kind, id := KindOf(body); kind != want.Kind || kind == KindRequest && !bytes.Equal(id, want.ID) {
			t.Fatalf("%q\n KindOf: got %v with id %q, want %v with %q", body, kind, id, want.Kind, want.ID)
		}
	})
}

func compareToGoSDK(t *testing.T, m Message, text []byte) {
	shape, _ := messageOf(text)
	theirs, err := jsonrpc.DecodeMessage(text)
	if err != nil {
		if !holds(goSDKRefuses, shape) {
			t.Fatalf("%q is accepted, but go-sdk refuses it for no reason that is known: %v", text, err)
		}
		return
	}
	switch theirs := theirs.(type) {
	case *jsonrpc.Request:
		if want := map[bool]Kind{true: KindRequest, false: KindNotification}[theirs.IsCall()]; m.Kind != want || m.Method != theirs.Method {
			t.Fatalf("%q\n got %v %q, want %v %q", text, m.Kind, m.Method, want, theirs.Method)
		}
		sameBytes(t, text, m.Params, theirs.Params)
		sameID(t, text, m.ID, theirs.ID)
	case *jsonrpc.Response:
		if m.Kind != KindResponse || (m.Error != nil) != (theirs.Error != nil) {
			t.Fatalf("%q\n got %v with error %q, want a response with %v", text, m.Kind, m.Error, theirs.Error)
		}
		sameBytes(t, text, m.Result, theirs.Result)
		sameID(t, text, m.ID, theirs.ID)
	}
}

func sameBytes(t *testing.T, text, got, want []byte) {
	if !bytes.Equal(got, want) {
		t.Fatalf("%q\n got %q, want %q", text, got, want)
	}
}

// sameID compares an id to what go-sdk makes of it. It reads numbers as float64
// and cuts them off: what is fractional or too large comes out as another number,
// and half a surrogate pair as U+FFFD.
func sameID(t *testing.T, text, got []byte, theirs jsonrpc.ID) {
	switch want := theirs.Raw().(type) {
	case nil:
		if got != nil {
			t.Fatalf("%q\n got id %q, want none", text, got)
		}
	case string:
		if id, ok := Unquote(got); id != want && !(halfSurrogate(got) && !ok) {
			t.Fatalf("%q\n got id %q, want %q", text, got, want)
		}
	case int64:
		number, err := strconv.ParseFloat(string(got), 64)
		lossy := math.Abs(number) >= 1<<63 || number != math.Trunc(number) || strings.ContainsAny(string(got), ".eE")
		if exact, _ := strconv.ParseInt(string(got), 10, 64); !lossy && math.Abs(number) < 1<<53 && exact != want || err != nil {
			t.Fatalf("%q\n got id %q, want %d", text, got, want)
		}
	default:
		t.Fatalf("%q\n got id %q, want a %T", text, got, want)
	}
}

func TestEachRuleOfStrictnessRefusesSomethingThatGoSDKAccepts(t *testing.T) {
	var seen []string
	for _, body := range []string{
		`{"jsonrpc":"2.0","id":1,"method":"ping"} x`,
		"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\",\"x\":\"\xff\"}",
		`{"jsonrpc":"2.0","id":1,"method":"m","params":{"x":` + strings.Repeat("[", 70) + strings.Repeat("]", 70) + `}}`,
		`{"jsonrpc":"2.0","id":1,"method":"ping","ID":2}`,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","name":"b"}}`,
		`{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{"io.modelcontextprotocol/ProtocolVersion":"2026-07-28"}}}`,
		`{"jsonrpc":"\u0032.0","id":1,"method":"ping"}`,
		`{"jsonrpc":"2.0","id":1,"method":""}`,
		`{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}`,
		`{"jsonrpc":"2.0","id":1,"error":null}`,
		`{"jsonrpc":"2.0","id":1,"method":"ping","result":{}}`,
		`{"jsonrpc":"2.0","id":null,"method":"ping"}`,
		`{"jsonrpc":"2.0","id":1}`,
		`{"jsonrpc":"2.0","id":1,"result":{},"error":{"code":1,"message":""}}`,
		`{"jsonrpc":"2.0","id":1,"result":{},"params":{}}`,
	} {
		broken, _ := refusals([]byte(body))
		_, err := Parse([]byte(body), Limits{})
		_, theirs := jsonrpc.DecodeMessage([]byte(body))
		if len(broken) != 1 || err == nil || theirs != nil {
			t.Errorf("%q: broken rules %q, %v; go-sdk: %v, want one rule, and that go-sdk accepts it", body, broken, err, theirs)
			continue
		}
		seen = append(seen, broken...)
	}
	slices.Sort(seen)
	if n := len(slices.Compact(seen)); n != 15 {
		t.Errorf("%d rules were broken, want 15: %q", n, seen)
	}
}
