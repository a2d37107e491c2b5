package dataplane_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// events is a client's stream.
type events struct {
	tb     testing.TB
	cancel context.CancelFunc
	lines  chan string // non-blank lines that are no comments, closed at the end
	status int
	last   string // the last event id
}

// listen opens a stream with a GET, after an event id if that is not empty, or
// with a POST of a body.
func (c *client) listen(w *worker, lastEventID, body string) *events {
	c.tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c.tb.Cleanup(cancel)
	method := http.MethodGet
	if body != "" {
		method = http.MethodPost
	}
	r, _ := http.NewRequestWithContext(ctx, method, w.url+c.path, strings.NewReader(body))
	r.Header = http.Header{"Accept": {"application/json, text/event-stream"}, "Content-Type": {"application/json"}, "Mcp-Session-Id": {c.session}}
	if lastEventID != "" {
		r.Header.Set("Last-Event-ID", lastEventID)
	}
	resp, err := c.http.Do(r)
	if err != nil {
		c.tb.Fatal(err)
	}
	e := &events{tb: c.tb, cancel: cancel, lines: make(chan string, 100), status: resp.StatusCode}
	go func() {
		defer close(e.lines)
		defer resp.Body.Close()
		for s := bufio.NewScanner(resp.Body); s.Scan(); {
			if line := s.Text(); line != "" && !strings.HasPrefix(line, ":") {
				e.lines <- line
			}
		}
	}()
	return e
}

// data returns the data of the next event that has some, and notes ids.
func (e *events) data() string {
	e.tb.Helper()
	timeout := time.After(10 * time.Second)
	for {
		select {
		case line, ok := <-e.lines:
			if !ok {
				return "<end>"
			}
			if id, ok := strings.CutPrefix(line, "id: "); ok {
				e.last = id
			}
			if data, ok := strings.CutPrefix(line, "data: "); ok && data != "" {
				return data
			}
		case <-timeout:
			e.tb.Fatal("no event within 10 s")
		}
	}
}

// note is a notification with a number.
func note(n int) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":%d}}`, n)
}

// speaker lets a test speak on the streams of an upstream.
type speaker struct {
	opened chan *http.Request // a stream was opened
	closed chan struct{}      // a stream was closed by the other end
	say    chan string        // raw text, on the newest stream; "" ends it
}

// speak makes the upstream answer GETs, and calls of tools, with streams that the
// test speaks on.
func (u *upstreamServer) speak() *speaker {
	s := &speaker{make(chan *http.Request, 10), make(chan struct{}, 10), make(chan string)}
	u.setHook(func(w http.ResponseWriter, r *http.Request, method string) bool {
		if r.Method != http.MethodGet && method != "tools/call" {
			return false
		}
		w.Header().Set("Content-Type", "text/event-stream")
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		s.opened <- r
		for {
			select {
			case text := <-s.say:
				if text == "" {
					return true
				}
				io.WriteString(w, text)
				w.(http.Flusher).Flush()
			case <-r.Context().Done():
				s.closed <- struct{}{}
				return true
			}
		}
	})
	return s
}

func TestClientsShareOneStreamOfTheUpstreamAndEachEventComesOnce(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	owner, other := startWorker(t, p), startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(owner)
	s := u.speak()
	older := c.listen(owner, "", "")
	<-s.opened
	s.say <- "data: " + note(1) + "\n\n"
	if got := older.data(); got != note(1) {
		t.Errorf("the only client: got %s, want %s", got, note(1))
	}
	newer := c.listen(other, "", "")
	s.say <- "data: " + note(2) + "\n\n"
	if got := newer.data(); got != note(2) {
		t.Errorf("the newer client: got %s, want %s", got, note(2))
	}
	newer.cancel()
	eventually(t, "the newer one is gone", func() bool {
		s.say <- "data: " + note(3) + "\n\n"
		select {
		case line := <-older.lines:
			return line != "" // its first one is an id
		case <-time.After(50 * time.Millisecond):
			return false
		}
	})
	if got := older.data(); got != note(3) {
		t.Errorf("the older client afterwards: got %s, want %s", got, note(3))
	}
	if len(s.opened) != 0 {
		t.Errorf("the upstream has %d streams more, want one for all", len(s.opened))
	}
}

func TestWhatTheUpstreamSaysAtOnceReachesTheClient(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	w := startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(w)
	var opened atomic.Int32
	closed := make(chan struct{}, 100)
	u.setHook(func(rw http.ResponseWriter, r *http.Request, _ string) bool {
		if r.Method != http.MethodGet {
			return false
		}
		opened.Add(1)
		rw.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(rw, ": ok\n\nid: 1\ndata: "+note(1)+"\n\ndata: \n\n") // with the head
		rw.(http.Flusher).Flush()
		<-r.Context().Done()
		closed <- struct{}{}
		return true
	})
	for n := int32(1); n <= 20; n++ {
		listening := c.listen(w, "", "")
		if got := listening.data(); got != note(1) || opened.Load() != n {
			t.Fatalf("client %d got %s after %d streams of the upstream, want %s", n, got, opened.Load(), note(1))
		}
		listening.cancel()
		<-closed
	}
}

func TestAClientThatComesBackGetsWhatTheUpstreamDoesNotKeep(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	owner, other := startWorker(t, p), startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(owner)
	s := u.speak()
	first := c.listen(other, "", "")
	<-s.opened
	s.say <- "data: " + note(1) + "\n\n"
	first.data()
	first.cancel()
	for n := 2; n <= 4; n++ {
		s.say <- "data: " + note(n) + "\n\n"
	}
	again := c.listen(owner, first.last, "")
	for n := 2; n <= 4; n++ {
		if got := again.data(); got != note(n) {
			t.Errorf("after coming back: got %s, want %s", got, note(n))
		}
	}
	s.say <- "data: " + note(5) + "\n\n"
	if got := again.data(); got != note(5) {
		t.Errorf("and from then on: got %s, want %s", got, note(5))
	}
	if len(s.opened) != 0 {
		t.Errorf("the upstream was asked for %d streams more, want none", len(s.opened))
	}
}

func TestAClientThatComesBackIsServedFromTheUpstreamsOwnIDs(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	owner, other := startWorker(t, p), startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(owner)
	s := u.speak()
	listening := c.listen(owner, "", "")
	<-s.opened
	s.say <- "id: s/1\ndata: " + note(1) + "\n\n"
	listening.data()
	again := c.listen(other, listening.last, "")
	r := <-s.opened
	if got := r.Header.Get("Last-Event-ID"); got != "s/1" {
		t.Errorf("the upstream is asked for what follows %q, want its own id s/1", got)
	}
	if len(s.closed) != 1 {
		t.Errorf("%d streams were closed before, want the earlier one", len(s.closed))
	}
	s.say <- "id: s/2\ndata: " + note(2) + "\n\n"
	if got := again.data(); got != note(2) || again.last != "up/g/s/2" {
		t.Errorf("after coming back: got %s with id %s, want %s with up/g/s/2", got, again.last, note(2))
	}
	if got := listening.data(); got != "<end>" {
		t.Errorf("the earlier stream: got %s, want its end", got)
	}
}

const slowCall = `{"jsonrpc":"2.0","id":"slow","method":"tools/call","params":{"name":"n"}}`

func TestACallGoesOnWithoutItsClientWhichCanComeBackForTheAnswer(t *testing.T) {
	const answer = `{"jsonrpc":"2.0","id":"slow","result":{"content":[]}}`
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	owner, other := startWorker(t, p), startWorker(t, p)
	for name, workers := range map[string][2]*worker{"at the owner": {owner, owner}, "forwarded": {other, other}, "elsewhere": {owner, other}} {
		t.Run(name, func(t *testing.T) {
			c := newClient(t, "g")
			c.initialize(owner)
			s := u.speak()
			defer u.setHook(nil)
			call := c.listen(workers[0], "", slowCall)
			<-s.opened
			line := <-call.lines // silent, but for an id to come back by
			id, ok := strings.CutPrefix(line, "id: ")
			if !ok {
				t.Fatalf("a silent call began with %q, want an id", line)
			}
			call.cancel()
			s.say <- "data: " + note(1) + "\n\n"
			again := c.listen(workers[1], id, "")
			s.say <- "data: " + note(2) + "\n\n"
			s.say <- "data: " + answer + "\n\n"
			s.say <- ""
			for _, want := range []string{note(1), note(2), answer, "<end>"} {
				if got := again.data(); got != want {
					t.Errorf("after coming back: got %s, want %s", got, want)
				}
			}
			late := c.listen(workers[1], again.last, "")
			if got := late.data(); got != "<end>" {
				t.Errorf("after the answer: got %s, want the end", got)
			}
			if len(s.closed) != 0 {
				t.Error("the upstream's stream was closed when the client went")
			}
		})
	}
}

func TestACallWhoseEventsTheUpstreamKeepsIsResumedThere(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	owner, other := startWorker(t, p), startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(owner)
	s := u.speak()
	call := c.listen(owner, "", slowCall)
	<-s.opened
	s.say <- "id: 7\ndata: " + note(1) + "\n\n"
	call.data()
	owner.stop() // the new owner has nothing but the id
	again := c.listen(other, call.last, "")
	r := <-s.opened
	if got := r.Header.Get("Last-Event-ID"); got != "7" || r.Method != http.MethodGet {
		t.Errorf("the upstream is asked with %s for what follows %q, want GET and 7", r.Method, got)
	}
	s.say <- "id: 8\ndata: " + note(2) + "\n\n"
	if got := again.data(); got != note(2) || again.last != "up/p/8" {
		t.Errorf("got %s with id %s, want %s with up/p/8", got, again.last, note(2))
	}
}

func TestACallWhoseEventsWereLostWithItsOwnerHasAnUnknownOutcome(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	owner, other := startWorker(t, p), startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(owner)
	s := u.speak()
	call := c.listen(owner, "", slowCall)
	<-s.opened
	s.say <- "data: " + note(1) + "\n\n"
	call.data()
	call.cancel()
	owner.stop()
	got := c.listen(other, call.last, "").data()
	if !strings.Contains(got, `"code":5040`) || !strings.Contains(got, `"id":"slow"`) {
		t.Errorf("got %s, want the error 5040 for the call", got)
	}
}

func TestTheUpstreamLearnsThatItsQuestionsHaveNoWayToTheClient(t *testing.T) {
	t.Parallel()
	const question = `{"jsonrpc":"2.0","id":"q","method":"elicitation/create","params":{}}`
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	w := startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(w)
	s := u.speak()
	told := make(chan string, 10)
	spoken := u.hook
	u.setHook(func(rw http.ResponseWriter, r *http.Request, method string) bool {
		if r.Method == http.MethodPost && method == "" {
			body, _ := io.ReadAll(r.Body)
			told <- string(body)
		}
		return spoken(rw, r, method)
	})
	call := c.listen(w, "", strings.Replace(slowCall, "slow", "answered", 1))
	<-s.opened
	s.say <- "id: 1\ndata: " + strings.Replace(question, `"q"`, `"early"`, 1) + "\n\n"
	call.data()
	c.do(w, http.MethodPost, `{"jsonrpc":"2.0","id":"early","result":{"action":"decline"}}`)
	<-told
	s.say <- "id: 2\ndata: " + question + "\n\n"
	call.data()
	call.cancel()
	select {
	case got := <-told:
		if !strings.Contains(got, `"id":"q"`) || !strings.Contains(got, `"code":5041`) {
			t.Errorf("the upstream was told %s, want the error 5041 for its request q", got)
		}
	case <-time.After(20 * time.Second):
		t.Error("the upstream was not told within 20 s")
	}
	if len(told) != 0 {
		t.Errorf("the upstream was told again: %s", <-told)
	}
}

func TestACallThatItsClientCancelledMayEndWithoutAnAnswer(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	owner, other := startWorker(t, p), startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(owner)
	s := u.speak()
	for _, cancelled := range []bool{true, false} {
		call := c.listen(other, "", slowCall)
		<-s.opened
		if cancelled {
			c.do(owner, http.MethodPost, `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"slow"}}`)
		}
		s.say <- ""
		if got := call.data(); cancelled != (got == "<end>") || !cancelled && !strings.Contains(got, `"code":5040`) {
			t.Errorf("cancelled: %v: the stream ended with %s", cancelled, got)
		}
	}
}
