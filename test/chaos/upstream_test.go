package chaos

import (
	"strings"
	"testing"
	"time"

	"github.com/leasehold/leasehold/test/internal/cluster"
)

const (
	// connectLimit is how long a worker tries to connect to an upstream.
	connectLimit = 3 * time.Second
	// opensAfter is how many failures in a row open an upstream's circuit.
	opensAfter = 5
	// atOnce is how long an answer takes for which nobody tries to connect.
	atOnce = 500 * time.Millisecond
	// closesWithin is how soon an upstream that is back is used again.
	closesWithin = 15 * time.Second
)

// far is a world with a second upstream that can be cut off, behind a gateway of
// that name; near is the gateway of the other.
type far struct {
	*world
	link *link
	// address is where the workers reach the second upstream.
	address    string
	near, away *crew
}

func startFar(t *testing.T) *far {
	w := start(t, usual)
	remote, _, err := w.StartLedger(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	address, err := w.links.add("workers", "far", strings.TrimPrefix(remote.Base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	w.serve("near", w.ledger.URL(), "", "")
	w.serve("far", "http://"+address+"/mcp", "", "")
	f := &far{world: w, link: w.links.of(t, "workers", "far"), address: address}
	f.near, f.away = enlist(t, "near", w.Workers, crewSize), enlist(t, "far", w.Workers, 3*opensAfter)
	w.locate(f.near)
	w.locate(f.away)
	return f
}

// oneByOne has members whose sessions one worker owns call one after the other.
func (f *far) oneByOne(owner *cluster.Worker) []*call {
	var calls []*call
	for _, m := range f.away.ownedBy(owner) {
		calls = append(calls, m.do(f.t.Context(), order{}))
	}
	return calls
}

// checkFailed checks that calls failed with an error that names the upstream, and
// soon enough.
func (f *far) checkFailed(calls []*call, limit time.Duration) {
	f.t.Helper()
	f.want("while the upstream was away", calls, failed)
	f.soon("while the upstream was away", calls, limit)
	for _, c := range calls {
		if c.outcome == failed && !strings.Contains(c.err.Error(), `"upstream"`) {
			f.t.Errorf("while the upstream was away: %v; want an error that names it", c)
		}
	}
}

// checkBack waits until every session of the upstream is served again.
func (f *far) checkBack() {
	f.t.Helper()
	since, deadline := time.Now(), time.Now().Add(closesWithin)
	for _, m := range f.away.members {
		for {
			c := m.do(f.t.Context(), order{})
			if c.outcome == answered {
				break
			}
			if time.Now().After(deadline) {
				f.t.Fatalf("the upstream has been back for %v: %v", time.Since(since), c)
			}
			f.let(100 * time.Millisecond)
		}
	}
	f.t.Logf("all sessions were served %v after the upstream was back", time.Since(since).Round(time.Millisecond))
}

// finish checks that the other upstream's clients noticed nothing.
func (f *far) finish() {
	f.t.Helper()
	f.near.rest()
	f.expect(f.near.made(), nil)
	if got := percentile(f.near.made(), 0.99); got > unaffected {
		f.t.Errorf("calls to another upstream took %v at the 99th percentile, want at most %v", got, unaffected)
	}
	f.audit(f.near, book{})
	f.away.leave(nil)
	f.away.http.CloseIdleConnections()
	f.leave(f.near, nil)
}

func TestUpstreamThatRefusesIsNamed(t *testing.T) {
	f := startFar(t)
	f.near.work(f.near.members, pace)
	f.link.refuse()
	for _, w := range f.Workers {
		f.checkFailed(f.oneByOne(w), connectLimit)
	}
	f.link.accept(t)
	f.checkBack()
	f.finish()
}

func TestUpstreamThatIsUnreachableFailsAtOnceAfterAFewFailures(t *testing.T) {
	f := startFar(t)
	f.near.work(f.near.members, pace)
	f.link.refuse()
	closer := blackhole(t, f.address)
	owner := f.pick()
	first := f.oneByOne(owner)
	f.checkFailed(first, connectLimit+grace)
	next := f.oneByOne(owner)
	f.checkFailed(next, atOnce)
	t.Logf("the first %d failures took p50 %v, max %v; the next %d max %v", len(first), percentile(first, 0.5),
		percentile(first, 1), len(next), percentile(next, 1))
	if len(first) < opensAfter {
		t.Fatalf("%s owns %d sessions, want at least %d", owner.Name, len(first), opensAfter)
	}
	closer()
	f.link.accept(t)
	f.checkBack()
	f.finish()
}
