package duplex_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/duplex"
	"github.com/leasehold/leasehold/dataplane/duplex/duplextest"
	"github.com/leasehold/leasehold/dataplane/duplex/stdio"
	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/session"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func init() { duplextest.Main() }

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a session with a program, spoken to as if it were a streamable HTTP server.
type rig struct {
	t        *testing.T
	upstream *duplex.Upstream
	target   *config.Upstream
	id       string
}

func start(t *testing.T) *rig {
	t.Helper()
	logger := hclog.New(&hclog.LoggerOptions{Level: hclog.Debug, Output: t.Output()})
	host, err := stdio.NewHost(stdio.Config{Allow: true, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, upstream: duplex.New(host, logger), target: &config.Upstream{Name: "u",
		Transport: leaseholdv1.Transport_TRANSPORT_STDIO,
		Program:   &config.Program{Command: os.Args[0], Env: map[string]string{duplextest.Env: "", "GORACE": "atexit_sleep_ms=0"}}}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{}, 2)
	go func() { host.Run(ctx); done <- struct{}{} }()
	go func() { r.upstream.Run(ctx); done <- struct{}{} }()
	t.Cleanup(func() {
		cancel()
		<-done
		<-done
		if n := r.upstream.Len() + host.Running(); n != 0 {
			t.Errorf("after the end: %d channels and processes, want 0", n)
		}
	})
	answer := r.post(`{"jsonrpc":"2.0","id":0,"method":"initialize","params":{}}`)
	r.id = answer.Header.Get(mcp.HeaderSessionID)
	if got := rest(t, answer); len(got) != 1 || !strings.Contains(got[0], `"id":0,"result"`) || len(r.id) != 32 {
		t.Fatalf("initialize: got %q and session id %q, want the result alone and 128 bits in hex", got, r.id)
	}
	return r
}

func (r *rig) dispatch(method, body string) *session.Dispatch {
	d := &session.Dispatch{Upstream: r.target, Method: method, Header: http.Header{}, Body: []byte(body)}
	if r.id != "" {
		d.Header.Set(mcp.HeaderSessionID, r.id)
	}
	return d
}

func (r *rig) do(ctx context.Context, method, body string) *http.Response {
	r.t.Helper()
	answer, err := r.upstream.Do(ctx, r.dispatch(method, body))
	if err != nil {
		r.t.Fatalf("%s %.80s: %v", method, body, err)
	}
	r.t.Cleanup(func() { answer.Body.Close() })
	return answer
}

func (r *rig) post(body string) *http.Response {
	r.t.Helper()
	return r.do(r.t.Context(), http.MethodPost, body)
}

// call calls a tool; arguments and meta are JSON.
func (r *rig) call(id, tool, arguments, meta string) *http.Response {
	r.t.Helper()
	return r.post(calling(id, tool, arguments, meta))
}

func calling(id, tool, arguments, meta string) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"method":"tools/call","params":{"name":%q,"arguments":%s,"_meta":%s}}`, id, tool, arguments, meta)
}

// within fails the test if f takes too long.
func within[T any](t *testing.T, what string, f func() T) T {
	t.Helper()
	done := make(chan T, 1)
	go func() { done <- f() }()
	select {
	case got := <-done:
		return got
	case <-time.After(20 * time.Second):
		t.Fatalf("%s: not within 20 s", what)
		panic("unreachable")
	}
}

type read struct {
	data string
	err  error
}

// reader reads the messages of an answer one by one.
func reader(t *testing.T, answer *http.Response) func() read {
	t.Helper()
	if kind := answer.Header.Get("Content-Type"); answer.StatusCode != http.StatusOK || kind != "text/event-stream" {
		body, _ := io.ReadAll(answer.Body)
		t.Fatalf("got HTTP %d %s %s, want a stream of events", answer.StatusCode, kind, body)
	}
	events := mcp.NewEventReader(answer.Body, 0)
	return func() read {
		t.Helper()
		return within(t, "the next event", func() read {
			event, err := events.Next()
			return read{string(event.Data(nil)), err}
		})
	}
}

// rest reads all messages of an answer, which ends well.
func rest(t *testing.T, answer *http.Response) (all []string) {
	t.Helper()
	next := reader(t, answer)
	for {
		got := next()
		if got.err == io.EOF {
			return all
		}
		if got.err != nil {
			t.Fatalf("after %q: %v", all, got.err)
		}
		all = append(all, got.data)
	}
}

func want(t *testing.T, what string, got read, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if got.err != nil || !strings.Contains(got.data, part) {
			t.Fatalf("%s: got %q, %v; want %q in it", what, got.data, got.err, part)
		}
	}
}

func TestAnswersAndProgressComeOnTheStreamOfTheirRequest(t *testing.T) {
	r := start(t)
	hang := r.call(`"1"`, "ask", `{"text":"x"}`, `{"progressToken":"1"}`)
	next := reader(t, hang)
	want(t, "the call with id \"1\"", next(), `"id":"ask-x","method":"sampling/createMessage"`)
	other := rest(t, r.call(`1`, "progress", `{"count":3}`, `{"progressToken":1}`))
	if len(other) != 4 || !strings.Contains(other[0], `"progressToken":1,"progress":1`) || !strings.Contains(other[3], `"id":1,"result"`) {
		t.Errorf("the call with id 1: got %q, want three progress notifications and the answer", other)
	}
	if answer := r.post(`{"jsonrpc":"2.0","id":"ask-x","result":{"model":"m"}}`); answer.StatusCode != http.StatusAccepted || answer.ContentLength != 0 {
		t.Errorf("answering the server: got HTTP %d, want 202 without a body", answer.StatusCode)
	}
	want(t, "its answer", next(), `"id":"1","result"`, `{\"model\":\"m\"}`)
	if got := next(); got.err != io.EOF {
		t.Errorf("after the answer: got %q, %v; want the end", got.data, got.err)
	}
}

func TestBytesOfAMessageStayAsTheyAre(t *testing.T) {
	r := start(t)
	sent := "{\"jsonrpc\":\"2.0\",\r\n \"id\":12345678901234567890,\n\"method\":\"tools/call\",\"params\":{\"name\":\"line\",\"x\":[1.50,1e2,\"\\u00e9\\n\"]}}"
	got := rest(t, r.post(sent))
	arrived := `{\"jsonrpc\":\"2.0\",   \"id\":12345678901234567890, \"method\":\"tools/call\",\"params\":{\"name\":\"line\",\"x\":[1.50,1e2,\"\\u00e9\\n\"]}}`
	if len(got) != 1 || !strings.Contains(got[0], arrived) || !strings.Contains(got[0], `"id":12345678901234567890,`) {
		t.Errorf("got %q, want a line with %q", got, arrived)
	}
}

func TestABatchEndsAfterItsLastAnswer(t *testing.T) {
	r := start(t)
	body := "[" + calling("1", "ask", `{"text":"a"}`, `{}`) + "," + calling("2", "x", `{}`, `{}`) + `,{"jsonrpc":"2.0","id":3,"method":"ping"}]`
	next := reader(t, r.post(body))
	seen := ""
	for range 3 {
		seen += next().data
	}
	for _, part := range []string{`"id":"ask-a"`, `"id":2,"result"`, `"id":3,"result"`} {
		if !strings.Contains(seen, part) {
			t.Errorf("got %q, want %s among it", seen, part)
		}
	}
	r.post(`{"jsonrpc":"2.0","id":"ask-a","result":{}}`)
	want(t, "the last answer", next(), `"id":1,"result"`)
	if got := next(); got.err != io.EOF {
		t.Errorf("after the last answer: got %q, %v; want the end", got.data, got.err)
	}
}

func TestWhatBelongsToNoRequestGoesToTheGetStream(t *testing.T) {
	r := start(t)
	get := r.do(t.Context(), http.MethodGet, "")
	second := r.do(t.Context(), http.MethodGet, "")
	if second.StatusCode != http.StatusConflict {
		t.Errorf("a second GET: got HTTP %d, want 409", second.StatusCode)
	}
	next := reader(t, get)
	if got := rest(t, r.call("1", "notify", `{"count":2}`, `{}`)); len(got) != 1 {
		t.Errorf("the POST: got %q, want the answer alone", got)
	}
	want(t, "first", next(), `"data":"1"`)
	want(t, "second", next(), `"data":"2"`)
	get.Body.Close()
	if again := r.do(t.Context(), http.MethodGet, ""); again.StatusCode != http.StatusOK {
		t.Errorf("a GET after the first was closed: got HTTP %d, want 200", again.StatusCode)
	}
}

func TestWithoutAStreamMessagesAreHeldForTheNextOne(t *testing.T) {
	r := start(t)
	for _, open := range []func() *http.Response{
		func() *http.Response { return r.do(t.Context(), http.MethodGet, "") },
		func() *http.Response { return r.call("9", "ask", `{"text":"z"}`, `{}`) },
	} {
		rest(t, r.call("1", "ask-later", `{"text":"x"}`, `{}`))
		answer := open()
		next := reader(t, answer)
		other := func() read { // than what the call itself causes at the same time
			got := next()
			for strings.Contains(got.data, "ask-z") {
				got = next()
			}
			return got
		}
		want(t, "the stream", other(), `"id":"later-x","method":"roots/list"`)
		r.post(`{"jsonrpc":"2.0","id":"later-x","result":{"roots":[]}}`)
		want(t, "what the server made of the answer", other(), `{\"roots\":[]}`)
		answer.Body.Close()
	}
}

func TestAnAnswerThatNobodyReadsDoesNotStopItsCall(t *testing.T) {
	r := start(t)
	get := reader(t, r.do(t.Context(), http.MethodGet, ""))
	ctx, cancel := context.WithCancel(t.Context())
	cut := r.do(ctx, http.MethodPost, calling("1", "ask", `{"text":"cut"}`, `{"progressToken":"t"}`))
	want(t, "the GET stream", get(), `"id":"ask-cut"`)
	cancel()
	if got := reader(t, cut)(); !errors.Is(got.err, context.Canceled) {
		t.Errorf("after the context's end: got %q, %v; want its cause", got.data, got.err)
	}
	r.post(`{"jsonrpc":"2.0","id":"ask-cut","result":{}}`)
	rest(t, r.call("2", "notify", `{"count":1,"text":" after"}`, `{}`))
	want(t, "the GET stream", get(), `1 after`) // and not the answer to 1
	if got := rest(t, r.call("3", "x", `{}`, `{}`)); len(got) != 1 || !strings.Contains(got[0], `"text":"3"`) {
		t.Errorf("the third call: got %q, want 3: the server has carried out all", got)
	}
}

func TestACancelledRequestIsNotWaitedFor(t *testing.T) {
	r := start(t)
	hang := r.call("7", "hang", `{}`, `{}`)
	r.post(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"7"}}`) // another one
	r.post(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}`)
	if got := rest(t, hang); len(got) != 0 {
		t.Errorf("got %q, want the end", got)
	}
}

type gate struct{ err error }

func (g gate) Pass() error { return g.err }

func TestAClosedGateLetsNothingOut(t *testing.T) {
	r := start(t)
	shut := errors.New("shut")
	for _, method := range []string{http.MethodPost, http.MethodGet, http.MethodDelete} {
		d := r.dispatch(method, calling("1", "x", `{}`, `{}`))
		d.Gate = gate{shut}
		if _, err := r.upstream.Do(t.Context(), d); !errors.Is(err, session.ErrNotSent) || !errors.Is(err, shut) {
			t.Errorf("%s: got %v, want ErrNotSent and the gate's error", method, err)
		}
	}
	if got := rest(t, r.call("2", "x", `{}`, `{}`)); len(got) != 1 || !strings.Contains(got[0], `"text":"1"`) {
		t.Errorf("the call after: got %q, want the first one that the server saw", got)
	}
	d := r.dispatch(http.MethodPost, `{"jsonrpc":"2.0","id":0,"method":"initialize","params":{}}`)
	d.Header, d.Gate = http.Header{}, gate{shut}
	if _, err := r.upstream.Do(t.Context(), d); !errors.Is(err, session.ErrNotSent) || r.upstream.Len() != 1 {
		t.Errorf("initialize: got %v and %d channels, want ErrNotSent and the one of before", err, r.upstream.Len())
	}
}

func TestDeleteEndsTheChannel(t *testing.T) {
	r := start(t)
	hang, get := r.call("1", "hang", `{}`, `{}`), r.do(t.Context(), http.MethodGet, "")
	if answer := r.do(t.Context(), http.MethodDelete, ""); answer.StatusCode != http.StatusNoContent {
		t.Errorf("DELETE: got HTTP %d, want 204", answer.StatusCode)
	}
	for what, answer := range map[string]*http.Response{"call": hang, "GET stream": get} {
		if got := reader(t, answer)(); got.err == nil || got.err == io.EOF {
			t.Errorf("%s under way: got %q, %v; want an error", what, got.data, got.err)
		}
	}
	for _, method := range []string{http.MethodPost, http.MethodGet, http.MethodDelete} {
		if answer := r.do(t.Context(), method, calling("2", "x", `{}`, `{}`)); answer.StatusCode != http.StatusNotFound {
			t.Errorf("%s after DELETE: got HTTP %d, want 404", method, answer.StatusCode)
		}
	}
}

func TestAServerThatIsGoneEndsItsAnswersAndIsNotFound(t *testing.T) {
	r := start(t)
	hang := r.call("1", "hang", `{}`, `{}`)
	exit := reader(t, r.call("2", "exit", `{"count":3,"text":"bye"}`, `{}`))
	if got := exit(); got.err == nil || !strings.Contains(got.err.Error(), "exit status 3") {
		t.Errorf("the call that ended it: got %q, %v; want an error with the exit status", got.data, got.err)
	}
	if got := reader(t, hang)(); got.err == nil || got.err == io.EOF {
		t.Errorf("another call: got %q, %v; want an error", got.data, got.err)
	}
	if answer := r.call("3", "x", `{}`, `{}`); answer.StatusCode != http.StatusNotFound {
		t.Errorf("the next call: got HTTP %d, want 404", answer.StatusCode)
	}
}

func TestDropDoesNotWait(t *testing.T) {
	r := start(t)
	r.target.Program.Env[duplextest.Env] = "deaf"
	r.id = ""
	answer := r.post(`{"jsonrpc":"2.0","id":0,"method":"initialize","params":{}}`)
	began := time.Now()
	r.upstream.Drop(r.target, answer.Header.Get(mcp.HeaderSessionID))
	if took := time.Since(began); took > time.Second {
		t.Errorf("took %v of a program that does not want to end, want to return at once", took)
	}
	r.upstream.Drop(r.target, "none") // is no matter
}

func TestASlowReaderMakesTheServerWaitAndLosesNothing(t *testing.T) {
	r := start(t)
	const count = 40_000 // of about 90 bytes: more than streams and pipes hold
	slow := r.call("1", "progress", fmt.Sprintf(`{"count":%d}`, count), `{"progressToken":"t"}`)
	if got := rest(t, slow); len(got) != count+1 || !strings.Contains(got[count-1], fmt.Sprintf(`"progress":%d`, count)) {
		t.Errorf("got %d messages, want %d and the answer last", len(got), count)
	}
}

func TestAServerThatIsSilentForTooLongIsGivenUp(t *testing.T) {
	r := start(t)
	d := r.dispatch(http.MethodPost, calling("1", "hang", `{}`, `{}`))
	d.Silence = 300 * time.Millisecond
	answer, err := r.upstream.Do(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if got := reader(t, answer)(); !errors.Is(got.err, session.ErrSilent) {
		t.Errorf("got %q, %v; want %v", got.data, got.err, session.ErrSilent)
	}
	r.post(`{"jsonrpc":"2.0","id":8,"method":"x","params":{"name":"stop-reading"}}`)
	d = r.dispatch(http.MethodPost, calling("2", "x", fmt.Sprintf(`{"text":%q}`, strings.Repeat("x", 1<<20)), `{}`))
	d.Silence = 300 * time.Millisecond
	if _, err := r.upstream.Do(t.Context(), d); !errors.Is(err, session.ErrSilent) {
		t.Errorf("a server that takes nothing: got %v, want %v", err, session.ErrSilent)
	}
}
