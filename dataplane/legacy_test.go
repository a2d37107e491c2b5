package dataplane_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// legacyClient speaks the HTTP+SSE transport: it listens at one worker, and posts at
// any.
type legacyClient struct {
	tb       testing.TB
	http     *http.Client
	endpoint string
	events   chan string // data of what came; closed at the end of the stream
	hangUp   func()
}

// connectLegacy opens a stream at w and reads where to post.
func connectLegacy(tb testing.TB, w *worker, gateway string) *legacyClient {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	transport := &http.Transport{}
	c := &legacyClient{tb: tb, http: &http.Client{Transport: transport}, events: make(chan string, 1000), hangUp: cancel}
	r, _ := http.NewRequestWithContext(ctx, http.MethodGet, w.url+"/gateways/"+gateway+"/sse", nil)
	r.Header.Set("Accept", "text/event-stream")
	resp, err := c.http.Do(r)
	if err != nil {
		tb.Fatal(err)
	}
	if kind := resp.Header.Get("Content-Type"); resp.StatusCode != http.StatusOK || kind != "text/event-stream" {
		tb.Fatalf("stream: got %d %q, want 200 text/event-stream", resp.StatusCode, kind)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.read(resp.Body)
	}()
	tb.Cleanup(func() {
		cancel()
		resp.Body.Close()
		<-done
		transport.CloseIdleConnections()
	})
	c.endpoint = c.next()
	return c
}

// read takes events apart. What is not "event: message" with one data line, or the
// endpoint, comes as it is.
func (c *legacyClient) read(body io.Reader) {
	defer close(c.events)
	lines := bufio.NewReader(body)
	event := ""
	for first := true; ; {
		line, err := lines.ReadString('\n')
		if err != nil {
			return
		}
		if event += line; line != "\n" {
			continue
		}
		kind := "event: message\ndata: "
		if first {
			kind = "event: endpoint\ndata: "
		}
		switch data, ok := strings.CutPrefix(event, kind); {
		case strings.HasPrefix(event, ":"):
		case ok:
			first = false
			c.events <- strings.TrimSuffix(data, "\n\n")
		default:
			c.events <- "unexpected: " + event
		}
		event = ""
	}
}

// next returns the next message, or "end".
func (c *legacyClient) next() string {
	c.tb.Helper()
	select {
	case data, ok := <-c.events:
		if !ok {
			return "end"
		}
		return data
	case <-time.After(15 * time.Second):
		c.tb.Fatal("no message within 15 s")
		return ""
	}
}

// want checks that messages come, in order.
func (c *legacyClient) want(messages ...string) {
	c.tb.Helper()
	for _, want := range messages {
		if got := c.next(); got != want {
			c.tb.Fatalf("message: got %s, want %s", got, want)
		}
	}
}

func (c *legacyClient) post(w *worker, message string) (int, string) {
	c.tb.Helper()
	status, _, body := c.postTo(w.url+c.endpoint, message)
	return status, body
}

func (c *legacyClient) postTo(url, message string) (int, http.Header, string) {
	c.tb.Helper()
	resp, err := c.http.Post(url, "application/json", strings.NewReader(message))
	if err != nil {
		c.tb.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, resp.Header, string(body)
}

// accepted posts a message that is to be taken in.
func (c *legacyClient) accepted(w *worker, message string) {
	c.tb.Helper()
	if status, body := c.post(w, message); status != http.StatusAccepted || body != "Accepted" {
		c.tb.Fatalf("post %s: got %d %q, want 202 Accepted", message, status, body)
	}
}

const (
	legacyInitialize = `{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2024-11-05","capabilities":{},"clientInfo":{"name":"old","version":"1"}}}`
	initialized      = `{"jsonrpc":"2.0","method":"notifications/initialized"}`
)

// initialize opens the session with messages to w.
func (c *legacyClient) initialize(w *worker) {
	c.tb.Helper()
	c.accepted(w, legacyInitialize)
	c.want(`{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"u","version":"1"}}}`)
	c.accepted(w, initialized)
}

func legacyCall(id int) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"n"}}`, id)
}

func counted(id, n int) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"result":{"content":[{"type":"text","text":"%d"}]}}`, id, n)
}

// startLegacy starts two workers before an upstream.
func startLegacy(t *testing.T) (p *plane, u *upstreamServer, at, other *worker) {
	p, u = startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	return p, u, startWorker(t, p), startWorker(t, p)
}

func TestALegacyClientPostsAtAnyWorkerAndListensAtOne(t *testing.T) {
	p, u, at, other := startLegacy(t)
	u.setHook(func(_ http.ResponseWriter, r *http.Request, method string) bool {
		if method == "initialize" {
			if got := r.Header.Get("Accept"); got != "application/json, text/event-stream" {
				t.Errorf("Accept at the upstream: got %q, want both types", got)
			}
			body, _ := io.ReadAll(r.Body)
			if string(body) != legacyInitialize {
				t.Errorf("initialize at the upstream: got %s, want the client's own", body)
			}
		}
		return false
	})
	c := connectLegacy(t, at, "g")
	if !strings.HasPrefix(c.endpoint, "/gateways/g/messages?sessionId=lh1.") {
		t.Fatalf("endpoint: got %s", c.endpoint)
	}
	c.initialize(other)
	for i := 1; i <= 6; i++ {
		c.accepted([]*worker{at, other}[i%2], legacyCall(i))
		c.want(counted(i, i))
	}
	records := p.live()
	if len(records) != 1 || records[0].GetClass() != leaseholdv1.Class_CLASS_PINNED || records[0].GetUpstreams()[0].GetClass() != leaseholdv1.Class_CLASS_RESUMABLE {
		t.Errorf("records: got %v, want one that is pinned with a resumable upstream session", records)
	}
	if n := p.count("Resolve"); n != 0 {
		t.Errorf("look-ups: got %d, want 0", n)
	}
	c.hangUp()
	eventually(t, "the session is over, with its reason, upstream too", func() bool {
		ends := p.tombstones()
		return u.live() == 0 && len(ends) == 1 && ends[0] == leaseholdv1.EndReason_END_REASON_CLIENT
	})
	for _, w := range []*worker{at, other} {
		if status, body := c.post(w, legacyCall(9)); status != http.StatusNotFound || !strings.Contains(body, `"id":9`) {
			t.Errorf("after the end: got %d %s, want 404 with the id", status, body)
		}
	}
}

func TestALegacyClientGetsEachMessageOfAStreamAsOneEvent(t *testing.T) {
	_, u, at, other := startLegacy(t)
	heard := make(chan string, 10)
	u.setHook(func(w http.ResponseWriter, r *http.Request, method string) bool {
		body, _ := io.ReadAll(r.Body)
		switch {
		case method == "tools/call":
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprint(w, "id: a\ndata:\n\nretry: 10\n\n")
			fmt.Fprint(w, "id: b\nevent: message\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{\"progress\" : 1}}\n\n: comment\n\n")
			fmt.Fprint(w, "id: c\r\ndata: {\"jsonrpc\":\"2.0\",\"id\":\"s1\",\"method\":\"sampling/createMessage\"}\r\n\r\n")
			w.(http.Flusher).Flush()
			heard <- <-heard
			fmt.Fprint(w, "id: d\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,\ndata: \"result\":{}}\n\n")
			return true
		case strings.Contains(string(body), `"s1"`):
			heard <- string(body)
		}
		return false
	})
	c := connectLegacy(t, at, "g")
	c.initialize(other)
	c.accepted(other, legacyCall(1))
	c.want(`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progress" : 1}}`,
		`{"jsonrpc":"2.0","id":"s1","method":"sampling/createMessage"}`)
	answer := `{"jsonrpc":"2.0","id":"s1","result":{"role":"user"}}`
	c.accepted(other, answer)
	c.want("{\"jsonrpc\":\"2.0\",\"id\":1,\ndata: \"result\":{}}")
	if got := <-heard; got != answer {
		t.Errorf("answer to the upstream: got %s, want %s", got, answer)
	}
}

func TestALegacyClientHearsWhatTheUpstreamSaysByItself(t *testing.T) {
	_, u, at, other := startLegacy(t)
	var streams []string
	u.setHook(func(w http.ResponseWriter, r *http.Request, _ string) bool {
		if r.Method != http.MethodGet {
			return false
		}
		u.mu.Lock()
		streams = append(streams, r.Header.Get("Last-Event-ID"))
		n := len(streams)
		u.mu.Unlock()
		w.Header().Set("Content-Type", "text/event-stream")
		if n <= 3 {
			fmt.Fprintf(w, "id: e%d\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"m%d\"}\n\n", n, n)
			return true // and that is all on this stream
		}
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		return true
	})
	c := connectLegacy(t, at, "g")
	c.initialize(other)
	c.want(`{"jsonrpc":"2.0","method":"m1"}`, `{"jsonrpc":"2.0","method":"m2"}`, `{"jsonrpc":"2.0","method":"m3"}`)
	count := func() int { u.mu.Lock(); defer u.mu.Unlock(); return len(streams) }
	eventually(t, "the upstream is listened to again", func() bool { return count() == 4 })
	u.mu.Lock()
	defer u.mu.Unlock()
	if got := fmt.Sprint(streams); got != "[ e1 e2 e3]" {
		t.Errorf("Last-Event-ID of each stream: got %s, want [ e1 e2 e3]", got)
	}
}

func TestALegacyClientsAnswerIsFetchedWhenItsStreamBreaksOff(t *testing.T) {
	_, u, at, other := startLegacy(t)
	u.setHook(func(w http.ResponseWriter, r *http.Request, method string) bool {
		switch last := r.Header.Get("Last-Event-ID"); {
		case method == "tools/call":
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprint(w, "id: p1\nretry: 1\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"first\"}\n\n")
			return true
		case r.Method == http.MethodGet && last == "p1":
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprint(w, "id: p2\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n\n")
			return true
		case r.Method == http.MethodGet:
			w.WriteHeader(http.StatusMethodNotAllowed)
			return true
		}
		return false
	})
	c := connectLegacy(t, at, "g")
	c.initialize(other)
	c.accepted(other, legacyCall(1))
	c.want(`{"jsonrpc":"2.0","method":"first"}`, `{"jsonrpc":"2.0","id":1,"result":{}}`)
}

func TestEveryRequestOfALegacyClientGetsAnAnswer(t *testing.T) {
	_, u, at, other := startLegacy(t)
	answers := map[string]struct {
		answer func(w http.ResponseWriter)
		want   string
	}{
		"text": {func(w http.ResponseWriter) { http.Error(w, "not handled", http.StatusBadRequest) }, `"error":{"code":5020,"message":"the upstream answered HTTP 400: not handled"}`},
		"without id": {func(w http.ResponseWriter) {
			writeJSON(w, 400, `{"jsonrpc":"2.0","id":null,"error":{"code":-7,"message":"x","data":[1 ]}}`)
		}, `"error":{"code":-7,"message":"x","data":[1 ]}`},
		"challenge":    {func(w http.ResponseWriter) { w.WriteHeader(http.StatusUnauthorized) }, `"code":5020`},
		"nothing":      {func(w http.ResponseWriter) { w.WriteHeader(http.StatusAccepted) }, `"code":5020`},
		"broken off":   {func(w http.ResponseWriter) { panic(http.ErrAbortHandler) }, `"code":5040`},
		"stream empty": {func(w http.ResponseWriter) { w.Header().Set("Content-Type", "text/event-stream") }, `"code":5040`},
		"long, broken off": {func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "1000000")
			writeJSON(w, 200, `{"jsonrpc":"2.0",`+strings.Repeat(" ", 100_000))
			panic(http.ErrAbortHandler)
		}, `"code":5040`},
	}
	c := connectLegacy(t, at, "g")
	c.initialize(other)
	id := 0
	for name, a := range answers {
		id++
		u.setHook(func(w http.ResponseWriter, _ *http.Request, method string) bool {
			if method == "tools/call" {
				a.answer(w)
			}
			return method == "tools/call"
		})
		c.accepted(other, legacyCall(id))
		if got := c.next(); !strings.HasPrefix(got, fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,`, id)) || !strings.Contains(got, a.want) {
			t.Errorf("%s: got %s, want the id %d and %s", name, got, id, a.want)
		}
	}
}

func writeJSON(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	io.WriteString(w, body)
}

func TestALegacyClientGetsALongAnswerUnchanged(t *testing.T) {
	_, u, at, other := startLegacy(t)
	long := func(id string) string {
		return `{"jsonrpc":"2.0","id":` + id + `,"result":{"text":"` + strings.Repeat(id, 2<<20) + `"}}`
	}
	u.setHook(func(w http.ResponseWriter, r *http.Request, method string) bool {
		if method != "tools/call" {
			return false
		}
		var m struct{ ID json.RawMessage }
		json.NewDecoder(r.Body).Decode(&m)
		w.Header().Set("Content-Length", fmt.Sprint(len(long(string(m.ID)))))
		writeJSON(w, 200, long(string(m.ID)))
		return true
	})
	c := connectLegacy(t, at, "g")
	c.initialize(other)
	for i := range 9 {
		c.accepted(other, legacyCall(i+1))
	}
	seen := make(map[string]bool)
	for range 9 {
		got := c.next()
		id := got[len(`{"jsonrpc":"2.0","id":`):][:1]
		if seen[id] || got != long(id) {
			t.Errorf("answer %s: got %d bytes, want %d, once", id, len(got), len(long(id)))
		}
		seen[id] = true
	}
}

func TestMessagesOfLegacyClientsAreRefusedWithAReason(t *testing.T) {
	_, u, at, other := startLegacy(t)
	release := make(chan struct{})
	free := sync.OnceFunc(func() { close(release) })
	t.Cleanup(free)
	u.setHook(func(w http.ResponseWriter, r *http.Request, _ string) bool {
		if body, _ := io.ReadAll(r.Body); strings.Contains(string(body), `"slow"`) {
			<-release
		}
		return false
	})
	c, modern := connectLegacy(t, at, "g"), newClient(t, "g")
	modern.initialize(at)
	early := connectLegacy(t, at, "g")
	c.initialize(other)
	slow := `{"jsonrpc":"2.0","id":"slow","method":"tools/call","params":{"name":"n"}}`
	c.accepted(other, slow)
	endpoint := c.endpoint
	call := legacyCall(1)
	for name, tc := range map[string]struct {
		endpoint, message string
		want              int
	}{
		"no session":            {"/gateways/g/messages", call, 400},
		"forged session":        {endpoint[:len(endpoint)-4] + "AAAA", call, 404},
		"other gateway":         {strings.Replace(endpoint, "/g/", "/h/", 1), call, 404},
		"session of /mcp":       {"/gateways/g/messages?sessionId=" + modern.session, call, 404},
		"two sessions":          {endpoint + "&sessionId=x", call, 404},
		"no JSON":               {endpoint, "{", 400},
		"no message":            {endpoint, "{}", 400},
		"batch":                 {endpoint, "[" + call + "]", 400},
		"id in flight":          {endpoint, slow, 400},
		"initialized too early": {early.endpoint, initialized, 400},
	} {
		for at, w := range map[string]*worker{"here": at, "forwarded": other} {
			if status, _, body := c.postTo(w.url+tc.endpoint, tc.message); status != tc.want || !strings.Contains(body, `"error"`) {
				t.Errorf("%s, %s: got %d %s, want %d with an error", name, at, status, body, tc.want)
			}
		}
	}
	asked := 0
	for _, w := range []*worker{at, other} {
		for _, tc := range []struct {
			c          *legacyClient
			method     string
			code, data string
		}{
			{c, "initialize", "-32600", "already"},
			{early, "tools/list", "-32600", "begins with initialize"},
			{early, "initialize", "-32602", "protocolVersion"},
			{early, "server/discover", "-32022", `"supported":["2025-11-25"`},
		} {
			asked++ // no id comes twice: for a moment after its answer it is in flight still
			id := fmt.Sprintf(`"x%d"`, asked)
			tc.c.accepted(w, `{"jsonrpc":"2.0","id":`+id+`,"method":"`+tc.method+`","params":{}}`)
			if got := tc.c.next(); !strings.HasPrefix(got, `{"jsonrpc":"2.0","id":`+id+`,"error":{"code":`+tc.code) || !strings.Contains(got, tc.data) {
				t.Errorf("%s: got %s, want the id, the code %s and %s", tc.method, got, tc.code, tc.data)
			}
		}
	}
	early.initialize(other) // the refusals did no harm
	free()
	if got := c.next(); !strings.HasPrefix(got, `{"jsonrpc":"2.0","id":"slow","result"`) {
		t.Errorf("answer: got %s, want that of the first request", got)
	}
}

func TestTheFrontRefusesWhatIsNoLegacyClient(t *testing.T) {
	_, _, at, _ := startLegacy(t)
	for _, tc := range []struct {
		method, path, accept, kind string
		want                       int
		allow                      string
	}{
		{"POST", "/gateways/g/sse", "*/*", "application/json", 405, "GET"},
		{"DELETE", "/gateways/g/sse", "*/*", "", 405, "GET"},
		{"GET", "/gateways/g/messages", "text/event-stream", "", 405, "POST"},
		{"GET", "/gateways/g/sse", "application/json", "", 406, ""},
		{"GET", "/gateways/none/sse", "text/event-stream", "", 404, ""},
		{"POST", "/gateways/g/messages?sessionId=x", "", "text/plain", 415, ""},
		{"GET", "/gateways//sse", "text/event-stream", "", 404, ""},
		{"GET", "/gateways/g/sse/x", "text/event-stream", "", 404, ""},
	} {
		r, _ := http.NewRequest(tc.method, at.url+tc.path, strings.NewReader("{}"))
		r.Header = http.Header{"Accept": {tc.accept}, "Content-Type": {tc.kind}}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if allow := resp.Header.Get("Allow"); resp.StatusCode != tc.want || allow != tc.allow {
			t.Errorf("%s %s: got %d, Allow %q; want %d, %q", tc.method, tc.path, resp.StatusCode, allow, tc.want, tc.allow)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	r, _ := http.NewRequest(http.MethodGet, at.url+"/gateways/g/sse", nil)
	r.Header = http.Header{"Accept": {"text/event-stream"}, "Origin": {"https://evil.example"}}
	resp, err := newClient(t, "g").http.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden {
		t.Errorf("another origin: got %d, want 403", resp.StatusCode)
	}
}
