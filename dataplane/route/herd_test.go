package route

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/session"
	"github.com/leasehold/leasehold/dataplane/sessionid"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// herdTTL is the workers' lease.
const herdTTL = 6 * time.Second

// records answers for a session that has ended, once its owner is dead.
type records struct {
	dead  atomic.Bool
	takes time.Duration // each answer
	asked atomic.Int32
}

func (r *records) Resolve(ctx context.Context, _, _ string, _ *leaseholdv1.Peer, _ bool) (*leaseholdv1.ResolveResponse, error) {
	r.asked.Add(1)
	select {
	case <-time.After(r.takes):
	case <-ctx.Done():
		return nil, session.ErrUnavailable
	}
	record := &leaseholdv1.SessionRecord{Worker: "owner", Incarnation: 1, Epoch: 1}
	if r.dead.Load() {
		record.End = &leaseholdv1.SessionEnd{}
	}
	return &leaseholdv1.ResolveResponse{Record: record, Revision: 1, OwnerAlive: !r.dead.Load()}, nil
}

func (r *records) Reclaim(context.Context, string, string, int64, *leaseholdv1.ResolveResponse) (*leaseholdv1.ReclaimResponse, error) {
	return nil, session.ErrRefused
}

// unreachable is a forwarder that reaches nobody.
type unreachable struct{ tried atomic.Int32 }

func (u *unreachable) Forward(context.Context, http.ResponseWriter, Target, *session.Request) error {
	u.tried.Add(1)
	return ErrNotSent
}

// always holds.
type always struct{}

func (always) Incarnation() int64 { return 1 }
func (always) Holds(int64) bool   { return true }
func (always) Await(int64) bool   { return true }
func (always) Power(int64) bool   { return true }

// newHerdRouter returns a router that knows a gateway and the owner of all
// sessions, which it cannot reach.
func newHerdRouter(t *testing.T, r *records, u *unreachable) *Router {
	t.Helper()
	world := &config.Holder{}
	world.Set(&config.Snapshot{Members: map[string]config.Member{"owner": {Worker: "owner", Incarnation: 1}}})
	table, err := session.NewTable(session.Config{Worker: "here", Max: 1, World: world.Load, Authority: always{}, Logger: hclog.NewNullLogger()})
	if err != nil {
		t.Fatal(err)
	}
	rt, err := New(Config{
		Worker: "here", Table: table, Forwarder: u, Records: r, Authority: always{}, World: world,
		TTL: func() time.Duration { return herdTTL }, Logger: hclog.NewNullLogger(),
		Away: func() bool { return false }, Draining: func() bool { return false },
	})
	if err != nil {
		t.Fatal(err)
	}
	return rt
}

func digest(i int) sessionid.Digest { return sessionid.Digest{byte(i), byte(i >> 8)} }

func TestThousandsThatWaitForADeathLeaveTheControlPlaneAloneUntilThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const requests = 3000
		r, u := &records{}, &unreachable{}
		rt := newHerdRouter(t, r, u)
		var group sync.WaitGroup
		codes := make([]int, requests)
		for i := range codes {
			group.Go(func() {
				w := httptest.NewRecorder()
				rt.Serve(t.Context(), w, &session.Request{Gateway: "g", Digest: digest(i), Method: http.MethodPost, Body: []byte(`{}`)},
					sessionid.Hint{Worker: "owner", Incarnation: 1})
				codes[i] = w.Code
			})
		}
		time.Sleep(herdTTL - time.Second)
		synctest.Wait()
		// The first few ask for themselves, and later now and then one for all.
		if got, most := int(r.asked.Load()), 2*few+int(herdTTL/askAgain); got > most {
			t.Errorf("%d requests asked %d questions, want at most %d", requests, got, most)
		}
		if got := int(u.tried.Load()); got < 2*requests {
			t.Errorf("the owner was tried %d times, want at least %d", got, 2*requests)
		}
		if got := rt.waiting.all; got != requests {
			t.Errorf("%d requests are counted as waiting, want %d", got, requests)
		}
		r.dead.Store(true)
		rt.cfg.World.Set(&config.Snapshot{})
		died := time.Now()
		group.Wait()
		if took := time.Since(died); took > 0 {
			t.Errorf("the last was answered %v after the death was told, want at once", took)
		}
		for i, got := range codes {
			if got != http.StatusNotFound {
				t.Fatalf("request %d: got status %d, want 404 for a session that is over", i, got)
			}
		}
	})
}

func TestAFewThatCannotReachAnOwnerAskAtOnceWhetherItIsStillTheOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &records{}
		r.dead.Store(true) // which this worker has not been told
		rt := newHerdRouter(t, r, &unreachable{})
		w, begin := httptest.NewRecorder(), time.Now()
		rt.Serve(t.Context(), w, &session.Request{Gateway: "g", Digest: digest(1), Method: http.MethodPost, Body: []byte(`{}`)},
			sessionid.Hint{Worker: "owner", Incarnation: 1})
		if took := time.Since(begin); w.Code != http.StatusNotFound || took > 0 {
			t.Errorf("got status %d after %v, want 404 at once", w.Code, took)
		}
	})
}

func TestSessionsAreTakenInTurnAndNoneIsGivenUpMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// The last have to wait for longer than a lease.
		const rounds = 5
		r := &records{takes: 2 * time.Second}
		r.dead.Store(true)
		rt := newHerdRouter(t, r, &unreachable{})
		var group sync.WaitGroup
		for i := range rounds * askTogether {
			group.Go(func() {
				if _, err := rt.take(t.Context(), "g", digest(i)); !errors.Is(err, session.ErrOver) {
					t.Errorf("session %d: got %v, want ErrOver", i, err)
				}
			})
		}
		begin := time.Now()
		group.Wait()
		if got, want := time.Since(begin), rounds*r.takes; got != want {
			t.Errorf("it took %v, want %v", got, want)
		}
		if got, want := int(r.asked.Load()), rounds*askTogether; got != want {
			t.Errorf("got %d questions for %d sessions, want one for each", got, want)
		}
	})
}

func TestAnAnswerOfTheControlPlaneIsGivenUpAfterALease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &records{takes: time.Hour}
		rt := newHerdRouter(t, r, &unreachable{})
		begin := time.Now()
		_, err := rt.take(t.Context(), "g", digest(1))
		if took := time.Since(begin); err == nil || took != herdTTL {
			t.Errorf("got %v after %v, want an error after %v", err, took, herdTTL)
		}
	})
}

func TestOneOfThoseWhoWaitAsksHowAWorkerIs(t *testing.T) {
	now := time.Unix(1000, 0)
	m := missed{now: func() time.Time { return now }, of: make(map[string]miss)}
	if m.doubtful("w", herdTTL) {
		t.Error("a worker that was not missed is doubtful")
	}
	m.note("w")
	asked := 0
	for range 50 { // for 5 s
		for range 3 {
			if m.doubtful("w", herdTTL) {
				asked++
			}
		}
		now = now.Add(askAgain)
	}
	// It takes 3 s until it is worth asking.
	if want := 20; asked != want {
		t.Errorf("got %d questions in 5 s, want %d", asked, want)
	}
	if !m.lasting("w", time.Second, herdTTL) || !m.doubtful("w", herdTTL) || !m.doubtful("w", herdTTL) {
		t.Error("the verdict that it is cut off is not for everybody")
	}
}
