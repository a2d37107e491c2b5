package dataplane_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/leasehold/leasehold/dataplane"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func TestALegacySessionEndsItsStream(t *testing.T) {
	for name, end := range map[string]func(p *plane, u *upstreamServer, at *worker){
		"operator":        func(p *plane, _ *upstreamServer, _ *worker) { p.terminateAll() },
		"gateway deleted": func(p *plane, _ *upstreamServer, _ *worker) { p.deleteGateway("g") },
		"lease lost":      func(p *plane, _ *upstreamServer, at *worker) { p.kill(at.id) },
		"worker stopped": func(p *plane, _ *upstreamServer, at *worker) {
			began := time.Now()
			at.stop()
			if took := time.Since(began); took > 2500*time.Millisecond {
				t.Errorf("the worker took %v to stop, want no more than its call and a moment", took)
			}
			if ends := p.tombstones(); len(ends) != 1 || ends[0] != leaseholdv1.EndReason_END_REASON_OWNER_LOST {
				t.Errorf("ends: got %v, want OWNER_LOST", ends)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			p, u, at, other := startLegacy(t)
			inside := make(chan struct{})
			u.setHook(func(_ http.ResponseWriter, r *http.Request, method string) bool {
				if method == "tools/call" {
					close(inside)
					<-time.After(200 * time.Millisecond) // the call takes that long
				}
				return false
			})
			c, idle := connectLegacy(t, at, "g"), connectLegacy(t, at, "g")
			c.initialize(other)
			c.accepted(other, legacyCall(1))
			await(t, inside)
			end(p, u, at)
			want := counted(1, 1)
			got := c.next()
			if name == "lease lost" {
				want = "5040" // the answer is somebody else's to give
			}
			if !strings.Contains(got, want) {
				t.Errorf("call in flight: got %s, want %s", got, want)
			}
			c.want("end")
			if name == "lease lost" || name == "worker stopped" {
				idle.want("end")
			}
			eventually(t, "messages are refused as those of no session, and not before that taken in", func() bool {
				status, body := c.post(other, legacyCall(2))
				if status != http.StatusNotFound && status != http.StatusServiceUnavailable {
					t.Fatalf("afterwards: got %d %s, want 404, or 503 while the worker goes", status, body)
				}
				return status == http.StatusNotFound
			})
			if name != "lease lost" { // others may own it, if they could; see below
				eventually(t, "the upstream session is over", func() bool { return u.live() == 0 })
			}
		})
	}
}

func TestTheUpstreamSessionOfALegacyClientEndsThoughItsWorkerDied(t *testing.T) {
	p, u, at, other := startLegacy(t)
	c := connectLegacy(t, at, "g")
	c.initialize(other)
	c.accepted(other, legacyCall(1))
	c.want(counted(1, 1))
	p.kill(at.id)
	c.want("end")
	eventually(t, "messages are refused", func() bool {
		status, _ := c.post(other, legacyCall(2))
		return status == http.StatusNotFound
	})
	p.terminateAll() // as the control plane does with orphans
	eventually(t, "the upstream session is over", func() bool { return u.live() == 0 })
	eventually(t, "the end is recorded", func() bool { return len(p.tombstones()) > 0 })
	if ends := p.tombstones(); len(ends) != 1 || ends[0] != leaseholdv1.EndReason_END_REASON_OWNER_LOST {
		t.Errorf("reason: got %v, want OWNER_LOST", ends)
	}
}

func TestALegacyClientThatDoesNotReadLosesItsStream(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	at := startWorkerWith(t, p, func(cfg *dataplane.Config) { cfg.SetStall(500 * time.Millisecond) })
	other := startWorker(t, p)
	u.setHook(func(w http.ResponseWriter, r *http.Request, method string) bool {
		if method == "tools/call" {
			io.Copy(io.Discard, r.Body)
			writeJSON(w, 200, `{"jsonrpc":"2.0","id":1,"result":"`+strings.Repeat("x", 1<<20)+`"}`)
		}
		return method == "tools/call"
	})
	wire := startWire(t, strings.TrimPrefix(at.url, "http://"))
	c := connectLegacy(t, &worker{url: "http://" + wire.address()}, "g")
	c.initialize(other)
	wire.stall()
	for i := range 64 {
		if status, body := c.post(other, legacyCall(i+1)); status != http.StatusAccepted {
			if status != http.StatusNotFound {
				t.Errorf("post: got %d %s, want 202 or, once the stream is cut, 404", status, body)
			}
			break
		}
	}
	eventually(t, "the session is over, upstream too", func() bool { return u.live() == 0 && len(p.tombstones()) == 1 })
}

func TestConnectionsOfLegacyClientsCountAsSessions(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, &leaseholdv1.SessionPolicy{IdleTimeout: durationpb.New(time.Second)})
	w := startWorkerWith(t, p, func(cfg *dataplane.Config) { cfg.MaxSessions = 2 })
	u.setHook(func(w http.ResponseWriter, r *http.Request, _ string) bool {
		if r.Method == http.MethodGet {
			w.WriteHeader(http.StatusMethodNotAllowed) // so that it is only the client that listens
		}
		return r.Method == http.MethodGet
	})
	first, second := connectLegacy(t, w, "g"), connectLegacy(t, w, "g")
	modern := newClient(t, "g")
	r, _ := http.NewRequest(http.MethodGet, w.url+"/gateways/g/sse", nil)
	r.Header = http.Header{"Accept": {"text/event-stream"}}
	resp, err := modern.http.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
		t.Errorf("a third connection: got %d, want 503 with Retry-After", resp.StatusCode)
	}
	full := func() bool {
		resp, _ := modern.do(w, http.MethodPost, initialize)
		return resp.StatusCode == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") != ""
	}
	if !full() {
		t.Error("initialize beside two connections: want 503 with Retry-After")
	}
	first.initialize(w) // in the place that it has
	if !full() {
		t.Error("initialize beside a session and a connection: want 503 with Retry-After")
	}
	second.hangUp()
	eventually(t, "the place of the one that hung up is free", func() bool { return !full() })
	eventually(t, "the session of /mcp is over, since it is idle", func() bool { return u.live() == 1 })
	first.accepted(w, legacyCall(1)) // which a client that is connected is not
	first.want(counted(1, 1))
	first.hangUp()
	eventually(t, "all are over", func() bool { return u.live() == 0 })
	for range 2 {
		connectLegacy(t, w, "g")
	}
}

func TestALegacyClientWhoseInitializeFailsMayRepeatIt(t *testing.T) {
	_, u, at, other := startLegacy(t)
	for name, fail := range map[string]struct {
		answer func(w http.ResponseWriter)
		want   string
	}{
		"in HTTP": {func(w http.ResponseWriter) { w.WriteHeader(http.StatusInternalServerError) }, `"code":5020,`},
		"in JSON-RPC": {func(w http.ResponseWriter) {
			writeJSON(w, 200, `{"jsonrpc":"2.0","id":0,"error":{"code":-9,"message":"no"}}`)
		}, `"code":-9,`},
	} {
		u.setHook(func(w http.ResponseWriter, _ *http.Request, method string) bool {
			if method == "initialize" {
				fail.answer(w)
			}
			return method == "initialize"
		})
		c := connectLegacy(t, at, "g")
		for range 50 {
			c.accepted(at, legacyInitialize)
			if got := c.next(); !strings.HasPrefix(got, `{"jsonrpc":"2.0","id":0,"error":{`+fail.want) {
				t.Errorf("initialize that fails %s: got %s, want an error with its id and %s", name, got, fail.want)
			}
		}
		u.setHook(nil)
		c.initialize(other)
	}
}

func TestALegacyClientsMessagesReachTheUpstreamInTheirOrder(t *testing.T) {
	_, u, at, other := startLegacy(t)
	var heard atomic.Bool
	u.setHook(func(_ http.ResponseWriter, _ *http.Request, method string) bool {
		if method == "notifications/initialized" {
			<-time.After(100 * time.Millisecond) // the upstream takes that long
			heard.Store(true)
		}
		return false
	})
	c := connectLegacy(t, at, "g")
	c.initialize(other)
	if !heard.Load() {
		t.Error("notifications/initialized was accepted before the upstream had it: what follows could overtake it")
	}
}

func TestALegacySessionOutlivesAFenceOfItsWorker(t *testing.T) {
	p, u, at, other := startLegacy(t)
	var streams atomic.Int32
	u.setHook(func(w http.ResponseWriter, r *http.Request, _ string) bool {
		if r.Method != http.MethodGet {
			return false
		}
		w.Header().Set("Content-Type", "text/event-stream")
		if streams.Add(1) > 1 {
			io.WriteString(w, "data: {\"jsonrpc\":\"2.0\",\"method\":\"again\"}\n\n")
		}
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		return true
	})
	c := connectLegacy(t, at, "g")
	c.initialize(other)
	eventually(t, "the upstream is listened to", func() bool { return streams.Load() == 1 })
	p.change(func() { p.away = true })
	eventually(t, "the worker is fenced", func() bool {
		status, headers, _ := c.postTo(at.url+c.endpoint, `{"jsonrpc":"2.0","method":"notifications/x"}`)
		return status == http.StatusServiceUnavailable && headers.Get("Retry-After") != ""
	})
	p.change(func() { p.away = false })
	c.want(`{"jsonrpc":"2.0","method":"again"}`)
	c.accepted(at, legacyCall(1))
	c.want(counted(1, 1))
}

func TestAMessageForAWorkerThatCannotBeReachedIsRefusedSoonAndNotAsOver(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	at, line := startWorkerBehindWire(t, p)
	other := startWorker(t, p)
	c := connectLegacy(t, at, "g")
	c.initialize(other)
	line.stall()
	eventually(t, "the other worker has not heard of it for a moment", func() bool {
		began := time.Now()
		status, headers, body := c.postTo(other.url+c.endpoint, legacyCall(1))
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("the answer took %v, want at most 5 s", took)
		}
		if status == http.StatusBadGateway {
			return false // it was sent, since the line was well just before
		}
		if status != http.StatusServiceUnavailable || headers.Get("Retry-After") == "" {
			t.Errorf("got %d %s, want 503 with Retry-After", status, body)
		}
		return true
	})
	line.resume()
}

func TestAMessageForAWorkerThatIsNotKnownYetWaits(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	other := startWorker(t, p)
	p.change(func() { p.mute = map[string]bool{other.id: true} })
	at := startWorker(t, p)
	c := connectLegacy(t, at, "g")
	if status, headers, body := c.postTo(other.url+c.endpoint, legacyInitialize); status != http.StatusServiceUnavailable || headers.Get("Retry-After") == "" {
		t.Errorf("at a worker that is behind: got %d %s, want 503 with Retry-After", status, body)
	}
	told := make(chan struct{})
	go func() {
		defer close(told)
		<-time.After(50 * time.Millisecond)
		p.change(func() { p.mute = nil })
	}()
	c.initialize(other)
	<-told
}

func TestASilentLegacyStreamCarriesComments(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	w := startWorkerWith(t, p, func(cfg *dataplane.Config) { cfg.SetKeepAlive(20 * time.Millisecond) })
	r, _ := http.NewRequest(http.MethodGet, w.url+"/gateways/g/sse", nil)
	r.Header = http.Header{"Accept": {"text/event-stream"}}
	resp, err := newClient(t, "g").http.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for comments, lines := 0, bufio.NewScanner(resp.Body); comments < 3; {
		if !lines.Scan() {
			t.Fatalf("the stream ended after %d comments", comments)
		}
		if strings.HasPrefix(lines.Text(), ":") {
			comments++
		}
	}
}

func TestALegacyClientHasABoundOnItsRequestsInFlight(t *testing.T) {
	_, u, at, other := startLegacy(t)
	release := make(chan struct{})
	u.setHook(func(_ http.ResponseWriter, _ *http.Request, method string) bool {
		if method == "tools/call" {
			<-release
		}
		return false
	})
	c := connectLegacy(t, at, "g")
	c.initialize(other)
	for i := 1; i <= 256; i++ {
		c.accepted(other, legacyCall(i))
	}
	if status, headers, body := c.postTo(other.url+c.endpoint, legacyCall(257)); status != http.StatusTooManyRequests || headers.Get("Retry-After") == "" {
		t.Errorf("one more: got %d %s, want 429 with Retry-After", status, body)
	}
	close(release)
	seen := make(map[string]bool)
	for range 256 {
		seen[c.next()] = true
	}
	if len(seen) != 256 {
		t.Errorf("answers: got %d different ones, want 256", len(seen))
	}
	c.accepted(other, legacyCall(257))
	c.next()
}

func TestALegacyClientIsServedByALegacyServer(t *testing.T) {
	server := mcp.NewServer(&mcp.Implementation{Name: "legacy", Version: "1"}, nil)
	server.AddTool(&mcp.Tool{Name: "n", InputSchema: json.RawMessage(`{"type":"object"}`)}, func(context.Context, *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: "served"}}}, nil
	})
	ended := make(chan struct{}, 1)
	sse := mcp.NewSSEHandler(func(*http.Request) *mcp.Server { return server }, nil)
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sse.ServeHTTP(w, r)
		if r.Method == http.MethodGet {
			ended <- struct{}{}
		}
	}))
	t.Cleanup(h.Close)
	t.Cleanup(h.CloseClientConnections)
	p := startPlane(t)
	p.setUpstream("g", h.URL+"/sse", func(u *leaseholdv1.Upstream) { u.Transport = leaseholdv1.Transport_TRANSPORT_SSE })
	at, other := startWorker(t, p), startWorker(t, p)
	c := connectLegacy(t, at, "g")
	c.accepted(other, legacyInitialize)
	if got := c.next(); !strings.Contains(got, `"protocolVersion":"2024-11-05"`) {
		t.Fatalf("initialize: got %s, want the version that was asked for", got)
	}
	c.accepted(other, initialized)
	for i := range 3 {
		c.accepted(other, legacyCall(i+1))
		if got := c.next(); !strings.Contains(got, fmt.Sprintf(`"id":%d`, i+1)) || !strings.Contains(got, "served") {
			t.Errorf("call %d: got %s", i+1, got)
		}
	}
	c.hangUp()
	await(t, ended)
	eventually(t, "the session is over", func() bool { return len(p.tombstones()) == 1 })
}
