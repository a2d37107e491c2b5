package heap

import (
	"runtime"
	"runtime/debug"
	"testing"
)

func TestPercentReachesTheFloorAndNoFurther(t *testing.T) {
	for _, c := range []struct {
		floor, live uint64
		want        int
	}{
		{64 << 20, 4 << 20, 1500},
		{64 << 20, 32 << 20, 100},
		{64 << 20, 64 << 20, 100},
		{64 << 20, 1 << 30, 100},
		{64 << 20, 1 << 20, 4000},
		{64 << 20, 0, 4000},
	} {
		if got := percent(c.floor, c.live); got != c.want {
			t.Errorf("percent(%d, %d): got %d, want %d", c.floor, c.live, got, c.want)
		}
	}
}

func TestFloorLeavesGOGCAlone(t *testing.T) {
	before := debug.SetGCPercent(123)
	defer debug.SetGCPercent(before)
	t.Setenv("GOGC", "123")
	Floor(64 << 20)
	if got := debug.SetGCPercent(123); got != 123 {
		t.Errorf("got %d %%, want 123", got)
	}
}

func TestFloorFollowsTheHeap(t *testing.T) {
	t.Setenv("GOGC", "")
	before := debug.SetGCPercent(100)
	defer debug.SetGCPercent(before)
	Floor(64 << 20)
	current := func() int {
		now := debug.SetGCPercent(100)
		debug.SetGCPercent(now)
		return now
	}
	if got := current(); got <= 100 {
		t.Errorf("with a small heap: got %d %%, want more than 100", got)
	}
	kept := make([]byte, 200<<20)
	for current() != 100 { // the finalizer comes after the collection, in its own time
		runtime.GC()
	}
	runtime.KeepAlive(kept)
}
