package conformance

import (
	"fmt"
	"slices"
	"strings"
)

// history is what came of a scenario, run by run, on one side.
type history [][]check

// outcome is the multiset of (check, status) of a run, as a string that is the
// same for the same multiset.
func outcome(checks []check) string {
	var lines []string
	for _, c := range checks {
		lines = append(lines, c.ID+" "+c.Status)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// outcomes returns the outcomes of all runs.
func (h history) outcomes() string {
	var all []string
	for i, run := range h {
		all = append(all, fmt.Sprintf("run %d:\n%s", i+1, outcome(run)))
	}
	return strings.Join(all, "\n")
}

// has reports whether any run had this outcome.
func (h history) has(o string) bool {
	return slices.ContainsFunc(h, func(run []check) bool { return outcome(run) == o })
}

// usual returns a run with the outcome that came most often; of several, the one
// that came first.
func (h history) usual() []check {
	count := map[string]int{}
	var best []check
	most := 0
	for _, run := range h {
		count[outcome(run)]++
	}
	for _, run := range h {
		if n := count[outcome(run)]; n > most {
			best, most = run, n
		}
	}
	return best
}

// same reports whether a scenario gives through Leasehold what it gives directly:
// no outcome that does not come directly as well, and the one that is usual
// directly among them. That a rare outcome has not come through Leasehold too is
// no difference.
func same(direct, via history) bool {
	for _, run := range via {
		if !direct.has(outcome(run)) {
			return false
		}
	}
	return via.has(outcome(direct.usual()))
}

// difference is a check that comes out differently through Leasehold.
type difference struct {
	name
	// direct and via are the statuses, "absent" if the check was not made.
	direct, via string
	// message is what the suite says about it through Leasehold.
	message string
	// runs says in how many runs through Leasehold, of how many.
	runs string
}

// name names a check.
type name struct {
	pairing
	scenario, check string
}

func (n name) String() string { return n.pairing.String() + " " + n.scenario + " " + n.check }

func (d difference) String() string {
	s := fmt.Sprintf("%s: %s directly, %s through Leasehold in %s runs", d.name, d.direct, d.via, d.runs)
	if d.message != "" {
		s += ": " + d.message
	}
	return s
}

// differences returns every check of a scenario that differs.
func differences(p pairing, scenario string, direct, via history) []difference {
	if same(direct, via) {
		return nil
	}
	if len(via) == 0 {
		via = history{nil} // it did not run
	}
	usual := direct.usual()
	var all []difference
	for _, run := range via.foreign(direct) {
		count := 0
		for _, other := range via {
			if outcome(other) == outcome(run) {
				count++
			}
		}
		for _, d := range diff(usual, run) {
			d.pairing, d.scenario, d.runs = p, scenario, fmt.Sprintf("%d of %d", count, len(via))
			all = append(all, d)
		}
	}
	return all
}

// foreign returns a run for each outcome that the other side has not, or for each
// at all if it has them all.
func (h history) foreign(other history) [][]check {
	var foreign, all [][]check
	seen := map[string]bool{}
	for _, run := range h {
		o := outcome(run)
		if seen[o] {
			continue
		}
		seen[o] = true
		all = append(all, run)
		if !other.has(o) {
			foreign = append(foreign, run)
		}
	}
	if len(foreign) == 0 {
		return all
	}
	return foreign
}

// diff returns the checks that differ between two runs, by id.
func diff(direct, via []check) []difference {
	var ids []string
	for _, c := range slices.Concat(direct, via) {
		if !slices.Contains(ids, c.ID) {
			ids = append(ids, c.ID)
		}
	}
	slices.Sort(ids)
	var all []difference
	for _, id := range ids {
		d, v := statuses(direct, id), statuses(via, id)
		if d != v {
			all = append(all, difference{name: name{check: id}, direct: d, via: v, message: messages(via, id)})
		}
	}
	return all
}

// statuses returns the statuses of all checks with an id.
func statuses(checks []check, id string) string {
	var all []string
	for _, c := range checks {
		if c.ID == id {
			all = append(all, c.Status)
		}
	}
	if len(all) == 0 {
		return "absent"
	}
	slices.Sort(all)
	return strings.Join(all, "+")
}

// messages returns what is said about an id.
func messages(checks []check, id string) string {
	var all []string
	for _, c := range checks {
		if c.ID == id && c.Message != "" {
			all = append(all, fmt.Sprintf("%.400s", c.Message))
		}
	}
	return strings.Join(all, "; ")
}
