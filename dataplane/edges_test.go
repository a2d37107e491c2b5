package dataplane_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestAGETThatWaitsForItsStreamWhenTheSessionEndsIsTold404(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	owner, other := startWorker(t, p), startWorker(t, p)
	for _, w := range []*worker{owner, other} {
		c := newClient(t, "g")
		c.initialize(owner)
		asked := make(chan struct{}, 1)
		u.setHook(func(_ http.ResponseWriter, r *http.Request, _ string) bool {
			if r.Method != http.MethodGet {
				return false
			}
			asked <- struct{}{}
			<-r.Context().Done()
			return true
		})
		answered := make(chan string, 1)
		go func() {
			resp, body := c.do(w, http.MethodGet, "")
			answered <- fmt.Sprint(resp.StatusCode, " ", body)
		}()
		<-asked
		c.do(w, http.MethodDelete, "")
		if got := <-answered; !strings.HasPrefix(got, "404 ") {
			t.Errorf("got %q, want 404", got)
		}
		u.setHook(nil)
	}
}

// stood makes the upstream have served a GET stream of the session.
func stood(t *testing.T, c *client, w *worker, u *upstreamServer) {
	t.Helper()
	s := u.speak()
	listening := c.listen(w, "", "")
	<-s.opened
	s.say <- ""
	if got := listening.data(); got != "<end>" {
		t.Fatalf("got %s, want the end", got)
	}
	u.setHook(nil)
}

func TestAClientThatLeavesWhileItsSessionIsRenewedEndsNothing(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, reinitialize)
	w := startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(w)
	stood(t, c, w, u)
	inside, goOn := make(chan struct{}, 10), make(chan struct{})
	u.setHook(func(_ http.ResponseWriter, _ *http.Request, method string) bool {
		if method == "initialize" {
			inside <- struct{}{}
			<-goOn
		}
		return false
	})
	u.forget()
	gone := make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer close(gone)
		c.doContext(ctx, w, http.MethodGet, "")
	}()
	await(t, inside)
	cancel()
	<-gone
	<-time.After(100 * time.Millisecond) // the worker notices
	close(goOn)
	if status, body := c.list(w); status != http.StatusOK {
		t.Errorf("a list afterwards: got %d %s, want 200", status, body)
	}
	if n := len(p.tombstones()); n != 0 || u.live() != 1 {
		t.Errorf("%d ends are recorded and the upstream has %d sessions, want none and one", n, u.live())
	}
}

func TestAGETThatWaitsForItsStreamWhenTheSessionIsRenewedListensToTheNewOne(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, reinitialize)
	w := startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(w)
	c.list(w)
	asked := make(chan string, 10)
	u.setHook(func(rw http.ResponseWriter, r *http.Request, _ string) bool {
		if r.Method != http.MethodGet {
			return false
		}
		id := r.Header.Get("Mcp-Session-Id")
		asked <- id
		if id == "up-2" {
			rw.Header().Set("Content-Type", "text/event-stream")
			rw.WriteHeader(http.StatusOK)
			rw.(http.Flusher).Flush()
		}
		<-r.Context().Done()
		return true
	})
	opened := make(chan *events, 1)
	go func() { opened <- c.listen(w, "", "") }()
	<-asked
	u.forget()
	one := *c
	if status, body := one.list(w); status != http.StatusOK {
		t.Fatalf("list: got %d %s", status, body)
	}
	if got := (<-opened).status; got != http.StatusOK {
		t.Errorf("GET: got %d, want 200", got)
	}
}

func TestAWorkerStopsInTimeThoughAnUpstreamHangsWhileASessionIsRenewed(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, reinitialize)
	w := startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(w)
	c.list(w)
	inside := make(chan struct{}, 10)
	u.setHook(func(_ http.ResponseWriter, r *http.Request, method string) bool {
		if method == "notifications/initialized" {
			inside <- struct{}{}
			<-r.Context().Done()
			return true
		}
		return false
	})
	u.forget()
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.do(w, http.MethodPost, `{"jsonrpc":"2.0","id":9,"method":"tools/list"}`)
	}()
	await(t, inside)
	began := time.Now()
	w.stop()
	<-done
	if took := time.Since(began); took > 6*time.Second {
		t.Errorf("the worker stopped after %v, want at most 5s", took)
	}
}

func TestARenewedSessionWithoutAnIDIsNotCalledByTheLostOne(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, reinitialize)
	w := startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(w)
	c.list(w)
	u.forget()
	named := make(chan string, 10)
	u.setHook(func(rw http.ResponseWriter, r *http.Request, method string) bool {
		id := r.Header.Get("Mcp-Session-Id")
		switch method {
		case "initialize":
			reply(rw, []byte(`"leasehold"`), `{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"u","version":"1"}}`)
		case "tools/list":
			named <- id
			if len(named) == 1 {
				return false // lost
			}
			reply(rw, []byte("1"), `{"tools":[]}`)
		default:
			rw.WriteHeader(http.StatusAccepted)
		}
		return true
	})
	c.list(w)
	<-named
	if got := <-named; got != "" {
		t.Errorf("the list was sent again with session id %q, want none", got)
	}
}

func TestARenewedSessionOfAnUpstreamWithoutAStreamIsNotRenewedByEachGET(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, reinitialize)
	w := startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(w)
	stood(t, c, w, u)
	u.forget()
	u.setHook(func(rw http.ResponseWriter, r *http.Request, _ string) bool {
		if r.Method == http.MethodGet {
			rw.WriteHeader(http.StatusNotFound) // it was replaced by one that has no such route
		}
		return r.Method == http.MethodGet
	})
	for range 3 {
		if resp, body := c.do(w, http.MethodGet, ""); resp.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("GET: got %d %s, want 405", resp.StatusCode, body)
		}
	}
	if u.opened != 2 || u.live() != 1 {
		t.Errorf("%d sessions were opened and %d are left, want 2 and 1", u.opened, u.live())
	}
}

func TestASessionIsNotEndedSinceTheControlPlaneIsAwayWhenItIsToBeRenewed(t *testing.T) {
	t.Parallel()
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, reinitialize)
	w := startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(w)
	c.list(w)
	u.forget()
	p.change(func() { p.resolveErr = true })
	if status, body := c.list(w); status != http.StatusServiceUnavailable {
		t.Errorf("got %d %s, want 503", status, body)
	}
	p.change(func() { p.resolveErr = false })
	if status, body := c.list(w); status != http.StatusOK {
		t.Errorf("once it is back: got %d %s, want 200", status, body)
	}
}

// perCall makes the upstream answer calls of tools with streams, one per JSON-RPC
// id, on which the test speaks by say(id); "" ends one.
type perCall struct {
	opened, closed chan string
	say            map[string]chan string
}

func (u *upstreamServer) speakPerCall(ids ...string) *perCall {
	s := &perCall{make(chan string, 100), make(chan string, 100), map[string]chan string{}}
	for _, id := range ids {
		s.say[id] = make(chan string)
	}
	u.setHook(func(w http.ResponseWriter, r *http.Request, method string) bool {
		id := "GET " + r.Header.Get("Last-Event-ID")
		if method == "tools/call" {
			body, _ := io.ReadAll(r.Body)
			_, rest, _ := strings.Cut(string(body), `"id":"`)
			id, _, _ = strings.Cut(rest, `"`)
		} else if r.Method != http.MethodGet {
			return false
		}
		w.Header().Set("Content-Type", "text/event-stream")
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		s.opened <- id
		for {
			select {
			case text := <-s.say[id]:
				if text == "" {
					return true
				}
				io.WriteString(w, text)
				w.(http.Flusher).Flush()
			case <-r.Context().Done():
				s.closed <- id
				return true
			}
		}
	})
	return s
}

func callOf(id string) string { return strings.Replace(slowCall, "slow", id, 1) }

func answerOf(id string) string {
	return `{"jsonrpc":"2.0","id":"` + id + `","result":{"content":[]}}`
}

func TestAResumptionAtTheUpstreamCutsNoCallThatIsKeptHere(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	w := startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(w)
	s := u.speakPerCall("A", "B", "GET 7")
	a := c.listen(w, "", callOf("A"))
	<-s.opened
	s.say["A"] <- "id: 7\ndata: " + note(1) + "\n\n"
	a.data()
	b := c.listen(w, "", callOf("B"))
	<-s.opened
	s.say["B"] <- "data: " + note(2) + "\n\n"
	b.data()
	a.cancel()
	b.cancel()
	for range a.lines {
	}
	for range b.lines {
	}
	<-time.After(100 * time.Millisecond) // the worker notices
	c.listen(w, a.last, "")
	<-s.opened
	if got := <-s.closed; got != "A" {
		t.Errorf("the call %s was closed, want A", got)
	}
	again := c.listen(w, b.last, "")
	select {
	case s.say["B"] <- "data: " + answerOf("B") + "\n\n":
	case got := <-s.closed:
		t.Fatalf("the call %s was closed, want that it goes on", got)
	}
	if got := again.data(); got != answerOf("B") {
		t.Errorf("got %s, want the answer", got)
	}
}

func TestAClientThatCameBackGetsWhatHasIDsAfterAll(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	w := startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(w)
	s := u.speakPerCall("slow")
	call := c.listen(w, "", slowCall)
	<-s.opened
	id, _ := strings.CutPrefix(<-call.lines, "id: ")
	call.cancel()
	again := c.listen(w, id, "")
	<-time.After(100 * time.Millisecond)
	s.say["slow"] <- "id: 1\ndata: " + note(1) + "\n\n"
	s.say["slow"] <- "id: 2\ndata: " + answerOf("slow") + "\n\n"
	s.say["slow"] <- ""
	for _, want := range []string{note(1), answerOf("slow"), "<end>"} {
		if got := again.data(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if again.last != "up/p/2" {
		t.Errorf("the last id is %s, want the upstream's", again.last)
	}
}

func TestACallOfAnEndingSessionIsAnsweredThoughItsEventsHaveIDsAfterAll(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	w := startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(w)
	s := u.speakPerCall("slow")
	call := c.listen(w, "", slowCall)
	<-s.opened
	s.say["slow"] <- "data: " + note(1) + "\n\n"
	call.data()
	over := make(chan struct{})
	one := *c
	go func() {
		defer close(over)
		one.do(w, http.MethodDelete, "")
	}()
	two := *c
	eventually(t, "the session is closed", func() bool {
		status, _ := two.list(w)
		return status == http.StatusNotFound
	})
	s.say["slow"] <- "id: 1\ndata: " + answerOf("slow") + "\n\n"
	s.say["slow"] <- ""
	if got := call.data(); got != answerOf("slow") {
		t.Errorf("got %s, want the answer", got)
	}
	<-over
}

func TestCallsDoNotTakeTheKeptEventsOfTheGETStream(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	w := startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(w)
	s := u.speakPerCall("slow", "GET ")
	listening := c.listen(w, "", "")
	<-s.opened
	s.say["GET "] <- "data: " + note(1) + "\n\n"
	listening.data()
	for range 40 {
		call := c.listen(w, "", slowCall)
		<-s.opened
		s.say["slow"] <- "data: " + note(0) + "\n\n"
		s.say["slow"] <- "data: " + answerOf("slow") + "\n\n"
		s.say["slow"] <- ""
		for call.data() != "<end>" {
		}
	}
	listening.cancel()
	for range listening.lines {
	}
	<-time.After(100 * time.Millisecond)
	s.say["GET "] <- "data: " + note(2) + "\n\n"
	<-time.After(100 * time.Millisecond)
	again := c.listen(w, listening.last, "")
	s.say["GET "] <- "data: " + note(3) + "\n\n"
	for n := 2; n <= 3; n++ {
		if got := again.data(); got != note(n) {
			t.Errorf("after coming back: got %s, want %s", got, note(n))
		}
	}
}

func TestAResumptionIsAskedForAgainWhileTheUpstreamHoldsTheStream(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	w := startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(w)
	s := u.speakPerCall("slow", "GET 7")
	call := c.listen(w, "", slowCall)
	<-s.opened
	s.say["slow"] <- "id: 7\ndata: " + note(1) + "\n\n"
	call.data()
	call.cancel()
	refused, spoken := 0, u.hook
	u.setHook(func(rw http.ResponseWriter, r *http.Request, method string) bool {
		if r.Method == http.MethodGet && refused < 2 {
			refused++
			rw.WriteHeader(http.StatusConflict) // it has not noticed yet
			return true
		}
		return spoken(rw, r, method)
	})
	again := c.listen(w, call.last, "")
	if again.status != http.StatusOK {
		t.Fatalf("got %d, want 200", again.status)
	}
	<-s.opened
	s.say["GET 7"] <- "id: 8\ndata: " + answerOf("slow") + "\n\n"
	if got := again.data(); got != answerOf("slow") {
		t.Errorf("got %s, want the answer", got)
	}
}

func TestAClientThatCameBackGetsTheAnswerAfterManyEventsAtOnce(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	w := startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(w)
	s := u.speakPerCall("slow")
	call := c.listen(w, "", slowCall)
	<-s.opened
	s.say["slow"] <- "data: " + note(0) + "\n\n"
	call.data()
	call.cancel()
	again := c.listen(w, call.last, "")
	<-time.After(100 * time.Millisecond)
	const many = 5000
	var all strings.Builder
	for n := range many {
		all.WriteString("data: " + note(n+1) + "\n\n")
	}
	s.say["slow"] <- all.String()
	s.say["slow"] <- "data: " + answerOf("slow") + "\n\n"
	for n := range many {
		if got := again.data(); got != note(n+1) {
			t.Fatalf("event %d: got %s", n+1, got)
		}
	}
	if got := again.data(); got != answerOf("slow") {
		t.Errorf("got %s, want the answer", got)
	}
}

func TestACallsEventsGoToTheClientThatCameBackLast(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	w := startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(w)
	s := u.speakPerCall("slow")
	call := c.listen(w, "", slowCall)
	<-s.opened
	s.say["slow"] <- "data: " + note(0) + "\n\n"
	call.data()
	call.cancel()
	first := c.listen(w, call.last, "")
	second := c.listen(w, call.last, "")
	<-time.After(100 * time.Millisecond)
	s.say["slow"] <- "data: " + note(1) + "\n\n"
	if got := second.data(); got != note(1) {
		t.Errorf("the last one: got %s, want %s", got, note(1))
	}
	if got := first.data(); got != "<end>" {
		t.Errorf("the one before: got %s, want its end", got)
	}
}

// An upstream refuses a second stream of a call while the first one is open, which it
// is for as long as nobody knows that the client's connection broke.
func TestAClientThatComesBackIsNotRefusedForItsConnectionThatBrokeUnnoticed(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	w := startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(w)
	s := u.speakPerCall("A", "B", "GET 7")
	spoken, open := u.hook, make(chan struct{})
	u.setHook(func(rw http.ResponseWriter, r *http.Request, method string) bool {
		switch {
		case method == "tools/call" && strings.Contains(requestOf(r), `"id":"A"`):
			defer close(open)
		case r.Method == http.MethodGet:
			select {
			case <-open:
			default:
				rw.WriteHeader(http.StatusConflict)
				return true
			}
		}
		return spoken(rw, r, method)
	})
	a, b := c.listen(w, "", callOf("A")), c.listen(w, "", callOf("B")) // neither breaks
	<-s.opened
	<-s.opened
	s.say["A"] <- "id: 7\ndata: " + note(1) + "\n\n"
	a.data()
	s.say["B"] <- "id: 9\ndata: " + note(2) + "\n\n"
	b.data()
	again := c.listen(w, a.last, "")
	if again.status != http.StatusOK {
		t.Fatalf("got %d, want 200", again.status)
	}
	<-s.opened
	s.say["GET 7"] <- "id: 8\ndata: " + answerOf("A") + "\n\n"
	if got := again.data(); got != answerOf("A") {
		t.Errorf("got %s, want the answer", got)
	}
	s.say["B"] <- "id: 10\ndata: " + answerOf("B") + "\n\n"
	if got := b.data(); got != answerOf("B") {
		t.Errorf("the other call: got %s, want its answer", got)
	}
}

// requestOf returns the body of a request, which can be read again.
func requestOf(r *http.Request) string {
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(strings.NewReader(string(body)))
	return string(body)
}
