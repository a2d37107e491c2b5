package route

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestAnOwnerIsMournedOnceAndForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m mourned
		began := time.Now()
		wait := func(o owner, want time.Duration) {
			t.Helper()
			if err := m.wait(t.Context(), o); err != nil {
				t.Error(err)
			}
			if got := time.Since(began); got != want {
				t.Errorf("the wait for %v was over after %v, want %v", o, got, want)
			}
		}
		wait(owner{"a", 1}, mourning)
		wait(owner{"a", 1}, mourning)   // at once
		wait(owner{"a", 2}, 2*mourning) // another registration
		time.Sleep(mournedFor)
		began = time.Now()
		wait(owner{"a", 1}, mourning) // it may have come back meanwhile
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if err := m.wait(ended, owner{"b", 1}); err == nil {
			t.Error("the wait outlived its context")
		}
		for n := range int64(3 * mostMourned) {
			m.note(owner{"c", n})
		}
		if len(m.of) > mostMourned {
			t.Errorf("%d owners are mournedFor, want at most %d", len(m.of), mostMourned)
		}
	})
}
