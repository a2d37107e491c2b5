package main

import (
	"regexp"
	"strings"
	"testing"
)

// TestDiffShowsWhatApplyWouldChange compares with testdata/diff.txt, in which
// fingerprints that the control plane made up are FINGERPRINT.
func TestDiffShowsWhatApplyWouldChange(t *testing.T) {
	control := startControlPlane(t)
	const stored = `name: a
description: counts
upstreams:
- name: u
  url: https://example.com/mcp
  credential: {bearer: {value: canary-one}, headers: [{name: X-Key, value: {value: canary-two}}]}
---
name: same
upstreams: [{name: u, url: http://127.0.0.1:1/mcp}]
`
	if code, _, stderr := call(t, stored, "apply", "-f", "-", "--control", control); code != exitOK {
		t.Fatalf("apply: %s", stderr)
	}
	if code, stdout, stderr := call(t, stored, "diff", "-f", "-", "--control", control); code != exitOK || stdout != "" || stderr != "" {
		t.Errorf("of what was applied: got exit code %d, %q and %q", code, stdout, stderr)
	}
	changed := strings.NewReplacer("counts", "adds", "canary-one", "canary-other", "name: same\n", "name: new\nlabels: {team: search}\n").Replace(stored)
	code, stdout, stderr := call(t, changed, "diff", "-f", "-", "--control", control)
	if code != exitFailed || stderr != "" || strings.Contains(stdout, "canary") {
		t.Errorf("got exit code %d, %q and\n%s", code, stderr, stdout)
	}
	golden(t, "diff.txt", regexp.MustCompile(`[A-Z2-7]{26}`).ReplaceAllString(stdout, "FINGERPRINT"))
	again, _, _ := call(t, changed, "diff", "-f", "-", "--control", control)
	if _, repeated, _ := call(t, changed, "diff", "-f", "-", "--control", control); again != exitFailed || repeated != stdout {
		t.Errorf("the second time it shows\n%s\nwant\n%s", repeated, stdout)
	}
}

func TestDiffThatCannotCompareExitsWith2AndComparesTheRest(t *testing.T) {
	control := startControlPlane(t)
	code, stdout, stderr := call(t, "name: a\nupstreams: [{name: u, url: nonsense}]\n---\nname: b\nupstreams: [{name: u, url: http://127.0.0.1:1/mcp}]\n", "diff", "-f", "-", "--control", control)
	if code != exitTrouble || !strings.Contains(stderr, "error: gateways/a: ") || !strings.Contains(stderr, "gateway.upstreams[0].url: ") || !strings.Contains(stdout, "+name: gateways/b\n") {
		t.Errorf("got exit code %d, %q and %q", code, stdout, stderr)
	}
	for _, args := range [][]string{
		{"diff", "-f", "/does/not/exist", "--control", control},
		{"diff", "-f", "-", "--control", "127.0.0.1:1"},
	} {
		if code, stdout, stderr := call(t, "name: a\n", args...); code != exitTrouble || stdout != "" || !strings.HasPrefix(stderr, "error: ") {
			t.Errorf("%v: got exit code %d, %q and %q", args, code, stdout, stderr)
		}
	}
}
