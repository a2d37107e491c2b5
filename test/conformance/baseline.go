package conformance

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// baselineFile has what each server itself does in each suite.
const baselineFile = "baseline.txt"

// pairing is a suite that runs against a server.
type pairing struct{ server, suite string }

func (p pairing) String() string { return p.server + " " + p.suite }

// baseline is what a scenario gives at least, by pairing and scenario.
type baseline map[pairing]map[string]score

// score counts the checks of a scenario.
type score struct{ passed, all int }

func (s score) String() string { return fmt.Sprintf("%d checks, %d passed", s.all, s.passed) }

// scoreOf counts checks.
func scoreOf(checks []check) score {
	s := score{all: len(checks)}
	for _, c := range checks {
		if c.Status == "SUCCESS" {
			s.passed++
		}
	}
	return s
}

// less reports whether a run with s has less than a run with other.
func (s score) less(other score) bool { return s.passed < other.passed || s.all < other.all }

// parseBaseline reads lines with the server, the suite, the scenario, how many of
// its checks are passed and how many there are.
func parseBaseline(text string) (baseline, error) {
	b := baseline{}
	for i, line := range strings.Split(text, "\n") {
		line, _, _ = strings.Cut(line, "#")
		if strings.TrimSpace(line) == "" {
			continue
		}
		var p pairing
		var scenario string
		var s score
		if _, err := fmt.Sscanf(line, "%s %s %s %d/%d", &p.server, &p.suite, &scenario, &s.passed, &s.all); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", baselineFile, i+1, err)
		}
		if b[p] == nil {
			b[p] = map[string]score{}
		}
		b[p][scenario] = s
	}
	return b, nil
}

// short returns the scenarios in which a run has less than the baseline, or that
// the baseline does not have, with what is missing.
func (b baseline) short(p pairing, r results) map[string]string {
	missing := map[string]string{}
	for _, scenario := range slices.Sorted(maps.Keys(b[p])) {
		checks, ran := r[scenario]
		got, want := scoreOf(checks), b[p][scenario]
		switch {
		case !ran:
			missing[scenario] = "did not run"
		case got.less(want):
			missing[scenario] = fmt.Sprintf("%v; the baseline is %v", got, want)
		}
	}
	for scenario, checks := range r {
		if _, listed := b[p][scenario]; !listed {
			s := scoreOf(checks)
			missing[scenario] = fmt.Sprintf("%s has no line %s %s %d/%d", baselineFile, p, scenario, s.passed, s.all)
		}
	}
	return missing
}
