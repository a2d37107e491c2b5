package conformance

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/leasehold/leasehold/test/internal/cluster"
	"github.com/leasehold/leasehold/test/internal/npm"
)

// gateway is the gateway in front of the server.
const gateway = "conformance"

// What a scenario that differs may cost.
const (
	repeats     = 5                // runs of it on each side, beside the first
	repeatLimit = 90 * time.Second // time for all of them; what is left is judged as it is
)

// side is one way to the server.
type side struct {
	name string
	// url opens a way for one run of a suite; the caller closes it with done,
	// which says whether the way was as it should be.
	url func() (url string, done func() error, err error)
}

// TestSuitesGiveTheSameThroughTwoWorkersAsDirectly runs every suite against the
// server itself and through two workers, request by request in turn, and compares
// check by check.
func TestSuitesGiveTheSameThroughTwoWorkersAsDirectly(t *testing.T) {
	known, err := parseKnown(read(t, knownFile))
	if err != nil {
		t.Fatal(err)
	}
	least, err := parseBaseline(read(t, baselineFile))
	if err != nil {
		t.Fatal(err)
	}
	c, sides := world(t)
	t.Run("workers refuse foreign hosts and origins themselves", func(t *testing.T) { hostProtection(t, c) })
	dir := t.TempDir()
	first := runSuites(t, sides, dir)
	deadline := time.Now().Add(repeatLimit)
	for i, s := range suites {
		t.Run(s.name, func(t *testing.T) {
			c := comparison{suite: &s, sides: sides, dir: filepath.Join(dir, fmt.Sprint("again", i)), deadline: deadline}
			for j, r := range [2]ran{first[0][i], first[1][i]} {
				if r.err != nil {
					t.Errorf("%s: %v", sides[j].name, r.err)
				}
				if len(r.results) == 0 {
					t.FailNow()
				}
				c.add(j, r.results)
			}
			c.run(t, known, least)
		})
	}
}

// world starts the servers and Leasehold and returns the direct way and the way
// through Leasehold.
func world(t *testing.T) (*cluster.Cluster, [2]side) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	installed := make(chan error, 1)
	go func() { installed <- npm.Install(ctx, suiteDir) }()
	dir := t.TempDir()
	binary, err := buildServer(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	// A server each, so that the sessions of one do not make the other slow.
	var servers [2]string
	for i := range servers {
		address, p, err := startServer(ctx, binary, dir, fmt.Sprint("server", i))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Kill)
		servers[i] = address
	}
	c := cluster.Test(t, cluster.Config{Workers: 2, Race: true})
	c.Publish(t, gateway, "http://"+servers[1]+"/mcp", "")
	if err := <-installed; err != nil {
		t.Fatal(err)
	}
	nothing := func() error { return nil }
	return c, [2]side{
		{"directly", func() (string, func() error, error) { return "http://" + servers[0] + "/mcp", nothing, nil }},
		{"through Leasehold", func() (string, func() error, error) {
			f, err := startFront(c.Workers[0].Listen, c.Workers[1].Listen)
			if err != nil {
				return "", nil, err
			}
			return f.URL + "/gateways/" + gateway + "/mcp", func() error { f.Close(); return f.check() }, nil
		}},
	}
}

// ran is what came of a suite.
type ran struct {
	results results
	err     error
}

// runSuites runs all suites on both sides, side by side.
func runSuites(t *testing.T, sides [2]side, dir string) [2][]ran {
	t.Helper()
	var all [2][]ran
	var group sync.WaitGroup
	for j, side := range sides {
		all[j] = make([]ran, len(suites))
		group.Go(func() {
			for i := range suites {
				start := time.Now()
				r := &all[j][i]
				r.results, r.err = runSuite(t.Context(), &suites[i], side, filepath.Join(dir, fmt.Sprint(j, "-", i)))
				checks := 0
				for _, c := range r.results {
					checks += len(c)
				}
				t.Logf("%s %s: %d checks of %d scenarios in %v", suites[i].name, side.name, checks, len(r.results),
					time.Since(start).Round(10*time.Millisecond))
			}
		})
	}
	group.Wait()
	return all
}

// runSuite runs all scenarios of a suite on one side.
func runSuite(ctx context.Context, s *suite, side side, dir string) (results, error) {
	url, done, err := side.url()
	if err != nil {
		return nil, err
	}
	r, err := s.runAll(ctx, url, dir)
	if wrong := done(); wrong != nil && err == nil {
		err = wrong
	}
	return r, err
}

// comparison compares the two sides in one suite.
type comparison struct {
	suite *suite
	sides [2]side
	dir   string
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
		found = append(found, differences(c.suite.name, scenario, c.runs[0][scenario], c.runs[1][scenario])...)
	}
	for scenario, missing := range least.short(c.suite.name, c.best()) {
		t.Errorf("%s directly: %s", scenario, missing)
	}
	c.wantAllPassed(t, "dns-rebinding-protection", least)
	unknown, gone := judge(c.suite.name, known, found)
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

// settle repeats a scenario on both sides until it is the same or was repeated
// often enough.
func (c *comparison) settle(t *testing.T, scenario string) {
	for range repeats {
		if same(c.runs[0][scenario], c.runs[1][scenario]) || time.Now().After(c.deadline) {
			return
		}
		var runs [2][]check
		var errs [2]error
		var group sync.WaitGroup
		c.again++
		for j := range c.sides {
			dir := filepath.Join(c.dir, fmt.Sprint(c.again, "-", j))
			group.Go(func() { runs[j], errs[j] = c.repeat(t.Context(), j, scenario, dir) })
		}
		group.Wait()
		for j := range c.sides {
			c.runs[j][scenario] = append(c.runs[j][scenario], runs[j])
			if errs[j] != nil {
				t.Logf("%s %s: %v", scenario, c.sides[j].name, errs[j])
			}
		}
	}
}

// repeat runs one scenario again on one side.
func (c *comparison) repeat(ctx context.Context, j int, scenario, dir string) ([]check, error) {
	url, done, err := c.sides[j].url()
	if err != nil {
		return nil, err
	}
	defer done() // a single scenario may have a single request
	return c.suite.runOne(ctx, url, dir, scenario)
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

// wantAllPassed checks that every run through Leasehold passed all checks of a
// scenario, if the suite has it.
func (c *comparison) wantAllPassed(t *testing.T, scenario string, least baseline) {
	want, ok := least[c.suite.name][scenario]
	if !ok {
		return
	}
	for _, run := range c.runs[1][scenario] {
		if s := scoreOf(run); s.passed < want.all || s.passed < s.all {
			t.Errorf("%s through Leasehold: %v, want %d, all passed:\n%s", scenario, s, want.all, outcome(run))
			return
		}
	}
	if len(c.runs[1][scenario]) == 0 {
		t.Errorf("%s did not run through Leasehold", scenario)
	}
}

// read returns the text of a file of this directory.
func read(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(data), "\r\n", "\n")
}
