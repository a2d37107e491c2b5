package dataplane

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/leasehold/leasehold/dataplane/config"
)

func TestAnInspectionWaitsAMomentForADefinition(t *testing.T) {
	at := func(revision int64) *config.Snapshot {
		return &config.Snapshot{Gateways: map[string]*config.Gateway{"g": {ID: "g", Revision: revision}}}
	}
	synctest.Test(t, func(t *testing.T) {
		l := newLookout(&worker{world: &config.Holder{}})
		l.world.Set(at(7))
		began := time.Now()
		if g := l.await(t.Context(), "g", 7); g.Revision != 7 || time.Since(began) != 0 {
			t.Errorf("one that is there: got %d after %v", g.Revision, time.Since(began))
		}
		got := make(chan *config.Gateway)
		go func() { got <- l.await(t.Context(), "g", 9) }()
		synctest.Wait()
		l.world.Set(at(8)) // not yet
		time.Sleep(appliedWithin / 2)
		l.world.Set(at(9))
		if g := <-got; g.Revision != 9 || time.Since(began) != appliedWithin/2 {
			t.Errorf("one that comes: got %d after %v, want 9 at once", g.Revision, time.Since(began))
		}
		began = time.Now()
		if g := l.await(t.Context(), "g", 10); g.Revision != 9 || time.Since(began) != appliedWithin {
			t.Errorf("one that does not come: got %d after %v, want 9 after %v", g.Revision, time.Since(began), appliedWithin)
		}
		if g := l.await(t.Context(), "none", 0); g != nil {
			t.Errorf("an unknown gateway: got %v", g)
		}
	})
}
