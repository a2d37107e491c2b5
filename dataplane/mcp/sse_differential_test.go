package mcp

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	gosdk "github.com/modelcontextprotocol/go-sdk/mcp"
)

// block is what a stream's reader is told by one block; the zero value is nothing.
type block struct {
	data     string
	hasData  bool
	id       string
	hasID    bool
	name     string // "" if it is "message"
	retry    time.Duration
	hasRetry bool
}

// whatwg reads a stream that is there as a whole, step by step as the standard for
// server-sent events says, and returns what its complete blocks say. It differs
// from the standard in that an event without data is not dropped, that a retry is
// a number of digits below 2³¹, and that fields stay with their block.
func whatwg(stream string) (blocks []block) {
	var b block
	for _, line := range lineEnds.Split(strings.TrimPrefix(stream, byteOrderMark), -1)[:lineCount(stream)] {
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case line == "":
			blocks = append(blocks, b)
			b = block{}
		case name == "data" && b.hasData:
			b.data += "\n" + value
		case name == "data":
			b.data, b.hasData = value, true
		case name == "id" && !strings.Contains(value, "\x00"):
			b.id, b.hasID = value, true
		case name == "event":
			if b.name = value; value == "message" {
				b.name = ""
			}
		case name == "retry" && digits.MatchString(value):
			if ms, err := strconv.ParseInt(value, 10, 64); err == nil && ms < 1<<31 {
				b.retry, b.hasRetry = time.Duration(ms)*time.Millisecond, true
			}
		}
	}
	return something(blocks)
}

var (
	lineEnds = regexp.MustCompile("\r\n|\r|\n")
	digits   = regexp.MustCompile("^[0-9]+$")
)

// lineCount is how many lines of a stream have an end.
func lineCount(stream string) int { return len(lineEnds.FindAllString(stream, -1)) }

// something leaves out the blocks that say nothing.
func something(blocks []block) []block {
	return slices.DeleteFunc(blocks, func(b block) bool { return b == block{} })
}

// told is what an event says.
func told(e Event) block {
	var b block
	data := e.Data(nil)
	b.data, b.hasData = string(data), data != nil
	b.id, b.hasID = e.ID()
	if b.name = e.Name(); b.name == "message" {
		b.name = ""
	}
	b.retry, b.hasRetry = e.Retry()
	return b
}

// reading reads all of a stream that comes in slices of the given sizes.
func reading(t *testing.T, stream, sizes []byte) (events []Event) {
	r := NewEventReader(&sliced{rest: stream, sizes: sizes}, 0)
	for {
		e, err := r.Next()
		if err == io.EOF {
			return events
		}
		if err != nil {
			t.Fatal(err)
		}
		e.Raw = slices.Clip(bytes.Clone(e.Raw))
		events = append(events, e)
	}
}

// wholeBlocks is what the events say that are no partial ones.
func wholeBlocks(events []Event) (blocks []block) {
	for _, e := range events {
		if !e.Partial {
			blocks = append(blocks, told(e))
		}
	}
	return something(blocks)
}

// fragments are what bytes of a fuzzer's stream stand for: so it comes to streams
// that mean something.
var fragments = map[byte]string{
	0x01: "data: ", 0x02: "\n\n", 0x03: "id: ", 0x04: "retry: 5\n", 0x05: "event: message\n", 0x06: "event: other\n",
	0x07: ": comment\n", 0x08: "\r\n", 0x0b: "data\n", 0x0c: "unknown: field\n", 0x0e: "id\n", 0x0f: "data:\n",
	0x10: `{"jsonrpc":"2.0",`, 0x11: `"method":"n"}`,
	0x12: `data: {"jsonrpc":"2.0","id":"call","result":{}}`, 0x13: `data: {"jsonrpc":"2.0","id":1,"method":"ping"}`,
	0x14: "id: \n", 0x15: "retry:60000\n", 0x16: "\r\n\r\n", 0x17: "ID: 1\n", 0x18: "event:\n", 0x19: "id: a/1.b\n",
}

// expand puts the fragments into a stream and, for a '#', a message of its own.
func expand(stream []byte) []byte {
	var out []byte
	for i, c := range stream {
		switch text, ok := fragments[c]; {
		case ok:
			out = append(out, text...)
		case c == '#':
			out = fmt.Appendf(out, `{"jsonrpc":"2.0","method":"m","params":{"n":%d}}`, i)
		default:
			out = append(out, c)
		}
	}
	return out
}

// goSDKDiffers is what go-sdk reads differently from the standard.
var goSDKDiffers = map[string]func(stream string) bool{
	"it does not know the byte order mark":      func(s string) bool { return strings.HasPrefix(s, byteOrderMark) },
	"it does not know CR as the end of a line":  regexp.MustCompile("\r([^\n]|$)").MatchString,
	"it refuses a line without a colon":         regexp.MustCompile("(^|\n)[^:\r\n]+(\r?\n|$)").MatchString,
	"it trims all white space around a value":   regexp.MustCompile("(^|\n)(data|id|event|retry):( ?[\\s\\x{85}\\p{Z}\\v]+[^\r\n]|[^\r\n]*[\\s\\x{85}\\p{Z}\\v]\r?(\n|$))").MatchString,
	"it does not know what an id with a NUL is": regexp.MustCompile("(^|\n)id:[^\r\n]*\x00").MatchString,
	"it does not check that a retry is digits": func(s string) bool {
		for _, m := range regexp.MustCompile("(?:^|\n)retry: ?([^\r\n]*)").FindAllStringSubmatch(s, -1) {
			if ms, err := strconv.ParseUint(m[1], 10, 31); err != nil || ms == 0 {
				return true
			}
		}
		return false
	},
}

// FuzzEventReaderAgainstStandard compares what EventReader makes of a stream, in
// whatever slices it comes, with the standard's own steps.
func FuzzEventReaderAgainstStandard(f *testing.F) {
	f.Add([]byte("data: #\n\nid: 7\nretry: 3\ndata: \x10\ndata: \x11\n\n"), []byte{})
	f.Fuzz(func(t *testing.T, stream, sizes []byte) {
		stream = expand(stream)
		want := whatwg(string(stream))
		for _, sizes := range [][]byte{nil, sizes} {
			events := reading(t, stream, sizes)
			var raw []byte
			for _, e := range events {
				raw = append(raw, e.Raw...)
			}
			if !bytes.Equal(raw, stream) {
				t.Fatalf("the blocks together are %q, want %q", raw, stream)
			}
			if got := wholeBlocks(events); !slices.Equal(got, want) {
				t.Fatalf("%q\n got %+v\nwant %+v", stream, got, want)
			}
		}
	})
}

// FuzzEventReaderAgainstGoSDK compares what EventReader makes of a stream with
// what go-sdk's client does at it, where that keeps to the standard.
func FuzzEventReaderAgainstGoSDK(f *testing.F) {
	f.Add([]byte("data: #\n\nid: 7\nretry: 3\ndata: \x10\ndata: \x11\n\n"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		stream = expand(stream)
		events := reading(t, stream, nil)
		events = slices.DeleteFunc(events, func(e Event) bool { return e.Partial }) // go-sdk takes it for a whole one
		var whole strings.Builder
		for _, e := range events {
			whole.Write(e.Raw)
		}
		for _, differs := range goSDKDiffers {
			if differs(whole.String()) {
				return
			}
		}
		got := consequences(wholeBlocks(events))
		synctest.Test(t, func(t *testing.T) {
			theirs := goSDKReads(t, events)
			if got.delay == 0 {
				theirs.delay = 0 // it waits a time of its own
			}
			if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", theirs) {
				t.Fatalf("%q\n got %+v\nwant %+v, as go-sdk reads it", stream, got, theirs)
			}
		})
	})
}

// outcome is what go-sdk's client makes of the stream of a call.
type outcome struct {
	messages []string
	broken   bool          // data is no message
	answered bool          // the answer came
	last     string        // the event id from which on it asks for the rest
	delay    time.Duration // how long it waits before that; 0 if it was not told
}

const callID = "call"

// consequences is what blocks come to for a client that follows the protocol.
func consequences(blocks []block) (o outcome) {
	for _, b := range blocks {
		if b.id != "" {
			o.last = b.id
		}
		if b.hasRetry {
			o.delay = b.retry
		}
		if b.data == "" || b.name != "" {
			continue
		}
		m, err := jsonrpc.DecodeMessage([]byte(b.data))
		if err != nil {
			return outcome{messages: o.messages, broken: true}
		}
		o.messages = append(o.messages, textOf(m))
		if answers(m) {
			return outcome{messages: o.messages, answered: true}
		}
	}
	if o.last == "" {
		o.delay = 0
	}
	return o
}

func textOf(m jsonrpc.Message) string {
	text, err := jsonrpc.EncodeMessage(m)
	return fmt.Sprint(string(text), err)
}

func answers(m jsonrpc.Message) bool {
	r, ok := m.(*jsonrpc.Response)
	return ok && r.ID.Raw() == callID
}

// upstream answers go-sdk's call with a stream, one event after the other, and
// notes how it asks for more.
type upstream struct {
	events []Event

	mu    sync.Mutex // guards what follows
	ended time.Time
	last  string
	delay time.Duration
}

// noted returns what it noted, and whether the stream was read to its end.
func (u *upstream) noted() (last string, delay time.Duration, ended bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.last, u.delay, !u.ended.IsZero()
}

// RoundTrip implements http.RoundTripper.
func (u *upstream) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodPost {
		return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"text/event-stream"}}, Body: io.NopCloser(u)}, nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.last, u.delay = r.Header.Get("Last-Event-ID"), time.Since(u.ended)
	return &http.Response{StatusCode: http.StatusNotFound, Header: http.Header{}, Body: http.NoBody}, nil
}

// Read implements io.Reader. Before each event it waits until the client has dealt
// with the one before, in the time of the test's bubble.
func (u *upstream) Read(p []byte) (int, error) {
	for len(u.events) > 0 && len(u.events[0].Raw) == 0 {
		u.events = u.events[1:]
	}
	time.Sleep(time.Millisecond)
	if len(u.events) == 0 {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.ended = time.Now()
		return 0, io.EOF
	}
	n := copy(p, u.events[0].Raw)
	u.events[0].Raw = u.events[0].Raw[n:]
	return n, nil
}

// goSDKReads is what go-sdk's client makes of a stream.
func goSDKReads(t *testing.T, events []Event) (o outcome) {
	u := &upstream{events: slices.Clone(events)}
	conn, err := (&gosdk.StreamableClientTransport{Endpoint: "http://upstream", HTTPClient: &http.Client{Transport: u}}).Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer time.Sleep(time.Hour) // of the bubble's time: it reads what is left of the stream
	defer conn.Close()
	id, _ := jsonrpc.MakeID(callID)
	if err := conn.Write(t.Context(), &jsonrpc.Request{ID: id, Method: "tools/call"}); err != nil {
		t.Fatal(err)
	}
	for {
		m, err := conn.Read(t.Context())
		synctest.Wait()
		last, delay, ended := u.noted()
		switch {
		case err != nil && last == "":
			return outcome{messages: o.messages, broken: true}
		case err != nil:
			return outcome{messages: o.messages, last: last, delay: delay}
		case answers(m) && ended && ownWords(m):
			return o
		}
		o.messages = append(o.messages, textOf(m))
		if answers(m) {
			o.answered = true
			return o
		}
	}
}

// ownWords reports whether a message is go-sdk's own for a stream that ended
// without an answer.
func ownWords(m jsonrpc.Message) bool {
	err := m.(*jsonrpc.Response).Error
	return err != nil && !errors.As(err, new(*jsonrpc.Error))
}

func TestGoSDKReadsDifferentlyWhatTheRulesSay(t *testing.T) {
	for name, stream := range map[string]string{
		"it does not know the byte order mark":      "\ufeffdata: {\"jsonrpc\":\"2.0\",\"method\":\"m\"}\n\n",
		"it does not know CR as the end of a line":  "id: 1\r\rid: 2\r\r",
		"it refuses a line without a colon":         "id: 1\ndata\n\n",
		"it trims all white space around a value":   "id:  1 \n\n",
		"it does not know what an id with a NUL is": "id: 1\n\nid: \x00\n\n",
		"it does not check that a retry is digits":  "id: 1\nretry: +5\n\nretry: 0\n\n",
	} {
		events := reading(t, []byte(stream), nil)
		ours := consequences(wholeBlocks(events))
		synctest.Test(t, func(t *testing.T) {
			if theirs := goSDKReads(t, events); !goSDKDiffers[name](stream) || fmt.Sprint(ours) == fmt.Sprint(theirs) {
				t.Errorf("%s: got %+v, as go-sdk reads %q too", name, ours, stream)
			}
		})
	}
	if n := len(goSDKDiffers); n != 6 {
		t.Errorf("there are %d rules, want one stream above for each", n)
	}
}
