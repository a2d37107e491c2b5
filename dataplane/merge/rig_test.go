package merge

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"google.golang.org/protobuf/proto"

	"github.com/leasehold/leasehold/dataplane/catalogue"
	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/session"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// server is an MCP server without a network, which keeps a ledger.
type server struct {
	name    string
	version string // that it speaks; the client's if empty
	caps    string

	mu       sync.Mutex // guards what follows
	opened   int
	sessions map[string]*upstreamSession
	ledger   []string // method and, where there is one, what it names
	opening  int      // initializes that go on
	most     int      // of those at the same time
	items    [catalogue.Kinds][]string
	pages    int           // items on a page; 0 for all
	slow     time.Duration // initialize takes
	slowList time.Duration
	dead     error // nothing reaches it
	stalls   bool  // DELETE is never answered
	sessionless,
	noStream bool
	numbered bool // its events have ids
	on       func(ctx context.Context, d *session.Dispatch, m *mcp.Message) (*http.Response, error)
}

// upstreamSession is a session at it.
type upstreamSession struct {
	initialized int
	version     string
	params      string
	header      http.Header
	stream      *queue
	last        string // Last-Event-ID of the newest GET
	events      int
}

func newServer(name string, tools ...string) *server {
	s := &server{name: name, caps: `{"tools":{"listChanged":true},"resources":{"subscribe":true,"listChanged":true},"prompts":{},"logging":{}}`, sessions: map[string]*upstreamSession{}}
	for _, tool := range tools {
		s.items[catalogue.Tools] = append(s.items[catalogue.Tools], fmt.Sprintf(`{"name":%q,"inputSchema":{"type":"object"}}`, tool))
	}
	return s
}

func (s *server) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// heard returns how often the ledger has an entry.
func (s *server) heard(entry string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, other := range s.ledger {
		if other == entry {
			n++
		}
	}
	return n
}

func (s *server) live() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sessions)
}

// opens returns how many sessions were opened.
func (s *server) opens() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.opened
}

func (s *server) forgetSessions() {
	s.set(func() {
		for _, one := range s.sessions {
			if one.stream != nil {
				one.stream.end(io.EOF)
			}
		}
		s.sessions = map[string]*upstreamSession{}
	})
}

// say says something on the GET streams of all sessions.
func (s *server) say(message string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, one := range s.sessions {
		if one.stream == nil {
			continue
		}
		var event []byte
		if s.numbered {
			one.events++
			event = mcp.AppendID(event, fmt.Appendf(nil, "%s-%d", s.name, one.events))
		}
		event = mcp.AppendEvent(event, []byte(message))
		one.stream.add(func() []byte { return event })
	}
}

func (s *server) do(ctx context.Context, d *session.Dispatch) (*http.Response, error) {
	if d.Gate != nil {
		if err := d.Gate.Pass(); err != nil {
			return nil, fmt.Errorf("%w: %w", session.ErrNotSent, err)
		}
	}
	s.mu.Lock()
	dead, stalls := s.dead, s.stalls && d.Method == http.MethodDelete
	s.mu.Unlock()
	if stalls {
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	if dead != nil {
		return nil, fmt.Errorf("%w: %w", session.ErrNotSent, dead)
	}
	id := d.Header.Get(mcp.HeaderSessionID)
	s.mu.Lock()
	one := s.sessions[id]
	s.mu.Unlock()
	var m mcp.Message
	if d.Method == http.MethodPost {
		e, err := mcp.Parse(d.Body, mcp.Limits{})
		if err != nil {
			return nil, err
		}
		m = *e.First()
	}
	if m.Method == mcp.MethodInitialize {
		return s.initialize(ctx, d, &m)
	}
	if one == nil {
		return refuse(http.StatusNotFound, &mcp.Error{Code: mcp.CodeSessionNotFound, Message: "Session not found", ID: m.ID}), nil
	}
	if got := d.Header.Get(mcp.HeaderProtocolVersion); got != one.version {
		return refuse(http.StatusBadRequest, &mcp.Error{Code: mcp.CodeInvalidRequest, Message: "version " + got + ", want " + one.version, ID: m.ID}), nil
	}
	switch d.Method {
	case http.MethodDelete:
		return s.end(id), nil
	case http.MethodGet:
		return s.listen(ctx, d, one), nil
	}
	name, _ := mcp.Unquote(m.Name)
	s.set(func() { s.ledger = append(s.ledger, strings.TrimSpace(m.Method+" "+name)) })
	s.mu.Lock()
	on := s.on
	s.mu.Unlock()
	if on != nil {
		if answer, err := on(ctx, d, &m); answer != nil || err != nil {
			return answer, err
		}
	}
	switch {
	case m.Method == mcp.MethodInitialized:
		s.set(func() { one.initialized++ })
		return accepted(), nil
	case m.Kind != mcp.KindRequest:
		return accepted(), nil
	}
	for k := range catalogue.Kinds {
		if m.Method == k.Method() {
			return s.list(ctx, k, &m)
		}
	}
	switch m.Method {
	case mcp.MethodToolsCall:
		return result(m.ID, []byte(`{"content":[{"type":"text","text":"`+s.name+" "+name+`"}]}`)), nil
	case mcp.MethodPromptsGet:
		return result(m.ID, []byte(`{"messages":[]}`)), nil
	case mcp.MethodResourcesRead:
		return result(m.ID, []byte(`{"contents":[{"uri":`+string(m.Name)+`,"text":"of `+s.name+`"}]}`)), nil
	}
	return result(m.ID, []byte("{}")), nil
}

func (s *server) initialize(ctx context.Context, d *session.Dispatch, m *mcp.Message) (*http.Response, error) {
	s.mu.Lock()
	s.opening++
	s.most = max(s.most, s.opening)
	slow := s.slow
	s.mu.Unlock()
	defer s.set(func() { s.opening-- })
	select {
	case <-time.After(slow):
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	asked, _ := mcp.ParseInitializeParams(m.Params)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opened++
	s.ledger = append(s.ledger, mcp.MethodInitialize)
	one := &upstreamSession{version: asked.ProtocolVersion, params: string(m.Params), header: d.Header}
	if s.version != "" {
		one.version = s.version
	}
	id := fmt.Sprintf("%s-%d", s.name, s.opened)
	if s.sessionless {
		id = ""
	}
	s.sessions[id] = one
	answer := result(m.ID, []byte(`{"protocolVersion":"`+one.version+`","capabilities":`+s.caps+`,"serverInfo":{"name":"`+s.name+`","version":"1"},"instructions":"Use `+s.name+`."}`))
	if id != "" {
		answer.Header.Set(mcp.HeaderSessionID, id)
	}
	return answer, nil
}

func (s *server) end(id string) *http.Response {
	s.mu.Lock()
	defer s.mu.Unlock()
	if one := s.sessions[id]; one != nil && one.stream != nil {
		one.stream.end(io.EOF)
	}
	delete(s.sessions, id)
	s.ledger = append(s.ledger, "DELETE")
	answer := mcp.NewAnswer(http.StatusNoContent)
	answer.Body = http.NoBody
	return answer
}

func (s *server) listen(ctx context.Context, d *session.Dispatch, one *upstreamSession) *http.Response {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ledger = append(s.ledger, "GET")
	if s.noStream {
		return refuse(http.StatusMethodNotAllowed, &mcp.Error{Code: mcp.CodeInvalidRequest, Message: "no"})
	}
	q := newQueue(func() {})
	one.stream, one.last = q, d.Header.Get(mcp.HeaderLastEventID)
	context.AfterFunc(ctx, func() { q.end(context.Cause(ctx)) })
	return answerEvents(q)
}

func (s *server) list(ctx context.Context, k catalogue.Kind, m *mcp.Message) (*http.Response, error) {
	s.mu.Lock()
	items, pages, slow := s.items[k], s.pages, s.slowList
	s.mu.Unlock()
	select {
	case <-time.After(slow):
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	from, next := 0, ""
	if cursor, ok := mcp.Lookup(m.Params, "cursor"); ok {
		fmt.Sscanf(string(cursor), `"%d"`, &from)
	}
	to := len(items)
	if pages > 0 && from+pages < to {
		to = from + pages
		next = fmt.Sprintf(`,"nextCursor":"%d"`, to)
	}
	return result(m.ID, []byte(`{"`+k.Member()+`":[`+strings.Join(items[from:to], ",")+`]`+next+`}`)), nil
}

// rig is a worker's sessions of several upstreams, in virtual time.
type rig struct {
	t       *testing.T
	up      *Upstream
	world   *config.Holder
	servers map[string]*server
	changed []string
	mu      sync.Mutex // guards changed and dropped
	dropped []string
	gateway *leaseholdv1.Gateway
}

// Do implements session.Upstream, for the parts.
func (r *rig) Do(ctx context.Context, d *session.Dispatch) (*http.Response, error) {
	return r.servers[d.Upstream.Name].do(ctx, d)
}

// Drop implements session.Upstream.
func (r *rig) Drop(u *config.Upstream, id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dropped = append(r.dropped, u.Name+" "+id)
}

// virtually runs a test in virtual time.
func virtually(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

func newRig(t *testing.T, servers ...*server) *rig {
	t.Helper()
	r := &rig{t: t, world: &config.Holder{}, servers: map[string]*server{}, gateway: &leaseholdv1.Gateway{Name: "gateways/g", Status: &leaseholdv1.GatewayStatus{}}}
	for _, s := range servers {
		r.servers[s.name] = s
		r.gateway.Upstreams = append(r.gateway.Upstreams, &leaseholdv1.Upstream{Name: s.name, Url: "http://" + s.name})
	}
	r.up = New(Config{Inner: r, World: r.world, Version: "1.2.3", Logger: hclog.New(&hclog.LoggerOptions{Level: hclog.Debug, Output: t.Output()}),
		Changed: func(id string) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.changed = append(r.changed, id)
		}})
	r.define(func(*leaseholdv1.Gateway) {})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.up.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return r
}

// ring seals cursors.
var ring = &leaseholdv1.KeyRing{Keys: []*leaseholdv1.Key{{Id: []byte("k001"), Secret: []byte("0123456789abcdef0123456789abcdef")}}}

// cursor returns params with a cursor as the client would have got it.
func (c *client) cursor(raw []byte) string {
	return fmt.Sprintf(`{"cursor":%q}`, c.rig.up.find(c.id).sealCursor(raw))
}

// define changes the gateway's definition.
func (r *rig) define(change func(*leaseholdv1.Gateway)) {
	r.t.Helper()
	r.gateway = proto.CloneOf(r.gateway) // what was compiled is not changed
	change(r.gateway)
	r.gateway.Status.Revision++
	next, err := config.Compile(&config.State{Revision: r.gateway.Status.Revision, KeyRing: ring, Gateways: map[string]*leaseholdv1.Gateway{"gateways/g": r.gateway}}, r.world.Load())
	if err != nil {
		r.t.Fatal(err)
	}
	r.world.Set(next)
}

// upstream returns the definition of an upstream, to be changed.
func (r *rig) upstream(name string) *leaseholdv1.Upstream {
	i := slices.IndexFunc(r.gateway.Upstreams, func(u *leaseholdv1.Upstream) bool { return u.Name == name })
	return r.gateway.Upstreams[i]
}

func (r *rig) virtual() *config.Upstream { return r.world.Load().Gateways["g"].Upstream }

const initializeBody = `{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{"roots":{"listChanged":true},"sampling":{}},"clientInfo":{"name":"t","version":"1"}}}`

// client is a client's session.
type client struct {
	*rig
	id   string
	gate *switchable
	ids  int
}

// switchable is a gate.
type switchable struct {
	mu     sync.Mutex
	closed error
	asked  func() // is called when it is asked, once; nil does nothing
}

func (s *switchable) Pass() error {
	s.mu.Lock()
	asked := s.asked
	s.asked = nil
	s.mu.Unlock()
	if asked != nil {
		asked()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

func (s *switchable) set(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = err
}

func (c *client) dispatch(method, body string) *session.Dispatch {
	d := &session.Dispatch{Upstream: c.virtual(), Method: method, Header: http.Header{}, Body: []byte(body), Gate: c.gate, Session: c.gate}
	if c.id != "" {
		d.Header.Set(mcp.HeaderSessionID, c.id)
		d.Header.Set(mcp.HeaderProtocolVersion, "2025-11-25")
	}
	return d
}

// initialize opens a session and returns the answer, which has a session id if there
// is one.
func (r *rig) initialize(ctx context.Context) (*client, string, error) {
	c := &client{rig: r, gate: &switchable{}}
	answer, err := r.up.Do(ctx, c.dispatch(http.MethodPost, initializeBody))
	if err != nil {
		return c, "", err
	}
	c.id = answer.Header.Get(mcp.HeaderSessionID)
	return c, body(r.t, answer), nil
}

// open opens a session that is ready.
func (r *rig) open() *client {
	r.t.Helper()
	c, answer, err := r.initialize(r.t.Context())
	if err != nil || c.id == "" {
		r.t.Fatalf("initialize: %s %v", answer, err)
	}
	if got := c.post(`{"jsonrpc":"2.0","method":"notifications/initialized"}`); got != "" {
		r.t.Fatalf("initialized: got %s", got)
	}
	return c
}

func body(t *testing.T, answer *http.Response) string {
	t.Helper()
	defer answer.Body.Close()
	read, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Errorf("reading an answer: %v", err)
	}
	return string(read)
}

func (c *client) do(ctx context.Context, method, text string) (*http.Response, error) {
	return c.up.Do(ctx, c.dispatch(method, text))
}

// post returns the whole answer to a POST.
func (c *client) post(text string) string {
	c.t.Helper()
	answer, err := c.do(c.t.Context(), http.MethodPost, text)
	if err != nil {
		c.t.Fatalf("POST %s: %v", text, err)
	}
	return body(c.t, answer)
}

// ask makes a request.
func (c *client) ask(method, params string) string {
	c.t.Helper()
	c.ids++
	return c.post(fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":%q,"params":%s}`, c.ids, method, params))
}

func (c *client) call(tool string) string {
	c.t.Helper()
	return c.ask(mcp.MethodToolsCall, fmt.Sprintf(`{"name":%q}`, tool))
}

// names returns what is listed of a kind.
func (c *client) names(k catalogue.Kind) (names []string) {
	c.t.Helper()
	cursor := ""
	for {
		params := "{}"
		if cursor != "" {
			params = fmt.Sprintf(`{"cursor":%q}`, cursor)
		}
		answer := c.ask(k.Method(), params)
		var parsed struct{ Result map[string]json.RawMessage }
		if err := json.Unmarshal([]byte(answer), &parsed); err != nil || parsed.Result == nil {
			c.t.Fatalf("%s: got %s", k.Method(), answer)
		}
		var items []map[string]any
		json.Unmarshal(parsed.Result[k.Member()], &items)
		for _, item := range items {
			names = append(names, item[k.Key()].(string))
		}
		cursor = ""
		json.Unmarshal(parsed.Result["nextCursor"], &cursor)
		if cursor == "" {
			return names
		}
	}
}

// stream is a client's GET.
type stream struct {
	t      *testing.T
	answer *http.Response
	cancel context.CancelFunc

	mu     sync.Mutex // guards what follows
	events []event
	err    error
}

type event struct{ id, data string }

// listen opens a GET stream.
func (c *client) listen(last string) *stream {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.t.Context())
	d := c.dispatch(http.MethodGet, "")
	if last != "" {
		d.Header.Set(mcp.HeaderLastEventID, last)
	}
	answer, err := c.up.Do(ctx, d)
	if err != nil || answer.StatusCode != http.StatusOK {
		c.t.Fatalf("GET: %v %v", answer, err)
	}
	s := &stream{t: c.t, answer: answer, cancel: cancel}
	go s.read()
	c.t.Cleanup(func() {
		cancel()
		answer.Body.Close()
	})
	synctest.Wait()
	return s
}

func (s *stream) read() {
	events := mcp.NewEventReader(s.answer.Body, 0)
	for {
		e, err := events.Next()
		s.mu.Lock()
		if err != nil {
			s.err = err
			s.mu.Unlock()
			return
		}
		id, _ := e.ID()
		s.events = append(s.events, event{id, string(bytes.Clone(e.Data(nil)))})
		s.mu.Unlock()
	}
}

// take returns what has come since, once nothing goes on any more.
func (s *stream) take() (all []event) {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	all, s.events = s.events, nil
	return all
}

// messages is take without the ids.
func (s *stream) messages() (all []string) {
	for _, e := range s.take() {
		all = append(all, e.data)
	}
	return all
}

func wantSlice[T comparable](t *testing.T, what string, got, want []T) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func wantText(t *testing.T, what, got string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(got, part) {
			t.Errorf("%s: got %s, want %s in it", what, got, part)
		}
	}
}

var errDown = errors.New("connection refused")

const changedTools = `{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}`

// refuseInitialized makes a server refuse notifications/initialized for a while.
func refuseInitialized(while *bool) func(context.Context, *session.Dispatch, *mcp.Message) (*http.Response, error) {
	return func(_ context.Context, _ *session.Dispatch, m *mcp.Message) (*http.Response, error) {
		if m.Method == mcp.MethodInitialized && *while {
			return refuse(http.StatusBadRequest, &mcp.Error{Code: mcp.CodeInvalidRequest, Message: "no"}), nil
		}
		return nil, nil
	}
}
