package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

const forgotten = "workers/" + workerA + " forgotten\n"

func TestForgetSaysWhatFollows(t *testing.T) {
	for _, c := range []struct {
		worker *leaseholdv1.Worker
		want   string
	}{
		{workerIn(dead, 12, 0), "note: sessions of it to take over: 12; each goes on at another worker with its next request (pinned ones end);\n" +
			"  `leasehold get sessions --owner " + workerA + "` shows those that have not yet\n"},
		{workerIn(dead, 0, 0), "note: it had no sessions recorded\n"},
		{workerIn(departed, 0, 0), "note: it had no sessions recorded\n"},
	} {
		p := &plane{all: []*leaseholdv1.Worker{c.worker}, looks: states(c.worker)}
		code, stdout, stderr := p.run(t, "forget", "worker", workerA[:8], "--yes") // a dead one, by its first digits
		if code != exitOK || stdout != forgotten || stderr != c.want {
			t.Errorf("got exit code %d, %q and\n%s\nwant 0, %q and\n%s", code, stdout, stderr, forgotten, c.want)
		}
		expect(t, p.changes(), "forget workers/"+workerA)
	}
}

func TestForgetNeedsYesWhereNobodyCanBeAsked(t *testing.T) {
	p := &plane{looks: states(workerIn(dead, 12, 0))}
	code, stdout, stderr := p.run(t, "forget", "worker", workerA)
	if code != exitUsage || stdout != "" || !strings.Contains(stderr, "add --yes if you are certain") {
		t.Errorf("got exit code %d, %q and %q, want 2 and a word of --yes", code, stdout, stderr)
	}
	if p.changes() != "" || p.n != 0 {
		t.Errorf("asked for %q and looked %d times, want neither", p.changes(), p.n)
	}
}

func TestAWorkerThatIsAliveIsNotForgotten(t *testing.T) {
	for _, state := range []leaseholdv1.WorkerState{serving, drains} {
		p := &plane{looks: states(workerIn(state, 12, 0))}
		code, stdout, stderr := p.run(t, "forget", "worker", workerA, "--yes")
		if code != exitFailed || stdout != "" || !strings.Contains(stderr, "is alive") || p.changes() != "" {
			t.Errorf("%v: got exit code %d, %q, %q, and asked for %q", state, code, stdout, stderr, p.changes())
		}
	}
	// It came back in between.
	p := &plane{looks: states(workerIn(dead, 12, 0)), refuse: status.Error(codes.FailedPrecondition, "the worker is alive")}
	code, stdout, stderr := p.run(t, "forget", "worker", workerA, "--yes")
	if code != exitFailed || stdout != "" || stderr != "error: workers/"+workerA+": the worker is alive\n" {
		t.Errorf("got exit code %d, %q and %q", code, stdout, stderr)
	}
}

func TestOnlyATerminalIsAsked(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "yes"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	defer writer.Close()
	if terminal(file) || terminal(reader) || terminal(strings.NewReader("yes\n")) {
		t.Error("a file, a pipe or a reader counts as a terminal")
	}
}

func TestOnlyYesInFullIsYes(t *testing.T) {
	for answer, want := range map[string]bool{
		"yes\n": true, " yes \r\n": true, "y\n": false, "YES\n": false, "no\n": false, "\n": false, "yes": false, "": false,
		strings.Repeat("y", 2000) + "\n": false,
	} {
		var out strings.Builder
		if err := confirm(strings.NewReader(answer), &out, "Sure?"); (err == nil) != want {
			t.Errorf("%q: got %v", answer, err)
		}
		if !strings.HasPrefix(out.String(), "Sure? Type yes: ") {
			t.Errorf("asked %q", out.String())
		}
	}
}
