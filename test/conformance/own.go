package conformance

import "slices"

// own are the checks, by scenario, of what Leasehold does itself, whatever the
// server behind it does: it refuses foreign hosts, and knows no session that was
// ended. They are not compared, but have to be passed.
var own = map[string][]string{
	"dns-rebinding-protection": {"localhost-host-rebinding-rejected", "localhost-host-valid-accepted"},
	"server-session-lifecycle": {"server-session-terminated-returns-404"},
}

// compared returns the runs of a scenario without its own checks.
func (h history) compared(scenario string) history {
	var rest history
	for _, run := range h {
		var checks []check
		for _, c := range run {
			if !slices.Contains(own[scenario], c.ID) {
				checks = append(checks, c)
			}
		}
		rest = append(rest, checks)
	}
	return rest
}

// failed returns the own checks of a scenario that some run did not pass, and
// all of them if there was no run.
func (h history) failed(scenario string) []string {
	var ids []string
	for _, id := range own[scenario] {
		missed := func(run []check) bool { return statuses(run, id) != "SUCCESS" }
		if len(h) == 0 || slices.ContainsFunc(h, missed) {
			ids = append(ids, id)
		}
	}
	return ids
}
