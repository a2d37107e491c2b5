package duplex

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/session"
)

// script is a channel whose server is the test.
type script struct {
	says  chan string // what the server says
	heard chan string // what it is told
	ends  chan struct{}
	gone  chan struct{}
}

func (s *script) Open(context.Context, *session.Dispatch) (Channel, error) { return s, nil }

func (s *script) Send(ctx context.Context, d *session.Dispatch) error {
	select {
	case s.heard <- string(d.Body):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-s.ends:
		return errors.New("ended")
	}
}

func (s *script) Receive() ([]byte, error) {
	select {
	case m := <-s.says:
		return []byte(m), nil
	case <-s.ends:
		close(s.gone)
		return nil, errors.New("ended")
	}
}

func (s *script) Close() {
	select {
	case <-s.ends:
	default:
		close(s.ends)
	}
}

func (s *script) Gone() <-chan struct{} { return s.gone }

// play opens a channel whose server is the test, and returns what makes requests.
func play(t *testing.T) (s *script, do func(method, body string) *http.Response) {
	t.Helper()
	s = &script{says: make(chan string), heard: make(chan string, 16), ends: make(chan struct{}), gone: make(chan struct{})}
	u := New(s, hclog.NewNullLogger())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- u.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	header := http.Header{}
	do = func(method, body string) *http.Response {
		t.Helper()
		answer, err := u.Do(t.Context(), &session.Dispatch{Upstream: &config.Upstream{}, Method: method, Header: header, Body: []byte(body)})
		if err != nil {
			t.Fatalf("%s %s: %v", method, body, err)
		}
		t.Cleanup(func() { answer.Body.Close() })
		return answer
	}
	answer := do(http.MethodPost, `{"jsonrpc":"2.0","id":0,"method":"initialize","params":{}}`)
	<-s.heard
	s.says <- `{"jsonrpc":"2.0","id":0,"result":{}}`
	header.Set(mcp.HeaderSessionID, answer.Header.Get(mcp.HeaderSessionID))
	messages(t, answer, 1)
	return s, do
}

// messages reads n messages of an answer.
func messages(t *testing.T, answer *http.Response, n int) (all []string) {
	t.Helper()
	timer := time.AfterFunc(20*time.Second, func() { answer.Body.Close() })
	defer timer.Stop()
	lines := bufio.NewReader(answer.Body)
	for len(all) < n {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatalf("after %d messages of %d: %v", len(all), n, err)
		}
		if data, ok := strings.CutPrefix(line, "data: "); ok {
			all = append(all, strings.TrimSpace(data))
		}
	}
	return all
}

func notification(i int, padding string) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","method":"notifications/message","params":{"data":"%d%s"}}`, i, padding)
}

func question(i int) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":"q%d","method":"roots/list"}`, i)
}

func TestBeyondTheBoundTheOldestNotificationsAreDropped(t *testing.T) {
	s, do := play(t)
	s.says <- question(0)
	for i := range 100 {
		s.says <- notification(i, "")
	}
	s.says <- "that all is held" // is taken once the last one is
	got := messages(t, do(http.MethodGet, ""), maxHeld)
	if got[0] != question(0) || got[1] != notification(37, "") || got[63] != notification(99, "") {
		t.Errorf("got %s, %s … %s; want the request, and the last 63 notifications", got[0], got[1], got[63])
	}
}

func TestBeyondTheBoundOnBytesTheOldestNotificationsAreDropped(t *testing.T) {
	s, do := play(t)
	padding := strings.Repeat("x", maxHeldBytes/4)
	for i := range 10 {
		s.says <- notification(i, padding)
	}
	s.says <- notification(10, "")
	s.says <- "that all is held"
	got := messages(t, do(http.MethodGet, ""), 4)
	if got[0] != notification(7, padding) || got[3] != notification(10, "") {
		t.Errorf("got %.80s … %.80s; want the last three large ones and the small one", got[0], got[3])
	}
	s.says <- notification(11, strings.Repeat("x", 2*maxHeldBytes)) // has room on a stream
}

func TestBeyondTheBoundTheServersRequestsAreDeclined(t *testing.T) {
	s, do := play(t)
	for i := range maxHeld {
		s.says <- question(i)
	}
	s.says <- question(100)
	select {
	case got := <-s.heard:
		if want := `{"jsonrpc":"2.0","id":"q100","error":{"code":-32000,"message":"the client has no stream open"}}`; got != want {
			t.Errorf("the server was told %s, want %s", got, want)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the request was not declined within 20 s")
	}
	got := messages(t, do(http.MethodGet, ""), maxHeld)
	if got[0] != question(0) || got[maxHeld-1] != question(maxHeld-1) {
		t.Errorf("got %s … %s, want what was held, all of it", got[0], got[maxHeld-1])
	}
}

func TestWhatWasNotReadOfAClosedGetStreamGoesToTheNextOne(t *testing.T) {
	s, do := play(t)
	first := do(http.MethodGet, "")
	for i := range 3 {
		s.says <- notification(i, "")
	}
	s.says <- "that all is on the stream"
	first.Body.Close()
	if got := messages(t, do(http.MethodGet, ""), 3); got[0] != notification(0, "") || got[2] != notification(2, "") {
		t.Errorf("got %q, want what nobody had read", got)
	}
}

func TestAPostThatTheServerAnswersBeforeItTakesItIsAnswered(t *testing.T) {
	s, do := play(t)
	for range cap(s.heard) {
		s.heard <- "" // the server takes nothing now
	}
	answered := make(chan *http.Response, 1)
	go func() {
		answered <- do(http.MethodPost, `{"jsonrpc":"2.0","id":1,"method":"x","params":{"_meta":{"progressToken":1}}}`)
	}()
	progress := fmt.Sprintf(`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"message":%q}}`, strings.Repeat("x", maxQueued))
	go func() {
		for range 3 {
			s.says <- progress
		}
	}()
	select {
	case answer := <-answered:
		messages(t, answer, 1)
	case <-time.After(20 * time.Second):
		t.Error("no answer within 20 s, though there is one")
	}
}

func progress(token string, i int) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":%s,"progress":%d}}`, token, i)
}

func TestProgressOfACallGoesToItsPostOrToNobody(t *testing.T) {
	s, do := play(t)
	get := do(http.MethodGet, "")
	call := func(id string) *http.Response {
		return do(http.MethodPost, fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"method":"x","params":{"_meta":{"progressToken":%s}}}`, id, id))
	}
	first, gone, last := call("1"), call("2"), call("3")
	gone.Body.Close()
	for i, token := range []string{"1", "2", `"1"`} {
		s.says <- progress(token, i)
	}
	s.says <- `{"jsonrpc":"2.0","id":2,"result":{}}`
	s.says <- `{"jsonrpc":"2.0","id":1,"result":{}}`
	s.says <- notification(7, "")
	if got := messages(t, first, 2); got[0] != progress("1", 0) || !strings.Contains(got[1], `"id":1`) {
		t.Errorf("the first call: got %q, want its progress and its answer", got)
	}
	// A token that is nobody's may be that of a task: the client knows.
	if got := messages(t, get, 2); got[0] != progress(`"1"`, 2) || got[1] != notification(7, "") {
		t.Errorf("the GET stream: got %q, want nothing of calls whose clients are gone", got)
	}
	s.says <- `{"jsonrpc":"2.0","id":3,"result":{}}`
	messages(t, last, 1)
}

func TestAFullStreamMakesTheServerWaitAndLosesNothing(t *testing.T) {
	s, do := play(t)
	answer := do(http.MethodPost, `{"jsonrpc":"2.0","id":1,"method":"x"}`)
	padding := strings.Repeat("x", maxQueued)
	for i := range 2 {
		s.says <- notification(i, padding)
	}
	select {
	case <-answer.Body.(*stream).full:
	case <-time.After(20 * time.Second):
		t.Fatal("the second message does not wait for somebody to read the first one")
	}
	for i, got := range messages(t, answer, 2) {
		if got != notification(i, padding) {
			t.Errorf("message %d: got %.80s", i, got)
		}
	}
}
