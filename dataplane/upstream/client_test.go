package upstream

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/dial"
	"github.com/leasehold/leasehold/dataplane/material"
	"github.com/leasehold/leasehold/dataplane/session"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server counts its connections.
type server struct {
	*httptest.Server
	url         *url.URL
	connections atomic.Int32
}

func startServer(t *testing.T, handler http.HandlerFunc) *server {
	t.Helper()
	s := &server{Server: httptest.NewUnstartedServer(handler)}
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			s.connections.Add(1)
		}
	}
	s.Start()
	s.url, _ = url.Parse(s.URL + "/mcp?own=1")
	t.Cleanup(s.Close)
	return s
}

func newTestClient(t *testing.T) *Client {
	return newClientWith(t, dial.Policy{AllowLoopback: true}, "")
}

// newClientWith returns a client that dials by a policy, and finds files in dir.
func newClientWith(t *testing.T, policy dial.Policy, dir string) *Client {
	t.Helper()
	dialer, err := dial.New(policy, nil)
	if err != nil {
		t.Fatal(err)
	}
	store, err := material.New(material.Config{Dir: dir, Dialer: dialer, Logger: hclog.NewNullLogger()})
	if err != nil {
		t.Fatal(err)
	}
	c := NewClient(dialer, store)
	t.Cleanup(func() {
		c.CloseIdle(0)
		store.Close()
	})
	return c
}

func post(t *testing.T, c *Client, target *url.URL, body string) (int, string) {
	t.Helper()
	resp, err := c.Do(t.Context(), &session.Dispatch{Upstream: at(target), Method: http.MethodPost, Header: http.Header{"Content-Type": {"application/json"}}, Body: []byte(body)})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(got)
}

func TestConnectionsAreUsedAgain(t *testing.T) {
	s := startServer(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		switch r.URL.Query().Get("own") + string(body) {
		case "1chunked":
			w.(http.Flusher).Flush()
		case "1empty":
			w.WriteHeader(http.StatusAccepted)
			return
		case "1continue":
			w.WriteHeader(http.StatusProcessing) // an interim answer, before the real one
		}
		fmt.Fprintf(w, "%s %s %s", r.Method, r.Header.Get("Content-Type"), body)
	})
	c := newTestClient(t)
	for _, body := range []string{"plain", "chunked", "empty", "continue", strings.Repeat("x", 3<<20), "last"} {
		status, got := post(t, c, s.url, body)
		want := "POST application/json " + body
		if body == "empty" {
			want = ""
		}
		if status/100 != 2 || got != want {
			t.Errorf("%.20s: got %d %.60q, want %.60q", body, status, got, want)
		}
	}
	if n := s.connections.Load(); n != 1 {
		t.Errorf("connections: got %d, want 1", n)
	}
}

func TestConnectionIsNotUsedAgainAfterAnAnswerThatWasNotReadOrSaysClose(t *testing.T) {
	s := startServer(t, func(w http.ResponseWriter, r *http.Request) {
		if body, _ := io.ReadAll(r.Body); string(body) == "close" {
			w.Header().Set("Connection", "close")
		}
		w.Write(make([]byte, 100_000))
	})
	c := newTestClient(t)
	resp, err := c.Do(t.Context(), &session.Dispatch{Upstream: at(s.url), Method: http.MethodPost, Header: http.Header{}, Body: []byte("a")})
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Read(make([]byte, 10))
	resp.Body.Close()
	resp.Body.Close()
	post(t, c, s.url, "close")
	post(t, c, s.url, "b")
	if n := s.connections.Load(); n != 3 {
		t.Errorf("connections: got %d, want 3", n)
	}
}

func TestConnectionThatTheUpstreamClosedIsNotWrittenTo(t *testing.T) {
	var requests atomic.Int32
	s := startServer(t, func(http.ResponseWriter, *http.Request) { requests.Add(1) })
	c := newTestClient(t)
	for i := range 20 {
		post(t, c, s.url, "x")
		s.CloseClientConnections() // the upstream's idle timeout, or its restart
		for c.idle[place{target: s.url, address: s.url.Host}.key()][0].alive() {
			<-time.After(time.Millisecond) // until the close has arrived
		}
		if got := requests.Load(); got != int32(i+1) {
			t.Fatalf("requests: got %d, want %d", got, i+1)
		}
	}
}

func TestARequestIsNeverSentTwice(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var received atomic.Int32
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			cn, err := l.Accept()
			if err != nil {
				return
			}
			r := bufio.NewReader(cn)
			for answer := true; ; answer = false {
				request, err := http.ReadRequest(r)
				if err != nil {
					break
				}
				io.Copy(io.Discard, request.Body)
				received.Add(1)
				if !answer {
					break // the second one on a connection is read, and the connection closed
				}
				io.WriteString(cn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			}
			cn.Close()
		}
	}()
	defer func() { l.Close(); <-done }()
	target, _ := url.Parse("http://" + l.Addr().String())
	c := newTestClient(t)
	post(t, c, target, "one")
	_, err = c.Do(t.Context(), &session.Dispatch{Upstream: at(target), Method: http.MethodPost, Header: http.Header{}, Body: []byte("two")})
	if err == nil || errors.Is(err, session.ErrNotSent) || received.Load() != 2 {
		t.Errorf("got error %v after %d requests; want an unknown outcome after 2", err, received.Load())
	}
}

func TestNotSentOnlyWithoutAConnection(t *testing.T) {
	l, _ := net.Listen("tcp", "127.0.0.1:0")
	target, _ := url.Parse("http://" + l.Addr().String())
	l.Close()
	if _, err := newTestClient(t).Do(t.Context(), &session.Dispatch{Upstream: at(target), Method: http.MethodPost}); !errors.Is(err, session.ErrNotSent) {
		t.Errorf("got %v, want ErrNotSent", err)
	}
}

func TestEndOfTheContextEndsTheRequestAndTheConnection(t *testing.T) {
	for _, streaming := range []bool{false, true} {
		t.Run(fmt.Sprint("streaming ", streaming), func(t *testing.T) {
			entered, gone := make(chan struct{}), make(chan struct{})
			s := startServer(t, func(w http.ResponseWriter, r *http.Request) {
				if streaming {
					w.(http.Flusher).Flush()
				}
				close(entered)
				<-r.Context().Done()
				close(gone)
			})
			why := errors.New("why")
			ctx, cancel := context.WithCancelCause(t.Context())
			var group sync.WaitGroup
			defer group.Wait()
			answered := make(chan struct{})
			group.Go(func() {
				<-entered
				if streaming {
					<-answered
				}
				cancel(why)
			})
			resp, err := newTestClient(t).Do(ctx, &session.Dispatch{Upstream: at(s.url), Method: http.MethodGet})
			if streaming {
				if err != nil {
					t.Fatal(err)
				}
				close(answered)
				defer resp.Body.Close()
				if _, err := resp.Body.Read(make([]byte, 1)); err == nil {
					t.Error("the body went on after the context's end")
				}
				resp.Body.Close()
			} else if !errors.Is(err, why) {
				t.Errorf("got %v, want the context's cause", err)
			}
			<-gone
		})
	}
}

func TestAnUpstreamThatAnswersBeforeItReadTheBodyIsHeard(t *testing.T) {
	s := startServer(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		w.Write(bytes.Repeat([]byte("n"), 4<<20)) // more than any buffer on the way holds
	})
	resp, err := newTestClient(t).Do(t.Context(), &session.Dispatch{Upstream: at(s.url), Method: http.MethodPost, Header: http.Header{}, Body: make([]byte, 4<<20)})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if n, _ := io.Copy(io.Discard, resp.Body); resp.StatusCode != http.StatusRequestEntityTooLarge || n != 4<<20 {
		t.Errorf("got %d and %d bytes, want 413 and all of its body", resp.StatusCode, n)
	}
}

func TestAnswerHeadersAreBounded(t *testing.T) {
	s := startServer(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Long", strings.Repeat("x", maxHeaderBytes))
	})
	_, err := newTestClient(t).Do(t.Context(), &session.Dispatch{Upstream: at(s.url), Method: http.MethodPost})
	if err == nil || !strings.Contains(err.Error(), fmt.Sprint(maxHeaderBytes)) {
		t.Errorf("got %v, want an error that names the bound", err)
	}
}

// TestNothingOfAnAnswerThatIsNotHTTPIsInTheError has upstreams that repeat what they
// were shown.
func TestNothingOfAnAnswerThatIsNotHTTPIsInTheError(t *testing.T) {
	const secret = "hunter2-canary"
	for _, answer := range []string{
		secret + "\r\n\r\n", "HTTP/1.1 " + secret + "\r\n\r\n", secret + " 200 OK\r\n\r\n", secret,
		"HTTP/1.1 200 OK\r\n" + secret + "\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: " + secret + "\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: " + secret + "\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + secret + "\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n0\r\n" + secret + "\r\n\r\n",
	} {
		s := startServer(t, func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			conn.Write([]byte(answer))
		})
		response, err := newTestClient(t).Do(t.Context(), &session.Dispatch{Upstream: at(s.url), Method: http.MethodPost})
		if err == nil {
			_, err = io.ReadAll(response.Body)
			response.Body.Close()
		}
		if !errors.Is(err, errNotHTTP) || strings.Contains(err.Error(), secret) {
			t.Errorf("an upstream that answers %q: got %v, want errNotHTTP", answer, err)
		}
	}
}

func TestHeadersCannotBeSmuggled(t *testing.T) {
	s := startServer(t, func(http.ResponseWriter, *http.Request) { t.Error("the request was sent") })
	for _, h := range []http.Header{{"X": {"a\r\nY: b"}}, {"X\r\nY": {"b"}}, {"X": {"a\x00"}}} {
		if _, err := newTestClient(t).Do(t.Context(), &session.Dispatch{Upstream: at(s.url), Method: http.MethodPost, Header: h}); err == nil {
			t.Errorf("%q was accepted", h)
		}
	}
}

func TestUnusedConnectionsAreClosed(t *testing.T) {
	s := startServer(t, func(http.ResponseWriter, *http.Request) {})
	c := newTestClient(t)
	post(t, c, s.url, "x")
	c.CloseIdle(time.Hour)
	if len(c.idle) != 1 {
		t.Error("a connection that was just used was closed")
	}
	c.CloseIdle(0)
	if len(c.idle) != 0 {
		t.Error("an unused connection was kept")
	}
}

func TestTLSVerifiesTheUpstream(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("served") }))
	defer s.Close()
	target, _ := url.Parse(s.URL)
	if _, err := newTestClient(t).Do(t.Context(), &session.Dispatch{Upstream: at(target), Method: http.MethodPost}); !errors.Is(err, session.ErrNotSent) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("got %v, want a refused certificate", err)
	}
}

// at is an upstream at a URL.
func at(target *url.URL) *config.Upstream { return &config.Upstream{URL: target} }
