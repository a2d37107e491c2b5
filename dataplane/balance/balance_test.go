package balance

import (
	"fmt"
	"testing"
)

func TestSpreadFillsInProportionToCapacity(t *testing.T) {
	spread := NewSpread("z", []Worker{{ID: "a", Zone: "z", Capacity: 100}, {ID: "b", Zone: "z", Capacity: 300, Sessions: 60}, {ID: "c", Zone: "z", Capacity: 5}})
	got := map[string]int{}
	for range 140 {
		w, ok := spread.Next()
		if !ok {
			t.Fatal("nobody takes a session though there is room")
		}
		got[w.ID]++
	}
	if got["a"] < 45 || got["a"] > 53 || got["b"] < 84 || got["b"] > 96 || got["c"] > 5 {
		t.Errorf("140 sessions: got %v, want about a=49 b=88 c=3", got)
	}
}

func TestSpreadPrefersTheOwnZoneButNotWithoutBound(t *testing.T) {
	spread := NewSpread("here", []Worker{{ID: "near", Zone: "here", Capacity: 1000}, {ID: "far", Zone: "there", Capacity: 1000}})
	got := map[string]int{}
	for range 900 {
		w, _ := spread.Next()
		got[w.ID]++
	}
	if got["near"] <= got["far"] || got["far"] < 350 {
		t.Errorf("got %v, want the near one fuller by a tenth", got)
	}
}

func TestSpreadNeverPassesACapacity(t *testing.T) {
	spread := NewSpread("", []Worker{{ID: "a", Capacity: 3}, {ID: "b", Capacity: 2, Sessions: 2}})
	for i := range 3 {
		if w, ok := spread.Next(); !ok || w.ID != "a" {
			t.Fatalf("session %d: got %v, %v, want a", i, w.ID, ok)
		}
	}
	if w, ok := spread.Next(); ok {
		t.Errorf("a fourth session goes to %s, which is full", w.ID)
	}
	spread = NewSpread("", []Worker{{ID: "a", Capacity: 3}})
	spread.Refuse("a")
	if _, ok := spread.Next(); ok {
		t.Error("a worker that refused is chosen again")
	}
}

// TestGivingAwayTheExcessEvensOut lets workers of any sizes give away in turn, and
// expects that nobody gives for ever and that all end up within the bound.
func TestGivingAwayTheExcessEvensOut(t *testing.T) {
	for _, start := range [][]int{{3000, 3000, 3000, 0, 0, 0}, {900, 0}, {7, 0}, {100, 100, 100}, {1, 0, 5000}, {0, 0, 0}} {
		t.Run(fmt.Sprint(start), func(t *testing.T) {
			var all []Worker
			total := 0
			for i, n := range start {
				all = append(all, Worker{ID: fmt.Sprint(i), Sessions: n, Capacity: 10_000})
				total += n
			}
			for range 3 {
				for i := range all {
					others := append(append([]Worker(nil), all[:i]...), all[i+1:]...)
					spread := NewSpread("", others)
					for range Excess(all[i], others) {
						to, ok := spread.Next()
						if !ok {
							t.Fatal("no room")
						}
						for j := range all {
							if all[j].ID == to.ID {
								all[j].Sessions++
							}
						}
						all[i].Sessions--
					}
				}
			}
			for i, w := range all {
				others := append(append([]Worker(nil), all[:i]...), all[i+1:]...)
				if n := Excess(w, others); n != 0 {
					t.Errorf("worker %s still has %d too many: %v", w.ID, n, all)
				}
				if mean := total / len(all); w.Sessions > mean*13/10+Slack {
					t.Errorf("worker %s owns %d, the mean is %d", w.ID, w.Sessions, mean)
				}
			}
		})
	}
}

// TestWorkersOfAZoneDoNotGiveToEachOtherForEver has most workers in another zone.
func TestWorkersOfAZoneDoNotGiveToEachOtherForEver(t *testing.T) {
	all := []Worker{{ID: "a", Zone: "here", Sessions: 1200, Capacity: 10_000}, {ID: "c", Zone: "here", Capacity: 10_000}}
	for i := range 10 {
		all = append(all, Worker{ID: fmt.Sprint(i), Zone: "there", Capacity: 10_000})
	}
	moved := 0
	for range 4 {
		moved = 0
		for i := range all {
			others := append(append([]Worker(nil), all[:i]...), all[i+1:]...)
			spread := NewSpread(all[i].Zone, others)
			for range Excess(all[i], others) {
				to, _ := spread.Next()
				for j := range all {
					if all[j].ID == to.ID {
						all[j].Sessions++
					}
				}
				all[i].Sessions--
				moved++
			}
		}
	}
	if moved > 0 {
		t.Errorf("in the fourth round %d sessions move still: %v", moved, all)
	}
}
