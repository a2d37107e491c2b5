package conformance

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"
)

// What a scenario that differs may cost.
const (
	repeats     = 5                // runs of it on each side, beside the first
	suitesLimit = 60 * time.Second // time for what is not repeated
	repeatLimit = 60 * time.Second // time for what is; what is left is judged as it is
)

// sideNames are the names of the two sides.
var sideNames = [2]string{"directly", "through Leasehold"}

// comparison compares the two sides in one pairing.
type comparison struct {
	pairing
	// once runs one scenario once more on a side and keeps what it writes in dir.
	once func(ctx context.Context, side int, scenario, dir string) ([]check, error)
	dir  string
	// deadline is when no scenario is repeated any more.
	deadline time.Time
	// runs is what came of each scenario, by side.
	runs [2]map[string]history
	// again counts the repeated scenarios.
	again int
}

// add adds what came of the suite on a side.
func (c *comparison) add(j int, r results) {
	c.runs[j] = map[string]history{}
	for scenario, checks := range r {
		c.runs[j][scenario] = history{checks}
	}
}

// run repeats what differs and judges what still does.
func (c *comparison) run(t *testing.T, known map[name]string, least baseline) {
	scenarios := maps.Clone(c.runs[0])
	maps.Copy(scenarios, c.runs[1])
	var found []difference
	for _, scenario := range slices.Sorted(maps.Keys(scenarios)) {
		c.settle(t, scenario)
		direct, via := c.compared(scenario)
		found = append(found, differences(c.pairing, scenario, direct, via)...)
		if failed := c.runs[1][scenario].failed(scenario); len(failed) > 0 {
			t.Errorf("%s through Leasehold: %q not passed in every run:\n%s", scenario, failed, c.runs[1][scenario].outcomes())
		}
	}
	for scenario, missing := range least.short(c.pairing, c.best()) {
		t.Errorf("%s directly: %s", scenario, missing)
	}
	unknown, gone := judge(c.pairing, known, found)
	for _, d := range found {
		if why := known[d.name]; why != "" {
			t.Logf("known: %v (%s)", d, why)
		}
	}
	for _, d := range unknown {
		t.Errorf("differs: %v", d)
	}
	for _, n := range gone {
		t.Errorf("%s lists %v, which does not differ any more", knownFile, n)
	}
}

// compared returns what is compared of a scenario.
func (c *comparison) compared(scenario string) (direct, via history) {
	return c.runs[0][scenario].compared(scenario), c.runs[1][scenario].compared(scenario)
}

// settle repeats a scenario on both sides until it is the same or was repeated
// often enough.
func (c *comparison) settle(t *testing.T, scenario string) {
	for range repeats {
		if same(c.compared(scenario)) || time.Now().After(c.deadline) {
			return
		}
		var runs [2][]check
		var errs [2]error
		var group sync.WaitGroup
		c.again++
		for j := range c.runs {
			dir := filepath.Join(c.dir, fmt.Sprint(c.again, "-", j))
			group.Go(func() { runs[j], errs[j] = c.once(t.Context(), j, scenario, dir) })
		}
		group.Wait()
		for j := range c.runs {
			c.runs[j][scenario] = append(c.runs[j][scenario], runs[j])
			if errs[j] != nil {
				t.Logf("%s %s: %v", scenario, sideNames[j], errs[j])
			}
		}
	}
}

// best returns, for each scenario, the direct run with the most.
func (c *comparison) best() results {
	best := results{}
	for scenario, runs := range c.runs[0] {
		best[scenario] = runs[0]
		for _, run := range runs[1:] {
			if scoreOf(best[scenario]).less(scoreOf(run)) {
				best[scenario] = run
			}
		}
	}
	return best
}
