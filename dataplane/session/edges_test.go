package session

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
	"weak"

	"github.com/hashicorp/go-hclog"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/sessionid"
)

// owned is a session of a table whose authority the test has.
func owned(t *testing.T) (*Session, *wavering) {
	t.Helper()
	authority := &wavering{}
	authority.holds.Store(true)
	table, err := NewTable(Config{Max: 1, Logger: hclog.NewNullLogger(), Authority: authority, Records: &ledger{}, Upstream: mute{}})
	if err != nil {
		t.Fatal(err)
	}
	s := &Session{table: table, digest: sessionid.Digest{1}, epoch: 1, incarnation: 1, expires: time.Now().Add(time.Hour), slot: -1}
	s.up.Store(&upstreamSession{of: &config.Upstream{Name: "up"}, id: "1"})
	return s, authority
}

// standingOf is a GET stream of the session that is open.
func standingOf(s *Session) *standing {
	st := &standing{session: s, answer: &http.Response{Header: http.Header{}}, opened: make(chan struct{}), done: make(chan struct{}),
		exchange: &exchange{session: s, kind: aStanding, cancel: func(error) {}}, begun: true}
	st.changed = sync.NewCond(&st.mu)
	close(st.opened)
	return st
}

func (st *standing) deliverText(t *testing.T, text string) {
	t.Helper()
	event, err := mcp.NewEventReader(strings.NewReader(text), 0).Next()
	if err != nil || !st.deliver(event) {
		t.Fatalf("%q is not delivered", text)
	}
}

func TestAFencedWorkerWritesNothingThatWaitedForAListener(t *testing.T) {
	s, authority := owned(t)
	st := standingOf(s)
	l := s.attach(st, nil, 0)
	st.deliverText(t, "data: {}\n\n")
	st.over = true // so that the stream ends
	authority.holds.Store(false)
	w := httptest.NewRecorder()
	s.serveListener(t.Context(), w, st, l)
	if got := w.Body.String(); got != "" {
		t.Errorf("the client was sent %q, want nothing", got)
	}
}

func TestWhatIsKeptOfACallKeepsNoOtherCallInMemory(t *testing.T) {
	s, _ := owned(t)
	call := func() *exchange {
		x := &exchange{session: s, ids: [][]byte{{byte('0' + s.served%10)}}, cancel: func(error) {}}
		if s.begin(x) != admitted {
			t.Fatal("a call is refused")
		}
		return x
	}
	first := call()
	s.newEntry(first)
	var all []weak.Pointer[exchange]
	for before := first; len(all) < 5; {
		x := call() // while the one before is in flight
		s.finish(before)
		all, before = append(all, weak.Make(x)), x
	}
	runtime.GC()
	runtime.GC()
	for i, x := range all[:4] {
		if x.Value() != nil {
			t.Errorf("call %d, which is over, is in memory still", i)
		}
	}
	runtime.KeepAlive(s)
}

func TestAGETAtASessionThatIsLostMeanwhileGoesToTheNextOwner(t *testing.T) {
	s, authority := owned(t)
	s.dropped = true
	w := httptest.NewRecorder()
	if err := s.listen(t.Context(), w, &Request{Method: http.MethodGet, Header: http.Header{}}, cursor{}, nil); !errors.Is(err, ErrLost) {
		t.Errorf("dropped: got %v and HTTP %d, want ErrLost", err, w.Code)
	}
	s.dropped, s.closing = false, true
	authority.holds.Store(false)
	w = httptest.NewRecorder()
	if err := s.listen(t.Context(), w, &Request{Method: http.MethodGet, Header: http.Header{}}, cursor{}, nil); !errors.Is(err, ErrFenced) {
		t.Errorf("closed and fenced: got %v and HTTP %d, want ErrFenced", err, w.Code)
	}
}

func TestAClientThatIsGoneAtOnceEndsNoStreamThatWaitsForAnother(t *testing.T) {
	s, _ := owned(t)
	st := standingOf(s)
	l := s.attach(st, nil, 0)
	st.deliverText(t, "data: {}\n\n")
	st.detach(l, nil)
	defer st.closer.Stop()
	s.leaveStanding(st)
	if st.over {
		t.Error("the stream is over, want that it waits")
	}
}
