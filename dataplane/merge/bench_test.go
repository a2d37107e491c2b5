package merge

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/session"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// quick is upstreams that cost next to nothing.
type quick struct {
	tools string
}

func (q *quick) Do(_ context.Context, d *session.Dispatch) (*http.Response, error) {
	e, err := mcp.Parse(d.Body, mcp.Limits{})
	if err != nil {
		return accepted(), nil
	}
	switch m := e.First(); {
	case m.Method == mcp.MethodInitialize:
		answer := result(m.ID, []byte(`{"protocolVersion":"2025-11-25","capabilities":{"tools":{"listChanged":true}},"serverInfo":{"name":"u","version":"1"}}`))
		answer.Header[mcp.HeaderSessionID] = []string{newID()}
		return answer, nil
	case m.Method == mcp.MethodToolsList:
		return result(m.ID, []byte(q.tools)), nil
	case m.Kind == mcp.KindRequest:
		return result(m.ID, []byte(`{"content":[{"type":"text","text":"hello"}]}`)), nil
	}
	return accepted(), nil
}

func (q *quick) Drop(*config.Upstream, string) {}

func quickRig(tb testing.TB, upstreams, tools int) (*Upstream, *config.Upstream) {
	var items []string
	for i := range tools {
		items = append(items, fmt.Sprintf(`{"name":"tool%d","description":"%s","inputSchema":{"type":"object"}}`, i, strings.Repeat("d", 200)))
	}
	g := &leaseholdv1.Gateway{Name: "gateways/g", Status: &leaseholdv1.GatewayStatus{Revision: 1}}
	for i := range upstreams {
		g.Upstreams = append(g.Upstreams, &leaseholdv1.Upstream{Name: fmt.Sprintf("u%d", i), Url: "http://u"})
	}
	snapshot, err := config.Compile(&config.State{Revision: 1, Gateways: map[string]*leaseholdv1.Gateway{"gateways/g": g}}, &config.Snapshot{})
	if err != nil {
		tb.Fatal(err)
	}
	world := &config.Holder{}
	world.Set(snapshot)
	u := New(Config{Inner: &quick{tools: `{"tools":[` + strings.Join(items, ",") + `]}`}, World: world, Logger: hclog.NewNullLogger()})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		u.Run(ctx)
	}()
	tb.Cleanup(func() {
		cancel()
		<-done
	})
	return u, snapshot.Gateways["g"].Upstream
}

func post(tb testing.TB, u *Upstream, v *config.Upstream, id, body string) http.Header {
	d := &session.Dispatch{Upstream: v, Method: http.MethodPost, Header: http.Header{}, Body: []byte(body)}
	if id != "" {
		d.Header[mcp.HeaderSessionID] = []string{id}
	}
	answer, err := u.Do(context.Background(), d)
	if err != nil {
		tb.Fatal(err)
	}
	io.Copy(io.Discard, answer.Body)
	answer.Body.Close()
	return answer.Header
}

func BenchmarkCall(b *testing.B) {
	const call = `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"u7_tool42","arguments":{"text":"hello"}}}`
	u, v := quickRig(b, 10, 100)
	id := post(b, u, v, "", initializeBody).Get(mcp.HeaderSessionID)
	b.ReportAllocs()
	for b.Loop() {
		post(b, u, v, id, call)
	}
}

func BenchmarkList(b *testing.B) {
	u, v := quickRig(b, 10, 100)
	id := post(b, u, v, "", initializeBody).Get(mcp.HeaderSessionID)
	b.ReportAllocs()
	for b.Loop() {
		post(b, u, v, id, `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`)
	}
}

// TestAnIdleSessionIsSmall holds what a session adds to this package's memory to a part
// of the 24 KiB that it may have in all.
func TestAnIdleSessionIsSmall(t *testing.T) {
	u, v := quickRig(t, 5, 10)
	measure := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	open := func() {
		id := post(t, u, v, "", initializeBody).Get(mcp.HeaderSessionID)
		post(t, u, v, id, `{"jsonrpc":"2.0","method":"notifications/initialized"}`)
		post(t, u, v, id, `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`)
	}
	open()
	before, goroutines := measure(), runtime.NumGoroutine()
	const sessions = 200
	for range sessions {
		open()
	}
	each := (int64(measure()) - int64(before)) / sessions
	t.Logf("%d bytes for each session", each)
	if each > 12<<10 {
		t.Errorf("%d bytes for each idle session with 5 parts, want at most 12 KiB", each)
	}
	if now := runtime.NumGoroutine(); now > goroutines+2 {
		t.Errorf("%d sessions run %d goroutines, want none", sessions, now-goroutines)
	}
}
