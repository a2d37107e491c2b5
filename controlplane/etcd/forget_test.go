package etcd

import (
	"errors"
	"testing"

	"github.com/leasehold/leasehold/controlplane/session"
)

func TestForget(t *testing.T) {
	s := newStore(t)
	w := register(t, s)
	if err := s.Forget(testContext(t), w.id); !errors.Is(err, session.ErrWorkerAlive) {
		t.Errorf("forget a living worker: %v, want ErrWorkerAlive", err)
	}
	w.kill(t, s)
	for range 2 {
		if err := s.Forget(testContext(t), w.id); err != nil {
			t.Errorf("forget a dead worker: %v", err)
		}
	}
	if _, err := s.Readopt(testContext(t), w.id, w.incarnation, someInfo); !errors.Is(err, session.ErrCondemned) {
		t.Errorf("re-adoption of one that was forgotten: %v, want ErrCondemned", err)
	}
	if err := s.Forget(testContext(t), workerID()); !errors.Is(err, session.ErrWorkerNotFound) {
		t.Errorf("forget one that never was: %v, want ErrWorkerNotFound", err)
	}
	left := register(t, s)
	left.leave(t, s)
	if err := s.Forget(testContext(t), left.id); err != nil {
		t.Errorf("forget one that left: %v", err)
	}
}

// The operator's word is about a worker that is dead when it is written down.
func TestForgetOfAWorkerThatCameBackIsRefused(t *testing.T) {
	s, slow := newStore(t), newStore(t)
	w := register(t, s)
	w.kill(t, s)
	slow.client.KV = &interrupted{KV: slow.client.KV, before: 1, run: func() { w.readopt(t, s) }}
	if err := slow.Forget(testContext(t), w.id); !errors.Is(err, session.ErrWorkerAlive) {
		t.Errorf("forget: %v, want ErrWorkerAlive", err)
	}
	if read, err := s.readMembership(testContext(t), "test", w.id, w.incarnation); err != nil || read.incarnation.Left {
		t.Errorf("it is marked as left, %v", err)
	}
}
