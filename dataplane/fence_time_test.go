package dataplane

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// lapsing is an authority in the hands of a test, which waits a second for it to come
// back.
type lapsing struct{ holds atomic.Bool }

func (*lapsing) Incarnation() int64   { return 7 }
func (l *lapsing) Holds(int64) bool   { return l.holds.Load() }
func (l *lapsing) Await(e int64) bool { time.Sleep(time.Second); return l.Holds(e) }

func TestWhatIsInFlightIsCutWhenTheAuthorityIsNotBackInAMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, cuts := &lapsing{}, atomic.Int32{}
		ctx, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		group.Go(func() {
			if err := watchFence(ctx, a, func() { cuts.Add(1) }); err != nil {
				t.Error(err)
			}
		})
		want := func(what string, n int32) {
			t.Helper()
			time.Sleep(time.Minute)
			if got := cuts.Load(); got != n {
				t.Errorf("%s: got %d cuts, want %d", what, got, n)
			}
		}
		want("before there was any", 0)
		a.holds.Store(true)
		want("with authority", 0)
		for range 3 {
			a.holds.Store(false)
			time.Sleep(healthTick + time.Second/2)
			a.holds.Store(true)
			want("after an instant without", 0)
		}
		a.holds.Store(false)
		want("without", 1)
		a.holds.Store(true)
		want("with authority again", 1)
		a.holds.Store(false)
		want("without again", 2)
		cancel()
		group.Wait()
	})
}
