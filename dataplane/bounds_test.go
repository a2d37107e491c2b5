package dataplane_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/leasehold/leasehold/dataplane"
	"github.com/leasehold/leasehold/dataplane/session"
)

// send makes a request with headers of its own choice.
func send(t *testing.T, w *worker, method, path, body string, header map[string]string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequest(method, w.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json, text/event-stream")
	for name, value := range header {
		if name == "Host" {
			r.Host = value
		}
		r.Header.Set(name, value)
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, _ := io.ReadAll(resp.Body)
	return resp, string(answer)
}

func TestFrontRefusesWithAStatusAndAReason(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	p.setGateway("h", u.URL, nil)
	w := startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(w)
	const call = `{"jsonrpc":"2.0","id":"x7","method":"tools/call","params":{"name":"n"}}`
	many := map[string]string{}
	for i := range 65 {
		many[fmt.Sprintf("X-%d", i)] = "1"
	}
	flipped := []byte(c.session)
	flipped[len(flipped)-3] ^= 1
	with := func(name, value string) map[string]string { return map[string]string{name: value} }
	for name, tc := range map[string]struct {
		method, path, body string
		header             map[string]string
		status             int
		says               []string
	}{
		"no session id":           {body: call, status: 400, says: []string{"Mcp-Session-Id", `"x7"`}},
		"GET without session id":  {method: "GET", status: 400, says: []string{"Mcp-Session-Id"}},
		"forged id":               {body: call, header: with("Mcp-Session-Id", string(flipped)), status: 404, says: []string{"-32001", `"x7"`}},
		"nonsense id":             {body: call, header: with("Mcp-Session-Id", "nonsense"), status: 404, says: []string{"-32001", `"x7"`}},
		"id of a deleted gateway": {path: "/gateways/gone/mcp", body: call, header: with("Mcp-Session-Id", c.session), status: 404, says: []string{"-32001", `"x7"`}},
		"another gateway's id":    {path: "/gateways/h/mcp", body: call, header: with("Mcp-Session-Id", c.session), status: 404, says: []string{"-32001", `"x7"`}},
		"no such gateway":         {path: "/gateways/nope/mcp", body: call, status: 404, says: []string{"nope"}},
		"no such path":            {path: "/mcp", body: call, status: 404, says: []string{"/gateways/"}},
		"Accept":                  {body: call, header: with("Accept", "application/json"), status: 406, says: []string{"text/event-stream"}},
		"Content-Type":            {body: call, header: with("Content-Type", "text/plain"), status: 415, says: []string{"application/json"}},
		"body":                    {body: strings.Repeat(" ", 4<<20+1), status: 413, says: []string{"4194304", "4194305"}},
		"depth":                   {body: `{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":` + strings.Repeat("[", 64) + strings.Repeat("]", 64) + `}}`, status: 400, says: []string{"-32600", "64"}},
		"not JSON":                {body: `{"jsonrpc"`, status: 400, says: []string{"-32700"}},
		"mis-cased key":           {body: `{"jsonrpc":"2.0","id":1,"method":"a","METHOD":"b"}`, status: 400, says: []string{"-32600", "METHOD"}},
		"header fields":           {body: call, header: many, status: 431, says: []string{"64"}},
		"header bytes":            {body: call, header: with("X-Long", strings.Repeat("x", 40<<10)), status: 431},
		"origin":                  {body: call, header: with("Origin", "https://evil.example"), status: 403, says: []string{"Origin", "evil"}},
		"host":                    {body: call, header: with("Host", "evil.example"), status: 403, says: []string{"Host", "evil"}},
		"method":                  {method: "PUT", body: call, status: 405, says: []string{"PUT"}},
		"version":                 {body: call, header: with("MCP-Protocol-Version", "1999-01-01"), status: 400, says: []string{"1999-01-01", "2025-11-25"}},
		"stateless by header":     {body: call, header: with("MCP-Protocol-Version", "2026-07-28"), status: 400, says: []string{"-32022", `"supported":["2025-11-25","2025-06-18","2025-03-26"]`, `"requested":"2026-07-28"`, `"x7"`}},
		"stateless by _meta":      {body: `{"jsonrpc":"2.0","id":"x7","method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}`, status: 400, says: []string{"-32022", "2026-07-28"}},
		"server/discover":         {body: `{"jsonrpc":"2.0","id":"x7","method":"server/discover","params":{}}`, status: 400, says: []string{"-32022"}},
		"second initialize":       {body: initialize, header: with("Mcp-Session-Id", c.session), status: 400, says: []string{"initialized already"}},
		"batch after 2025-03-26":  {body: "[" + call + "]", header: with("Mcp-Session-Id", c.session), status: 400, says: []string{"-32600", "2025-03-26"}},
		"initialize in a batch":   {body: "[" + initialize + "]", status: 400, says: []string{"-32600", "initialize"}},
		"initialize of no params": {body: `{"jsonrpc":"2.0","id":"x7","method":"initialize"}`, status: 400, says: []string{"-32602", `"x7"`}},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.method == "" {
				tc.method = http.MethodPost
			}
			if tc.path == "" {
				tc.path = "/gateways/g/mcp"
			}
			resp, body := send(t, w, tc.method, tc.path, tc.body, tc.header)
			if resp.StatusCode != tc.status {
				t.Errorf("status: got %d %s, want %d", resp.StatusCode, body, tc.status)
			}
			for _, part := range tc.says {
				if !strings.Contains(body, part) {
					t.Errorf("body: got %s, want it to say %s", body, part)
				}
			}
			if allow := resp.Header.Get("Allow"); tc.status == 405 && allow != "GET, POST, DELETE" {
				t.Errorf("Allow: got %q", allow)
			}
		})
	}
	if u.opened != 1 {
		t.Errorf("upstream sessions opened: got %d, want 1", u.opened)
	}
}

func TestAnswersBeyondABoundBecomeErrorsThatNameIt(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	owner, other := startWorker(t, p), startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(owner)
	huge := strings.Repeat("x", 1<<20)
	write := func(kind string, declared bool, pieces int, before string) func(http.ResponseWriter, *http.Request, string) bool {
		return func(w http.ResponseWriter, _ *http.Request, method string) bool {
			if method != "tools/call" {
				return false
			}
			w.Header().Set("Content-Type", kind)
			if declared {
				w.Header().Set("Content-Length", fmt.Sprint(pieces<<20+len(before)))
			}
			io.WriteString(w, before)
			for range pieces {
				io.WriteString(w, huge)
			}
			return true
		}
	}
	for name, tc := range map[string]struct {
		hook   func(http.ResponseWriter, *http.Request, string) bool
		status int
		says   string
	}{
		"declared length": {write("application/json", true, 17, ""), 502, "16777216"},
		"chunked":         {write("application/json", false, 17, ""), 502, "16777216"},
		"event":           {write("text/event-stream", false, 5, "data: "), 200, "4194304"},
	} {
		u.setHook(tc.hook)
		for at, w := range map[string]*worker{"owner": owner, "forwarded": other} {
			resp, body := c.do(w, http.MethodPost, `{"jsonrpc":"2.0","id":"big","method":"tools/call"}`)
			if resp == nil || resp.StatusCode != tc.status || !strings.Contains(body, tc.says) || !strings.Contains(body, `"big"`) {
				t.Errorf("%s at the %s: got %v %.300s, want %d that says %s with the id", name, at, resp, body, tc.status, tc.says)
			}
		}
	}
	u.setHook(write("application/json", false, 15, ""))
	if resp, body := c.do(other, http.MethodPost, `{"jsonrpc":"2.0","id":1,"method":"tools/call"}`); resp == nil || len(body) != 15<<20 {
		t.Errorf("an answer of 15 MiB: got %v with %d bytes, want all of it", resp, len(body))
	}
}

func TestGetStreamsOfASessionAreBounded(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	w := startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(w)
	u.setHook(func(rw http.ResponseWriter, r *http.Request, _ string) bool {
		if r.Method != http.MethodGet {
			return false
		}
		rw.Header().Set("Content-Type", "text/event-stream")
		http.NewResponseController(rw).Flush()
		<-r.Context().Done()
		return true
	})
	for range session.MaxStreams {
		r, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, w.url+c.path, nil)
		r.Header = http.Header{"Accept": {"text/event-stream"}, "Mcp-Session-Id": {c.session}}
		resp, err := c.http.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
	}
	resp, body := c.do(w, http.MethodGet, "")
	if resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") == "" || !strings.Contains(body, fmt.Sprint(session.MaxStreams)) {
		t.Errorf("one stream more: got %d %s, want 429 with Retry-After that names the bound", resp.StatusCode, body)
	}
	if status, _ := c.call(w); status != http.StatusOK {
		t.Errorf("call beside the streams: got %d, want 200", status)
	}
}

func TestUpstreamFailuresNameTheUpstream(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	p.setGateway("dead", "http://127.0.0.1:1/mcp", nil)
	w := startWorker(t, p)
	resp, body := newClient(t, "dead").do(w, http.MethodPost, initialize)
	if resp.StatusCode != http.StatusBadGateway || !strings.Contains(body, `upstream \"up\" could not be reached`) && !strings.Contains(body, "could not be reached") {
		t.Errorf("initialize at a dead upstream: got %d %s, want 502 that names it", resp.StatusCode, body)
	}
	c := newClient(t, "g")
	c.initialize(w)
	for name, tc := range map[string]struct {
		hook   func(w http.ResponseWriter) bool
		status int
		says   string
	}{
		"challenge": {func(w http.ResponseWriter) bool {
			w.Header().Set("WWW-Authenticate", "Bearer")
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}, 502, "401"},
		"redirect": {func(w http.ResponseWriter) bool {
			w.Header().Set("Location", "http://evil.example/")
			w.WriteHeader(http.StatusTemporaryRedirect)
			return true
		}, 502, "307"},
		"breaks off": {func(http.ResponseWriter) bool { panic(http.ErrAbortHandler) }, 200, "5040"},
		"breaks off within a stream": {func(w http.ResponseWriter) bool {
			w.Header().Set("Content-Type", "text/event-stream")
			io.WriteString(w, "data: {\"method\":\"notifications/progress\"}\n\ndata: {")
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}, 200, "5040"},
	} {
		u.setHook(func(w http.ResponseWriter, _ *http.Request, method string) bool {
			return method == "tools/call" && tc.hook(w)
		})
		resp, body := c.do(w, http.MethodPost, `{"jsonrpc":"2.0","id":"call-1","method":"tools/call"}`)
		if resp == nil || resp.StatusCode != tc.status || !strings.Contains(body, tc.says) || !strings.Contains(body, `"call-1"`) || !strings.Contains(body, "up") {
			t.Errorf("%s: got %v %s, want %d that says %s", name, resp, body, tc.status, tc.says)
		}
		if resp != nil && (resp.Header.Get("WWW-Authenticate") != "" || resp.Header.Get("Location") != "") {
			t.Errorf("%s: the upstream's challenge or redirect reached the client: %v", name, resp.Header)
		}
	}
}

func TestNothingOfTheCallersIdentityReachesTheUpstream(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL+"/own/path?own=1", nil)
	w := startWorker(t, p)
	var seen []*http.Request
	u.setHook(func(_ http.ResponseWriter, r *http.Request, _ string) bool {
		seen = append(seen, r)
		return false
	})
	send(t, w, http.MethodPost, "/gateways/g/mcp?client=1", initialize, map[string]string{
		"Authorization": "Bearer secret", "Cookie": "c=1", "X-Forwarded-For": "1.2.3.4", "Forwarded": "for=1.2.3.4",
		"X-Leasehold-Principal": "root", "Traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
	})
	if len(seen) != 1 {
		t.Fatalf("upstream requests: got %d, want 1", len(seen))
	}
	for _, name := range []string{"Authorization", "Cookie", "X-Forwarded-For", "Forwarded", "X-Leasehold-Principal"} {
		if v := seen[0].Header.Get(name); v != "" {
			t.Errorf("%s reached the upstream: %q", name, v)
		}
	}
	if seen[0].Header.Get("Traceparent") == "" {
		t.Error("Traceparent did not reach the upstream")
	}
	if got := seen[0].URL.String(); got != "/own/path?own=1" {
		t.Errorf("upstream URL: got %s, want its own path and query", got)
	}
}

func TestSessionsOfAWorkerAreBounded(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	w := startWorkerWith(t, p, func(cfg *dataplane.Config) { cfg.MaxSessions = 2 })
	first, second := newClient(t, "g"), newClient(t, "g")
	first.initialize(w)
	second.initialize(w)
	resp, body := newClient(t, "g").do(w, http.MethodPost, initialize)
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" || !strings.Contains(body, "2 sessions") {
		t.Errorf("third session: got %d %s, want 503 with Retry-After that names the bound", resp.StatusCode, body)
	}
	if u.opened != 2 {
		t.Errorf("upstream sessions opened: got %d, want 2", u.opened)
	}
	first.do(w, http.MethodDelete, "")
	newClient(t, "g").initialize(w) // the place is free again
}

func TestBrowsersOfAdmittedOriginsMayReadAnswers(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	w := startWorker(t, p)
	const origin = "http://localhost:6274"
	resp, _ := send(t, w, http.MethodOptions, "/gateways/g/mcp", "", map[string]string{
		"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "mcp-session-id"})
	if resp.StatusCode != http.StatusNoContent || resp.Header.Get("Access-Control-Allow-Origin") != origin ||
		!strings.Contains(resp.Header.Get("Access-Control-Allow-Headers"), "Mcp-Session-Id") || !strings.Contains(resp.Header.Get("Access-Control-Allow-Methods"), "DELETE") {
		t.Errorf("preflight: got %d %v", resp.StatusCode, resp.Header)
	}
	resp, _ = send(t, w, http.MethodPost, "/gateways/g/mcp", initialize, map[string]string{"Origin": origin})
	exposed := resp.Header.Get("Access-Control-Expose-Headers")
	if resp.StatusCode != 200 || resp.Header.Get("Access-Control-Allow-Origin") != origin || resp.Header.Get("Vary") != "Origin" ||
		!strings.Contains(exposed, "Mcp-Session-Id") || !strings.Contains(exposed, "Mcp-Protocol-Version") {
		t.Errorf("initialize: got %d %v", resp.StatusCode, resp.Header)
	}
	resp, _ = send(t, w, http.MethodOptions, "/gateways/g/mcp", "", map[string]string{"Origin": "https://evil.example"})
	if resp.StatusCode != http.StatusForbidden || resp.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("preflight of another origin: got %d %v, want 403 without leave", resp.StatusCode, resp.Header)
	}
	resp, _ = send(t, w, http.MethodPost, "/gateways/g/mcp", initialize, nil)
	if resp.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Error("a request without an origin got CORS headers")
	}
}
