package etcd

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/leasehold/leasehold/controlplane/store"
)

// ringOf makes a ring and returns what is read of it.
func ringOf(t *testing.T, s *Store) *store.RingState {
	t.Helper()
	if _, err := s.MakeRing(testContext(t), []byte("one")); err != nil {
		t.Fatal(err)
	}
	return ringState(t, s)
}

func ringState(t *testing.T, s *Store) *store.RingState {
	t.Helper()
	state, err := s.RingState(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	return state
}

func replaceRing(t *testing.T, s *Store, read *store.RingState, sealed string) bool {
	t.Helper()
	replaced, err := s.ReplaceRing(testContext(t), read, []byte(sealed))
	if err != nil {
		t.Fatal(err)
	}
	return replaced
}

func TestRingIsReplacedAsItWasRead(t *testing.T) {
	s := openStore(t, ownServer(t), nil)
	read := ringOf(t, s)
	if !replaceRing(t, s, read, "two") || replaceRing(t, s, read, "three") {
		t.Error("want the first of two who read the same to replace it, and the second not")
	}
	if got := ringState(t, s); string(got.Ring.Sealed) != "two" || got.Ring.Revision <= read.Ring.Revision {
		t.Errorf("the ring is %q at %d, want two at a revision above %d", got.Ring.Sealed, got.Ring.Revision, read.Ring.Revision)
	}
}

func TestRingIsNotReplacedOnceAWorkerHasCome(t *testing.T) {
	s := openStore(t, ownServer(t), nil)
	ringOf(t, s)
	old := register(t, s)
	read := ringState(t, s)
	if read.Everywhere() {
		t.Error("a worker that has acknowledged nothing counts as one that has the ring")
	}
	if err := s.Applied(testContext(t), old.key(), store.Ack{Revision: read.Ring.Revision}); err != nil {
		t.Fatal(err)
	}
	acknowledged := ringState(t, s)
	if !acknowledged.Everywhere() {
		t.Error("the only worker has acknowledged the ring, and it is not everywhere")
	}
	register(t, s)
	if replaceRing(t, s, acknowledged, "two") {
		t.Error("the ring was replaced though a worker has come that nobody has asked")
	}
	if now := ringState(t, s); now.Everywhere() || !replaceRing(t, s, now, "two") {
		t.Error("want the newcomer among those that do not have the ring, and the ring replaced by whoever knows that")
	}
}

func TestRingIsNotReplacedOnceAWorkerHasReadopted(t *testing.T) {
	s := openStore(t, ownServer(t), nil)
	w := register(t, s)
	ringOf(t, s)
	read := ringState(t, s)
	w.kill(t, s)
	if _, err := s.Readopt(testContext(t), w.id, w.incarnation, someInfo); err != nil {
		t.Fatal(err)
	}
	if replaceRing(t, s, read, "two") {
		t.Error("the ring was replaced though a worker has come back that nobody has asked")
	}
}

func TestOneReplicaAtATimeTendsTheRing(t *testing.T) {
	server := ownServer(t)
	one, two := openStore(t, server, nil), openStore(t, server, nil)
	var office [2]office
	var turns atomic.Int32
	tend := func(context.Context) error { turns.Add(1); return nil }
	for i, s := range []*Store{one, two} {
		office[i].store, office[i].key = s, rotatorKey
		if err := s.ringTurn(testContext(t), &office[i], tend); err != nil {
			t.Fatal(err)
		}
	}
	if turns.Load() != 1 {
		t.Errorf("%d replicas tended it, want 1", turns.Load())
	}
	office[0].leave(t.Context())
	office[1].asked = time.Time{}
	if err := two.ringTurn(testContext(t), &office[1], tend); err != nil || turns.Load() != 2 {
		t.Errorf("after one has left, %d turns and %v, want the other to tend it", turns.Load(), err)
	}
	office[1].leave(t.Context())
}
