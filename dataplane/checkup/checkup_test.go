package checkup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/session"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server is an MCP server in the place of the network, which a test tells how to
// misbehave.
type server struct {
	mu       sync.Mutex // guards what follows
	how      string
	took     time.Duration
	opened   int
	live     map[string]bool
	most     int // sessions at the same time
	requests []string
}

func (s *server) set(how string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.how = how
}

func (s *server) count() (opened, live int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.opened, len(s.live)
}

// Drop implements session.Upstream.
func (s *server) Drop(*config.Upstream, string) {}

// Do implements session.Upstream.
func (s *server) Do(ctx context.Context, d *session.Dispatch) (*http.Response, error) {
	s.mu.Lock()
	how, took := s.how, s.took
	s.mu.Unlock()
	method := d.Method
	if kind, _ := mcp.KindOf(d.Body); kind == mcp.KindRequest {
		name, _ := mcp.Lookup(d.Body, "method")
		method = strings.Trim(string(name), `"`)
	}
	if took > 0 && method != http.MethodDelete {
		select {
		case <-time.After(took):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	id := d.Header.Get(mcp.HeaderSessionID)
	s.requests = append(s.requests, fmt.Sprintf("%s %s %s", method, id, d.Header.Get(mcp.HeaderProtocolVersion)))
	answer := &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"application/json"}}}
	body := `{"jsonrpc":"2.0","id":"leasehold-2","result":{}}`
	if how == "refuses" {
		return nil, fmt.Errorf("%w: no route", session.ErrNotSent)
	}
	switch method {
	case mcp.MethodInitialize:
		s.opened++
		id = fmt.Sprint("s", s.opened)
		s.live[id] = true
		s.most = max(s.most, len(s.live))
		answer.Header.Set(mcp.HeaderSessionID, id)
		body = `{"jsonrpc":"2.0","id":"leasehold-1","result":{"protocolVersion":"2025-06-18","capabilities":{},"serverInfo":{"name":"s","version":"1"}}}`
		if how == "mute" {
			body = `{"jsonrpc":"2.0","id":"leasehold-1","error":{"code":1,"message":"no"}}`
		}
	case http.MethodDelete:
		delete(s.live, id)
		body = ""
	case mcp.MethodPing:
		switch how {
		case "stream":
			answer.Header.Set("Content-Type", "text/event-stream")
			body = ": hello\n\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\"}\n\ndata: " + body + "\n\n"
		case "broken":
			answer.StatusCode = 500
		case "huge":
			body = strings.Repeat(" ", maxAnswer+1)
		case "chatter":
			answer.Header.Set("Content-Type", "text/event-stream")
			body = strings.Repeat("data: {\"jsonrpc\":\"2.0\",\"method\":\"x\"}\n\n", 100)
		}
	default:
		answer.StatusCode, body = 202, ""
	}
	answer.Body = io.NopCloser(strings.NewReader(body))
	return answer, nil
}

const interval = 10 * time.Second

// patientOf is an upstream that is asked every interval.
func patientOf(gateway string, fingerprint byte) *config.Upstream {
	return &config.Upstream{Gateway: gateway, Name: "up", Fingerprint: [16]byte{fingerprint},
		Health: &config.Health{Interval: interval, Timeout: 2 * time.Second, UnhealthyAfter: 3, HealthyAfter: 2}}
}

func worldOf(upstreams ...*config.Upstream) *config.Snapshot {
	s := &config.Snapshot{Gateways: map[string]*config.Gateway{}}
	for _, u := range upstreams {
		s.Gateways[u.Gateway] = &config.Gateway{ID: u.Gateway, Upstream: u}
	}
	return s
}

// run runs a Checker in a bubble while f looks at it.
func run(t *testing.T, f func(c *Checker, s *server, world *config.Holder)) {
	synctest.Test(t, func(t *testing.T) {
		s, world := &server{live: map[string]bool{}}, &config.Holder{}
		c := New(Config{World: world, Upstream: s, Logger: hclog.NewNullLogger()})
		ctx, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		group.Go(func() { c.Run(ctx) })
		defer group.Wait()
		defer cancel()
		f(c, s, world)
		cancel()
		group.Wait()
		if _, live := s.count(); live != 0 {
			t.Errorf("sessions at the server after all: got %d, want 0", live)
		}
	})
}

func TestAnUpstreamIsEjectedAndAdmittedAgainAfterSeveralResultsInARow(t *testing.T) {
	run(t, func(c *Checker, s *server, world *config.Holder) {
		u := patientOf("g", 1)
		world.Set(worldOf(u))
		want := func(after time.Duration, ejected bool) {
			t.Helper()
			time.Sleep(after)
			synctest.Wait()
			err := c.Check(u)
			if state := c.States(); (err != nil) != ejected || len(state) != 1 || state[0].Ejected != ejected {
				t.Fatalf("got %v and %+v, want it ejected: %t", err, state, ejected)
			}
		}
		want(0, false) // nothing is known yet
		want(firstWithin+look, false)
		if state := c.States()[0]; !state.Asked || state.LastError != nil || state.Gateway != "g" || state.Upstream != "up" {
			t.Errorf("got %+v, want that it was asked and works", state)
		}
		const round = interval*11/10 + look
		s.set("broken")
		want(2*interval, false) // at most two failures
		s.set("")
		want(round, false)
		s.set("broken")
		want(2*interval, false) // the earlier ones do not count any more
		want(2*round, true)
		var ejected *Ejected
		if err := c.Check(u); !errors.As(err, &ejected) || !strings.Contains(ejected.ForClient(), "3 health checks in a row failed") {
			t.Errorf("got %v, want how many failed", err)
		}
		if state := c.States()[0]; state.LastError == nil || !strings.Contains(state.LastError.Error(), "ping: the server answered HTTP 500") || time.Since(state.Since) > 2*round {
			t.Errorf("got %+v, want why and since when", state)
		}
		s.set("")
		want(interval*9/10, true) // at most one success
		want(2*round, false)
	})
}

func TestAProbeHasASessionOfItsOwnThatIsAlwaysEnded(t *testing.T) {
	for how, failure := range map[string]string{
		"": "", "stream": "", "mute": "initialize: the server answered with the JSON-RPC error 1", "broken": "ping: the server answered HTTP 500",
		"refuses": "initialize: upstream not reached", "huge": "more than 1048576 bytes", "chatter": "no answer in 64 events",
	} {
		run(t, func(c *Checker, s *server, world *config.Holder) {
			s.set(how)
			u := patientOf("g", 1)
			world.Set(worldOf(u))
			time.Sleep(firstWithin + look)
			synctest.Wait()
			state := c.States()[0]
			if failure == "" && state.LastError != nil || failure != "" && (state.LastError == nil || !strings.Contains(state.LastError.Error(), failure)) {
				t.Errorf("%s: got %v, want …%s…", how, state.LastError, failure)
			}
			if opened, live := s.count(); live != 0 || how != "refuses" && opened != 1 {
				t.Errorf("%s: got %d sessions opened and %d left, want 1 and 0", how, opened, live)
			}
			want := "[initialize   POST s1 2025-06-18 ping s1 2025-06-18 DELETE s1 2025-06-18]"
			if got := fmt.Sprint(s.requests); failure == "" && got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		})
	}
}

func TestAServerThatIsTooSlowFailsAndIsAskedByOneProbeAtATime(t *testing.T) {
	run(t, func(c *Checker, s *server, world *config.Holder) {
		s.took = 1500 * time.Millisecond
		u := patientOf("g", 1)
		u.Health.Interval = time.Second
		world.Set(worldOf(u))
		time.Sleep(time.Minute)
		synctest.Wait()
		if err := c.Check(u); err == nil || !strings.Contains(c.States()[0].LastError.Error(), "no answer within 2s") || s.most != 1 {
			t.Errorf("got %v (%v) and %d sessions at a time; want it ejected for the time, and 1", err, c.States()[0].LastError, s.most)
		}
	})
}

func TestAnotherConnectionBeginsAnewAndWhatIsNotAskedIsForgotten(t *testing.T) {
	run(t, func(c *Checker, s *server, world *config.Holder) {
		s.set("broken")
		old := patientOf("g", 1)
		world.Set(worldOf(old))
		time.Sleep(5 * interval)
		synctest.Wait()
		if c.Check(old) == nil {
			t.Fatal("not ejected")
		}
		changed := patientOf("g", 2)
		if c.Check(changed) != nil {
			t.Error("what the old connection did counts against the new one")
		}
		world.Set(worldOf(changed))
		time.Sleep(look)
		synctest.Wait()
		if state := c.States()[0]; state.Ejected || state.Asked {
			t.Errorf("got %+v, want that nothing is known", state)
		}
		unasked := patientOf("g", 2)
		unasked.Health = nil
		world.Set(worldOf(unasked))
		time.Sleep(look)
		synctest.Wait()
		if len(c.States()) != 0 || c.Check(unasked) != nil {
			t.Errorf("got %v, want nothing", c.States())
		}
	})
}

func TestProbesAreSpreadAndBounded(t *testing.T) {
	run(t, func(c *Checker, s *server, world *config.Holder) {
		s.took = time.Second
		var all []*config.Upstream
		for i := range 10 * maxProbes {
			u := patientOf(fmt.Sprint("g", i), byte(i))
			u.Health.Timeout = time.Minute
			all = append(all, u)
		}
		world.Set(worldOf(all...))
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if s.most > maxProbes {
			t.Errorf("probes at a time: got %d, want at most %d", s.most, maxProbes)
		}
		for _, state := range c.States() {
			if !state.Asked || state.LastError != nil {
				t.Errorf("got %+v, want that it was asked", state)
			}
		}
	})
}

func TestTheEndGivesUpProbesAndSaysNothingOfTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, world := &server{live: map[string]bool{}, took: time.Second}, &config.Holder{}
		u := patientOf("g", 1)
		world.Set(worldOf(u))
		c := New(Config{World: world, Upstream: s, Logger: hclog.NewNullLogger()})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); c.Run(ctx) }()
		for opened := 0; opened == 0; opened, _ = s.count() {
			time.Sleep(10 * time.Millisecond)
		}
		cancel()
		<-done
		if _, live := s.count(); live != 0 || c.States()[0].Asked {
			t.Errorf("got %d sessions and %+v, want none, and nothing known", live, c.States()[0])
		}
	})
}
