package session

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/leasehold/leasehold/dataplane/config"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// talking is an upstream whose GET streams the test writes, one after the other.
type talking struct{ streams []*io.PipeWriter }

func (u *talking) Do(ctx context.Context, d *Dispatch) (*http.Response, error) {
	body, stream := io.Pipe()
	context.AfterFunc(ctx, func() { body.CloseWithError(context.Cause(ctx)) })
	u.streams = append(u.streams, stream)
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"text/event-stream"}}, Body: body}, nil
}

func (*talking) Drop(*config.Upstream, string) {}

// say writes an event on the newest stream, and waits until the worker has it.
func (u *talking) say(t *testing.T, number int) {
	t.Helper()
	if _, err := fmt.Fprintf(u.streams[len(u.streams)-1], "data: %d\n\n", number); err != nil {
		t.Errorf("%d cannot be said: %v", number, err)
	}
	synctest.Wait()
}

// told returns the numbers that a client is told.
func told(st *standing, l *listener) (numbers string, over bool) {
	pending, over := st.take(l)
	for _, event := range pending {
		for line := range strings.Lines(string(event.raw)) {
			if data, ok := strings.CutPrefix(line, "data: "); ok {
				numbers += strings.TrimSpace(data)
			}
		}
	}
	return numbers, over
}

// TestWhatIsSaidWhileAHandOverIsRecordedIsNotLost is of an upstream without event ids:
// its stream ends last, and what comes on it goes to the next owner, or stays.
func TestWhatIsSaidWhileAHandOverIsRecordedIsNotLost(t *testing.T) {
	// take returns a session that was handed over here, whose client has come.
	take := func(t *testing.T, late []byte) (*Session, *talking, *standing, *listener) {
		table, _ := receiver(t)
		upstream := &talking{}
		table.cfg.Upstream = upstream
		e, err := table.Expect(1, "g", moved, 2)
		if err != nil {
			t.Fatal(err)
		}
		e.Complete(&leaseholdv1.HandOverState{Listening: true, Unnumbered: true})
		e.Late(late)
		if err := e.Granted(granted(2), 10); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		s, _ := table.Find(moved)
		st := s.standing
		return s, upstream, st, s.attach(st, nil, 0)
	}
	synctest.Test(t, func(t *testing.T) {
		s, upstream, st, client := take(t, nil)
		upstream.say(t, 1)
		if err := s.hold(t.Context(), 0, false); err != nil {
			t.Fatal(err)
		}
		_, state := s.endStreams(t.Context())
		if got, over := told(st, client); got != "1" || !over || !state.GetUnnumbered() {
			t.Fatalf("as it moves the client is told %q, over %v, unnumbered %v; want 1 and that it is over", got, over, state.GetUnnumbered())
		}
		upstream.say(t, 2) // while nobody knows whose it is
		late := s.leaveStream()
		if _, err := upstream.streams[0].Write([]byte("data: x\n\n")); err == nil || len(upstream.streams) != 1 {
			t.Errorf("%d streams, the first of which is open: %v; want that it is closed, and no other", len(upstream.streams), err)
		}

		_, there, next, back := take(t, late)
		there.say(t, 3)
		if got, _ := told(next, back); got != "23" {
			t.Errorf("the client that is back at the next owner is told %q, want 23", got)
		}
		next.cut()

		s.keepLate(late) // it stays
		s.release(state)
		synctest.Wait()
		upstream.say(t, 3)
		st = s.standing
		if got, _ := told(st, s.attach(st, nil, 0)); got != "23" {
			t.Errorf("the client that is back at the owner, which it still is, is told %q, want 23", got)
		}
		st.cut()
	})
}
