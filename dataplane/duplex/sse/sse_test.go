package sse_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/credential"
	"github.com/leasehold/leasehold/dataplane/dial"
	"github.com/leasehold/leasehold/dataplane/duplex"
	"github.com/leasehold/leasehold/dataplane/duplex/sse"
	"github.com/leasehold/leasehold/dataplane/material"
	"github.com/leasehold/leasehold/dataplane/session"
	"github.com/leasehold/leasehold/dataplane/upstream"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server is a legacy server whose stream the test writes.
type server struct {
	*httptest.Server
	begin  string           // what the stream begins with
	says   chan string      // goes on the stream; closing it ends the stream
	posts  chan post        // what came
	answer http.HandlerFunc // of POSTs; nil accepts them
	gone   chan struct{}    // closed when the stream's client is gone

	mu   sync.Mutex // guards gets
	gets []http.Header
}

type post struct {
	uri, body string
	header    http.Header
}

func newServer(begin string) *server {
	return &server{begin: begin, says: make(chan string), posts: make(chan post, 16), gone: make(chan struct{})}
}

func (s *server) start(t *testing.T) *config.Upstream {
	t.Helper()
	s.Server = httptest.NewServer(s)
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	target, err := url.Parse(s.URL + "/a/sse?x=1")
	if err != nil {
		t.Fatal(err)
	}
	return &config.Upstream{Name: "u", Transport: leaseholdv1.Transport_TRANSPORT_SSE, URL: target}
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost {
		body, _ := io.ReadAll(r.Body)
		s.posts <- post{r.RequestURI, string(body), r.Header}
		if s.answer != nil {
			s.answer(w, r)
			return
		}
		w.WriteHeader(http.StatusAccepted)
		io.WriteString(w, "Accepted")
		return
	}
	s.mu.Lock()
	s.gets = append(s.gets, r.Header)
	s.mu.Unlock()
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	io.WriteString(w, s.begin)
	w.(http.Flusher).Flush()
	for {
		select {
		case text, ok := <-s.says:
			if !ok {
				return
			}
			io.WriteString(w, text)
			w.(http.Flusher).Flush()
		case <-r.Context().Done():
			close(s.gone)
			return
		}
	}
}

func dialer(t *testing.T) *sse.Dialer {
	t.Helper()
	return dialerWith(t, nil)
}

// dialerWith is a dialer that finds the addresses of servers by lookup.
func dialerWith(t *testing.T, lookup dial.Lookup) *sse.Dialer {
	t.Helper()
	to, err := dial.New(dial.Policy{AllowLoopback: true}, lookup)
	if err != nil {
		t.Fatal(err)
	}
	store, err := material.New(material.Config{Dialer: to, Logger: hclog.NewNullLogger()})
	if err != nil {
		t.Fatal(err)
	}
	client := upstream.NewClient(to, store)
	t.Cleanup(func() {
		client.CloseIdle(0)
		store.Close()
	})
	return sse.NewDialer(client)
}

func dispatch(u *config.Upstream, body string) *session.Dispatch {
	return &session.Dispatch{Upstream: u, Method: http.MethodPost, Body: []byte(body), Header: http.Header{
		"Content-Type": {"application/json"}, "Accept": {"application/json, text/event-stream"}, "Traceparent": {"00-1-2-03"},
		"Mcp-Protocol-Version": {"2025-11-25"}, "Mcp-Session-Id": {"ours"}}}
}

func open(t *testing.T, u *config.Upstream) duplex.Channel {
	t.Helper()
	c, err := dialer(t).Open(t.Context(), dispatch(u, ""))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		for err := error(nil); err == nil; _, err = c.Receive() {
		}
		<-c.Gone()
	})
	return c
}

func await[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case got := <-c:
		return got
	case <-time.After(20 * time.Second):
		t.Fatalf("%s: not within 20 s", what)
		panic("unreachable")
	}
}

func TestMessagesArePostedToTheEndpointAndComeOnTheStream(t *testing.T) {
	s := newServer(": hello\n\nevent: endpoint\r\ndata: ../message?sessionId=a%2Fb\r\n\r\n")
	u := s.start(t)
	c := open(t, u)
	if err := c.Send(t.Context(), dispatch(u, `{"id":1}`)); err != nil {
		t.Fatal(err)
	}
	got := await(t, "a POST", s.posts)
	if got.uri != "/message?sessionId=a%2Fb" || got.body != `{"id":1}` {
		t.Errorf("got a POST of %s to %s, want it as it is, at the endpoint", got.body, got.uri)
	}
	for _, h := range []http.Header{got.header, s.gets[0]} {
		if h.Get("Traceparent") != "00-1-2-03" || h.Get("Mcp-Session-Id") != "" || h.Get("Mcp-Protocol-Version") != "" {
			t.Errorf("header: got %v, want the trace, and nothing that the server's version does not know", h)
		}
	}
	if got := s.gets[0]; got.Get("Accept") != "text/event-stream" || got.Get("Content-Type") != "" {
		t.Errorf("header of the GET: got %v, want to accept a stream", got)
	}
	s.says <- "event: message\ndata: {\"a\":\ndata: 1}\n\n: comment\n\ndata: {\"b\":2}\n\n"
	for _, want := range []string{"{\"a\":\n1}", `{"b":2}`} {
		if data, err := c.Receive(); err != nil || string(data) != want {
			t.Errorf("got %q, %v; want %q", data, err, want)
		}
	}
	c.Close()
	if _, err := c.Receive(); err == nil {
		t.Error("after Close: got a message, want an error")
	}
	await(t, "the stream's end", s.gone)
	if err := c.Send(t.Context(), dispatch(u, `{"id":2}`)); err == nil {
		t.Error("sending after Close: got no error")
	}
}

func TestAnEndpointElsewhereIsRefused(t *testing.T) {
	for _, c := range []struct{ begin, want string }{
		{"event: endpoint\ndata: http://other.example/message\n\n", "not where the stream is"},
		{"event: endpoint\ndata: //other.example/message\n\n", "not where the stream is"},
		{"event: endpoint\ndata: https:///message\n\n", "not where the stream is"},
		{"event: endpoint\ndata: http://[\n\n", "is no URL"},
		{"data: {}\n\n", "does not begin with its endpoint"},
		{strings.Repeat(": nothing\n\n", 20), "did not name its endpoint"},
		{"event: endpoint\ndata: " + strings.Repeat("x", 5<<20), "too large"},
	} {
		s := newServer(c.begin)
		u := s.start(t)
		_, err := dialer(t).Open(t.Context(), dispatch(u, ""))
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "other.example") {
			t.Errorf("a stream that begins with %.60q: got %v, want %q", c.begin, err, c.want)
		}
		await(t, "the stream's end", s.gone)
	}
}

func TestAnAbsoluteEndpointOfTheSameOriginIsUsed(t *testing.T) {
	s := newServer("")
	u := s.start(t)
	s.begin = "event: endpoint\ndata: " + strings.Replace(s.URL, "http", "HTTP", 1) + "/m#fragment\n\n"
	c := open(t, u)
	if err := c.Send(t.Context(), dispatch(u, `{}`)); err != nil {
		t.Fatal(err)
	}
	if got := await(t, "a POST", s.posts); got.uri != "/m" {
		t.Errorf("got a POST to %s, want /m", got.uri)
	}
}

func TestTheServersOwnRefusalsArePassedOn(t *testing.T) {
	s := newServer("event: endpoint\ndata: /m\n\n")
	s.answer = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "7")
		http.Error(w, "not now", http.StatusTooManyRequests)
	}
	u := s.start(t)
	c := open(t, u)
	err := c.Send(t.Context(), dispatch(u, `{}`))
	refused := (*duplex.Refused)(nil)
	if !errors.As(err, &refused) || errors.Is(err, session.ErrNotSent) || refused.Answer.StatusCode != http.StatusTooManyRequests || refused.Answer.Header.Get("Retry-After") != "7" {
		t.Fatalf("POST: got %v, want the server's answer", err)
	}
	if body, _ := io.ReadAll(refused.Answer.Body); string(body) != "not now\n" {
		t.Errorf("POST: got %q, want the server's words", body)
	}
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	target, _ := url.Parse(other.URL)
	_, err = dialer(t).Open(t.Context(), dispatch(&config.Upstream{URL: target}, ""))
	if !errors.As(err, &refused) || refused.Answer.StatusCode != http.StatusNotFound {
		t.Errorf("GET: got %v, want the server's 404", err)
	}
}

func TestTheStreamsEndIsTheChannelsEnd(t *testing.T) {
	s := newServer("event: endpoint\ndata: /m\n\n")
	u := s.start(t)
	s.answer = func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	c := open(t, u)
	sent := make(chan error, 1)
	go func() { sent <- c.Send(t.Context(), dispatch(u, `{}`)) }()
	await(t, "a POST", s.posts)
	close(s.says)
	if _, err := c.Receive(); err == nil || !strings.Contains(err.Error(), "closed its stream") {
		t.Errorf("got %v, want that the server closed its stream", err)
	}
	if err := await(t, "the end of the POST", sent); err == nil || errors.Is(err, session.ErrNotSent) {
		t.Errorf("a POST under way: got %v, want an unknown outcome", err)
	}
	await(t, "gone", c.Gone())
}

func TestOpeningEndsWithItsContext(t *testing.T) {
	s := newServer("") // and never an endpoint
	u := s.start(t)
	ctx, cancel := context.WithTimeoutCause(t.Context(), 200*time.Millisecond, errors.New("too late"))
	defer cancel()
	if _, err := dialer(t).Open(ctx, dispatch(u, "")); err == nil {
		t.Error("got a channel, want an error")
	}
	await(t, "the stream's end", s.gone)
}

func TestAnUpstreamThatCannotBeReachedWasNotSentAnything(t *testing.T) {
	target, _ := url.Parse("http://127.0.0.1:1/sse")
	if _, err := dialer(t).Open(t.Context(), dispatch(&config.Upstream{URL: target}, "")); !errors.Is(err, session.ErrNotSent) {
		t.Errorf("got %v, want ErrNotSent", err)
	}
}

func TestMessagesGoToTheReplicaThatHasTheStream(t *testing.T) {
	// Two replicas at two addresses of a name; each knows its own streams only.
	var servers []*server
	port := "0"
	for _, ip := range []string{"127.0.0.1", "127.0.0.2"} {
		l, err := net.Listen("tcp", net.JoinHostPort(ip, port))
		if err != nil {
			t.Fatal(err)
		}
		_, port, _ = net.SplitHostPort(l.Addr().String())
		s := newServer("event: endpoint\ndata: /m\n\n")
		s.Server = &httptest.Server{Listener: l, Config: &http.Server{Handler: s}}
		s.Start()
		t.Cleanup(s.Close)
		servers = append(servers, s)
	}
	dialer := dialerWith(t, func(context.Context, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")}, nil
	})
	target, _ := url.Parse(fmt.Sprintf("http://mcp.test:%s/sse", port))
	u := &config.Upstream{URL: target}
	c, err := dialer.Open(t.Context(), dispatch(u, ""))
	if err != nil {
		t.Fatal(err)
	}
	has := servers[0]
	if len(has.gets) == 0 {
		has = servers[1]
	}
	for range 8 {
		if err := c.Send(t.Context(), dispatch(u, `{}`)); err != nil {
			t.Fatal(err)
		}
	}
	if got := len(has.posts); got != 8 {
		t.Errorf("the replica with the stream got %d messages, want all 8", got)
	}
	c.Close()
	for err := error(nil); err == nil; _, err = c.Receive() {
	}
	await(t, "gone", c.Gone())
}

func TestStreamAndMessagesCarryTheCredentialAndTheCallersField(t *testing.T) {
	field := credential.CallerField("Authorization")
	for name, tt := range map[string]struct {
		credential *credential.Credential
		want       [4]string // of the stream, a message, the next one, and one of the worker's own
	}{
		"configured": {&credential.Credential{Bearer: &credential.Value{Inline: credential.NewSecret("own")}}, [4]string{"Bearer own", "Bearer own", "Bearer own", "Bearer own"}},
		"caller's":   {&credential.Credential{CallerHeader: "Authorization"}, [4]string{"one", "one", "two", "two"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer("event: endpoint\r\ndata: /message?own=1\r\n\r\n")
			u := s.start(t)
			u.Credential, u.Fingerprint = tt.credential, [16]byte{1}
			as := func(token string) *session.Dispatch {
				d := dispatch(u, `{"id":1}`)
				d.Header[field] = []string{token}
				return d
			}
			c, err := dialer(t).Open(t.Context(), as("one"))
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				c.Close()
				for err := error(nil); err == nil; _, err = c.Receive() {
				}
				<-c.Gone()
			}()
			got := [4]string{s.gets[0].Get("Authorization")}
			own := dispatch(u, `{"id":1}`)
			own.Own = true
			for i, d := range []*session.Dispatch{as("one"), as("two"), own} {
				if err := c.Send(t.Context(), d); err != nil {
					t.Fatal(err)
				}
				got[i+1] = await(t, "a POST", s.posts).header.Get("Authorization")
			}
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
