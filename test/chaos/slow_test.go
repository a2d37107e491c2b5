package chaos

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"
)

// small is a world for what happens between clients, one or two workers and an
// upstream.
var small = plan{etcd: 1, controls: 1, workers: 2, ttl: 3 * time.Second}

// cancelsWithin is how long a client's wish that a call be cancelled may take to
// reach the upstream.
const cancelsWithin = time.Second

func TestSlowUpstreamHoldsUpNoOtherSessionAndHearsOfCancels(t *testing.T) {
	const slow, busy, brisk = 60, 60, 100 * time.Millisecond
	w := start(t, small)
	w.serve("slow", w.ledger.URL(), "", "")
	crew := enlist(t, "slow", w.Workers, slow+busy)
	w.locate(crew)
	others := crew.members[slow:]
	crew.work(others, brisk)
	w.let(3 * time.Second)

	began := time.Now()
	hanging := crew.together(crew.members[:slow], func(i int) order {
		return order{ms: 30_000, steps: 30 * (i % 2), at: w.Workers[i/2%2]}
	})
	w.running(slow)
	full := time.Now()
	w.let(3 * time.Second)
	asked := w.cancel(crew.members[:slow])
	calls := hanging()
	crew.rest()

	w.expect(crew.made(), nil)
	mine := func(c *call) bool { return c.member.number >= slow && c.ms == 0 }
	before := only(crew.made(), func(c *call) bool { return mine(c) && c.end.Before(began) })
	during := only(crew.made(), func(c *call) bool { return mine(c) && c.begin.After(full) && c.end.Before(asked[calls[0].member]) })
	quiet, loud := percentile(before, 0.99), percentile(during, 0.99)
	t.Logf("p99 of %d calls of others before: %v, of %d while %d calls hung: %v", len(before), quiet, len(during), slow, loud)
	if limit := quiet + quiet/10 + w.late(); loud > limit {
		t.Errorf("others' calls took %v at the 99th percentile while %d calls hung, want at most %v", loud, slow, limit)
	}
	w.none("cancelled calls were answered late", calls, func(c *call) bool { return c.end.Sub(asked[c.member]) > cancelsWithin+w.late() })
	w.checkCancels(calls, asked)
	w.audit(crew, book{})
	w.leave(crew, nil)
}

// cancel has members say that their newest call is cancelled, to the worker that
// does not own the session or to the one that does. It returns when each said so.
func (w *world) cancel(members []*member) map[*member]time.Time {
	w.t.Helper()
	asked, mu := map[*member]time.Time{}, sync.Mutex{}
	errs := side(len(members), len(members), func(i int) error {
		m := members[i]
		mu.Lock()
		asked[m] = time.Now()
		mu.Unlock()
		resp, err := m.session.Do(w.t.Context(), http.MethodPost, w.Workers[i%2].URL(m.crew.gateway),
			fmt.Appendf(nil, `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":%d}}`, m.seq.Load()))
		if err == nil && resp.Status != http.StatusAccepted {
			err = fmt.Errorf("status %d: %s", resp.Status, resp.Body)
		}
		return err
	})
	for _, err := range errs {
		w.t.Errorf("notifications/cancelled: %v", err)
	}
	return asked
}

// checkCancels checks that the upstream was told of each cancelled call once, in
// its own session, and in time.
func (w *world) checkCancels(calls []*call, asked map[*member]time.Time) {
	w.t.Helper()
	r, err := w.ledger.Report(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	sessions := map[string]*call{}
	for _, e := range r.Entries {
		for _, c := range calls {
			if e.Tag == c.tag {
				sessions[e.Session] = c
			}
		}
	}
	told := map[*call]time.Time{}
	for _, e := range r.Entries {
		if e.Method != "notifications/cancelled" {
			continue
		}
		c := sessions[e.Session]
		if c == nil || string(e.Cancels) != fmt.Sprint(c.id) || !told[c].IsZero() {
			w.t.Errorf("session %s was told that call %s is cancelled, want %v, once", e.Session, e.Cancels, c)
			continue
		}
		told[c] = e.Time
	}
	w.none("the upstream was told late, or never, that calls are cancelled", calls, func(c *call) bool {
		return told[c].IsZero() || told[c].Sub(asked[c.member]) > cancelsWithin+w.late()
	})
}

// none checks that none of some calls went wrong in a way that what says.
func (w *world) none(what string, calls []*call, bad func(*call) bool) {
	w.t.Helper()
	if found := only(calls, bad); len(found) > 0 {
		w.t.Errorf("%s: %d of %d, among them %v", what, len(found), len(calls), found[0])
	}
}

// unanswered is the response_timeout of gateways whose upstream falls silent.
const unanswered = 2 * time.Second

func TestUpstreamThatStopsWithinAnAnswerEndsTheCall(t *testing.T) {
	const hang = 50
	w := start(t, small)
	w.serve("stops", w.ledger.URL(), "response_timeout: 2s", "")
	crew := enlist(t, "stops", w.Workers, 2*hang)
	w.locate(crew)
	crew.work(crew.members[hang:], pace)
	calls := crew.together(crew.members[:hang], func(i int) order {
		return order{ms: 300, steps: 3, hang: true, at: w.Workers[i/2%2]}
	})()
	w.idle() // its streams are closed
	next := crew.together(crew.members[:hang], func(int) order { return order{} })()
	crew.rest()

	w.want("when the upstream stopped within the answer", calls, unknown)
	w.soon("when the upstream stopped within the answer", calls, unanswered+grace)
	w.none("ended before the upstream was silent for long", calls, func(c *call) bool { return c.took() < unanswered })
	w.expect(next, nil)
	w.expect(crew.made(), func(c *call) bool { return c.hang })
	w.eventually(10*time.Second, func(ctx context.Context) error {
		r, err := w.ledger.Report(ctx)
		told := map[string]bool{}
		for _, e := range r.Entries {
			if e.Method == "notifications/cancelled" {
				told[e.Session] = true
			}
		}
		if err == nil && len(told) != hang {
			err = fmt.Errorf("the upstream was told of %d calls that nobody waits for them, want %d", len(told), hang)
		}
		return err
	})
	w.audit(crew, book{})
	w.leave(crew, nil)
}

// A connection of which one end is gone without a word: nothing breaks, nothing
// comes.
func TestHalfOpenConnectionsToAnUpstreamEndTheirCalls(t *testing.T) {
	w := start(t, small)
	remote, _, err := w.StartLedger(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	address, err := w.links.add("workers", "far", remote.Base[len("http://"):])
	if err != nil {
		t.Fatal(err)
	}
	w.serve("near", w.ledger.URL(), "", "")
	w.serve("far", "http://"+address+"/mcp", "response_timeout: 2s", "")
	const calling = 40
	near, far := enlist(t, "near", w.Workers, crewSize), enlist(t, "far", w.Workers, calling)
	w.locate(near)
	w.locate(far)
	near.work(near.members, pace)
	far.together(far.members, func(int) order { return order{} })()
	inFlight := far.together(far.members[:calling/2], func(i int) order { return order{ms: 30_000, at: w.Workers[i/2%2]} })
	w.eventually(10*time.Second, func(ctx context.Context) error {
		r, err := remote.Summary(ctx)
		if err == nil && r.Running < calling/2 {
			err = fmt.Errorf("%d calls are under way", r.Running)
		}
		return err
	})
	link := w.links.of(t, "workers", "far")
	link.stall(t)
	stalled := time.Now()
	// These use connections that were there before, or new ones of which the other
	// end hears nothing.
	after := far.together(far.members[calling/2:], func(int) order { return order{} })()
	hung := inFlight()
	w.want("over half-open connections", append(hung, after...), unknown)
	w.none("over half-open connections, for too long", append(hung, after...), func(c *call) bool {
		return c.end.Sub(stalled) > unanswered+grace+w.late()
	})
	link.flow(t)
	w.expect(far.together(far.members, func(int) order { return order{} })(), nil)
	near.rest()
	w.expect(near.made(), nil)
	if got := percentile(near.made(), 0.99); got > unaffected {
		t.Errorf("calls to another upstream took %v at the 99th percentile, want at most %v", got, unaffected)
	}
	far.leave(nil)
	far.http.CloseIdleConnections()
	w.audit(near, book{})
	w.leave(near, nil)
}

// usesAnother is how long a worker may take to use another control plane when one
// is silent.
const usesAnother = 3 * time.Second

func TestHalfOpenConnectionsToAControlPlaneAreLeftInTime(t *testing.T) {
	p := small
	p.controls = 2
	p.between = func(_, to string) bool { return to == "control0" || to == "control1" }
	w := start(t, p)
	w.serve("half", w.ledger.URL(), "", "")
	crew := enlist(t, "half", w.Workers, crewSize/2)
	w.locate(crew)
	crew.work(crew.members, pace)
	fresh := enlist(t, "half", w.Workers, 1)
	for _, worker := range w.Workers {
		w.links.of(t, worker.Name, "control0").stall(t)
	}
	opener := w.openEvery(fresh, 100*time.Millisecond)
	// Longer than a lease: workers that could not renew would be fenced by now.
	w.let(p.ttl + 2*time.Second)
	opened := opener()
	crew.rest()
	w.expect(crew.made(), nil)
	w.want("sessions that were asked for since the silence began", opened, answered)
	w.soon("sessions that were asked for since the silence began", opened, usesAnother)
	t.Logf("%d sessions were opened since: p50 %v, max %v", len(opened), percentile(opened, 0.5), percentile(opened, 1))
	w.unmoved(crew)
	w.audit(crew, book{})
	fresh.leave(nil)
	fresh.http.CloseIdleConnections()
	w.leave(crew, nil)
}
