package dataplane_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// toldOfSilence is how long what is in flight at an owner that falls silent may
// go on: 3 s, and what a busy machine adds.
const toldOfSilence = 4 * time.Second

func TestAnOwnerThatFallsSilentWithinACallIsAnUnknownOutcomeSoon(t *testing.T) {
	t.Parallel()
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	owner, line := startWorkerBehindWire(t, p)
	other := startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(owner)
	inside := make(chan struct{}, 4)
	u.setHook(func(w http.ResponseWriter, r *http.Request, method string) bool {
		if r.Method != http.MethodGet && method != "tools/call" {
			return false
		}
		if r.Method == http.MethodGet {
			w.Header().Set("Content-Type", "text/event-stream")
			http.NewResponseController(w).Flush()
		}
		inside <- struct{}{}
		<-r.Context().Done() // nothing comes of it
		return true
	})
	request, _ := http.NewRequest(http.MethodGet, other.url+c.path, nil)
	request.Header = http.Header{"Accept": {"text/event-stream"}, "Mcp-Session-Id": {c.session}}
	stream, err := c.http.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Body.Close()
	var silent time.Time // written before the stall
	soon := func(what string) {
		if took := time.Since(silent); took > toldOfSilence {
			t.Errorf("%s: over %v after the owner fell silent, want at most %v", what, took, toldOfSilence)
		}
	}
	stall := make(chan struct{})
	var both sync.WaitGroup
	both.Go(func() {
		resp, text := c.do(other, http.MethodPost, forwardedCall)
		<-stall
		soon("call")
		if resp == nil || resp.StatusCode != http.StatusOK || !strings.Contains(text, `"code":5040`) || !strings.Contains(text, `"id":1`) {
			t.Errorf("call: got %v %s, want 200 with code 5040 and the id", resp, text)
		}
	})
	both.Go(func() {
		<-stall
		if rest, err := io.ReadAll(stream.Body); err == nil {
			t.Errorf("stream: it ended well with %q, want that it breaks off", rest)
		}
		soon("stream")
	})
	await(t, inside)
	await(t, inside)
	silent = time.Now()
	line.stall()
	close(stall)
	both.Wait()
	u.setHook(nil)
	line.resume()
	eventually(t, "the owner is reached again", func() bool {
		status, _ := c.call(other)
		return status == http.StatusOK
	})
	if got := len(p.live()); got != 1 || p.live()[0].GetWorker() != owner.id {
		t.Errorf("records: got %v, want one of the owner", p.live())
	}
}

func TestASlowCallWithoutAWordOverALinkThatIsWellIsNotCut(t *testing.T) {
	t.Parallel()
	const slow = 6 * time.Second
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	owner, _ := startWorkerBehindWire(t, p)
	other := startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(owner)
	u.setHook(func(w http.ResponseWriter, r *http.Request, method string) bool {
		switch {
		case method == "tools/call":
			<-time.After(slow)
		case r.Method == http.MethodGet:
			w.Header().Set("Content-Type", "text/event-stream")
			http.NewResponseController(w).Flush()
			<-time.After(slow)
			io.WriteString(w, "data: {}\n\n")
			return true
		}
		return false
	})
	streamed := make(chan string, 1)
	one := *c
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*slow)
		defer cancel()
		_, text := one.doContext(ctx, other, http.MethodGet, "")
		streamed <- text
	}()
	if status, got := c.call(other); status != http.StatusOK || got != "1" {
		t.Errorf("call: got %d %s, want 200 1", status, got)
	}
	if got := <-streamed; !strings.Contains(got, "data: {}") {
		t.Errorf("stream: got %q, want its one event", got)
	}
}
