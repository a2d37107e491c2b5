package etcd

import (
	"errors"
	"testing"

	"github.com/leasehold/leasehold/controlplane/session"
	"github.com/leasehold/leasehold/controlplane/store"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func TestIncarnationIsTheRevisionOfTheFirstPut(t *testing.T) {
	s := newStore(t)
	w := register(t, s)
	resp, err := s.client.Get(testContext(t), incarnationKey(w.id))
	if err != nil {
		t.Fatal(err)
	}
	if got := resp.Kvs[0].CreateRevision; got != w.incarnation {
		t.Errorf("incarnation %d, want the put's revision %d", w.incarnation, got)
	}
	if !exists(t, s, memberKey(w.id, w.incarnation)) {
		t.Error("member key is absent after register")
	}
	again, _, err := s.Register(testContext(t), w.id, someInfo)
	if err != nil {
		t.Fatal(err)
	}
	if again <= w.incarnation {
		t.Errorf("registered again as %d, want more than %d", again, w.incarnation)
	}
}

func TestLateRegistrationDoesNotBringBackAnEarlierIncarnation(t *testing.T) {
	s := newStore(t)
	w := register(t, s)
	w.kill(t, s)
	_, lease, err := s.Register(testContext(t), w.id, someInfo)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.join(testContext(t), w.id, w.incarnation, lease, memberValue{}); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("late registration: %v, want ErrUnavailable", err)
	}
	if exists(t, s, memberKey(w.id, w.incarnation)) {
		t.Error("an incarnation that is over is alive")
	}
}

func TestRenewOfALostLeaseSaysSo(t *testing.T) {
	s := newStore(t)
	w := register(t, s)
	ttl, err := s.Renew(testContext(t), w.id, w.incarnation, w.lease)
	if err != nil || ttl != testTTL {
		t.Errorf("renew: %v, %v; want %v", ttl, err, testTTL)
	}
	w.kill(t, s)
	if _, err := s.Renew(testContext(t), w.id, w.incarnation, w.lease); !errors.Is(err, session.ErrLeaseLost) {
		t.Errorf("renew after the lease was revoked: %v, want ErrLeaseLost", err)
	}
}

// A lease that the member key no longer hangs on keeps nobody alive, however
// often it is renewed.
func TestRenewOfALeaseWithoutTheMemberKeySaysLost(t *testing.T) {
	s := newStore(t)
	w := register(t, s)
	lease, err := s.Readopt(testContext(t), w.id, w.incarnation, someInfo)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Renew(testContext(t), w.id, w.incarnation, w.lease); !errors.Is(err, session.ErrLeaseLost) {
		t.Errorf("renew of the old lease: %v, want ErrLeaseLost", err)
	}
	if _, err := s.Renew(testContext(t), w.id, w.incarnation, lease.ID); err != nil {
		t.Errorf("renew of the new lease: %v", err)
	}
}

func TestReadopt(t *testing.T) {
	tests := []struct {
		name   string
		before func(t *testing.T, s *Store, w alive)
		want   error
	}{
		{"key is gone", func(t *testing.T, s *Store, w alive) { w.kill(t, s) }, nil},
		{"key is still there", func(*testing.T, *Store, alive) {}, nil},
		{"left", func(t *testing.T, s *Store, w alive) {
			if err := s.Leave(testContext(t), w.id, w.incarnation, w.lease); err != nil {
				t.Fatal(err)
			}
		}, session.ErrCondemned},
		{"registered anew", func(t *testing.T, s *Store, w alive) {
			w.kill(t, s)
			if _, _, err := s.Register(testContext(t), w.id, someInfo); err != nil {
				t.Fatal(err)
			}
		}, session.ErrCondemned},
		{"a session was reclaimed", func(t *testing.T, s *Store, w alive) {
			key := newSession()
			w.claim(t, s, key)
			w.kill(t, s)
			if _, _, err := s.Reclaim(testContext(t), key, register(t, s).taker(resolve(t, s, key))); err != nil {
				t.Fatal(err)
			}
		}, session.ErrCondemned},
		{"incarnation was collected", func(t *testing.T, s *Store, w alive) {
			w.kill(t, s)
			if _, err := s.client.Delete(testContext(t), incarnationKey(w.id)); err != nil {
				t.Fatal(err)
			}
		}, session.ErrCondemned},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newStore(t)
			w := register(t, s)
			tt.before(t, s, w)
			_, err := s.Readopt(testContext(t), w.id, w.incarnation, someInfo)
			if !errors.Is(err, tt.want) {
				t.Fatalf("re-adopt: %v, want %v", err, tt.want)
			}
			if got := exists(t, s, memberKey(w.id, w.incarnation)); got != (tt.want == nil) {
				t.Errorf("member key is there: %v, want %v", got, tt.want == nil)
			}
		})
	}
}

// What a re-adoption read may be old when it writes: it is refused then, and does
// neither bring back what is over nor take the key from a later re-adoption,
// whose lease is the one that the worker renews.
func TestLateReadoptionChangesNothing(t *testing.T) {
	tests := []struct {
		name      string
		meanwhile func(t *testing.T, s *Store, w alive) (lease int64)
		want      error
	}{
		{"it re-adopted again", func(t *testing.T, s *Store, w alive) int64 {
			lease, err := s.Readopt(testContext(t), w.id, w.incarnation, someInfo)
			if err != nil {
				t.Fatal(err)
			}
			return lease.ID
		}, store.ErrUnavailable},
		{"a session was reclaimed", func(t *testing.T, s *Store, w alive) int64 {
			key := newSession()
			if _, err := s.client.Put(testContext(t), sessionKey(key), mustEncode(t, w.record())); err != nil {
				t.Fatal(err)
			}
			if _, _, err := s.Reclaim(testContext(t), key, register(t, s).taker(resolve(t, s, key))); err != nil {
				t.Fatal(err)
			}
			return 0
		}, session.ErrCondemned},
		{"it left", func(t *testing.T, s *Store, w alive) int64 {
			if err := s.Leave(testContext(t), w.id, w.incarnation, 0); err != nil {
				t.Fatal(err)
			}
			return 0
		}, session.ErrCondemned},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newStore(t)
			w := register(t, s)
			w.kill(t, s)
			read, err := s.readMembership(testContext(t), "readopt", w.id, w.incarnation)
			if err != nil {
				t.Fatal(err)
			}
			lease := tt.meanwhile(t, s, w)
			if _, err := s.readopt(testContext(t), w.id, w.incarnation, someInfo, read); !errors.Is(err, tt.want) {
				t.Errorf("late re-adoption: %v, want %v", err, tt.want)
			}
			now, err := s.readMembership(testContext(t), "readopt", w.id, w.incarnation)
			if err != nil || now.lease() != lease {
				t.Errorf("member key hangs on lease %d, %v; want %d", now.lease(), err, lease)
			}
		})
	}
}

func mustEncode(t testing.TB, rec *session.Record) string {
	t.Helper()
	value, err := encodeProto(rec)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// That it left is written by a later put, whose revision is another: the
// incarnation stays what it was.
func TestLeaveKeepsTheIncarnationAndCanBeRepeated(t *testing.T) {
	s := newStore(t)
	w := register(t, s)
	for range 2 {
		if err := s.Leave(testContext(t), w.id, w.incarnation, w.lease); err != nil {
			t.Fatalf("leave: %v", err)
		}
	}
	resp, err := s.client.Get(testContext(t), incarnationKey(w.id))
	if err != nil {
		t.Fatal(err)
	}
	v, err := decodeIncarnation(resp.Kvs[0])
	if err != nil || !v.Left || v.Incarnation != w.incarnation {
		t.Errorf("incarnation is %+v, %v; want left, %d", v, err, w.incarnation)
	}
	if exists(t, s, memberKey(w.id, w.incarnation)) {
		t.Error("member key is still there")
	}
}

func TestLeaveOfOneIncarnationDoesNotTouchTheNext(t *testing.T) {
	s := newStore(t)
	old := register(t, s)
	incarnation, lease, err := s.Register(testContext(t), old.id, someInfo)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Leave(testContext(t), old.id, old.incarnation, lease.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Renew(testContext(t), old.id, incarnation, lease.ID); err != nil {
		t.Errorf("renew of the later incarnation: %v", err)
	}
	if _, err := s.Readopt(testContext(t), old.id, incarnation, someInfo); err != nil {
		t.Errorf("re-adopt of the later incarnation: %v", err)
	}
}

func TestAppliedRevisionKeepsTheLeaseAndSurvivesReadoption(t *testing.T) {
	s := newStore(t)
	w := register(t, s)
	for _, revision := range []int64{5, 9, 7} {
		if err := s.Applied(testContext(t), w.key(), store.Ack{Revision: revision}); err != nil {
			t.Fatal(err)
		}
	}
	applied := func() int64 {
		resp, err := s.client.Get(testContext(t), memberKey(w.id, w.incarnation))
		if err != nil || len(resp.Kvs) == 0 {
			t.Fatalf("member key: %v, %v", resp, err)
		}
		m, err := decodeMember(resp.Kvs[0])
		if err != nil || m.Info.Zone != "here" {
			t.Fatalf("member: %v, %v", m, err)
		}
		return m.AppliedRevision
	}
	if got := applied(); got != 9 {
		t.Errorf("applied %d, want 9", got)
	}
	if _, err := s.Renew(testContext(t), w.id, w.incarnation, w.lease); err != nil {
		t.Errorf("renew: %v", err)
	}
	if _, err := s.Readopt(testContext(t), w.id, w.incarnation, someInfo); err != nil {
		t.Fatal(err)
	}
	if got := applied(); got != 9 {
		t.Errorf("applied %d after re-adoption, want 9", got)
	}
	w.kill(t, s) // the key hangs on the new lease now
	if err := s.Leave(testContext(t), w.id, w.incarnation, 0); err != nil {
		t.Fatal(err)
	}
	if err := s.Applied(testContext(t), w.key(), store.Ack{Revision: 11}); err != nil {
		t.Fatal(err)
	}
	if exists(t, s, memberKey(w.id, w.incarnation)) {
		t.Error("an acknowledgement brought a dead worker back")
	}
}

func TestDrainingStaysUntilItIsTakenBack(t *testing.T) {
	s := openStore(t, ownServer(t), nil)
	w := register(t, s)
	draining := func() bool {
		t.Helper()
		members, err := s.Members(testContext(t))
		if err != nil || len(members) != 1 {
			t.Fatalf("members: %v, %v", members, err)
		}
		return members[0].Info.Draining
	}
	set := func(draining bool) {
		t.Helper()
		for range 2 {
			if err := s.SetDraining(testContext(t), w.key(), draining); err != nil {
				t.Fatal(err)
			}
		}
	}
	set(true)
	if err := s.Applied(testContext(t), w.key(), store.Ack{Revision: 9}); err != nil || !draining() {
		t.Errorf("after an acknowledgement it drains: %v, %v", draining(), err)
	}
	if w = w.readopt(t, s); !draining() {
		t.Error("after a re-adoption by a worker that does not know yet, it does not drain")
	}
	set(false)
	if draining() {
		t.Error("it still drains")
	}
	if _, err := s.Renew(testContext(t), w.id, w.incarnation, w.lease); err != nil {
		t.Errorf("renew: %v", err)
	}
	w.kill(t, s)
	if err := s.SetDraining(testContext(t), w.key(), true); !errors.Is(err, session.ErrNotAlive) || exists(t, s, memberKey(w.id, w.incarnation)) {
		t.Errorf("drain of a dead worker: %v, want ErrNotAlive", err)
	}
	says := &leaseholdv1.WorkerInfo{PeerAddress: "127.0.0.1:1", Draining: true}
	if _, err := s.Readopt(testContext(t), w.id, w.incarnation, says); err != nil || !draining() {
		t.Errorf("a worker that says that it drains is back and drains: %v, %v", draining(), err)
	}
}
