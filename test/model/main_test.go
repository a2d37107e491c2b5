package model

import (
	"flag"
	"testing"
)

var (
	deep = flag.Int("deep", 1, "how many times as far searches go that have a bound")
	seed = flag.Uint64("seed", 1, "seed of the random walks")
)

// bound is how many states a search looks at that is not complete: fewer under the
// race detector, which makes it several times as slow and has nothing to find.
func bound(states int) int { return max(states**deep/slower, 1) }

// explores searches a world and fails if anything is violated.
func explores(t *testing.T, w world, states int, each func(*machine, *state) property) result {
	t.Helper()
	m, start := w.machine(weakness{})
	var ask func(*state) property
	if each != nil {
		ask = func(s *state) property { return each(m, s) }
	}
	r := m.explore(start, states, ask)
	if r.violated != fine {
		t.Errorf("got %v", r)
	} else {
		t.Log(r)
	}
	return r
}
