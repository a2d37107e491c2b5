package etcd

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/leasehold/leasehold/controlplane/session"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func TestReclaim(t *testing.T) {
	tests := []struct {
		name   string
		before func(t *testing.T, s *Store, owner, taker alive, key session.Key, ask *session.Taker)
		want   error
	}{
		{"owner is dead", func(t *testing.T, s *Store, owner, _ alive, _ session.Key, _ *session.Taker) { owner.kill(t, s) }, nil},
		{"owner is alive", func(*testing.T, *Store, alive, alive, session.Key, *session.Taker) {}, session.ErrOwnerAlive},
		{"taker is dead", func(t *testing.T, s *Store, owner, taker alive, _ session.Key, _ *session.Taker) {
			owner.kill(t, s)
			taker.kill(t, s)
		}, session.ErrNotAlive},
		{"record changed", func(t *testing.T, s *Store, owner, _ alive, key session.Key, ask *session.Taker) {
			rec := owner.record()
			rec.ProtocolVersion = "another"
			if _, err := s.Save(testContext(t), key, ask.Revision, rec); err != nil {
				t.Fatal(err)
			}
			owner.kill(t, s)
		}, session.ErrStale},
		{"owner's incarnation changed", func(t *testing.T, s *Store, owner, _ alive, _ session.Key, _ *session.Taker) {
			if err := s.Leave(testContext(t), owner.id, owner.incarnation, owner.lease); err != nil {
				t.Fatal(err)
			}
		}, session.ErrStale},
		{"ended", func(t *testing.T, s *Store, owner, _ alive, key session.Key, _ *session.Taker) {
			mustEnd(t, s, owner, key)
		}, session.ErrEnded},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newStore(t)
			owner, taker, key := register(t, s), register(t, s), newSession()
			owner.claim(t, s, key)
			ask := taker.taker(resolve(t, s, key))
			tt.before(t, s, owner, taker, key, &ask)
			rec, revision, err := s.Reclaim(testContext(t), key, ask)
			if !errors.Is(err, tt.want) {
				t.Fatalf("reclaim: %v, want %v", err, tt.want)
			}
			if got := exists(t, s, condemnedKey(owner.id, owner.incarnation)); got != (tt.want == nil) {
				t.Errorf("owner is condemned: %v, want %v", got, tt.want == nil)
			}
			if tt.want != nil {
				return
			}
			if !session.OwnedBy(rec, taker.id, taker.incarnation) || rec.Epoch != 2 || string(rec.Upstreams[0].SealedSessionId) != "sealed" {
				t.Errorf("record %v, want the taker's with epoch 2 and the same upstream session", rec)
			}
			again, at, err := s.Reclaim(testContext(t), key, ask)
			if err != nil || at != revision || again.Epoch != 2 {
				t.Errorf("repeated: %v at %d, %v; want epoch 2 at %d", again, at, err, revision)
			}
		})
	}
}

func TestReclaimOfNoSession(t *testing.T) {
	s := newStore(t)
	w := register(t, s)
	_, _, err := s.Reclaim(testContext(t), newSession(), session.Taker{Worker: w.id, Incarnation: w.incarnation, Revision: 1})
	if !errors.Is(err, session.ErrNotFound) {
		t.Errorf("reclaim: %v, want ErrNotFound", err)
	}
}

// A worker that came back under a new incarnation takes its own sessions like
// any other.
func TestReclaimFromOwnEarlierIncarnation(t *testing.T) {
	s := newStore(t)
	w, key := register(t, s), newSession()
	w.claim(t, s, key)
	w.kill(t, s)
	incarnation, _, err := s.Register(testContext(t), w.id, someInfo)
	if err != nil {
		t.Fatal(err)
	}
	res := resolve(t, s, key)
	rec, _, err := s.Reclaim(testContext(t), key, session.Taker{Worker: w.id, Incarnation: incarnation, Revision: res.Revision, IncarnationRevision: res.IncarnationRevision})
	if err != nil || rec.Epoch != 2 || rec.Incarnation != incarnation {
		t.Errorf("reclaim: %v, %v; want epoch 2 under %d", rec, err, incarnation)
	}
}

// A replica may have looked a session up when the taker had it. It does not tell the
// taker that it still has it when another replica gave it away since.
func TestAReplicaThatIsBehindDoesNotTellAnOldOwnerThatItOwns(t *testing.T) {
	s, behind := newStore(t), newStore(t)
	old, taker, key := register(t, s), register(t, s), newSession()
	old.claim(t, s, key)
	old.kill(t, s)
	ask := old.taker(resolve(t, behind, key))
	if _, _, err := s.Reclaim(testContext(t), key, taker.taker(resolve(t, s, key))); err != nil {
		t.Fatal(err)
	}
	if rec, _, err := behind.Reclaim(testContext(t), key, ask); !errors.Is(err, session.ErrStale) {
		t.Errorf("reclaim by the old owner: %v, %v; want ErrStale", rec, err)
	}
}

func TestOfManyTakersExactlyOneWins(t *testing.T) {
	const takers = 20
	stores := []*Store{newStore(t), newStore(t)}
	owner, key := register(t, stores[0]), newSession()
	owner.claim(t, stores[0], key)
	owner.kill(t, stores[0])
	res := resolve(t, stores[0], key)
	workers := make([]alive, takers)
	for i := range workers {
		workers[i] = register(t, stores[0])
	}
	ctx := testContext(t)
	errs := make([]error, takers)
	var group sync.WaitGroup
	for i, w := range workers {
		group.Go(func() { _, _, errs[i] = stores[i%2].Reclaim(ctx, key, w.taker(res)) })
	}
	group.Wait()
	won := -1
	for i, err := range errs {
		switch {
		case err == nil && won >= 0:
			t.Errorf("takers %d and %d both won", won, i)
		case err == nil:
			won = i
		case !errors.Is(err, session.ErrStale):
			t.Errorf("taker %d: %v, want ErrStale", i, err)
		}
	}
	if won < 0 {
		t.Fatal("nobody won")
	}
	if rec := resolve(t, stores[1], key).Record; !session.OwnedBy(rec, workers[won].id, workers[won].incarnation) || rec.Epoch != 2 {
		t.Errorf("record %v, want taker %d's with epoch 2", rec, won)
	}
}

func TestResolveSaysWhetherTheOwnerIsAlive(t *testing.T) {
	s := newStore(t)
	w, key := register(t, s), newSession()
	if _, err := s.Resolve(testContext(t), key); !errors.Is(err, session.ErrNotFound) {
		t.Errorf("resolve of no session: %v, want ErrNotFound", err)
	}
	revision := w.claim(t, s, key)
	res := resolve(t, s, key)
	if !res.OwnerAlive || res.Owner.GetInfo().GetZone() != "here" || res.Revision != revision || res.IncarnationRevision != w.incarnation {
		t.Errorf("resolved %v, want a living owner at %d", res, revision)
	}
	w.kill(t, s)
	if res := resolve(t, s, key); res.OwnerAlive || res.Owner != nil || res.IncarnationRevision != w.incarnation {
		t.Errorf("resolved %v, want a dead owner", res)
	}
}

// The time that an owner was silent is asked of etcd only when somebody wants to
// know, is whole seconds rounded up, and is not said of the dead.
func TestResolveMeasuresAnOwnersSilenceWhenAsked(t *testing.T) {
	reg := prometheus.NewRegistry()
	s := openStore(t, ownServer(t), reg)
	w, key := register(t, s), newSession()
	w.claim(t, s, key)
	requestsOf := func(call func()) int {
		before := requests(t, reg, "resolve")
		call()
		return requests(t, reg, "resolve") - before
	}
	measured := func() (res *leaseholdv1.ResolveResponse) {
		var err error
		if res, err = s.ResolveAndMeasure(testContext(t), key); err != nil {
			t.Fatal(err)
		}
		return res
	}
	resolve(t, s, key) // from now on its owner is one that came up
	plain := requestsOf(func() {
		if res := resolve(t, s, key); res.OwnerSilence != nil {
			t.Errorf("silence %v although nobody asked", res.OwnerSilence)
		}
	})
	asked := requestsOf(func() {
		if got := measured().OwnerSilence.AsDuration(); got != time.Second {
			t.Errorf("silence of an owner that has just registered is %s, want 1s", got)
		}
	})
	if asked != plain+1 {
		t.Errorf("asked for the silence, resolving took %d requests, want one more than %d", asked, plain)
	}
	waitFor(t, func() bool { return measured().OwnerSilence.AsDuration() == 3*time.Second })
	if _, err := s.Renew(testContext(t), w.id, w.incarnation, w.lease); err != nil {
		t.Fatal(err)
	}
	if got := measured().OwnerSilence.AsDuration(); got != time.Second {
		t.Errorf("silence of an owner that has just renewed is %s, want 1s", got)
	}
	w.kill(t, s)
	dead := requestsOf(func() {
		if res := measured(); res.OwnerAlive || res.OwnerSilence != nil {
			t.Errorf("a dead owner is alive: %v, silence %v", res.OwnerAlive, res.OwnerSilence)
		}
	})
	if dead != plain {
		t.Errorf("resolving with a dead owner took %d requests, want %d", dead, plain)
	}
}

// interrupted runs something before one of the transactions.
type interrupted struct {
	clientv3.KV
	before int // counted from 1
	run    func()
}

func (i *interrupted) Txn(ctx context.Context) clientv3.Txn {
	if i.before--; i.before == 0 {
		i.run()
	}
	return i.KV.Txn(ctx)
}

// Between the read of the record and that of its owner the session may move: the
// answer is then the new owner's, and never the old record with another's life.
func TestResolveIsOneStateOfTheStore(t *testing.T) {
	s, slow := newStore(t), newStore(t)
	owner, taker, key := register(t, s), register(t, s), newSession()
	owner.claim(t, s, key)
	// Between the reading of the record and that of its owner, both change.
	slow.client.KV = &interrupted{KV: slow.client.KV, before: 2, run: func() {
		owner.kill(t, s)
		if _, _, err := s.Reclaim(testContext(t), key, taker.taker(resolve(t, s, key))); err != nil {
			t.Error(err)
		}
	}}
	res, err := slow.Resolve(testContext(t), key)
	if err != nil || res.Record.Worker != taker.id || !res.OwnerAlive || res.IncarnationRevision != taker.incarnation {
		t.Errorf("resolved %v, %v; want the taker, alive", res, err)
	}
}

// When a worker dies all of its sessions are asked for at once.
func TestReclaimsFromACondemnedIncarnationShareTransactions(t *testing.T) {
	const sessions = 200
	metrics := prometheus.NewRegistry()
	s := openStore(t, server, metrics)
	owner := register(t, s)
	takers := []alive{register(t, s), register(t, s)}
	keys := make([]session.Key, sessions)
	for i := range keys {
		keys[i] = newSession()
		owner.claim(t, s, keys[i])
	}
	owner.kill(t, s)
	requests := func() (n float64) {
		families, err := metrics.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				for _, l := range m.GetLabel() {
					if l.GetName() == "op" && (l.GetValue() == "resolve" || l.GetValue() == "reclaim" || strings.HasPrefix(l.GetValue(), "batch")) {
						n += m.GetCounter().GetValue()
					}
				}
			}
		}
		return n
	}
	before := requests()
	var group sync.WaitGroup
	for i, key := range keys {
		group.Go(func() {
			taker := takers[i%2]
			rec, _, err := s.Reclaim(testContext(t), key, taker.taker(resolve(t, s, key)))
			if err != nil || rec.Worker != taker.id || rec.Epoch != 2 {
				t.Errorf("reclaim: %v, %v", rec, err)
			}
		})
	}
	group.Wait()
	if asked := requests() - before; asked > 2*sessions {
		t.Errorf("%d sessions took %v requests, want at most %d: together", sessions, asked, 2*sessions)
	}
	for i, key := range keys {
		if res := resolve(t, s, key); res.Record.Worker != takers[i%2].id || !res.OwnerAlive {
			t.Errorf("owner: got %s, want %s", res.Record.Worker, takers[i%2].id)
		}
	}
	if _, err := s.Readopt(testContext(t), owner.id, owner.incarnation, &leaseholdv1.WorkerInfo{}); !errors.Is(err, session.ErrCondemned) {
		t.Errorf("re-adoption of the dead owner: got %v, want ErrCondemned", err)
	}
}

// What is left of an incarnation goes all at once, and only when it is over: a
// worker must not come back in between.
func TestCollectIncarnations(t *testing.T) {
	server := ownServer(t)
	s := openStore(t, server, nil)
	condemned, left, dead, living := register(t, s), register(t, s), register(t, s), register(t, s)
	key := newSession()
	condemned.claim(t, s, key)
	condemned.kill(t, s)
	dead.kill(t, s)
	if _, _, err := s.Reclaim(testContext(t), key, living.taker(resolve(t, s, key))); err != nil {
		t.Fatal(err)
	}
	if err := s.Leave(testContext(t), left.id, left.incarnation, left.lease); err != nil {
		t.Fatal(err)
	}
	check := func(name, key string, want bool) {
		t.Helper()
		if got := exists(t, s, key); got != want {
			t.Errorf("%s is there: %v, want %v", name, got, want)
		}
	}
	for _, late := range []bool{false, true} {
		now := time.Now().Add(48 * time.Hour)
		if late {
			now = time.Now().Add(50 * time.Hour)
		}
		if err := s.Collect(testContext(t), now); err != nil {
			t.Fatal(err)
		}
		check("condemned key", condemnedKey(condemned.id, condemned.incarnation), !late)
		check("condemned incarnation", incarnationKey(condemned.id), !late)
		check("incarnation that left", incarnationKey(left.id), !late)
		check("incarnation that died", incarnationKey(dead.id), true)
		check("living incarnation", incarnationKey(living.id), true)
	}
	if _, err := s.Readopt(testContext(t), condemned.id, condemned.incarnation, someInfo); !errors.Is(err, session.ErrCondemned) {
		t.Errorf("re-adopt after collection: %v, want ErrCondemned", err)
	}
	if _, err := s.Readopt(testContext(t), dead.id, dead.incarnation, someInfo); err != nil {
		t.Errorf("re-adopt of one that merely died: %v", err)
	}
}

func TestOneCollectorAtATime(t *testing.T) {
	server := ownServer(t)
	s := openStore(t, server, nil)
	if err := s.collectAlone(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if exists(t, s, collectorKey) {
		t.Error("the collector kept its key")
	}
	if _, err := s.client.Put(testContext(t), collectorKey, ""); err != nil {
		t.Fatal(err)
	}
	w, key := register(t, s), newSession()
	if _, err := s.End(testContext(t), key, session.End{Worker: w.id, Incarnation: w.incarnation, Time: time.Unix(1, 0)}); err != nil {
		t.Fatal(err)
	}
	if err := s.collectAlone(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if !exists(t, s, sessionKey(key)) {
		t.Error("collected although another replica was at it")
	}
}
