package main

import (
	"strings"
	"testing"
)

const selected = "labels.team = search"

func TestPruneDeletesWhatMatchesAndIsInNoFileOnceTheRestIsApplied(t *testing.T) {
	t.Parallel()
	s := newShelf("search", "a", "old", "older")
	other := newShelf("billing", "other")
	s.stored["gateways/other"] = other.stored["gateways/other"]
	s.glances["gateways/n"] = []glance{at(awaited), at(accepted)}
	s.glances["gateways/a"] = []glance{at(accepted)}
	code, stdout, stderr := s.run(t, manifestOf("a", "search")+manifestOf("n", "search"), "apply", "-f", "-", "--prune", "--selector", selected, "--yes")
	if code != exitOK || stdout != "gateways/a unchanged\ngateways/n created\ngateways/old pruned\ngateways/older pruned\n" {
		t.Errorf("got exit code %d, %q and %q", code, stdout, stderr)
	}
	if !strings.HasSuffix(stderr, "1 created, 0 updated, 1 unchanged, 2 pruned, 0 failed\n") {
		t.Errorf("the report is missing: %s", stderr)
	}
	expect(t, s.writes(), "create gateways/n, delete gateways/old (applied within 29s), delete gateways/older (applied within 29s)")
}

func TestNothingIsPrunedUnlessAllIsApplied(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		document, writes string
		looked           bool // for what there is to prune, about which somebody would be asked
	}{
		"one cannot be read":    {"---\nname: x\nurls: y\n", "", false},
		"one cannot be written": {manifestOf("b", "search") + "description: bad\n", "", true},
		"one is rejected":       {manifestOf("n", "search"), "create gateways/n", true},
	} {
		looked := false
		s := newShelf("search", "a", "b", "old")
		s.glances["gateways/a"] = []glance{at(accepted)}
		s.glances["gateways/n"] = []glance{at(refused)}
		s.listed = func() { looked = true }
		code, stdout, stderr := s.run(t, manifestOf("a", "search")+c.document, "apply", "-f", "-", "--prune", "--selector", selected, "--yes")
		if code != exitFailed || !strings.HasPrefix(stdout, "gateways/a unchanged\n") || !strings.Contains(stderr, "note: nothing is pruned") || looked != c.looked {
			t.Errorf("%s: got exit code %d, %q and %q, and looked for more: %v", name, code, stdout, stderr, looked)
		}
		expect(t, s.writes(), c.writes)
	}
}

func TestPruneRefusesFilesThatTheSelectorDoesNotCover(t *testing.T) {
	t.Parallel()
	s := newShelf("search", "old")
	code, stdout, stderr := s.run(t, manifestOf("a", "search")+manifestOf("b", "billing"), "apply", "-f", "-", "--prune", "--selector", selected, "--yes")
	if code != exitFailed || stdout != "" || !strings.Contains(stderr, "error: gateways/b in - does not match --selector 'labels.team = search'") {
		t.Errorf("got exit code %d, %q and %q", code, stdout, stderr)
	}
	expect(t, s.writes(), "")
}

func TestPruneSparesWhatHasChangedSinceItWasListedAndMissesNothingThatIsGone(t *testing.T) {
	t.Parallel()
	s := newShelf("search", "a", "gone", "old", "older")
	s.glances["gateways/a"] = []glance{at(accepted)}
	s.listed = func() {
		s.change("gateways/old")
		s.remove("gateways/gone")
	}
	code, stdout, stderr := s.run(t, manifestOf("a", "search"), "apply", "-f", "-", "--prune", "--selector", selected, "--yes")
	if code != exitFailed || stdout != "gateways/a unchanged\ngateways/older pruned\n" {
		t.Errorf("got exit code %d and %q", code, stdout)
	}
	expect(t, stderr, "error: gateways/old: prune: gateway has changed: etag does not match\n0 created, 0 updated, 1 unchanged, 1 pruned, 1 failed\n")
	if s.stored["gateways/old"] == nil {
		t.Error("gateways/old is gone")
	}
}
