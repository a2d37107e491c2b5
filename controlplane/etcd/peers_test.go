package etcd

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/leasehold/leasehold/controlplane/session"
	"github.com/leasehold/leasehold/controlplane/store"
)

// listOf is whom a worker is recorded to know.
func listOf(t testing.TB, s *Store, w alive) []session.Peer {
	t.Helper()
	read, err := s.readMembership(testContext(t), "test", w.id, w.incarnation)
	if err != nil {
		t.Fatal(err)
	}
	if read.incarnation.Incarnation != w.incarnation {
		t.Errorf("incarnation is %d, want %d", read.incarnation.Incarnation, w.incarnation)
	}
	return read.incarnation.Peers
}

func peersOf(workers ...alive) []session.Peer {
	var peers []session.Peer
	for _, w := range workers {
		peers = append(peers, w.key())
	}
	return union(peers, nil)
}

// H11: who is absent may come back, and then take over. So a peer leaves a list only
// when it is certain that it cannot.
func TestAListShrinksByThoseWhoCannotComeBackOnly(t *testing.T) {
	r := newReplica(t)
	w := register(t, r.Store)
	living, absent, left, anew, forgotten, condemned := register(t, r.Store), register(t, r.Store), register(t, r.Store), register(t, r.Store), register(t, r.Store), register(t, r.Store)
	all := peersOf(living, absent, left, anew, forgotten, condemned)
	if got, err := r.RecordPeers(testContext(t), w.key(), 0, all, nil); err != nil || !slices.Equal(got, all) || !slices.Equal(listOf(t, r.Store, w), all) {
		t.Fatalf("recorded %v, %v; want all", got, err)
	}
	key := newSession()
	condemned.claim(t, r.Store, key)
	absent.kill(t, r.Store)
	condemned.kill(t, r.Store)
	forgotten.kill(t, r.Store)
	left.leave(t, r.Store)
	newer := anew.again(t, r.Store)
	if err := r.Forget(testContext(t), forgotten.id); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.Reclaim(testContext(t), key, living.taker(resolve(t, r.Store, key))); err != nil {
		t.Fatal(err)
	}
	want := peersOf(living, absent, newer)
	for range 2 { // it can be repeated
		got, err := r.RecordPeers(testContext(t), w.key(), 0, peersOf(living, newer), nil)
		if err != nil || !slices.Equal(got, want) || !slices.Equal(listOf(t, r.Store, w), want) {
			t.Errorf("recorded %v, %v; want %v", got, err, want)
		}
	}
	before := revisionNow(t, r.Store)
	if _, err := r.RecordPeers(testContext(t), w.key(), 0, want, nil); err != nil || revisionNow(t, r.Store) != before {
		t.Errorf("what is recorded already was written again, %v", err)
	}
}

func TestWhoMayNotHaveAListIsToldThatItIsStale(t *testing.T) {
	s := newStore(t)
	peer := register(t, s)
	for name, over := range map[string]func(alive){
		"left":            func(w alive) { w.leave(t, s) },
		"registered anew": func(w alive) { w.again(t, s) },
		"condemned": func(w alive) {
			key := newSession()
			w.claim(t, s, key)
			w.kill(t, s)
			if _, _, err := s.Reclaim(testContext(t), key, peer.taker(resolve(t, s, key))); err != nil {
				t.Fatal(err)
			}
		},
		"collected": func(w alive) {
			if _, err := s.client.Delete(testContext(t), incarnationKey(w.id)); err != nil {
				t.Fatal(err)
			}
		},
	} {
		w := register(t, s)
		over(w)
		if got, err := s.RecordPeers(testContext(t), w.key(), 0, peersOf(peer), nil); !errors.Is(err, session.ErrStale) {
			t.Errorf("%s: %v, %v; want ErrStale", name, got, err)
		}
	}
}

func TestAListIsBounded(t *testing.T) {
	s := newStore(t)
	w := register(t, s)
	peers := make([]session.Peer, store.MaxPeers+1)
	for i := range peers {
		peers[i] = session.Peer{Worker: workerID(), Incarnation: 1}
	}
	if _, err := s.RecordPeers(testContext(t), w.key(), 0, peers[1:], nil); err != nil {
		t.Errorf("%d peers: %v", store.MaxPeers, err)
	}
	if _, err := s.RecordPeers(testContext(t), w.key(), 0, peers, nil); !errors.Is(err, store.ErrTooManyPeers) {
		t.Errorf("%d peers: %v, want ErrTooManyPeers", len(peers), err)
	}
}

// Whoever puts an incarnation again keeps whom it knows: without, anybody might take
// over from it.
func TestEveryWriterOfAnIncarnationKeepsItsList(t *testing.T) {
	s := newStore(t)
	peer := register(t, s)
	for name, write := range map[string]func(alive){
		"re-adoption":     func(w alive) { w.readopt(t, s) },
		"acknowledgement": func(w alive) { _ = s.Applied(testContext(t), w.key(), store.Ack{Revision: 7}) },
		"drain":           func(w alive) { _ = s.SetDraining(testContext(t), w.key(), true) },
		"leave":           func(w alive) { w.leave(t, s) },
		"forget": func(w alive) {
			w.kill(t, s)
			if err := s.Forget(testContext(t), w.id); err != nil {
				t.Fatal(err)
			}
		},
	} {
		w := register(t, s)
		w.knows(t, s, peer)
		write(w)
		if got := listOf(t, s, w); !slices.Equal(got, peersOf(peer)) {
			t.Errorf("after %s it knows %v, want %v", name, got, peersOf(peer))
		}
	}
}

// A worker that died without sessions is condemned when those who may take over from it
// ask for that, so that it leaves their lists.
func TestTheGoneAreCondemnedByThoseWhoMayTakeOver(t *testing.T) {
	tests := []struct {
		name   string
		before func(t *testing.T, r *replica, caller, gone alive)
		want   bool
	}{
		{"dead, and knew nobody", func(t *testing.T, r *replica, _, gone alive) { gone.kill(t, r.Store) }, true},
		{"dead, and knew the caller", func(t *testing.T, r *replica, caller, gone alive) {
			gone.knows(t, r.Store, caller)
			gone.kill(t, r.Store)
		}, true},
		{"dead, and knew another", func(t *testing.T, r *replica, _, gone alive) {
			gone.knows(t, r.Store, register(t, r.Store))
			gone.kill(t, r.Store)
		}, false},
		{"alive", func(t *testing.T, r *replica, _, gone alive) {}, false},
		{"the caller is dead", func(t *testing.T, r *replica, caller, gone alive) {
			gone.kill(t, r.Store)
			caller.kill(t, r.Store)
		}, false},
		{"it left", func(t *testing.T, r *replica, _, gone alive) { gone.leave(t, r.Store) }, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newReplica(t)
			caller, gone := register(t, r.Store), register(t, r.Store)
			caller.knows(t, r.Store, gone)
			tt.before(t, r, caller, gone)
			got, err := r.RecordPeers(testContext(t), caller.key(), 0, nil, peersOf(gone))
			if err != nil {
				t.Fatal(err)
			}
			over := tt.want || tt.name == "it left"
			if is := exists(t, r.Store, condemnedKey(gone.id, gone.incarnation)); is != tt.want || (len(got) == 0) != over {
				t.Errorf("condemned: %v, want %v; the caller knows %v", is, tt.want, got)
			}
			if tt.want {
				if _, err := r.Readopt(testContext(t), gone.id, gone.incarnation, someInfo); !errors.Is(err, session.ErrCondemned) {
					t.Errorf("re-adoption: %v, want ErrCondemned", err)
				}
			}
		})
	}
}

// What the caller may was read before it was written.
func TestTheGoneAreNotCondemnedWhenTheyCameBackOrKnowOthersMeanwhile(t *testing.T) {
	for name, meanwhile := range map[string]func(t *testing.T, s *Store, gone, other alive){
		"came back":    func(t *testing.T, s *Store, gone, _ alive) { gone.readopt(t, s) },
		"knows others": func(t *testing.T, s *Store, gone, other alive) { gone.knows(t, s, other) },
	} {
		r, slow := newReplica(t), newReplica(t)
		caller, gone, other := register(t, r.Store), register(t, r.Store), register(t, r.Store)
		gone.kill(t, r.Store)
		slow.client.KV = &interrupted{KV: slow.client.KV, before: 2, run: func() { meanwhile(t, r.Store, gone, other) }}
		if _, err := slow.RecordPeers(testContext(t), caller.key(), 0, nil, peersOf(gone)); err != nil {
			t.Fatal(err)
		}
		if exists(t, r.Store, condemnedKey(gone.id, gone.incarnation)) {
			t.Errorf("%s: it was condemned", name)
		}
	}
}

// Two replicas record for one worker at the same time, since it asked again: nobody is
// lost.
func TestARecordingThatIsOvertakenIsMadeAgain(t *testing.T) {
	s, slow := newStore(t), newStore(t)
	w, a, b := register(t, s), register(t, s), register(t, s)
	slow.client.KV = &interrupted{KV: slow.client.KV, before: 2, run: func() { w.knows(t, s, a) }}
	got, err := slow.RecordPeers(testContext(t), w.key(), 0, peersOf(b), nil)
	if want := peersOf(a, b); err != nil || !slices.Equal(got, want) || !slices.Equal(listOf(t, s, w), want) {
		t.Errorf("recorded %v, %v; want %v", got, err, want)
	}
}

// What is left of a dead worker is kept while one that may come back knows it: when it
// is gone it counts as superseded, and anybody might take over from that one, though its
// process might still answer.
func TestAnIncarnationIsNotCollectedWhileItIsKnown(t *testing.T) {
	for name, knower := range map[string]func(t *testing.T, s *Store, w alive){
		"by a living worker": func(*testing.T, *Store, alive) {},
		"by a dead one with a session": func(t *testing.T, s *Store, w alive) {
			w.claim(t, s, newSession())
			w.kill(t, s)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := openReplica(t, ownServer(t), ClientConfig{Hold: unheld})
			w, gone := register(t, r.Store), register(t, r.Store)
			w.knows(t, r.Store, gone)
			gone.kill(t, r.Store)
			knower(t, r.Store, w)
			later := time.Now()
			collect := func() {
				t.Helper()
				later = later.Add(incarnationGrace + readOwnersEvery + time.Minute)
				if err := r.Collect(testContext(t), later); err != nil {
					t.Fatal(err)
				}
			}
			for range 3 { // marked, condemned, due
				collect()
			}
			if !exists(t, r.Store, incarnationKey(gone.id)) || !exists(t, r.Store, condemnedKey(gone.id, gone.incarnation)) {
				t.Fatal("what is left of it was collected")
			}
			if _, err := r.Readopt(testContext(t), gone.id, gone.incarnation, someInfo); !errors.Is(err, session.ErrCondemned) {
				t.Errorf("re-adoption: %v, want ErrCondemned", err)
			}
			if _, err := r.RecordPeers(testContext(t), w.key(), 0, nil, nil); err != nil {
				t.Fatal(err)
			}
			collect()
			for _, key := range []string{incarnationKey(gone.id), condemnedKey(gone.id, gone.incarnation)} {
				if exists(t, r.Store, key) {
					t.Errorf("%s is left though nobody knows it any more", key)
				}
			}
			if !exists(t, r.Store, incarnationKey(w.id)) {
				t.Error("the one who knew it was collected too")
			}
		})
	}
}

// Workers that knew each other and all died are collected together.
func TestTheDeadDoNotKeepEachOther(t *testing.T) {
	r := openReplica(t, ownServer(t), ClientConfig{Hold: unheld})
	a, b := register(t, r.Store), register(t, r.Store)
	a.knows(t, r.Store, b)
	b.knows(t, r.Store, a)
	a.kill(t, r.Store)
	b.kill(t, r.Store)
	for i := range 2 {
		if err := r.Collect(testContext(t), time.Now().Add(time.Duration(i)*(incarnationGrace+readOwnersEvery))); err != nil {
			t.Fatal(err)
		}
	}
	for _, w := range []alive{a, b} {
		for _, key := range []string{incarnationKey(w.id), condemnedKey(w.id, w.incarnation), deadKey(w.id, w.incarnation)} {
			if exists(t, r.Store, key) {
				t.Errorf("%s is left", key)
			}
		}
	}
}

// Somebody may come to know an incarnation between when the lists were read and when it
// is deleted.
func TestAListThatIsPutMeanwhileKeepsWhomItNames(t *testing.T) {
	server := ownServer(t)
	r, slow := openReplica(t, server, ClientConfig{Hold: unheld}), openReplica(t, server, ClientConfig{Hold: unheld})
	w, gone := register(t, r.Store), register(t, r.Store)
	gone.kill(t, r.Store)
	if _, err := r.RecordPeers(testContext(t), w.key(), 0, nil, peersOf(gone)); err != nil {
		t.Fatal(err)
	}
	condemned := map[store.MemberKey]bool{gone.key(): true}
	l, err := slow.readLists(testContext(t), condemned)
	if err != nil {
		t.Fatal(err)
	}
	w.knows(t, r.Store, gone)
	if err := slow.collectOne(testContext(t), gone.key(), l); err != nil {
		t.Fatal(err)
	}
	if !exists(t, r.Store, incarnationKey(gone.id)) {
		t.Error("it was collected")
	}
	if l, err = slow.readLists(testContext(t), condemned); err != nil || !l.known[gone.key()] {
		t.Errorf("lists: %v, %v; want that it is known", l, err)
	}
	if _, err := r.RecordPeers(testContext(t), w.key(), 0, nil, nil); err != nil {
		t.Fatal(err)
	}
	if l, err = slow.readLists(testContext(t), condemned); err != nil {
		t.Fatal(err)
	}
	if err := slow.collectOne(testContext(t), gone.key(), l); err != nil || exists(t, r.Store, incarnationKey(gone.id)) {
		t.Errorf("it is left though nobody knows it, %v", err)
	}
}

// A worker that has run for days and dies is not forgotten at once: its sessions may be
// nobody's to take yet.
func TestACondemnedIncarnationIsRememberedFromWhenItWasCondemned(t *testing.T) {
	r := openReplica(t, ownServer(t), ClientConfig{Hold: unheld})
	owner, known, key := register(t, r.Store), register(t, r.Store), newSession()
	read, err := r.readMembership(testContext(t), "test", owner.id, owner.incarnation)
	if err != nil {
		t.Fatal(err)
	}
	old := read.incarnation
	old.Registered = time.Now().Add(-1000 * time.Hour)
	if _, err := r.client.Put(testContext(t), incarnationKey(owner.id), encode(old)); err != nil {
		t.Fatal(err)
	}
	owner.knows(t, r.Store, known)
	owner.claim(t, r.Store, key)
	owner.claim(t, r.Store, newSession())
	owner.kill(t, r.Store)
	if _, _, err := r.Reclaim(testContext(t), key, known.taker(resolve(t, r.Store, key))); err != nil {
		t.Fatal(err)
	}
	if err := r.Collect(testContext(t), time.Now()); err != nil {
		t.Fatal(err)
	}
	if got := listOf(t, r.Store, owner); !slices.Equal(got, peersOf(known)) {
		t.Errorf("it knows %v, want %v", got, peersOf(known))
	}
}
