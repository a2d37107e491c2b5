package conformance

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// target starts a server and returns its address.
func target(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

// between starts a front.
func between(t *testing.T, targets ...string) *front {
	t.Helper()
	f, err := startFront(targets...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f
}

// browser returns a client without connections from before.
func browser(t *testing.T) *http.Client {
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func TestFrontSendsRequestsInTurnAsTheyCame(t *testing.T) {
	answer := func(name string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			fmt.Fprintf(w, "%s %s %s %s", name, r.Host, r.URL.Path, body)
		}
	}
	f := between(t, target(t, answer("a")), target(t, answer("b")))
	client := browser(t)
	var got []string
	for i := range 4 {
		req, err := http.NewRequest("POST", f.URL+"/x", strings.NewReader(fmt.Sprint(i)))
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "evil.example.com"
		req.Header.Set("Mcp-Session-Id", "one")
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(body))
	}
	want := "a evil.example.com /x 0, b evil.example.com /x 1, a evil.example.com /x 2, b evil.example.com /x 3"
	if got := strings.Join(got, ", "); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if err := f.check(); err != nil {
		t.Error(err)
	}
}

func TestFrontPassesOnEventsAtOnceAndThatTheClientLeft(t *testing.T) {
	left := make(chan struct{})
	f := between(t, target(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "data: first\n\n")
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
		close(left)
	}))
	resp, err := browser(t).Get(f.URL)
	if err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(resp.Body).ReadString('\n')
	if err != nil || line != "data: first\n" {
		t.Errorf("got %q, %v, want the first event", line, err)
	}
	resp.Body.Close()
	select {
	case <-left:
	case <-time.After(10 * time.Second):
		t.Error("the target was not told that the client left")
	}
}

func TestFrontPassesOnThatTheTargetBrokeOff(t *testing.T) {
	f := between(t, target(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "half")
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}))
	resp, err := browser(t).Get(f.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("got %q and its end, want an error", body)
	}
}

func TestFrontNoticesThatItDidNotSpreadSessions(t *testing.T) {
	nothing := target(t, func(http.ResponseWriter, *http.Request) {})
	f := between(t, nothing, nothing)
	client := browser(t)
	for i := range 4 { // two sessions, each always at the same turn
		req, err := http.NewRequest("GET", f.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Mcp-Session-Id", fmt.Sprint(i%2))
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	if err := f.check(); err == nil {
		t.Error("check found nothing")
	}
}

func TestFrontClosesWithConnectionsOpen(t *testing.T) {
	f := between(t, target(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "data: first\n\n")
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	resp, err := browser(t).Get(f.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	f.Close()
	if _, err := net.Dial("tcp", strings.TrimPrefix(f.URL, "http://")); err == nil {
		t.Error("the front still accepts connections")
	}
}
