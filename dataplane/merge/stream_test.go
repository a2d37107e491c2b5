package merge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/leasehold/leasehold/dataplane/catalogue"
	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/session"
)

// streamed is a server's answer to tools/call that a test writes.
type streamed struct {
	out  *queue
	got  string
	call chan struct{}
}

func newStreamed() *streamed {
	return &streamed{out: newQueue(func() {}), call: make(chan struct{}, 1)}
}

func (s *streamed) on(_ context.Context, d *session.Dispatch, m *mcp.Message) (*http.Response, error) {
	if m.Method != "tools/call" {
		return nil, nil
	}
	s.got = string(d.Body)
	s.call <- struct{}{}
	return answerEvents(s.out), nil
}

func (s *streamed) say(raw string) { s.out.add(func() []byte { return []byte(raw) }) }

// calling makes a call whose answer is a stream.
func (c *client) calling(id, tool string) *stream {
	c.t.Helper()
	answer, err := c.do(c.t.Context(), http.MethodPost, fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"method":"tools/call","params":{"name":%q,"_meta":{"progressToken":"tok"}}}`, id, tool))
	if err != nil {
		c.t.Fatal(err)
	}
	s := &stream{t: c.t, answer: answer}
	go s.read()
	c.t.Cleanup(func() { answer.Body.Close() })
	return s
}

func TestRequestsOfPartsHaveIdsThatNeverMeetAndMapBack(t *testing.T) {
	virtually(t, func(t *testing.T) {
		a, b := newServer("a", "x"), newServer("b", "y")
		sa, sb := newStreamed(), newStreamed()
		a.on, b.on = sa.on, sb.on
		c := newRig(t, a, b).open()
		c.names(catalogue.Tools)
		one, two := c.calling("1", "a_x"), c.calling("2", "b_y")
		const ask = `{"jsonrpc":"2.0","id":1,"method":"sampling/createMessage","params":{"_meta":{"progressToken":1},"x":1.0}}`
		sa.say("data: " + ask + "\n\n")
		sb.say("data: " + ask + "\n\n")
		sb.say(`data: {"jsonrpc":"2.0","id":"s\u00e9:\"1","method":"roots/list"}` + "\n\n")
		sb.say(`data: {"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"tok","progress":1}}` + "\n\n")
		wantSlice(t, "of a", one.messages(), []string{`{"jsonrpc":"2.0","id":"a:1","method":"sampling/createMessage","params":{"_meta":{"progressToken":"a:1"},"x":1.0}}`})
		wantSlice(t, "of b", two.messages(), []string{
			`{"jsonrpc":"2.0","id":"b:1","method":"sampling/createMessage","params":{"_meta":{"progressToken":"b:1"},"x":1.0}}`,
			`{"jsonrpc":"2.0","id":"b:\"s\\u00e9:\\\"1\"","method":"roots/list"}`,
			`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"tok","progress":1}}`,
		})
		var heard []string
		b.set(func() {
			b.on = func(_ context.Context, d *session.Dispatch, _ *mcp.Message) (*http.Response, error) {
				heard = append(heard, string(d.Body))
				return accepted(), nil
			}
		})
		before := len(a.ledger)
		c.post(`{"jsonrpc":"2.0","id":"b:1","result":{"role":"assistant"}}`)
		c.post(`{"jsonrpc":"2.0","id":"b:\"s\\u00e9:\\\"1\"","error":{"code":-1,"message":"no"}}`)
		c.post(`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"b:1","progress":2}}`)
		c.post(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":2}}`)
		c.post(`{"jsonrpc":"2.0","id":"nobody:1","result":{}}`)
		wantSlice(t, "b heard", heard, []string{
			`{"jsonrpc":"2.0","id":1,"result":{"role":"assistant"}}`,
			`{"jsonrpc":"2.0","id":"s\u00e9:\"1","error":{"code":-1,"message":"no"}}`,
			`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":2}}`,
			`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":2}}`,
		})
		if len(a.ledger) != before {
			t.Errorf("a heard of it too: %q", a.ledger[before:])
		}
	})
}

func TestEventsOfACallHaveIdsByWhichTheyGoOnAtTheirPart(t *testing.T) {
	virtually(t, func(t *testing.T) {
		a, b := newServer("a", "x"), newServer("b", "y")
		sb := newStreamed()
		b.on = sb.on
		c := newRig(t, a, b).open()
		c.names(catalogue.Tools)
		s := c.calling("1", "b_y")
		sb.say("id: e1\nretry: 500\ndata: \n\n")
		sb.say("id: e2\ndata: {\"jsonrpc\":\"2.0\",\"id\":5,\"method\":\"ping\"}\n\n")
		got := s.take()
		wantSlice(t, "events", got, []event{{"b/e1", ""}, {"b/e2", `{"jsonrpc":"2.0","id":"b:5","method":"ping"}`}})
		sb.out.end(io.EOF)
		synctest.Wait()
		if s.err != io.EOF {
			t.Errorf("a stream that can be gone on with ended with %v, want EOF", s.err)
		}
		wantSlice(t, "after the last event", s.take(), nil)
		again := c.listen("b/e2")
		for _, one := range b.sessions {
			if one.last != "e2" {
				t.Errorf("b was asked for what follows %q, want e2", one.last)
			}
		}
		b.numbered = true
		b.say(`{"jsonrpc":"2.0","id":1,"result":{}}`)
		wantSlice(t, "the rest", again.take(), []event{{"b/b-1", `{"jsonrpc":"2.0","id":1,"result":{}}`}})
		if a.heard("GET") != 0 {
			t.Error("a was asked too")
		}
	})
}

func TestACallWhoseStreamBreaksOffNamesItsUpstream(t *testing.T) {
	virtually(t, func(t *testing.T) {
		a, b := newServer("a", "x"), newServer("b", "y")
		sb := newStreamed()
		b.on = sb.on
		c := newRig(t, a, b).open()
		c.names(catalogue.Tools)
		s := c.calling("1", "b_y")
		sb.out.end(errors.New("connection reset"))
		got := s.messages()
		if len(got) != 1 || !strings.Contains(got[0], `"code":5040`) || !strings.Contains(got[0], `"upstream":"b"`) {
			t.Errorf("got %q, want that the outcome is unknown", got)
		}
	})
}

func TestStreamsOfPartsAreOneWithIdsFromWhichEachGoesOn(t *testing.T) {
	virtually(t, func(t *testing.T) {
		a, b, none := newServer("a", "x"), newServer("b", "y"), newServer("none")
		a.numbered, b.numbered, none.noStream = true, true, true
		c := newRig(t, a, b, none).open()
		s := c.listen("")
		const log = `{"jsonrpc":"2.0","method":"notifications/message","params":{"data":"d"}}`
		a.say(log)
		synctest.Wait()
		a.say(log)
		synctest.Wait()
		b.say(log)
		got := s.take()
		if len(got) != 3 || got[0].data != log || got[2].data != log {
			t.Fatalf("got %v, want three messages as they came", got)
		}
		at, ok := parseCursor(got[2].id)
		if !ok || at["a"].id != "a-2" || at["b"].id != "b-1" {
			t.Errorf("id %q: got %v, want where each part is", got[2].id, at)
		}
		s.answer.Body.Close()
		synctest.Wait()
		for _, one := range a.sessions {
			if one.stream.err == nil {
				t.Error("the part's stream goes on without the client's")
			}
		}
		c.listen(got[1].id)
		for _, srv := range []*server{a, b} {
			for _, one := range srv.sessions {
				if want := map[*server]string{a: "a-2", b: ""}[srv]; one.last != want {
					t.Errorf("%s goes on after %q, want %q", srv.name, one.last, want)
				}
			}
		}
		if none.heard("GET") != 1 {
			t.Errorf("a part without a stream was asked for one %d times, want once", none.heard("GET"))
		}
	})
}

func TestWithAPartThatGivesNoIdsNoEventHasOne(t *testing.T) {
	virtually(t, func(t *testing.T) {
		a, b := newServer("a"), newServer("b")
		a.numbered = true
		c := newRig(t, a, b).open()
		s := c.listen("")
		const log = `{"jsonrpc":"2.0","method":"notifications/message","params":{"data":"d"}}`
		b.say(log)
		synctest.Wait()
		a.say(log)
		wantSlice(t, "events", s.take(), []event{{"", log}, {"", log}})
		s.answer.Body.Close()
		synctest.Wait()
		s = c.listen("")
		a.say(log)
		wantSlice(t, "events of the next stream", s.take(), []event{{"", log}})
	})
}

func TestAnswersToRequestsOfOursAreNotPassedOnWhenAPartSendsThemAgain(t *testing.T) {
	virtually(t, func(t *testing.T) {
		a, b := newServer("a", "x"), newServer("b")
		c := newRig(t, a, b).open()
		s := c.listen("")
		answers := [...]string{
			`{"jsonrpc":"2.0","id":` + ownID() + `,"result":{}}`,
			`{"jsonrpc":"2.0","id":"leasehold-` + newID() + `-7","error":{"code":1,"message":"m"}}`, // another worker's
			`{"jsonrpc":"2.0","id":"leasehold-7","result":{}}`,
			`{"jsonrpc":"2.0","id":1,"result":{}}`,
		}
		for _, answer := range answers {
			a.say(answer)
			synctest.Wait()
		}
		wantSlice(t, "on the GET stream", s.messages(), answers[2:])
		s.answer.Body.Close()
		synctest.Wait()
		s = c.listen("a/e1")
		for _, answer := range answers {
			a.say(answer)
			synctest.Wait()
		}
		wantSlice(t, "on a stream that goes on", s.messages(), answers[2:])
	})
}

func TestAnIdThatWouldBeTooLongIsNotGiven(t *testing.T) {
	if got := formatCursor(map[string]position{"a": {"", strings.Repeat("x", 2*maxCursor)}}); got != "" {
		t.Errorf("got an id of %d bytes", len(got))
	}
}

func TestTheStreamOfAPartIsOpenedAgainWhereItEnded(t *testing.T) {
	virtually(t, func(t *testing.T) {
		a, b := newServer("a"), newServer("b")
		a.numbered = true
		c := newRig(t, a, b).open()
		s := c.listen("")
		const log = `{"jsonrpc":"2.0","method":"notifications/message","params":{"data":"d"}}`
		a.say(log)
		synctest.Wait()
		for _, one := range a.sessions {
			one.stream.end(io.EOF)
		}
		time.Sleep(listenAgain)
		synctest.Wait()
		for _, one := range a.sessions {
			if one.last != "a-1" {
				t.Errorf("it goes on after %q, want a-1", one.last)
			}
		}
		a.say(log)
		if got := s.take(); len(got) != 2 || b.heard("GET") != 1 {
			t.Errorf("got %d events and %d GETs at the other part, want 2 and 1", len(got), b.heard("GET"))
		}
	})
}

func TestPartsWaitForAClientThatReadsSlowly(t *testing.T) {
	virtually(t, func(t *testing.T) {
		a, b := newServer("a"), newServer("b")
		c := newRig(t, a, b).open()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		answer, err := c.do(ctx, http.MethodGet, "")
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		message := `{"jsonrpc":"2.0","method":"notifications/message","params":{"data":"` + strings.Repeat("x", 64<<10) + `"}}`
		for range 20 {
			a.say(message)
		}
		synctest.Wait()
		q := answer.Body.(*queue)
		q.mu.Lock()
		size := q.size
		q.mu.Unlock()
		if size > maxQueued+len(message)+100 {
			t.Errorf("%d bytes wait for the client, want at most %d and one event", size, maxQueued)
		}
		answer.Body.Close()
		synctest.Wait()
		for _, one := range a.sessions {
			one.stream.mu.Lock()
			if one.stream.err == nil {
				t.Error("the part's stream goes on without the client's")
			}
			one.stream.mu.Unlock()
		}
	})
}

func TestAChangeThatTheClientHasSeenIsNotTold(t *testing.T) {
	virtually(t, func(t *testing.T) {
		a, late := newServer("a", "x"), newServer("late", "y")
		late.dead = errDown
		c := newRig(t, a, late).open()
		c.names(catalogue.Tools)
		late.set(func() { late.dead = nil })
		time.Sleep(10 * time.Second)
		wantSlice(t, "tools", c.names(catalogue.Tools), []string{"a_x", "late_y"})
		wantSlice(t, "told of tools", toolChanges(c.listen("").messages()), nil)
	})
}

func TestAChangeThatNobodyListenedForIsToldOnTheNextStream(t *testing.T) {
	virtually(t, func(t *testing.T) {
		a, late := newServer("a", "x"), newServer("late", "y")
		late.dead = errDown
		r := newRig(t, a, late)
		c := r.open()
		c.names(catalogue.Tools)
		late.set(func() { late.dead = nil })
		time.Sleep(10 * time.Second)
		sa := newStreamed()
		a.set(func() { a.on = sa.on })
		s := c.calling("9", "a_x")
		sa.say(`data: {"jsonrpc":"2.0","id":9,"result":{}}` + "\n\n")
		got := s.messages()
		if len(got) < 2 || got[0] != changedTools || got[len(got)-1] != `{"jsonrpc":"2.0","id":9,"result":{}}` {
			t.Errorf("got %q, want the change before the answer", got)
		}
		wantSlice(t, "told again", c.listen("").messages(), nil)
	})
}
