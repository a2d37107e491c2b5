package dataplane_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// scripted is an upstream that a test speaks for.
type scripted struct {
	*httptest.Server
	requests chan *heard
}

// heard is a request that the upstream got, and waits for its answer.
type heard struct {
	method string
	header http.Header
	body   string
	parts  chan said
	over   chan struct{} // closed when nothing more can be said
}

// say says a part of the answer. The end may go unheard, as the gateway need not
// wait for it.
func (h *heard) say(tb testing.TB, part said) {
	tb.Helper()
	select {
	case h.parts <- part:
	case <-h.over:
		if part.body != "" {
			tb.Errorf("nobody waits for more of an answer: %q", part.body)
		}
	case <-time.After(10 * time.Second):
		tb.Fatalf("nobody takes what the upstream says within 10 s: %q", part.body)
	}
}

// said is a part of an answer: its head, or raw bytes of its body; the zero value
// is its end.
type said struct {
	status int
	header http.Header
	body   string
}

func startScripted(tb testing.TB) *scripted {
	u := &scripted{requests: make(chan *heard, 10)}
	u.Server = httptest.NewServer(u)
	tb.Cleanup(func() {
		u.CloseClientConnections()
		u.Close()
	})
	return u
}

// ServeHTTP implements http.Handler.
func (u *scripted) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	if r.Method == http.MethodDelete {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	h := &heard{r.Method, r.Header, string(body), make(chan said), make(chan struct{})}
	defer close(h.over)
	u.requests <- h
	for {
		select {
		case part := <-h.parts:
			if part.status == 0 && part.body == "" {
				return
			}
			for name, values := range part.header {
				w.Header()[name] = values
			}
			if part.status != 0 {
				if !strings.HasPrefix(part.header.Get("Content-Type"), "text/event-stream") {
					w.Header().Set("Content-Length", strconv.Itoa(len(part.body)))
				}
				w.WriteHeader(part.status)
			}
			io.WriteString(w, part.body)
			http.NewResponseController(w).Flush()
		case <-r.Context().Done():
			return
		}
	}
}

// next returns the next request.
func (u *scripted) next(tb testing.TB) *heard {
	tb.Helper()
	select {
	case h := <-u.requests:
		return h
	case <-time.After(10 * time.Second):
		tb.Fatal("the upstream got no request within 10 s")
		return nil
	}
}

// parseHead reads a first line, header fields, and what follows a blank line.
func parseHead(text string) (first string, header http.Header, body string) {
	head, body, _ := strings.Cut(text, "\n\n")
	lines := strings.Split(strings.TrimSuffix(head, "\n"), "\n")
	header = http.Header{}
	for _, line := range lines[1:] {
		name, value, _ := strings.Cut(line, ": ")
		header.Add(name, value)
	}
	return lines[0], header, body
}

// formatHead is the opposite of parseHead, with the fields in order. What an HTTP
// library adds by itself is left out.
func formatHead(first string, header http.Header, body string) string {
	var b strings.Builder
	b.WriteString(first + "\n")
	names := make([]string, 0, len(header))
	for name := range header {
		if name != "Content-Length" && name != "Date" && name != "Accept-Encoding" && name != "Transfer-Encoding" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		for _, value := range header[name] {
			fmt.Fprintf(&b, "%s: %s\n", name, value)
		}
	}
	return b.String() + "\n" + body
}
