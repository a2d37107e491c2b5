package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// named writes the names of the two workers for A and B.
func named(text string) string {
	return strings.NewReplacer("workers/A", "workers/"+workerA, "workers/B", "workers/"+workerB).Replace(text)
}

func TestApplyWritesAllAndWaitsForEveryWorkerTogether(t *testing.T) {
	t.Parallel()
	s := newShelf("search")
	s.glances["gateways/a"] = []glance{at(awaited, awaited), at(accepted, awaited), at(accepted, accepted)}
	s.glances["gateways/b"] = []glance{at(accepted, accepted)}
	code, stdout, stderr := s.run(t, manifestOf("a", "x")+manifestOf("b", "x"), "apply", "-f", "-")
	want := named(`gateways/b: workers/A applied
gateways/b: workers/B applied
gateways/a: workers/A applied
gateways/a: workers/B applied
2 created, 0 updated, 0 unchanged, 0 pruned, 0 failed
`)
	if code != exitOK || stdout != "gateways/a created\ngateways/b created\n" || stderr != want {
		t.Errorf("got exit code %d, %q and\n%s\nwant 0 and\n%s", code, stdout, stderr, want)
	}
}

func TestApplyOfWhatIsAppliedEverywhereSaysNothingOfWorkers(t *testing.T) {
	t.Parallel()
	s := newShelf("search", "a")
	s.glances["gateways/a"] = []glance{at(accepted, accepted)}
	code, stdout, stderr := s.run(t, manifestOf("a", "search"), "apply", "-f", "-")
	if code != exitOK || stdout != "gateways/a unchanged\n" || stderr != "" {
		t.Errorf("got exit code %d, %q and %q", code, stdout, stderr)
	}
	// But for one that has not yet: then it waits, as the first time.
	s.glances["gateways/a"] = []glance{at(awaited, accepted), at(awaited, accepted), at(accepted, accepted)}
	s.seen["gateways/a"] = 0
	_, _, stderr = s.run(t, manifestOf("a", "search"), "apply", "-f", "-")
	expect(t, stderr, named("gateways/a: workers/A pending\ngateways/a: workers/A applied\n"))
}

func TestApplyFailsWhenAWorkerRejectsAndSaysWhoAndWhy(t *testing.T) {
	t.Parallel()
	s := newShelf("search")
	s.glances["gateways/a"] = []glance{at(awaited, awaited), at(accepted, refused)}
	s.glances["gateways/b"] = []glance{at(awaited, awaited), at(awaited, awaited), at(awaited, awaited), at(accepted, accepted)} // is waited for still
	s.glances["gateways/c"] = []glance{at(quarantined, awaited)}
	code, stdout, stderr := s.run(t, manifestOf("a", "x")+manifestOf("b", "x")+manifestOf("c", "x"), "apply", "-f", "-")
	want := named(`gateways/c: workers/A quarantined: panic: ?[2J
gateways/a: workers/A applied
gateways/a: workers/B rejected: upstreams[0].tls.ca_file: no such file
gateways/b: workers/A applied
gateways/b: workers/B applied
error: gateways/a: rejected by workers/B: upstreams[0].tls.ca_file: no such file
error: gateways/c: quarantined by workers/A: panic: ?[2J
note: what was written stays; the same command waits again, and ` + "`leasehold describe gateway NAME`" + ` shows how far it is
3 created, 0 updated, 0 unchanged, 0 pruned, 0 failed; 2 not applied by every worker
`)
	if code != exitFailed || stdout != "gateways/a created\ngateways/b created\ngateways/c created\n" || stderr != want {
		t.Errorf("got exit code %d, %q and\n%s\nwant 1 and\n%s", code, stdout, stderr, want)
	}
}

func TestApplyFailsWhenAWorkerDoesNotAnswerInTimeAndSaysWhich(t *testing.T) {
	t.Parallel()
	hang := func(ctx context.Context) { <-ctx.Done() }
	for name, c := range map[string]struct {
		looks []glance
		want  string
	}{
		"one is silent":   {[]glance{at(accepted, awaited)}, "nothing yet from workers/B"},
		"both are silent": {[]glance{at(awaited, awaited)}, "nothing yet from workers/A, workers/B"},
		"counts only":     {[]glance{{status: &leaseholdv1.GatewayStatus{WorkersApplied: 1, WorkersTotal: 2}}}, "1 of 2 workers have"},
		"no answer":       {[]glance{{before: hang}}, "how far it is is not known"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShelf("search")
			s.glances["gateways/a"] = c.looks
			code, stdout, stderr := s.run(t, manifestOf("a", "x"), "apply", "-f", "-", "--timeout", "5s")
			if code != exitFailed || stdout != "gateways/a created\n" || !strings.Contains(stderr, named("error: gateways/a: not applied by every worker after 5s (--timeout): "+c.want+"\n")) {
				t.Errorf("got exit code %d, %q and\n%s\nwant 1 and %s", code, stdout, stderr, c.want)
			}
		})
	}
}

func TestApplyWithoutWaitReturnsOnceAllIsStored(t *testing.T) {
	t.Parallel()
	s := newShelf("search")
	s.glances["gateways/a"] = []glance{at(awaited, refused)}
	code, stdout, stderr := s.run(t, manifestOf("a", "x"), "apply", "-f", "-", "--wait=false")
	if code != exitOK || stdout != "gateways/a created\n" || stderr != "" || s.seen["gateways/a"] != 0 {
		t.Errorf("got exit code %d, %q, %q, and looked %d times", code, stdout, stderr, s.seen["gateways/a"])
	}
}

func TestApplyWithoutAWorkerSaysSo(t *testing.T) {
	t.Parallel()
	code, stdout, stderr := newShelf("search").run(t, manifestOf("a", "x"), "apply", "-f", "-")
	if code != exitOK || stdout != "gateways/a created\n" || stderr != "note: no worker is alive to apply it\n" {
		t.Errorf("got exit code %d, %q and %q", code, stdout, stderr)
	}
}

func TestApplySaysWhenSomebodyElseWritesWhileItWaits(t *testing.T) {
	t.Parallel()
	s := newShelf("search")
	s.glances["gateways/a"] = []glance{at(awaited), {status: at(awaited).status, before: func(context.Context) { s.change("gateways/a") }}, at(accepted)}
	s.glances["gateways/b"] = []glance{at(awaited), {status: at(awaited).status, before: func(context.Context) { s.remove("gateways/b") }}}
	code, _, stderr := s.run(t, manifestOf("a", "x")+manifestOf("b", "x"), "apply", "-f", "-")
	for _, want := range []string{"error: gateways/a: somebody changed it before", "error: gateways/b: somebody deleted it before"} {
		if code != exitFailed || !strings.Contains(stderr, want) {
			t.Errorf("got exit code %d and\n%s\nwant 1 and %s", code, stderr, want)
		}
	}
}

func TestApplyGoesOnWaitingWhenAReplicaDies(t *testing.T) {
	t.Parallel()
	s := newShelf("search")
	var kill func()
	killed := make(chan struct{})
	s.glances["gateways/a"] = []glance{at(awaited), {status: at(awaited).status, before: func(ctx context.Context) {
		go func() { defer close(killed); kill() }()
		<-ctx.Done() // it dies within the call
	}}, at(accepted)}
	first, killFirst := s.replica(t)
	second, _ := s.replica(t)
	kill = killFirst
	code, stdout, stderr := call(t, manifestOf("a", "x"), "apply", "-f", "-", "--control", first+","+second)
	select {
	case <-killed:
	case <-time.After(callLimit):
		t.Fatalf("it did not wait: %s", stderr)
	}
	if code != exitOK || stdout != "gateways/a created\n" || !strings.Contains(stderr, "note: back") || !strings.HasSuffix(stderr, named("gateways/a: workers/A applied\n")) {
		t.Errorf("got exit code %d, %q and\n%s", code, stdout, stderr)
	}
}

func TestAGatewayThatIsThereTwiceIsAnErrorBeforeAnythingIsWritten(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "gateways.yaml")
	if err := os.WriteFile(file, []byte(manifestOf("gateways/a", "y")), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newShelf("search")
	for _, verb := range []string{"apply", "diff"} {
		code, stdout, stderr := s.run(t, manifestOf("b", "x")+manifestOf("a", "x"), verb, "-f", "-", "-f", file)
		if code == exitOK || stdout != "" || stderr != "error: gateways/a is there twice, in - and "+file+"; nothing was written\n" {
			t.Errorf("%s: got exit code %d, %q and %q", verb, code, stdout, stderr)
		}
	}
	expect(t, s.writes(), "")
}

func TestTheReportCountsWhatBecameOfEach(t *testing.T) {
	t.Parallel()
	s := newShelf("search", "a", "b", "c")
	for _, name := range []string{"a", "b", "n"} {
		s.glances["gateways/"+name] = []glance{at(accepted)}
	}
	bad := "description: bad\n"
	code, stdout, stderr := s.run(t, manifestOf("c", "y")+bad+manifestOf("a", "y")+manifestOf("b", "search")+"---\nname: x\nurls: y\n"+manifestOf("n", "y"), "apply", "-f", "-")
	if code != exitFailed || stdout != "gateways/a updated\ngateways/b unchanged\ngateways/n created\n" {
		t.Errorf("got exit code %d and %q", code, stdout)
	}
	for _, want := range []string{"error: gateways/c: the description is bad\n", "document 4: urls: no such field", "\n1 created, 1 updated, 1 unchanged, 0 pruned, 2 failed\n"} {
		if !strings.Contains(stderr, want) {
			t.Errorf("lacks %q:\n%s", want, stderr)
		}
	}
}

func TestDryRunSaysWhatWouldBecomeOfEachAndWritesNothing(t *testing.T) {
	t.Parallel()
	s := newShelf("search", "a", "b", "old")
	code, stdout, stderr := s.run(t, manifestOf("a", "search")+"description: new\n"+manifestOf("b", "search")+manifestOf("n", "search"),
		"apply", "-f", "-", "--dry-run", "--prune", "--selector", "labels.team = search")
	want := "gateways/a updated (dry run)\ngateways/b unchanged (dry run)\ngateways/n created (dry run)\ngateways/old pruned (dry run)\n"
	if code != exitOK || stdout != want || stderr != "1 created, 1 updated, 1 unchanged, 1 pruned, 0 failed (dry run)\n" {
		t.Errorf("got exit code %d, %q and %q\nwant 0 and %q", code, stdout, stderr, want)
	}
	expect(t, s.writes(), "")
}

// TestADryRunIsRefusedWhereItWouldWrite is for control planes of before there was
// validate_only: they take no notice of it.
func TestADryRunIsRefusedWhereItWouldWrite(t *testing.T) {
	t.Parallel()
	s := newShelf("search")
	s.silent = true
	for _, args := range [][]string{{"apply", "-f", "-", "--dry-run"}, {"diff", "-f", "-"}} {
		code, stdout, stderr := s.run(t, manifestOf("a", "x"), args...)
		if code == exitOK || stdout != "" || !strings.Contains(stderr, "cannot check a gateway without writing it; is it of another version?") {
			t.Errorf("%v: got exit code %d, %q and %q", args, code, stdout, stderr)
		}
	}
	expect(t, s.writes(), "")
}
