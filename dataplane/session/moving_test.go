package session

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/leasehold/leasehold/dataplane/config"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// hearing is an upstream that notes what it is told.
type hearing struct {
	mu     sync.Mutex // guards bodies
	bodies []string
}

func (h *hearing) Do(_ context.Context, d *Dispatch) (*http.Response, error) {
	if d.Gate != nil {
		if err := d.Gate.Pass(); err != nil {
			return nil, errors.Join(ErrNotSent, err)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.bodies = append(h.bodies, string(d.Body))
	return &http.Response{StatusCode: http.StatusAccepted, Body: http.NoBody}, nil
}

func (*hearing) Drop(*config.Upstream, string) {}

// refused returns how often the upstream was told that the client is gone.
func (h *hearing) refused(id string) (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, body := range h.bodies {
		if strings.Contains(body, `"id":`+id) && strings.Contains(body, "5041") {
			n++
		}
	}
	return n
}

// adopted returns a session that was handed over to this worker in a state.
func adopted(t *testing.T, state *leaseholdv1.HandOverState) (*Session, *hearing) {
	t.Helper()
	table, _ := receiver(t)
	upstream := &hearing{}
	table.cfg.Upstream = upstream
	e, err := table.Expect(1, "g", moved, 2)
	if err != nil {
		t.Fatal(err)
	}
	e.Complete(state)
	if err := e.Granted(granted(2), 10); err != nil {
		t.Fatal(err)
	}
	s, _ := table.Find(moved)
	return s, upstream
}

// TestWhatTheUpstreamAskedIsRefusedAtTheNextOwner is of a client that was gone before the
// session moved, and does not come back.
func TestWhatTheUpstreamAskedIsRefusedAtTheNextOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, upstream := adopted(t, &leaseholdv1.HandOverState{Asked: [][]byte{[]byte("7")}})
		time.Sleep(2 * wayBack)
		synctest.Wait()
		if n := upstream.refused("7"); n != 1 {
			t.Errorf("the upstream was told %d times that the client is gone, want 1", n)
		}
	})
}

func TestWhatTheUpstreamAskedIsNotForgottenInAHandOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, upstream := adopted(t, &leaseholdv1.HandOverState{})
		s.ask([]byte("7"), nil)
		if err := s.hold(t.Context(), 0, false); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * wayBack)
		synctest.Wait()
		if _, state := s.endStreams(t.Context()); len(state.GetAsked()) != 1 || upstream.refused("7") != 0 {
			t.Errorf("while it moves: asked %q, told %d times; want 7 to be passed on and nothing told", state.GetAsked(), upstream.refused("7"))
		}
		s.release(nil)
		time.Sleep(2 * wayBack)
		synctest.Wait()
		if n := upstream.refused("7"); n != 1 {
			t.Errorf("it stayed: the upstream was told %d times, want 1", n)
		}
	})
}

// TestAnUpstreamThatLostAMovingSessionIsFoundOutByTheNextOwner has an answer of the
// upstream come while the session has no certain owner.
func TestAnUpstreamThatLostAMovingSessionIsFoundOutByTheNextOwner(t *testing.T) {
	s, _ := adopted(t, &leaseholdv1.HandOverState{})
	if err := s.hold(t.Context(), 0, false); err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	if err := s.lostUpstream(t.Context(), w, &Request{Method: http.MethodPost}, s.up.Load()); err != errHanding || w.Body.Len() > 0 {
		t.Errorf("got %v and %q, want that the request waits for the outcome", err, w.Body)
	}
}

func TestASessionThatEndsIsNoReasonToDoubtItsReceiver(t *testing.T) {
	s, _ := adopted(t, &leaseholdv1.HandOverState{})
	s.close(leaseholdv1.EndReason_END_REASON_CLIENT)
	if err := s.table.HandOver(t.Context(), s, Receiver{}, 0, false); !errors.Is(err, ErrLost) {
		t.Errorf("got %v, want ErrLost", err)
	}
}

func TestANewUpstreamSessionIsNotAskedForWhatFollowsAnEventOfTheLostOne(t *testing.T) {
	s, _ := adopted(t, &leaseholdv1.HandOverState{})
	s.cursor = "e1"
	if !s.adoptRenewed(&upstreamSession{}, nil) || s.cursor != "" {
		t.Errorf("its stream goes on after %q, want from the beginning", s.cursor)
	}
}

func TestAnUpstreamSendsNothingByItselfForASessionThatMoves(t *testing.T) {
	s, _ := adopted(t, &leaseholdv1.HandOverState{})
	own := (*unasked)(s)
	if err := own.Pass(); err != nil {
		t.Errorf("while it is here: got %v, want that it may", err)
	}
	if err := s.hold(t.Context(), 0, false); err != nil {
		t.Fatal(err)
	}
	if err := own.Pass(); err != errHanding {
		t.Errorf("while it moves: got %v, want %v", err, errHanding)
	}
	s.table.give(s, &Moved{Worker: "w"})
	if err := own.Pass(); !errors.Is(err, ErrLost) {
		t.Errorf("afterwards: got %v, want %v", err, ErrLost)
	}
}
