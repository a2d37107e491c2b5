package etcd

import (
	"errors"
	"testing"

	"github.com/leasehold/leasehold/controlplane/session"
	"github.com/leasehold/leasehold/controlplane/store"
)

func TestAWorkerKeepsTheNameItRegisteredWith(t *testing.T) {
	s, id := newStore(t), workerID()
	expect := func(when, want string) {
		t.Helper()
		if got, err := s.Certificate(testContext(t), id); err != nil || got != want {
			t.Errorf("%s: the certificate is %q, %v; want %q", when, got, err, want)
		}
	}
	if _, err := s.Certificate(testContext(t), id); !errors.Is(err, session.ErrCondemned) {
		t.Errorf("before it registered: got %v, want ErrCondemned", err)
	}
	first, lease, err := s.RegisterAs(testContext(t), id, "w-1", store.Attempt{}, someInfo)
	if err != nil {
		t.Fatal(err)
	}
	expect("registered", "w-1")
	for _, thief := range []string{"w-2", ""} {
		if _, _, err := s.RegisterAs(testContext(t), id, thief, store.Attempt{}, someInfo); !errors.Is(err, session.ErrForeign) {
			t.Errorf("registered by %q: got %v, want ErrForeign", thief, err)
		}
	}
	if _, _, err := s.Register(testContext(t), id, someInfo); !errors.Is(err, session.ErrForeign) {
		t.Errorf("registered without a certificate: got %v, want ErrForeign", err)
	}
	if _, err := s.Renew(testContext(t), id, first, lease.ID); err != nil {
		t.Errorf("renew after others tried: %v", err)
	}
	if _, err := s.Readopt(testContext(t), id, first, someInfo); err != nil {
		t.Errorf("re-adopt: %v", err)
	}
	expect("re-adopted", "w-1")
	second, lease, err := s.RegisterAs(testContext(t), id, "w-1", store.Attempt{}, someInfo)
	if err != nil || second <= first {
		t.Errorf("registered anew: got incarnation %d after %d, %v", second, first, err)
	}
	expect("registered anew", "w-1")
	if err := s.Leave(testContext(t), id, second, lease.ID); err != nil {
		t.Fatal(err)
	}
	expect("left", "w-1")
	if _, _, err := s.RegisterAs(testContext(t), id, "w-2", store.Attempt{}, someInfo); !errors.Is(err, session.ErrForeign) {
		t.Errorf("registered by another after it left: got %v, want ErrForeign", err)
	}
}
