package dataplane_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/leasehold/leasehold/dataplane"
	"github.com/leasehold/leasehold/dataplane/duplex/duplextest"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func init() { duplextest.Main() }

// runs makes an upstream the test program, which misbehaves as how says.
func runs(how string) func(*leaseholdv1.Upstream) {
	return func(u *leaseholdv1.Upstream) {
		u.Transport, u.Command = leaseholdv1.Transport_TRANSPORT_STDIO, os.Args[0]
		u.Env = map[string]string{duplextest.Env: how, "GORACE": "atexit_sleep_ms=0"}
	}
}

func allowStdio(cfg *dataplane.Config) { cfg.AllowStdio = true }

// openProgram opens a session with a program and returns the program's process id.
func openProgram(t *testing.T, c *client, w *worker) int {
	t.Helper()
	c.initialize(w)
	_, text := c.tool(w, "pid", "{}")
	pid, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("pid: got %s", text)
	}
	return pid
}

// tool calls a tool and returns the status and the text, or the body.
func (c *client) tool(w *worker, name, arguments string) (int, string) {
	c.tb.Helper()
	c.ids++
	resp, body := c.do(w, http.MethodPost, fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":%q,"arguments":%s}}`, c.ids, name, arguments))
	if resp == nil {
		return 0, body
	}
	_, text, ok := strings.Cut(body, `"type":"text","text":"`)
	if !ok {
		return resp.StatusCode, body
	}
	text, _, _ = strings.Cut(text, `"}`)
	return resp.StatusCode, text
}

func isAlive(pid int) bool { return syscall.Kill(pid, 0) == nil }

func TestASessionHasAProgramOfItsOwnThroughAnyWorker(t *testing.T) {
	p := startPlane(t)
	p.setUpstream("g", "", runs(""))
	a, b := startWorkerWith(t, p, allowStdio), startWorkerWith(t, p, allowStdio)
	one, two := newClient(t, "g"), newClient(t, "g")
	first, second := openProgram(t, one, a), openProgram(t, two, b)
	if first == second {
		t.Errorf("two sessions have the process %d", first)
	}
	for i := range 3 { // the call that asked for the process id was the first
		if status, got := one.tool(b, "x", "{}"); status != 200 || got != fmt.Sprint(i+2) {
			t.Errorf("call %d: got %d %s, want %d", i, status, got, i+2)
		}
	}
	if got := p.live(); len(got) != 2 || got[0].GetClass() != leaseholdv1.Class_CLASS_PINNED {
		t.Errorf("records: got %v, want two pinned ones", got)
	}
	if resp, body := one.do(b, http.MethodDelete, ""); resp.StatusCode != http.StatusNoContent || isAlive(first) {
		t.Errorf("DELETE: got %d %s, process there: %t; want 204 and that it is gone", resp.StatusCode, body, isAlive(first))
	}
	if !isAlive(second) {
		t.Error("the other session's process is gone too")
	}
}

func TestAWorkerThatStopsLeavesNoProgram(t *testing.T) {
	p := startPlane(t)
	p.setUpstream("g", "", runs("deaf")) // and does not end when it is asked to
	w := startWorkerWith(t, p, allowStdio)
	pid := openProgram(t, newClient(t, "g"), w)
	began := time.Now()
	w.stop()
	if took := time.Since(began); isAlive(pid) || took > 5*time.Second {
		t.Errorf("after %v: process there: %t; want it gone within 5 s", took, isAlive(pid))
	}
}

func TestAWorkerRunsNoProgramsUnlessItMay(t *testing.T) {
	p := startPlane(t)
	p.setUpstream("g", "", runs(""))
	w := startWorker(t, p)
	resp, body := newClient(t, "g").do(w, http.MethodPost, initialize)
	if resp.StatusCode != http.StatusBadGateway || !strings.Contains(body, "this worker does not run programs: start it with --allow-stdio") || !strings.Contains(body, `"id":0`) {
		t.Errorf("got %d %s, want 502 and what to do", resp.StatusCode, body)
	}
	limited := startWorkerWith(t, p, func(cfg *dataplane.Config) { cfg.AllowStdio, cfg.MaxPrograms = true, 1 })
	newClient(t, "g").initialize(limited)
	resp, body = newClient(t, "g").do(limited, http.MethodPost, initialize)
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" || !strings.Contains(body, "1 programs") {
		t.Errorf("beyond the bound: got %d %s, want 503 and the bound", resp.StatusCode, body)
	}
}

func TestACrashOfTheProgramEndsItsSessionOnce(t *testing.T) {
	p := startPlane(t)
	p.setUpstream("g", "", runs(""))
	owner, other := startWorkerWith(t, p, allowStdio), startWorkerWith(t, p, allowStdio)
	c := newClient(t, "g")
	openProgram(t, c, owner)
	if status, body := c.tool(other, "exit", `{"count":3}`); status != http.StatusOK || !strings.Contains(body, `"code":5040`) {
		t.Errorf("the call that ended it: got %d %s, want an unknown outcome", status, body)
	}
	if status, body := c.tool(other, "x", "{}"); status != http.StatusNotFound {
		t.Errorf("the next call: got %d %s, want 404", status, body)
	}
	eventually(t, "the session has ended for its upstream", func() bool {
		got := p.tombstones()
		return len(got) == 1 && got[0] == leaseholdv1.EndReason_END_REASON_UPSTREAM_LOST
	})
}

func TestAfterACrashASessionCanGoOnWithANewProgram(t *testing.T) {
	p := startPlane(t)
	p.setUpstream("g", "", runs(""))
	p.change(func() {
		p.gateways["gateways/g"].Session = &leaseholdv1.SessionPolicy{OnUpstreamLost: leaseholdv1.OnUpstreamLost_ON_UPSTREAM_LOST_REINITIALIZE}
		p.gateways["gateways/g"].Status.Revision = p.revision
	})
	w := startWorkerWith(t, p, allowStdio)
	c := newClient(t, "g")
	first := openProgram(t, c, w)
	c.tool(w, "exit", `{"count":1}`)
	if status, body := c.tool(w, "x", "{}"); status != http.StatusOK || !strings.Contains(body, "has a new one") {
		t.Errorf("the next call: got %d %s, want to be told of the new program", status, body)
	}
	_, text := c.tool(w, "pid", "{}")
	second, err := strconv.Atoi(text)
	if err != nil || second == first {
		t.Fatalf("the process is %s and was %d, want another one", text, first)
	}
	if c.do(w, http.MethodDelete, ""); isAlive(second) {
		t.Error("the new program is there after DELETE")
	}
}

func TestAPinnedSessionSurvivesAFenceOfItsOwnerAndNotItsDeath(t *testing.T) {
	p := startPlane(t)
	p.setUpstream("g", "", runs(""))
	owner, other := startWorkerWith(t, p, allowStdio), startWorkerWith(t, p, allowStdio)
	c, idle := newClient(t, "g"), newClient(t, "g")
	pid, forgotten := openProgram(t, c, owner), openProgram(t, idle, owner)
	p.change(func() { p.away = true })
	eventually(t, "the owner is fenced", func() bool {
		status, _ := c.tool(owner, "x", "{}")
		return status == http.StatusServiceUnavailable
	})
	p.change(func() { p.away = false })
	eventually(t, "the owner serves again", func() bool {
		status, _ := c.tool(owner, "x", "{}")
		return status == http.StatusOK
	})
	if _, got := c.tool(other, "pid", "{}"); got != fmt.Sprint(pid) {
		t.Errorf("after the fence: got process %s, want %d still", got, pid)
	}
	// The owner is taken for dead, and somebody asks for one of its sessions.
	p.kill(owner.id)
	eventually(t, "the session is over", func() bool {
		status, _ := c.tool(other, "x", "{}")
		return status == http.StatusNotFound
	})
	eventually(t, "it ended for its lost owner", func() bool {
		got := p.tombstones()
		return len(got) == 1 && got[0] == leaseholdv1.EndReason_END_REASON_OWNER_LOST
	})
	eventually(t, "the owner has ended the programs of the sessions that it has lost", func() bool { return !isAlive(pid) && !isAlive(forgotten) })
}

func TestTheServersRequestsReachTheClientOnItsGetStream(t *testing.T) {
	p := startPlane(t)
	p.setUpstream("g", "", runs(""))
	owner, other := startWorkerWith(t, p, allowStdio), startWorkerWith(t, p, allowStdio)
	c := newClient(t, "g")
	c.initialize(owner)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, _ := http.NewRequestWithContext(ctx, http.MethodGet, other.url+c.path, nil)
	r.Header.Set("Accept", "text/event-stream")
	r.Header.Set("Mcp-Session-Id", c.session)
	stream, err := c.http.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Body.Close()
	answer := make(chan string, 1)
	go func() {
		_, text := c.tool(other, "ask", `{"text":"x"}`)
		answer <- text
	}()
	lines := bufio.NewReader(stream.Body)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatalf("the GET stream: %v", err)
		}
		if strings.HasPrefix(line, "data:") && strings.Contains(line, `"id":"ask-x","method":"sampling/createMessage"`) {
			break
		}
	}
	asker := newClient(t, "g")
	asker.session = c.session
	if resp, body := asker.do(owner, http.MethodPost, `{"jsonrpc":"2.0","id":"ask-x","result":{"model":"m"}}`); resp.StatusCode != http.StatusAccepted {
		t.Errorf("the client's answer: got %d %s, want 202", resp.StatusCode, body)
	}
	if got := <-answer; !strings.Contains(got, `{\"model\":\"m`) {
		t.Errorf("the call: got %s, want what the client answered", got)
	}
}

func TestALegacyServerIsServedThroughAnyWorker(t *testing.T) {
	s := mcp.NewServer(&mcp.Implementation{Name: "legacy", Version: "1"}, nil)
	calls := 0
	s.AddTool(&mcp.Tool{Name: "count", InputSchema: json.RawMessage(`{"type":"object"}`)}, func(ctx context.Context, r *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		calls++
		if token := r.Params.GetProgressToken(); token != nil {
			r.Session.NotifyProgress(ctx, &mcp.ProgressNotificationParams{ProgressToken: token, Progress: 1})
		}
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: fmt.Sprint(calls)}}}, nil
	})
	streams := make(chan struct{}, 2)
	legacy := mcp.NewSSEHandler(func(*http.Request) *mcp.Server { return s }, nil)
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		legacy.ServeHTTP(w, r)
		if r.Method == http.MethodGet {
			streams <- struct{}{}
		}
	}))
	t.Cleanup(h.Close)
	t.Cleanup(h.CloseClientConnections)
	p := startPlane(t)
	p.setUpstream("g", h.URL+"/sse", func(u *leaseholdv1.Upstream) { u.Transport = leaseholdv1.Transport_TRANSPORT_SSE })
	owner, other := startWorker(t, p), startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(owner)
	if resp, body := c.do(owner, http.MethodPost, `{"jsonrpc":"2.0","method":"notifications/initialized"}`); resp.StatusCode != http.StatusAccepted {
		t.Fatalf("initialized: got %d %s, want 202", resp.StatusCode, body)
	}
	if status, got := c.tool(other, "count", "{}"); status != http.StatusOK || got != "1" {
		t.Errorf("call: got %d %s, want 1", status, got)
	}
	_, body := c.do(other, http.MethodPost, `{"jsonrpc":"2.0","id":"p","method":"tools/call","params":{"name":"count","_meta":{"progressToken":"t"}}}`)
	if at, end := strings.Index(body, `"progressToken":"t"`), strings.Index(body, `"text":"2"`); at < 0 || end < at {
		t.Errorf("call with progress: got %s, want the progress and then the result", body)
	}
	if resp, body := c.do(other, http.MethodDelete, ""); resp.StatusCode != http.StatusNoContent {
		t.Errorf("DELETE: got %d %s, want 204", resp.StatusCode, body)
	}
	await(t, streams)

	lost := newClient(t, "g")
	lost.initialize(owner)
	h.CloseClientConnections()
	await(t, streams)
	eventually(t, "the session is over with its stream", func() bool {
		status, _ := lost.tool(other, "count", "{}")
		return status == http.StatusNotFound
	})
	eventually(t, "it ended for its upstream", func() bool {
		return slices.Contains(p.tombstones(), leaseholdv1.EndReason_END_REASON_UPSTREAM_LOST)
	})
}

func TestSessionsWithProgramsLeaveNoDescriptorsBehind(t *testing.T) {
	p := startPlane(t)
	p.setUpstream("g", "", runs(""))
	w := startWorkerWith(t, p, allowStdio)
	c := newClient(t, "g")
	round := func() {
		c.session = ""
		c.initialize(w)
		c.tool(w, "x", "{}")
		c.do(w, http.MethodDelete, "")
	}
	round()
	open := func() int {
		entries, _ := os.ReadDir("/proc/self/fd")
		return len(entries)
	}
	before := open()
	for range 20 {
		round()
	}
	deadline := time.Now().Add(10 * time.Second)
	for open() > before+3 && time.Now().Before(deadline) {
		<-time.After(5 * time.Millisecond)
	}
	if after := open(); after > before+3 {
		t.Errorf("descriptors: %d before and %d after 20 sessions, want as many", before, after)
	}
}
