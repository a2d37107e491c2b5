package etcd

import (
	"errors"
	"testing"

	"github.com/leasehold/leasehold/controlplane/session"
	"github.com/leasehold/leasehold/controlplane/store"
)

// TestARegistrationThatComesLateEndsNothing has a worker register by one attempt, which it
// repeats, and then by another.
func TestARegistrationThatComesLateEndsNothing(t *testing.T) {
	s, id := newStore(t), workerID()
	register := func(attempt store.Attempt) (int64, error) {
		incarnation, _, err := s.RegisterAs(testContext(t), id, "", attempt, someInfo)
		return incarnation, err
	}
	first, err := register(store.Attempt{Number: 11})
	if err != nil {
		t.Fatal(err)
	}
	if again, err := register(store.Attempt{Number: 11}); err != nil || again != first {
		t.Errorf("the same attempt again: got %d, %v; want %d", again, err, first)
	}
	second, err := register(store.Attempt{Number: 12, Previous: first})
	if err != nil || second <= first {
		t.Fatalf("another attempt: got %d, %v; want a later incarnation than %d", second, err, first)
	}
	if late, err := register(store.Attempt{Number: 11}); !errors.Is(err, session.ErrStale) {
		t.Errorf("the first attempt once more: got %d, %v; want ErrStale", late, err)
	}
	if err := s.Leave(testContext(t), id, second, 0); err != nil {
		t.Fatal(err)
	}
	if third, err := register(store.Attempt{Number: 12, Previous: first}); err != nil || third <= second {
		t.Errorf("an attempt whose incarnation was ended by somebody else: got %d, %v; want another one", third, err)
	}
}

func TestAListThatComesLateIsNotRecorded(t *testing.T) {
	s := newStore(t)
	w, a, b := register(t, s), register(t, s), register(t, s)
	both := peersOf(a, b)
	if _, err := s.RecordPeers(testContext(t), w.key(), 2, both, nil); err != nil {
		t.Fatal(err)
	}
	if got, err := s.RecordPeers(testContext(t), w.key(), 1, nil, nil); !errors.Is(err, session.ErrStale) {
		t.Errorf("a list that was sent before: got %v, %v; want ErrStale", got, err)
	}
	if got, err := s.RecordPeers(testContext(t), w.key(), 2, both, nil); err != nil || len(got) != 2 {
		t.Errorf("the same list again: got %v, %v; want it as it is", got, err)
	}
}

// TestAReclaimFromBeforeAReturnIsRefused has an owner come back and die once more while a
// reclaim is on its way.
func TestAReclaimFromBeforeAReturnIsRefused(t *testing.T) {
	s := newStore(t)
	owner, taker, key := register(t, s), register(t, s), newSession()
	owner.claim(t, s, key)
	owner.kill(t, s)
	ask := taker.taker(resolve(t, s, key))
	owner.readopt(t, s).kill(t, s)
	if _, _, err := s.Reclaim(testContext(t), key, ask); !errors.Is(err, session.ErrStale) {
		t.Errorf("got %v, want ErrStale", err)
	}
	if _, _, err := s.Reclaim(testContext(t), key, taker.taker(resolve(t, s, key))); err != nil {
		t.Errorf("after it was read again: %v", err)
	}
}
