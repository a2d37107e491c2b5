package inspect_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/dial"
	"github.com/leasehold/leasehold/dataplane/duplex/duplextest"
	"github.com/leasehold/leasehold/dataplane/inspect"
	"github.com/leasehold/leasehold/dataplane/material"
	"github.com/leasehold/leasehold/dataplane/upstream"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func init() { duplextest.Main() }

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sessions counts those that a server has opened and not ended, as its client sees them.
type sessions struct {
	http.Handler
	mu     sync.Mutex // guards what follows
	opened int
	live   map[string]bool
	seen   []string // methods, with the session's id
}

// serve serves a handler, and counts its sessions.
func serve(t *testing.T, h http.Handler) (*sessions, *url.URL) {
	t.Helper()
	s := &sessions{Handler: h, live: map[string]bool{}}
	server := httptest.NewServer(s)
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return s, parse(t, server.URL+"/mcp")
}

func parse(t *testing.T, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func (s *sessions) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := r.Header.Get("Mcp-Session-Id")
	s.Handler.ServeHTTP(w, r)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = append(s.seen, r.Method+" "+id)
	if given := w.Header().Get("Mcp-Session-Id"); given != "" && !s.live[given] && r.Method == http.MethodPost && id == "" {
		s.opened++
		s.live[given] = true
	}
	if r.Method == http.MethodDelete {
		delete(s.live, id)
	}
}

// want fails the test unless so many sessions were opened, and all of them ended.
func (s *sessions) want(t *testing.T, opened int) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.opened != opened || len(s.live) != 0 {
		t.Errorf("sessions: %d opened and %d left, want %d and none", s.opened, len(s.live), opened)
	}
}

// scripted is a server whose answers are a test's: by method, what stands for the rest of
// the answer, such as "result":{}. What begins with a number is an HTTP status instead.
type scripted map[string]string

const aSession = `"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{"listChanged":true},"prompts":{},"resources":{"subscribe":true}},"serverInfo":{"name":"s","title":"Scripted","version":"7"},"instructions":"be kind"}`

// ordinary is a server that has one of everything, with changes.
func ordinary(changes scripted) scripted {
	s := scripted{
		"initialize":               aSession,
		"tools/list":               `"result":{"tools":[{"name":"add","inputSchema":{"type":"object"}}]}`,
		"prompts/list":             `"result":{"prompts":[{"name":"greet"}]}`,
		"resources/list":           `"result":{"resources":[{"name":"r","uri":"demo://r"}]}`,
		"resources/templates/list": `"result":{"resourceTemplates":[{"name":"t","uriTemplate":"demo://t/{x}"}]}`,
		"server/discover":          `400 `,
	}
	for method, answer := range changes {
		s[method] = answer
	}
	return s
}

func (s scripted) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var message struct {
		ID     json.RawMessage
		Method string
		Params struct{ Cursor string }
	}
	body, _ := io.ReadAll(r.Body)
	json.Unmarshal(body, &message)
	method := message.Method
	if message.Params.Cursor != "" {
		method += " " + message.Params.Cursor
	}
	if r.Method == http.MethodDelete {
		method = r.Method
	}
	answer := s[method]
	var status int
	if n, _ := fmt.Sscanf(answer, "%d", &status); n == 1 {
		w.Header().Set("Location", "http://127.0.0.1:1/")
		w.WriteHeader(status)
		// A server that repeats what it was sent.
		fmt.Fprintf(w, `{"error":{"message":%q}}`, fmt.Sprint(r.Header, r.URL))
		return
	}
	if message.ID == nil {
		w.WriteHeader(http.StatusAccepted)
		return
	}
	if method == "initialize" {
		w.Header().Set("Mcp-Session-Id", "an-id")
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,%s}`, message.ID, strings.ReplaceAll(answer, "REPEAT", fmt.Sprint(r.Header["Authorization"])))
}

// bench is what inspections are made with.
type bench struct {
	policy dial.Policy
	lookup dial.Lookup
	dir    string
}

// client returns a new client.
func (b bench) client(t *testing.T) *upstream.Client {
	t.Helper()
	dialer, err := dial.New(b.policy, b.lookup)
	if err != nil {
		t.Fatal(err)
	}
	store, err := material.New(material.Config{Dir: b.dir, Dialer: dialer, Logger: hclog.NewNullLogger()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	c := upstream.NewClient(dialer, store)
	t.Cleanup(func() { c.CloseIdle(0) })
	return c
}

var usual = bench{policy: dial.Policy{AllowLoopback: true}}

func at(target *url.URL) *config.Upstream {
	return &config.Upstream{Gateway: "g", Name: "up", URL: target, Transport: leaseholdv1.Transport_TRANSPORT_STREAMABLE_HTTP, Fingerprint: [16]byte{1}}
}

func look(t *testing.T, u *config.Upstream) *leaseholdv1.UpstreamInspection {
	t.Helper()
	return inspect.Inspect(t.Context(), usual.client(t), u)
}

// kinds returns the steps that were made, without what all of their names begin with,
// and the one that failed first, with its reason.
func kinds(r *leaseholdv1.UpstreamInspection) (all []string, failed *leaseholdv1.InspectionStep) {
	for _, step := range r.Steps {
		all = append(all, short(step))
		if step.Error != "" && failed == nil {
			failed = step
		}
	}
	return all, failed
}

func short(step *leaseholdv1.InspectionStep) string {
	return strings.TrimPrefix(step.GetKind().String(), "INSPECTION_STEP_KIND_")
}

// findings returns what was found, a line each.
func findings(r *leaseholdv1.UpstreamInspection) string {
	var all strings.Builder
	for _, f := range r.Findings {
		fmt.Fprintf(&all, "%s: %s\n", f.Subject, f.Reason)
	}
	return all.String()
}

func names(l *leaseholdv1.InspectedList) string {
	var all []string
	for _, it := range l.GetItems() {
		all = append(all, it.Name)
	}
	return strings.Join(all, " ")
}

// cannot is a resolver that finds nothing.
func cannot(context.Context, string) ([]netip.Addr, error) {
	return nil, fmt.Errorf("no such host")
}
