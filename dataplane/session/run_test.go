package session

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/leasehold/leasehold/dataplane/sessionid"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// wavering is an authority that comes and goes, under one incarnation.
type wavering struct{ holds atomic.Bool }

// Incarnation implements Authority.
func (*wavering) Incarnation() int64 { return 1 }

// Holds implements Authority.
func (a *wavering) Holds(int64) bool { return a.holds.Load() }
func (a *wavering) Await(int64) bool { return a.holds.Load() }

// ledger takes the ends of sessions while it is not away.
type ledger struct {
	Records
	away  atomic.Bool
	asked atomic.Int32
}

// End implements Records.
func (l *ledger) End(context.Context, *leaseholdv1.EndRequest) error {
	l.asked.Add(1)
	if l.away.Load() {
		return ErrUnavailable
	}
	return nil
}

// unreached is an upstream that nobody may speak to.
type unreached struct {
	Upstream
	t *testing.T
}

// Do implements Upstream.
func (u unreached) Do(context.Context, *Dispatch) (*http.Response, error) {
	u.t.Error("the upstream was asked")
	return nil, errors.New("not reached")
}

// The loop asks for the time in every round, of which an attempt takes a few. The
// clock stands still for a loop that does not sleep: what ends the test then is
// the bound on its rounds.
func TestALoopWithAnEndThatCannotBeCompletedSleepsBetweenItsAttempts(t *testing.T) {
	const long = time.Minute
	const most = 8 * int64(long/retryEnd)
	for name, c := range map[string]struct {
		holds, away bool
		close       leaseholdv1.EndReason // before the attempts; 0: the session is idle for too long
	}{
		"idle while fenced":                         {},
		"closed while fenced":                       {close: leaseholdv1.EndReason_END_REASON_TERMINATED},
		"closed while the control plane is away":    {holds: true, away: true, close: leaseholdv1.EndReason_END_REASON_UPSTREAM_LOST},
		"closed while fenced, its upstream is lost": {away: true, close: leaseholdv1.EndReason_END_REASON_UPSTREAM_LOST},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				authority, records := &wavering{}, &ledger{}
				authority.holds.Store(c.holds)
				records.away.Store(c.away)
				table, err := NewTable(Config{Max: 1, Logger: hclog.NewNullLogger(), Authority: authority, Records: records, Upstream: unreached{t: t}})
				if err != nil {
					t.Fatal(err)
				}
				ctx, stop := context.WithCancel(t.Context())
				defer stop()
				var rounds atomic.Int64
				table.now = func() time.Time {
					if rounds.Add(1) > 4*most {
						stop() // it spins
					}
					return time.Now()
				}
				s := &Session{digest: sessionid.Digest{1}, incarnation: 1, expires: time.Now().Add(time.Hour), slot: -1}
				if !table.reserve() || !table.insert(s, time.Second) {
					t.Fatal("the session has no place")
				}
				var group sync.WaitGroup
				group.Go(func() { table.Run(ctx) })
				if c.close != 0 {
					table.End(s.digest, c.close)
				}
				asleep := time.NewTimer(long)
				select {
				case <-asleep.C:
				case <-ctx.Done():
				}
				if got := rounds.Load(); got > most || got < int64(long/retryEnd)/2 {
					t.Errorf("the loop asked for the time %d times within %v, want at most %d, and attempts", got, long, most)
				}
				if table.Len() != 1 {
					t.Errorf("sessions: got %d, want the one that cannot end yet", table.Len())
				}
				stop()
				group.Wait()
			})
		})
	}
}
