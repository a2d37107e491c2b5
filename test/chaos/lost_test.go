package chaos

import (
	"context"
	"fmt"
	"testing"
	"time"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
	"github.com/leasehold/leasehold/test/internal/ledger"
)

// upstreamSessions finds out which upstream session each member of a crew has,
// from the marks among some entries.
func upstreamSessions(c *crew, entries []ledger.Entry) map[*member]string {
	sessions, number := map[*member]string{}, 0
	for _, e := range entries {
		if _, err := fmt.Sscanf(e.Tag, c.name+":%d.", &number); err == nil && number < len(c.members) {
			sessions[c.members[number]] = e.Session
		}
	}
	return sessions
}

// wantLost checks that the control plane says of sessions that their upstream
// lost them.
func (w *world) wantLost(c *crew, members []*member) {
	w.t.Helper()
	w.eventually(10*time.Second, func(ctx context.Context) error {
		for _, m := range members {
			s, err := w.Session(ctx, c.gateway, m.session.ID)
			if err != nil {
				return err
			}
			if got, want := s.GetEnd().GetReason(), leaseholdv1.EndReason_END_REASON_UPSTREAM_LOST; got != want {
				return fmt.Errorf("session %d ended for %v, want %v", m.number, got, want)
			}
		}
		return nil
	})
}

func TestSessionThatTheUpstreamLostEndsOnce(t *testing.T) {
	const forgotten = 20
	w := start(t, usual)
	w.serve("forget", w.ledger.URL(), "", "")
	crew := enlist(t, "forget", w.Workers, crewSize)
	w.locate(crew)
	crew.together(crew.members, func(int) order { return order{} })()
	before, err := w.ledger.Take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	sessions := upstreamSessions(crew, before.Entries)
	lost := crew.members[:forgotten]
	crew.work(crew.members[forgotten:], pace)
	for _, m := range lost {
		if err := w.ledger.Forget(t.Context(), sessions[m]); err != nil {
			t.Fatal(err)
		}
	}
	first := crew.together(lost, func(int) order { return order{} })()
	again := crew.together(lost, func(int) order { return order{} })()
	w.wantLost(crew, lost)
	crew.rest()

	isLost := map[*member]bool{}
	for _, m := range lost {
		isLost[m] = true
	}
	w.want("after the upstream had lost the sessions", append(first, again...), gone)
	w.expect(crew.made(), func(c *call) bool { return isLost[c.member] && c.outcome == gone })
	w.idle()
	after, err := w.ledger.Report(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	asked := map[string]int{}
	for _, e := range after.Entries {
		if e.Status == 404 && e.HTTP == "POST" {
			asked[e.Session]++
		}
	}
	for m := range isLost {
		if n := asked[sessions[m]]; n != 1 {
			t.Errorf("the upstream was asked %d times for session %d that it had lost, want once", n, m.number)
		}
	}
	w.audit(crew, book{entries: before.Entries})
	w.leave(crew, func(m *member) bool { return isLost[m] })
}

func TestUpstreamThatRestartsEndsItsSessionsAndServesNewOnes(t *testing.T) {
	const sessions = 100
	w := start(t, usual)
	w.serve("restart", w.ledger.URL(), "", "")
	crew := enlist(t, "restart", w.Workers, sessions)
	w.locate(crew)
	crew.together(crew.members, func(int) order { return order{} })()
	before, err := w.ledger.Take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// What the upstream writes down from now on dies with it.
	lost := span{begin: time.Now()}
	crew.work(crew.members, pace)
	w.let(time.Second)
	killed := killProcess(w.upstream)
	w.let(time.Second)
	if w.upstream, err = w.RestartLedger(t.Context(), w.upstream); err != nil {
		t.Fatal(err)
	}
	back := time.Now()
	lost.end = back
	w.let(3 * time.Second)
	crew.rest()

	// Once the upstream is back, each session is told so, and told again at every
	// request; a list is the only thing that may be asked twice.
	w.expect(crew.made(), func(c *call) bool {
		switch {
		case c.end.Before(killed.begin):
			return false
		case c.outcome == gone:
			return c.end.After(back.Add(-grace))
		case c.outcome == failed:
			return true
		}
		return c.outcome == unknown && c.begin.Before(killed.end)
	})
	t.Logf("%v", tally(crew.made()))
	w.idle()
	after, err := w.ledger.Report(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	asked := map[string]int{}
	for _, e := range after.Entries {
		if e.HTTP == "POST" && e.Session != "" {
			asked[e.Session]++
		}
	}
	for session, n := range asked {
		if n > 2 {
			t.Errorf("the upstream that had restarted was asked %d times for session %s, which it does not know", n, session)
		}
	}
	w.wantLost(crew, crew.members)
	w.audit(crew, book{entries: before.Entries, lost: []span{lost}})
	fresh := enlist(t, "restart", w.Workers, sessions)
	w.expect(fresh.together(fresh.members, func(int) order { return order{} })(), nil)
	fresh.leave(nil)
	fresh.http.CloseIdleConnections()
	w.leave(crew, func(*member) bool { return true })
}
