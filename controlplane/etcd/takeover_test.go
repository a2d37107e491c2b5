package etcd

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/leasehold/leasehold/controlplane/session"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// testOutage is for how long workers may serve on in tests of that.
const testOutage = 10 * time.Minute

// replica is a store with a clock that the test advances.
type replica struct {
	*Store
	clock *clock
}

// openReplica opens a store whose workers may serve on for testOutage.
func openReplica(t testing.TB, server *Server, cfg ClientConfig) *replica {
	t.Helper()
	cfg.Endpoints, cfg.LeaseTTL, cfg.MaxOutage = server.Endpoints(), testTTL, testOutage
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	c := &clock{}
	s.contact.now, s.now, s.muted = c.now, c.now, 0
	runStore(t, s)
	return &replica{s, c}
}

// newReplica opens one on the shared server that does not hold.
func newReplica(t testing.TB) *replica {
	return openReplica(t, server, ClientConfig{Hold: unheld})
}

// pass lets time pass in which etcd answers now and then.
func (r *replica) pass(d time.Duration) {
	for ; d > 0; d -= testTTL / 2 {
		r.clock.advance(min(d, testTTL/2))
		r.contact.heard()
	}
}

// seeDeaths marks all who are dead, and notes it.
func (r *replica) seeDeaths(t testing.TB) {
	t.Helper()
	if err := r.deaths.look(testContext(t), nil, nil); err != nil {
		t.Fatal(err)
	}
}

// knows records that w knows the others.
func (w alive) knows(t testing.TB, s *Store, others ...alive) {
	t.Helper()
	peers := make([]session.Peer, len(others))
	for i, o := range others {
		peers[i] = o.key()
	}
	if _, err := s.RecordPeers(testContext(t), w.key(), 0, peers, nil); err != nil {
		t.Fatalf("record peers: %v", err)
	}
}

func (w alive) leave(t testing.TB, s *Store) {
	t.Helper()
	if err := s.Leave(testContext(t), w.id, w.incarnation, w.lease); err != nil {
		t.Fatalf("leave: %v", err)
	}
}

// again registers the worker anew.
func (w alive) again(t testing.TB, s *Store) alive {
	t.Helper()
	incarnation, lease, err := s.Register(testContext(t), w.id, someInfo)
	if err != nil {
		t.Fatalf("register again: %v", err)
	}
	return alive{id: w.id, incarnation: incarnation, lease: lease.ID}
}

func (w alive) readopt(t testing.TB, s *Store) alive {
	t.Helper()
	lease, err := s.Readopt(testContext(t), w.id, w.incarnation, someInfo)
	if err != nil {
		t.Fatalf("re-adopt: %v", err)
	}
	w.lease = lease.ID
	return w
}

// scene is a dead owner of a session, which knew one other worker, and a taker that it
// did not know.
type scene struct {
	r                   *replica
	owner, known, taker alive
	key                 session.Key
	ask                 session.Taker // as the taker resolved last
}

func (sc *scene) resolve(t testing.TB) {
	sc.ask = sc.taker.taker(resolve(t, sc.r.Store, sc.key))
}

func TestWhoMayReclaimFromADeadOwner(t *testing.T) {
	tests := []struct {
		name   string
		before func(t *testing.T, sc *scene)
		want   error
	}{
		{"one that it does not know may not", func(*testing.T, *scene) {}, session.ErrOwnerUncertain},
		{"one that it knows may", func(t *testing.T, sc *scene) {
			sc.taker = sc.known
			sc.resolve(t)
		}, nil},
		{"a later incarnation of one that it knows", func(t *testing.T, sc *scene) {
			sc.taker = sc.known.again(t, sc.r.Store)
			sc.resolve(t)
		}, nil}, // since the one that it knows is superseded
		{"one that it knows may not without power", func(t *testing.T, sc *scene) {
			sc.taker = sc.known
			sc.resolve(t)
			sc.ask.SupersededOnly = true
		}, session.ErrOwnerUncertain},
		{"whom it knows is dead", func(t *testing.T, sc *scene) { sc.known.kill(t, sc.r.Store) }, session.ErrOwnerUncertain},
		{"whom it knows left", func(t *testing.T, sc *scene) { sc.known.leave(t, sc.r.Store) }, nil},
		{"whom it knows was forgotten", func(t *testing.T, sc *scene) {
			sc.known.kill(t, sc.r.Store)
			if err := sc.r.Forget(testContext(t), sc.known.id); err != nil {
				t.Fatal(err)
			}
		}, nil},
		{"whom it knows was collected", func(t *testing.T, sc *scene) {
			sc.known.kill(t, sc.r.Store)
			if _, err := sc.r.client.Delete(testContext(t), incarnationKey(sc.known.id)); err != nil {
				t.Fatal(err)
			}
		}, session.ErrOwnerUncertain}, // it was condemned, and may answer without knowing it
		{"it left", func(t *testing.T, sc *scene) {
			sc.owner.leave(t, sc.r.Store)
			sc.resolve(t)
			sc.ask.SupersededOnly = true
		}, nil},
		{"it was forgotten", func(t *testing.T, sc *scene) {
			if err := sc.r.Forget(testContext(t), sc.owner.id); err != nil {
				t.Fatal(err)
			}
			sc.resolve(t)
			sc.ask.SupersededOnly = true
		}, nil},
		{"it was forgotten since", func(t *testing.T, sc *scene) {
			if err := sc.r.Forget(testContext(t), sc.owner.id); err != nil {
				t.Fatal(err)
			}
		}, session.ErrStale},
		{"it registered anew", func(t *testing.T, sc *scene) {
			sc.owner.again(t, sc.r.Store)
			sc.resolve(t)
			sc.ask.SupersededOnly = true
		}, nil},
		{"it was collected", func(t *testing.T, sc *scene) {
			if _, err := sc.r.client.Delete(testContext(t), incarnationKey(sc.owner.id)); err != nil {
				t.Fatal(err)
			}
			sc.resolve(t)
			sc.ask.SupersededOnly = true
		}, nil},
		{"it may still serve on", func(t *testing.T, sc *scene) {
			sc.r.seeDeaths(t)
			sc.r.pass(session.ServesOn(testOutage, testTTL))
		}, session.ErrOwnerUncertain},
		{"it cannot serve on any more", func(t *testing.T, sc *scene) {
			sc.r.seeDeaths(t)
			sc.r.pass(session.ServesOn(testOutage, testTTL) + 1)
		}, nil},
		{"it cannot, and the taker has no power", func(t *testing.T, sc *scene) {
			sc.r.seeDeaths(t)
			sc.r.pass(session.ServesOn(testOutage, testTTL) + 1)
			sc.ask.SupersededOnly = true
		}, session.ErrOwnerUncertain},
		{"it was back meanwhile, which this replica missed", func(t *testing.T, sc *scene) {
			sc.r.seeDeaths(t)
			sc.owner.readopt(t, sc.r.Store).kill(t, sc.r.Store)
			if _, err := sc.r.markDead(testContext(t), sc.owner.key(), time.Now()); err != nil {
				t.Fatal(err)
			}
			sc.resolve(t)
			sc.r.pass(session.ServesOn(testOutage, testTTL) + 1)
		}, session.ErrOwnerUncertain},
		{"etcd was lost meanwhile", func(t *testing.T, sc *scene) {
			sc.r.seeDeaths(t)
			sc.r.pass(testOutage)
			sc.r.clock.advance(testTTL + 1)
			sc.r.pass(testOutage)
		}, session.ErrOwnerUncertain},
	}
	for _, tt := range tests {
		for _, path := range []string{"first", "together"} {
			t.Run(tt.name+", "+path, func(t *testing.T) {
				r := newReplica(t)
				sc := &scene{r: r, owner: register(t, r.Store), known: register(t, r.Store), taker: register(t, r.Store), key: newSession()}
				sc.owner.knows(t, r.Store, sc.known)
				sc.owner.claim(t, r.Store, sc.key)
				if path == "together" { // somebody took another session of it before
					other := newSession()
					sc.owner.claim(t, r.Store, other)
					sc.owner.kill(t, r.Store)
					if tt.name != "it was back meanwhile, which this replica missed" {
						if _, _, err := r.Reclaim(testContext(t), other, sc.known.taker(resolve(t, r.Store, other))); err != nil {
							t.Fatal(err)
						}
					}
				} else {
					sc.owner.kill(t, r.Store)
				}
				sc.resolve(t)
				tt.before(t, sc)
				rec, _, err := r.Reclaim(testContext(t), sc.key, sc.ask)
				if !errors.Is(err, tt.want) {
					t.Fatalf("reclaim: %v, %v; want %v", rec, err, tt.want)
				}
				if took := resolve(t, r.Store, sc.key).Record.Epoch == 2; took != (tt.want == nil) {
					t.Errorf("it was taken: %v, want %v", took, tt.want == nil)
				}
			})
		}
	}
}

// TestAWordCountsForAsLongAsAPermitLasts has a worker leave that the owner knows: a moment
// before, it may have said that it takes nothing over.
func TestAWordCountsForAsLongAsAPermitLasts(t *testing.T) {
	r := newReplica(t)
	r.muted = session.PermitLasts(testTTL)
	owner, known, taker, key := register(t, r.Store), register(t, r.Store), register(t, r.Store), newSession()
	owner.knows(t, r.Store, known)
	owner.claim(t, r.Store, key)
	owner.kill(t, r.Store)
	known.leave(t, r.Store)
	ask := taker.taker(resolve(t, r.Store, key))
	reclaim := func(when string, want error) {
		t.Helper()
		if _, _, err := r.Reclaim(testContext(t), key, ask); !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", when, err, want)
		}
	}
	reclaim("when it was seen to have left", session.ErrOwnerUncertain)
	r.pass(session.PermitLasts(testTTL) - 1)
	reclaim("just before its word counts no more", session.ErrOwnerUncertain)
	r.pass(askPeersEvery)
	reclaim("then", nil)
}

// A worker that knows nobody does not serve on; where nobody does, nobody has to be
// asked.
func TestAnybodyMayTakeFromOneThatDoesNotServeOn(t *testing.T) {
	r, off := newReplica(t), newStore(t)
	for _, tt := range []struct {
		name string
		s    *Store
		list bool
	}{{"it knows nobody", r.Store, false}, {"nobody serves on", off, true}} {
		owner, taker, key := register(t, r.Store), register(t, r.Store), newSession()
		if tt.list {
			owner.knows(t, r.Store, register(t, r.Store))
		}
		owner.claim(t, r.Store, key)
		owner.kill(t, r.Store)
		if _, _, err := tt.s.Reclaim(testContext(t), key, taker.taker(resolve(t, tt.s, key))); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// H3, and the list that a reclaim rests on: between the look-up and the reclaim the owner
// came to know somebody.
func TestAListThatChangedMakesAReclaimStale(t *testing.T) {
	r := newReplica(t)
	owner, known, taker, key := register(t, r.Store), register(t, r.Store), register(t, r.Store), newSession()
	owner.claim(t, r.Store, key)
	alone := taker.taker(resolve(t, r.Store, key))
	owner.knows(t, r.Store, known)
	owner.kill(t, r.Store)
	if _, _, err := r.Reclaim(testContext(t), key, alone); !errors.Is(err, session.ErrStale) {
		t.Errorf("reclaim that read no list: %v, want ErrStale", err)
	}
	if _, _, err := r.Reclaim(testContext(t), key, taker.taker(resolve(t, r.Store, key))); !errors.Is(err, session.ErrOwnerUncertain) {
		t.Errorf("reclaim that read the list: %v, want ErrOwnerUncertain", err)
	}
}

// The other way round: a worker from which somebody took while it knew nobody gets no
// list, by which it might serve on.
func TestATakenWorkerGetsNoList(t *testing.T) {
	r, slow := newReplica(t), newReplica(t)
	owner, known, taker, key := register(t, r.Store), register(t, r.Store), register(t, r.Store), newSession()
	owner.claim(t, r.Store, key)
	owner.kill(t, r.Store)
	slow.client.KV = &interrupted{KV: slow.client.KV, before: 2, run: func() {
		if _, _, err := r.Reclaim(testContext(t), key, taker.taker(resolve(t, r.Store, key))); err != nil {
			t.Error(err)
		}
	}}
	if list, err := slow.RecordPeers(testContext(t), owner.key(), 0, []session.Peer{known.key()}, nil); !errors.Is(err, session.ErrStale) {
		t.Errorf("record peers: %v, %v; want ErrStale", list, err)
	}
}

// When an owner with thousands of sessions dies, who may take them is read once, if at
// all: the look-ups have read it already.
func TestAHerdOfOrphansReadsOnceWhoMayTakeThem(t *testing.T) {
	for _, listed := range []bool{true, false} {
		reg := prometheus.NewRegistry()
		r := openReplica(t, ownServer(t), ClientConfig{Hold: unheld, Metrics: reg})
		owner, known, taker := register(t, r.Store), register(t, r.Store), register(t, r.Store)
		want, reads := session.ErrOwnerUncertain, 2 // the owner's and its peers'
		owner.knows(t, r.Store, known)
		if listed {
			taker, want, reads = known, nil, 0
		}
		keys := claimMany(t, r.Store, owner, 300)
		owner.kill(t, r.Store)
		var group sync.WaitGroup
		for _, key := range keys {
			group.Go(func() {
				if _, _, err := r.Reclaim(testContext(t), key, taker.taker(resolve(t, r.Store, key))); !errors.Is(err, want) {
					t.Errorf("reclaim: %v, want %v", err, want)
				}
			})
		}
		group.Wait()
		if got := requests(t, reg, "takeover"); got > reads {
			t.Errorf("listed %v: %d requests to find out who may take %d sessions, want at most %d", listed, got, len(keys), reads)
		}
	}
}

// That nobody whom it knows is superseded is read again after a while.
func TestARefusedReclaimIsGrantedOnceAPeerIsSuperseded(t *testing.T) {
	r := newReplica(t)
	owner, known, taker, key := register(t, r.Store), register(t, r.Store), register(t, r.Store), newSession()
	owner.knows(t, r.Store, known)
	owner.claim(t, r.Store, key)
	owner.kill(t, r.Store)
	ask := taker.taker(resolve(t, r.Store, key))
	if _, _, err := r.Reclaim(testContext(t), key, ask); !errors.Is(err, session.ErrOwnerUncertain) {
		t.Fatalf("reclaim: %v, want ErrOwnerUncertain", err)
	}
	known.leave(t, r.Store)
	r.pass(askPeersEvery)
	if _, _, err := r.Reclaim(testContext(t), key, ask); err != nil {
		t.Errorf("reclaim: %v, want it granted", err)
	}
}

func TestTakeoverIsExplained(t *testing.T) {
	r := openReplica(t, ownServer(t), ClientConfig{Hold: unheld})
	owner, known, other := register(t, r.Store), register(t, r.Store), register(t, r.Store)
	owner.knows(t, r.Store, known)
	check := func(when string, rule leaseholdv1.TakeoverRule, latest time.Duration, takers ...alive) {
		t.Helper()
		w, err := r.Worker(testContext(t), owner.id)
		if err != nil {
			t.Fatal(err)
		}
		names := []string{}
		for _, taker := range takers {
			names = append(names, session.WorkerName(taker.id))
		}
		got := w.Takeover
		if got.GetRule() != rule || len(got.GetTakers()) != len(names) || len(names) > 0 && got.Takers[0] != names[0] {
			t.Errorf("%s: got %v, want %v by %v", when, got, rule, names)
		}
		if at := got.GetLatestTime(); latest == 0 && at != nil || latest > 0 && !at.AsTime().Equal(r.clock.now().Add(latest)) {
			t.Errorf("%s: everybody may at %v, want in %s", when, at, latest)
		}
	}
	if w, err := r.Worker(testContext(t), owner.id); err != nil || w.Takeover != nil || len(w.Peers) != 1 || w.Peers[0] != known.key() || !w.Alive() {
		t.Errorf("a living worker is %+v, %v; want that it knows one and nobody may take over", w, err)
	}
	all := session.ServesOn(testOutage, testTTL)
	owner.kill(t, r.Store)
	r.seeDeaths(t)
	r.pass(time.Minute)
	check("it knew one that lives", leaseholdv1.TakeoverRule_TAKEOVER_RULE_LISTED, all-time.Minute, known)
	known.kill(t, r.Store)
	check("whom it knew is dead", leaseholdv1.TakeoverRule_TAKEOVER_RULE_WAITING, all-time.Minute)
	known.readopt(t, r.Store)
	r.contact.length = testTTL / 2
	r.clock.advance(testTTL + 1)
	r.contact.heard()
	check("the replica holds, and has seen nothing yet", leaseholdv1.TakeoverRule_TAKEOVER_RULE_HOLDING, all)
	r.pass(testTTL / 2)
	r.seeDeaths(t)
	r.pass(all + 1)
	check("it cannot serve on any more", leaseholdv1.TakeoverRule_TAKEOVER_RULE_EXPIRED, 0, known, other)
	if err := r.Forget(testContext(t), owner.id); err != nil {
		t.Fatal(err)
	}
	check("it was forgotten", leaseholdv1.TakeoverRule_TAKEOVER_RULE_SUPERSEDED, 0, known, other)
	if _, err := r.Worker(testContext(t), workerID()); !errors.Is(err, session.ErrWorkerNotFound) {
		t.Errorf("a worker that never was: %v, want ErrWorkerNotFound", err)
	}
	all3, err := r.Workers(testContext(t))
	if err != nil || len(all3) != 3 {
		t.Fatalf("workers: %v, %v; want 3", all3, err)
	}
	states := map[string]leaseholdv1.WorkerState{
		owner.id: leaseholdv1.WorkerState_WORKER_STATE_LEFT,
		known.id: leaseholdv1.WorkerState_WORKER_STATE_SERVING,
		other.id: leaseholdv1.WorkerState_WORKER_STATE_SERVING,
	}
	for _, w := range all3 {
		if w.State != states[w.Worker] {
			t.Errorf("%s is %v, want %v", w.Worker, w.State, states[w.Worker])
		}
	}
}

// The keeper of orphans does not have workers try in vain.
func TestNobodyIsToldToEndOrphansThatNobodyMayTake(t *testing.T) {
	c := &clock{}
	o := openOrphanage(t, ownServer(t), c)
	o.outage = testOutage
	o.defineIdle(t, time.Minute)
	owner, known, living := register(t, o.Store), register(t, o.Store), register(t, o.Store)
	owner.knows(t, o.Store, known)
	keys := claimMany(t, o.Store, owner, maxBatch+20)
	free := register(t, o.Store)
	other := newSession()
	free.claim(t, o.Store, other)
	o.turn(t, owner, known, living, free)
	for _, w := range []alive{owner, known, free} {
		w.kill(t, o.Store)
	}
	o.turn(t, living)
	o.pass(t, time.Hour, living)
	if got := countEndings(t, o.Store); got != 1 || o.wished(t, other) != wasIdle {
		t.Errorf("%d sessions are to be ended, want the one that may be taken over", got)
	}
	known.readopt(t, o.Store)
	o.pass(t, orphansUntaken-1, living, known)
	if got := countEndings(t, o.Store); got != 1 {
		t.Errorf("%d sessions are to be ended before they are looked at again", got)
	}
	o.pass(t, 1, living, known)
	if got := countEndings(t, o.Store); got != 1+len(keys) {
		t.Errorf("%d sessions are to be ended, want %d: somebody may take them over now", got, 1+len(keys))
	}
}
