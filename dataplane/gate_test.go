package dataplane

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/leasehold/leasehold/dataplane/checkup"
	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/session"
)

// willing is an upstream that answers everything, with its error if it has one.
type willing struct {
	err      error
	requests int
}

func (w *willing) Do(context.Context, *session.Dispatch) (*http.Response, error) {
	w.requests++
	if w.err != nil {
		return nil, w.err
	}
	return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("ok"))}, nil
}

func (*willing) Drop(*config.Upstream, string) {}

// gated is a gate before an upstream, and the world that it looks at.
type gated struct {
	*gate
	t     *testing.T
	up    *willing
	world *config.Holder
	old   *config.Upstream // as an older session has it
}

func newGated(t *testing.T) *gated {
	g := &gated{t: t, up: &willing{}, world: &config.Holder{}, old: &config.Upstream{Gateway: "g", Name: "up"}}
	g.gate = newGate(g.up, g.world, checkup.New(checkup.Config{World: g.world, Upstream: g.up, Logger: hclog.NewNullLogger()}))
	return g
}

// bound sets the newest definition's bound.
func (g *gated) bound(most int) {
	g.world.Set(&config.Snapshot{Gateways: map[string]*config.Gateway{"g": {ID: "g", Upstream: &config.Upstream{Gateway: "g", Name: "up", MaxRequests: most}}}})
}

func (g *gated) do(method, body string) *http.Response {
	g.t.Helper()
	resp, err := g.Do(g.t.Context(), &session.Dispatch{Upstream: g.old, Method: method, Body: []byte(body)})
	if err != nil {
		g.t.Fatal(err)
	}
	return resp
}

const aCall = `{"jsonrpc":"2.0","id":7,"method":"tools/call"}`

func TestRequestsBeyondAnUpstreamsBoundGet503AndTheBound(t *testing.T) {
	g := newGated(t)
	g.bound(2)
	first, second := g.do(http.MethodPost, aCall), g.do(http.MethodPost, "["+aCall+"]")
	refused := g.do(http.MethodPost, aCall)
	body, _ := io.ReadAll(refused.Body)
	if refused.StatusCode != http.StatusServiceUnavailable || refused.Header.Get("Retry-After") == "" || g.up.requests != 2 ||
		!strings.Contains(string(body), "2 requests of this worker in flight") || !strings.Contains(string(body), "max_concurrent_requests") || !strings.Contains(string(body), `"id":7`) {
		t.Errorf("third: got %d %v %s after %d requests, want 503 with the bound and the id after 2", refused.StatusCode, refused.Header, body, g.up.requests)
	}
	for _, free := range [][2]string{
		{http.MethodGet, ""}, {http.MethodDelete, ""},
		{http.MethodPost, `{"jsonrpc":"2.0","method":"notifications/cancelled"}`}, {http.MethodPost, `{"jsonrpc":"2.0","id":1,"result":{}}`},
	} {
		if resp := g.do(free[0], free[1]); resp.StatusCode != 200 {
			t.Errorf("%s %s: got %d, want it to go through", free[0], free[1], resp.StatusCode)
		}
	}
	io.ReadAll(first.Body)
	if resp := g.do(http.MethodPost, aCall); resp.StatusCode != 503 {
		t.Errorf("while the first is not closed: got %d, want 503", resp.StatusCode)
	}
	first.Body.Close()
	first.Body.Close() // counts once
	third := g.do(http.MethodPost, aCall)
	if resp := g.do(http.MethodPost, aCall); third.StatusCode != 200 || resp.StatusCode != 503 {
		t.Errorf("after the first: got %d and %d, want room for one", third.StatusCode, resp.StatusCode)
	}
	g.bound(3) // sessions that were opened before go by it too
	if resp := g.do(http.MethodPost, aCall); resp.StatusCode != 200 {
		t.Errorf("with a higher bound: got %d, want 200", resp.StatusCode)
	} else {
		resp.Body.Close()
	}
	second.Body.Close()
	third.Body.Close()
	g.up.err = errors.New("broken")
	if _, err := g.Do(t.Context(), &session.Dispatch{Upstream: g.old, Method: http.MethodPost, Body: []byte(aCall)}); err == nil || len(g.requests) != 0 {
		t.Errorf("after all: got %v and %v in flight, want none", err, g.requests)
	}
}
