package route

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/time/rate"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/session"
	"github.com/leasehold/leasehold/dataplane/sessionid"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// weak holds, with power at times.
type weak struct {
	always
	power atomic.Bool
}

func (w *weak) Power(incarnation int64) bool { return w.power.Load() && incarnation == 1 }

// book resolves to one answer, and grants every reclaim.
type book struct {
	resolved   *leaseholdv1.ResolveResponse
	resolveErr error
	openedBy   *leaseholdv1.Peer // of the last question
	reclaims   int
	reclaiming func() // before a reclaim is answered
}

func (b *book) Resolve(_ context.Context, _, _ string, openedBy *leaseholdv1.Peer, _ bool) (*leaseholdv1.ResolveResponse, error) {
	if openedBy != nil {
		b.openedBy = openedBy
	}
	return b.resolved, b.resolveErr
}

func (b *book) Reclaim(context.Context, string, string, int64, *leaseholdv1.ResolveResponse) (*leaseholdv1.ReclaimResponse, error) {
	b.reclaims++
	if b.reclaiming != nil {
		b.reclaiming()
	}
	return &leaseholdv1.ReclaimResponse{Record: recordOf("here", 1), Revision: 7}, nil
}

// recordOf returns the record of a session that can go on.
func recordOf(worker string, incarnation int64) *leaseholdv1.SessionRecord {
	return &leaseholdv1.SessionRecord{
		Worker: worker, Incarnation: incarnation, Epoch: 2, Class: leaseholdv1.Class_CLASS_RESUMABLE, PrincipalDigest: make([]byte, 32),
		Upstreams: []*leaseholdv1.UpstreamRecord{{Upstream: "u", ConnectionFingerprint: make([]byte, 16)}},
	}
}

// generous is a control plane and receivers that let every session be handed over.
type generous struct{ session.Records }

func (generous) HandOver(_ context.Context, r *leaseholdv1.HandOverRequest) (*leaseholdv1.HandOverResponse, error) {
	record := recordOf(r.GetTo().GetWorker(), r.GetTo().GetIncarnation())
	record.Epoch++
	return &leaseholdv1.HandOverResponse{Record: record, Revision: r.GetRevision() + 1}, nil
}

func (generous) Offer(context.Context, session.Receiver, string, sessionid.Digest, uint64) (session.Offered, error) {
	return generous{}, nil
}

func (generous) Send(context.Context, []*leaseholdv1.HandOverReplay, *leaseholdv1.HandOverState) error {
	return nil
}
func (generous) Grant(context.Context, *leaseholdv1.SessionRecord, int64, []byte) error { return nil }
func (generous) Withdraw()                                                              {}

// newTaker returns a router that can own one session.
func newTaker(t *testing.T, b *book, w *weak, f Forwarder) *Router {
	t.Helper()
	world := &config.Holder{}
	world.Set(&config.Snapshot{Gateways: map[string]*config.Gateway{"g": {ID: "g", IdleTimeout: time.Hour,
		Upstream: &config.Upstream{Name: "u", Reconnects: rate.NewLimiter(rate.Inf, 1)}}}})
	table, err := session.NewTable(session.Config{Worker: "here", Max: 1, World: world.Load, Authority: w, Logger: hclog.NewNullLogger(),
		Records: generous{}, Receivers: generous{}})
	if err != nil {
		t.Fatal(err)
	}
	rt, err := New(Config{
		Worker: "here", Table: table, Forwarder: f, Records: b, Authority: w, World: world,
		TTL: func() time.Duration { return herdTTL }, Logger: hclog.NewNullLogger(),
		Away: func() bool { return false }, Draining: func() bool { return false },
	})
	if err != nil {
		t.Fatal(err)
	}
	return rt
}

func TestASessionIsTakenWithPowerFromBeforeItIsAskedForUntilItIsGranted(t *testing.T) {
	handed := recordOf("here", 1)
	handed.Events = []*leaseholdv1.SessionEvent{{Type: leaseholdv1.SessionEventType_SESSION_EVENT_TYPE_HANDED_OVER, Epoch: 2}}
	before := recordOf("here", 1)
	before.Events = []*leaseholdv1.SessionEvent{{Type: leaseholdv1.SessionEventType_SESSION_EVENT_TYPE_HANDED_OVER, Epoch: 1}}
	dead, mine := recordOf("dead", 5), recordOf("here", 1)
	handedDead := recordOf("dead", 5)
	handedDead.Events = handed.Events
	for what, test := range map[string]struct {
		resolved *leaseholdv1.ResolveResponse
		power    bool
		lostAt   string // when the power is lost: "turn" or "answer"; empty if it is not
		reclaims int
		taken    bool
		stray    bool // it may be recorded as this worker's
	}{
		"with power":                               {resolved: &leaseholdv1.ResolveResponse{Record: dead}, power: true, reclaims: 1, taken: true},
		"without":                                  {resolved: &leaseholdv1.ResolveResponse{Record: dead}},
		"without, from one that was handed it":     {resolved: &leaseholdv1.ResolveResponse{Record: handedDead}},
		"without, from one that is superseded":     {resolved: &leaseholdv1.ResolveResponse{Record: dead, OwnerSuperseded: true}, reclaims: 1, taken: true},
		"lost while it waits":                      {resolved: &leaseholdv1.ResolveResponse{Record: dead}, power: true, lostAt: "turn"},
		"lost while it waits, superseded":          {resolved: &leaseholdv1.ResolveResponse{Record: dead, OwnerSuperseded: true}, power: true, lostAt: "turn", reclaims: 1, taken: true},
		"lost before the answer":                   {resolved: &leaseholdv1.ResolveResponse{Record: dead}, power: true, lostAt: "answer", reclaims: 1, stray: true},
		"lost before the answer, superseded":       {resolved: &leaseholdv1.ResolveResponse{Record: dead, OwnerSuperseded: true}, power: true, lostAt: "answer", reclaims: 1, taken: true},
		"recorded as this worker's":                {resolved: &leaseholdv1.ResolveResponse{Record: mine, OwnerAlive: true}, power: true, taken: true},
		"recorded as this worker's, without":       {resolved: &leaseholdv1.ResolveResponse{Record: mine, OwnerAlive: true}, stray: true},
		"handed over to this worker, without":      {resolved: &leaseholdv1.ResolveResponse{Record: handed, OwnerAlive: true}, taken: true},
		"handed over before it was taken, without": {resolved: &leaseholdv1.ResolveResponse{Record: before, OwnerAlive: true}, stray: true},
		"of a living owner, without or with power": {resolved: &leaseholdv1.ResolveResponse{Record: dead, OwnerAlive: true}, power: true},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &weak{}
				w.power.Store(test.power)
				b := &book{resolved: test.resolved}
				if test.lostAt == "answer" {
					b.reclaiming = func() { w.power.Store(false) }
				}
				rt := newTaker(t, b, w, &unreachable{})
				if test.lostAt == "turn" {
					time.AfterFunc(mourning/2, func() { w.power.Store(false) })
				}
				s, err := rt.take(t.Context(), "g", digest(1))
				if (err == nil) != test.taken || (s != nil) != test.taken || b.reclaims != test.reclaims {
					t.Errorf("got %v after %d reclaims, want it taken: %v, after %d", err, b.reclaims, test.taken, test.reclaims)
				}
				if got := errors.Is(err, errStray); got != test.stray || len(rt.strays.all()) > 0 != test.stray {
					t.Errorf("got %v and strays %v, want it to be looked for again: %v", err, rt.strays.all(), test.stray)
				}
				if !test.taken {
					if err := rt.cfg.Table.Reserve(digest(2)); err != nil {
						t.Errorf("the place was not given back: %v", err)
					}
				}
			})
		})
	}
}

func TestASessionThatWasGrantedWithoutPowerIsTakenOnceThereIsSome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &weak{}
		w.power.Store(true)
		b := &book{resolved: &leaseholdv1.ResolveResponse{Record: recordOf("dead", 5)}, reclaiming: func() { w.power.Store(false) }}
		rt := newTaker(t, b, w, &unreachable{})
		if _, err := rt.take(t.Context(), "g", digest(1)); !errors.Is(err, errPowerless) {
			t.Errorf("got %v, want errPowerless", err)
		}
		b.resolved = &leaseholdv1.ResolveResponse{Record: recordOf("here", 1), OwnerAlive: true}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			rt.Run(ctx)
		}()
		time.Sleep(10 * strayAgain)
		if _, ok := rt.Find(digest(1)); ok {
			t.Error("it was taken up without power")
		}
		w.power.Store(true)
		time.Sleep(2 * strayAgain)
		if _, ok := rt.Find(digest(1)); !ok || b.reclaims != 1 {
			t.Errorf("with power again: taken up %v, %d reclaims; want it after 1", ok, b.reclaims)
		}
		cancel()
		<-done
	})
}

// seen is a forwarder that notes where to it forwards, and answers.
type seen struct{ targets []Target }

func (s *seen) Forward(_ context.Context, w http.ResponseWriter, target Target, _ *session.Request) error {
	s.targets = append(s.targets, target)
	w.WriteHeader(http.StatusOK)
	return nil
}

func TestARequestWhoseOwnerIsUncertainIsPutOffAndNeverDenied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &book{resolveErr: session.ErrUncertain}
		rt := newTaker(t, b, &weak{}, &unreachable{})
		w, began := httptest.NewRecorder(), time.Now()
		hint := sessionid.Hint{Worker: "gone", Incarnation: 4}
		rt.Serve(t.Context(), w, &session.Request{Gateway: "g", Digest: digest(1), Method: http.MethodPost, Body: []byte(`{}`)}, hint)
		if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
			t.Errorf("got %d with Retry-After %q, want 503 with one", w.Code, w.Header().Get("Retry-After"))
		}
		if waited := time.Since(began); waited < herdTTL || waited > rt.limit() {
			t.Errorf("answered after %v, want it to wait as for a death", waited)
		}
		if b.openedBy.GetWorker() != hint.Worker || b.openedBy.GetIncarnation() != hint.Incarnation {
			t.Errorf("asked for a session of %v, want what its id says: %v", b.openedBy, hint)
		}
	})
}

func TestASessionWithoutARecordIsAskedForAtTheLivingWorkerThatOpenedIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		owner := &leaseholdv1.Member{Worker: "opener", Incarnation: 4, Info: &leaseholdv1.WorkerInfo{PeerAddress: "10.0.0.1:1"}}
		f := &seen{}
		rt := newTaker(t, &book{resolved: &leaseholdv1.ResolveResponse{OwnerAlive: true, Owner: owner}}, &weak{}, f)
		w := httptest.NewRecorder()
		// It is no member as far as this worker knows.
		rt.Serve(t.Context(), w, &session.Request{Gateway: "g", Digest: digest(1), Method: http.MethodPost, Body: []byte(`{}`)},
			sessionid.Hint{Worker: "opener", Incarnation: 4})
		want := Target{Worker: "opener", Incarnation: 4, Epoch: 1, Address: "10.0.0.1:1", Patience: patience}
		if w.Code != http.StatusOK || len(f.targets) != 1 || f.targets[0] != want {
			t.Errorf("got %d, forwarded to %v; want 200 of %v", w.Code, f.targets, want)
		}
	})
}

// TestAWinnerThatFindsNoRecordDoesNotSayThatTheSessionIsOver is of a session that its
// owner, whose lease is gone for the moment, has not recorded yet.
func TestAWinnerThatFindsNoRecordDoesNotSayThatTheSessionIsOver(t *testing.T) {
	rt := newTaker(t, &book{resolveErr: session.ErrNoRecord}, &weak{}, &unreachable{})
	for epoch, want := range map[uint64]Refusal{0: NotOwner, 1: Over, 2: NotOwner} { // 1: it was opened here
		_, err := rt.Admit(t.Context(), Target{Worker: "here", Incarnation: 1, Epoch: epoch}, &session.Request{Gateway: "g", Digest: digest(1), Method: http.MethodPost})
		if !refusedAs(err, want) {
			t.Errorf("epoch %d: got %v, want %v", epoch, err, want)
		}
	}
}

// TestWhatIsKnownOfALaterOwnerCounts has a session go from here to b, as epoch 3, and
// on as epoch 4.
func TestWhatIsKnownOfALaterOwnerCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &weak{}
		w.power.Store(true)
		b := &book{resolved: &leaseholdv1.ResolveResponse{Record: recordOf("dead", 5)}}
		rt := newTaker(t, b, w, &unreachable{})
		world := *rt.cfg.World.Load()
		world.Members = map[string]config.Member{"b": {Worker: "b", Incarnation: 8}, "c": {Worker: "c", Incarnation: 9}}
		rt.cfg.World.Set(&world)
		s, err := rt.take(t.Context(), "g", digest(1))
		if err != nil {
			t.Fatal(err)
		}
		if err := rt.cfg.Table.HandOver(t.Context(), s, session.Receiver{Worker: "b", Incarnation: 8}, 0, false); err != nil {
			t.Fatal(err)
		}
		if target, ok := rt.believed(digest(1), sessionid.Hint{}); !ok || target.Worker != "b" {
			t.Errorf("the owner is believed to be %v, want b", target)
		}
		rt.owners.Add(digest(1), Target{Worker: "c", Incarnation: 9, Epoch: 4})
		if target, ok := rt.believed(digest(1), sessionid.Hint{}); !ok || target.Worker != "c" {
			t.Errorf("the owner is believed to be %v, want c, which b named", target)
		}
		// It was handed back, and the grant was lost.
		back := recordOf("here", 1)
		back.Epoch, back.Events = 4, []*leaseholdv1.SessionEvent{{Type: leaseholdv1.SessionEventType_SESSION_EVENT_TYPE_HANDED_OVER, Epoch: 4}}
		b.resolved = &leaseholdv1.ResolveResponse{Record: back, OwnerAlive: true}
		request := &session.Request{Gateway: "g", Digest: digest(1), Method: http.MethodPost}
		if _, err := rt.Admit(t.Context(), Target{Worker: "here", Incarnation: 1, Epoch: 3}, request); !refusedAs(err, NotOwner) {
			t.Errorf("a request for epoch 3: got %v, want that b has it", err)
		}
		if _, err := rt.Admit(t.Context(), Target{Worker: "here", Incarnation: 1, Epoch: 4}, request); err != nil {
			t.Errorf("a request for epoch 4: got %v, want the session", err)
		}
	})
}

// passing is a worker b that has handed a session over to c, which serves it.
type passing struct{ targets []string }

func (p *passing) Forward(_ context.Context, w http.ResponseWriter, target Target, _ *session.Request) error {
	p.targets = append(p.targets, target.Worker)
	if target.Worker == "b" {
		return fmt.Errorf("%w: %w: %w", ErrRefused, NotOwner, &session.Moved{Worker: "c", Incarnation: 9, Epoch: 3})
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

func TestTheOwnerThatAFormerOneNamedIsRemembered(t *testing.T) {
	f := &passing{}
	owner := &leaseholdv1.Member{Worker: "b", Incarnation: 8}
	rt := newTaker(t, &book{resolved: &leaseholdv1.ResolveResponse{Record: recordOf("b", 8), OwnerAlive: true, Owner: owner}}, &weak{}, f)
	world := *rt.cfg.World.Load()
	world.Members = map[string]config.Member{"b": {Worker: "b", Incarnation: 8}, "c": {Worker: "c", Incarnation: 9}}
	rt.cfg.World.Set(&world)
	for range 2 {
		rt.Serve(t.Context(), httptest.NewRecorder(), &session.Request{Gateway: "g", Digest: digest(1), Method: http.MethodPost, Body: []byte(`{}`)}, sessionid.Hint{})
	}
	if want := []string{"b", "c", "c"}; !slices.Equal(f.targets, want) {
		t.Errorf("two requests went to %v, want %v", f.targets, want)
	}
}
