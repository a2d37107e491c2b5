package conformance

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// baselineFile has what the server itself does in each suite.
const baselineFile = "baseline.txt"

// baseline is what a scenario gives at least, by suite and scenario.
type baseline map[string]map[string]score

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

// parseBaseline reads lines with the suite, the scenario, how many of its checks
// are passed and how many there are.
func parseBaseline(text string) (baseline, error) {
	b := baseline{}
	for i, line := range strings.Split(text, "\n") {
		line, _, _ = strings.Cut(line, "#")
		if strings.TrimSpace(line) == "" {
			continue
		}
		var suite, scenario string
		var s score
		if _, err := fmt.Sscanf(line, "%s %s %d/%d", &suite, &scenario, &s.passed, &s.all); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", baselineFile, i+1, err)
		}
		if b[suite] == nil {
			b[suite] = map[string]score{}
		}
		b[suite][scenario] = s
	}
	return b, nil
}

// short returns the scenarios in which a run has less than the baseline, with
// what is missing.
func (b baseline) short(suite string, r results) map[string]string {
	missing := map[string]string{}
	for _, scenario := range slices.Sorted(maps.Keys(b[suite])) {
		checks, ran := r[scenario]
		got, want := scoreOf(checks), b[suite][scenario]
		switch {
		case !ran:
			missing[scenario] = "did not run"
		case got.less(want):
			missing[scenario] = fmt.Sprintf("%v; the baseline is %v", got, want)
		}
	}
	return missing
}
