package conformance

import (
	"fmt"
	"slices"
	"strings"
)

// knownFile lists the differences that are known, and why they are.
const knownFile = "known-differences.txt"

// neverKnown are the scenarios that come out the same, whatever happens: no
// difference in them is ever a known one.
var neverKnown = []string{
	"server-initialize", "server-session-lifecycle", "ping", "dns-rebinding-protection",
	"tools-list", "resources-list", "prompts-list",
	"tools-call-simple-text", "tools-call-image", "tools-call-audio", "tools-call-embedded-resource",
	"tools-call-mixed-content", "tools-call-error", "completion-complete",
	"resources-read-text", "resources-read-binary", "resources-templates-read",
	"prompts-get-simple", "prompts-get-with-args", "prompts-get-embedded-resource", "prompts-get-with-image",
}

// parseKnown reads the known differences: a line each with the server, the suite,
// the scenario, the check, a # and why.
func parseKnown(text string) (map[name]string, error) {
	known := map[name]string{}
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		entry, why, _ := strings.Cut(line, "#")
		fields := strings.Fields(entry)
		why = strings.TrimSpace(why)
		if len(fields) != 4 || why == "" {
			return nil, fmt.Errorf("%s:%d: want SERVER SUITE SCENARIO CHECK # WHY, got %q", knownFile, i+1, line)
		}
		n := name{pairing{fields[0], fields[1]}, fields[2], fields[3]}
		if !slices.Contains(pairings(), n.pairing) {
			return nil, fmt.Errorf("%s:%d: there is no %q", knownFile, i+1, n.pairing)
		}
		if slices.Contains(neverKnown, n.scenario) {
			return nil, fmt.Errorf("%s:%d: %s may not differ", knownFile, i+1, n.scenario)
		}
		if known[n] != "" {
			return nil, fmt.Errorf("%s:%d: %v is listed twice", knownFile, i+1, n)
		}
		known[n] = why
	}
	return known, nil
}

// judge returns the differences that are not known, and the known ones of a
// pairing that are none any more.
func judge(p pairing, known map[name]string, found []difference) (unknown []difference, gone []name) {
	here := map[name]bool{}
	for _, d := range found {
		here[d.name] = true
		if known[d.name] == "" {
			unknown = append(unknown, d)
		}
	}
	for n := range known {
		if n.pairing == p && !here[n] {
			gone = append(gone, n)
		}
	}
	slices.SortFunc(gone, func(a, b name) int { return strings.Compare(a.String(), b.String()) })
	return unknown, gone
}
