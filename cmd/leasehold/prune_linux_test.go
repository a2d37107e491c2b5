package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPruneAsksAtATerminalBeforeAnythingIsWritten(t *testing.T) {
	file := filepath.Join(t.TempDir(), "team.yaml")
	if err := os.WriteFile(file, []byte(manifestOf("a", "search")), 0o600); err != nil {
		t.Fatal(err)
	}
	for text, c := range map[string]struct {
		code   int
		writes string
	}{
		"yes\n": {exitOK, "create gateways/a, delete gateways/old (applied within 29s)"},
		"no\n":  {exitFailed, ""},
	} {
		s := newShelf("search", "old")
		s.glances["gateways/a"] = []glance{at(accepted)}
		addr, _ := s.replica(t)
		code, stdout, stderr := typed(t, text, "apply", "-f", file, "--prune", "--selector", selected, "--control", addr)
		if code != c.code || !strings.Contains(stderr, "  gateways/old (0 sessions)\n") || !strings.Contains(stderr, "Type yes: ") {
			t.Errorf("%q: got exit code %d, %q and %q", text, code, stdout, stderr)
		}
		expect(t, s.writes(), c.writes)
	}
	// Where there is nothing to prune, there is nothing to ask.
	s := newShelf("search")
	s.glances["gateways/a"] = []glance{at(accepted)}
	addr, _ := s.replica(t)
	code, _, stderr := typed(t, "", "apply", "-f", file, "--prune", "--selector", selected, "--control", addr)
	if code != exitOK || strings.Contains(stderr, "Type yes") {
		t.Errorf("got exit code %d and %q", code, stderr)
	}
}
