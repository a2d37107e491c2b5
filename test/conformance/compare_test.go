package conformance

import (
	"strings"
	"testing"
)

// run makes the checks of a run from "id=STATUS" words.
func run(words string) []check {
	var checks []check
	for _, word := range strings.Fields(words) {
		id, status, _ := strings.Cut(word, "=")
		checks = append(checks, check{ID: id, Status: status})
	}
	return checks
}

// runs makes a history.
func runs(all ...string) history {
	var h history
	for _, words := range all {
		h = append(h, run(words))
	}
	return h
}

func TestEveryCheckThatDiffersIsListed(t *testing.T) {
	tests := map[string]struct {
		direct, via history
		want        string
	}{
		"the same":                        {runs("a=SUCCESS b=FAILURE"), runs("b=FAILURE a=SUCCESS"), ""},
		"another status":                  {runs("a=SUCCESS b=SUCCESS"), runs("a=SUCCESS b=FAILURE"), "b SUCCESS FAILURE 1 of 1"},
		"better is different too":         {runs("a=WARNING"), runs("a=SUCCESS"), "a WARNING SUCCESS 1 of 1"},
		"two that differ":                 {runs("a=SUCCESS b=SUCCESS"), runs("a=WARNING"), "a SUCCESS WARNING 1 of 1; b SUCCESS absent 1 of 1"},
		"one more of the same id":         {runs("a=SUCCESS"), runs("a=SUCCESS a=SUCCESS"), "a SUCCESS SUCCESS+SUCCESS 1 of 1"},
		"did not run":                     {runs("a=SUCCESS"), nil, "a SUCCESS absent 1 of 1"},
		"ran only through Leasehold":      {nil, runs("a=SUCCESS"), "a absent SUCCESS 1 of 1"},
		"left no checks":                  {runs("a=SUCCESS"), runs(""), "a SUCCESS absent 1 of 1"},
		"now and then":                    {runs("a=SUCCESS", "a=SUCCESS"), runs("a=FAILURE", "a=SUCCESS"), "a SUCCESS FAILURE 1 of 2"},
		"now and then on both sides":      {runs("a=SUCCESS", "a=FAILURE"), runs("a=FAILURE", "a=SUCCESS"), ""},
		"now and then directly":           {runs("a=FAILURE", "a=SUCCESS", "a=SUCCESS"), runs("a=SUCCESS", "a=SUCCESS", "a=SUCCESS"), ""},
		"always what is rare directly":    {runs("a=FAILURE", "a=SUCCESS", "a=SUCCESS"), runs("a=FAILURE", "a=FAILURE", "a=FAILURE"), "a SUCCESS FAILURE 3 of 3"},
		"two outcomes that are not known": {runs("a=SUCCESS"), runs("a=FAILURE", "a=WARNING"), "a SUCCESS FAILURE 1 of 2; a SUCCESS WARNING 1 of 2"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, d := range differences(pairing{"server", "suite"}, "scenario", test.direct, test.via) {
				got = append(got, strings.Join([]string{d.check, d.direct, d.via, d.runs}, " "))
			}
			if got := strings.Join(got, "; "); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestOwnChecksArePassedAndNotCompared(t *testing.T) {
	const scenario = "server-session-lifecycle"
	tests := map[string]struct {
		direct, via history
		failed      int
		differ      bool
	}{
		"passed by both":           {runs("a=SUCCESS server-session-terminated-returns-404=SUCCESS"), runs("a=SUCCESS server-session-terminated-returns-404=SUCCESS"), 0, false},
		"passed by ours alone":     {runs("a=SUCCESS server-session-terminated-returns-404=FAILURE"), runs("a=SUCCESS server-session-terminated-returns-404=SUCCESS"), 0, false},
		"failed by both":           {runs("a=SUCCESS server-session-terminated-returns-404=FAILURE"), runs("a=SUCCESS server-session-terminated-returns-404=FAILURE"), 1, false},
		"failed once":              {runs("a=SUCCESS"), runs("a=SUCCESS server-session-terminated-returns-404=SUCCESS", "a=SUCCESS"), 1, false},
		"not run":                  {runs("a=SUCCESS"), nil, 1, true},
		"another check is not own": {runs("a=FAILURE"), runs("a=SUCCESS server-session-terminated-returns-404=SUCCESS"), 0, true},
	}
	for name, test := range tests {
		if got := test.via.failed(scenario); len(got) != test.failed {
			t.Errorf("%s: got %q, want %d failed", name, got, test.failed)
		}
		if got := !same(test.direct.compared(scenario), test.via.compared(scenario)); got != test.differ {
			t.Errorf("%s: differs: got %v, want %v", name, got, test.differ)
		}
	}
	if got := runs("a=SUCCESS").failed("another"); got != nil {
		t.Errorf("a scenario without own checks: got %q, want none", got)
	}
}

func TestKnownDifferencesAreNamedAndExplained(t *testing.T) {
	tests := map[string]string{
		"":                   "",
		"# only a comment\n": "",
		"go-sdk 0.1/all tools-call-x c # because":                                       "",
		"go-sdk 0.1/all tools-call-x c":                                                 "WHY",
		"go-sdk 0.1/all tools-call-x c #":                                               "WHY",
		"go-sdk 0.1/all tools-call-x # because":                                         "WHY",
		"nobody 0.1/all tools-call-x c # because":                                       "there is no",
		"go-sdk 0.9/all tools-call-x c # because":                                       "there is no",
		"go-sdk 0.1/all x c # one\ngo-sdk 0.1/all x c # two":                            "twice",
		"go-sdk 0.1/all ping c # because":                                               "may not differ",
		"go-sdk 0.2/all-2025-11-25 server-session-lifecycle session-delete # no":        "may not differ",
		"go-sdk 0.2/all-2025-11-25 dns-rebinding-protection x # no":                     "may not differ",
		"go-sdk 0.2/all-2025-11-25 server-initialize x # no":                            "may not differ",
		"go-sdk 0.2/all-2025-11-25 tools-list x # no":                                   "may not differ",
		"go-sdk 0.2/all-2025-11-25 tools-call-simple-text wire-schema-valid # not this": "may not differ",
	}
	for text, want := range tests {
		_, err := parseKnown(text)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}

func TestKnownDifferencesThatAreGoneAreFound(t *testing.T) {
	known, err := parseKnown("go-sdk 0.1/all s there # y\ngo-sdk 0.1/all s gone # y\ngo-sdk-events 0.1/all s elsewhere # y\n")
	if err != nil {
		t.Fatal(err)
	}
	here := pairing{"go-sdk", "0.1/all"}
	found := []difference{{name: name{here, "s", "there"}}, {name: name{here, "s", "new"}}}
	unknown, gone := judge(here, known, found)
	if len(unknown) != 1 || unknown[0].check != "new" {
		t.Errorf("unknown: got %v, want the new one", unknown)
	}
	if len(gone) != 1 || gone[0].check != "gone" {
		t.Errorf("gone: got %v, want the one that is gone", gone)
	}
}

func TestBaselineFindsWhatDidNotRun(t *testing.T) {
	b, err := parseBaseline("# comment\ns 0.1/all a 1/2\ns 0.1/all b 2/2 # why\ns 0.2/x c 1/1\n")
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		results results
		want    int
	}{
		"all there":           {results{"a": run("x=SUCCESS y=WARNING"), "b": run("x=SUCCESS y=SUCCESS")}, 0},
		"more than that":      {results{"a": run("x=SUCCESS y=SUCCESS z=FAILURE"), "b": run("x=SUCCESS y=SUCCESS")}, 0},
		"a scenario less":     {results{"a": run("x=SUCCESS y=WARNING")}, 1},
		"a check less":        {results{"a": run("x=SUCCESS"), "b": run("x=SUCCESS y=SUCCESS")}, 1},
		"one that was passed": {results{"a": run("x=SUCCESS y=WARNING"), "b": run("x=SUCCESS y=FAILURE")}, 1},
		"a scenario more":     {results{"a": run("x=SUCCESS y=WARNING"), "b": run("x=SUCCESS y=SUCCESS"), "c": run("x=SUCCESS")}, 1},
		"nothing":             {results{}, 2},
	}
	for name, test := range tests {
		if got := b.short(pairing{"s", "0.1/all"}, test.results); len(got) != test.want {
			t.Errorf("%s: got %v, want %d scenarios", name, got, test.want)
		}
	}
	for _, bad := range []string{"s 0.1/all a", "s 0.1/all a 1", "s 0.1/all a x/2"} {
		if _, err := parseBaseline(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}
