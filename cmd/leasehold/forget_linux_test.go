package main

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// newTerminal returns a terminal, and what its user types with.
func newTerminal(t *testing.T) (tty, keyboard *os.File) {
	t.Helper()
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = keyboard.Close() })
	if err := unix.IoctlSetPointerInt(int(keyboard.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(keyboard.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tty.Close() })
	return tty, keyboard
}

// typed runs `leasehold forget worker` at a terminal at which text is typed.
func (p *plane) typed(t *testing.T, text string) (code int, stdout, stderr string) {
	t.Helper()
	addr, _ := p.replica(t)
	return typed(t, text, "forget", "worker", workerA, "--control", addr)
}

// typed runs the command line at a terminal at which text is typed.
func typed(t *testing.T, text string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	tty, keyboard := newTerminal(t)
	if _, err := keyboard.WriteString(text); err != nil {
		t.Fatal(err)
	}
	var out, errs strings.Builder
	ctx, cancel := context.WithTimeout(t.Context(), callLimit)
	defer cancel()
	code = run(ctx, args, tty, &out, &errs)
	return code, out.String(), errs.String()
}

func TestForgetAsksAtATerminalAndSaysWhatItMeans(t *testing.T) {
	p := &plane{looks: states(workerIn(dead, 12, 0))}
	code, stdout, stderr := p.typed(t, "yes\n")
	if code != exitOK || stdout != forgotten {
		t.Errorf("got exit code %d, %q and %q", code, stdout, stderr)
	}
	for _, want := range []string{"workers/" + workerA + " is dead", "12", "two workers then act for the same sessions", "10.0.0.1:8080", "Type yes: note: "} {
		if !strings.Contains(regexp.MustCompile(`\s+`).ReplaceAllString(stderr, " "), want) {
			t.Errorf("the question lacks %q:\n%s", want, stderr)
		}
	}
	expect(t, p.changes(), "forget workers/"+workerA)

	const endOfInput = "\x04"
	for text, want := range map[string]string{"no\n": "is not forgotten: the answer was not yes", "y\n": "the answer was not yes", endOfInput: "is not forgotten: there was no answer"} {
		p := &plane{looks: states(workerIn(dead, 12, 0))}
		code, stdout, stderr := p.typed(t, text)
		if code != exitFailed || stdout != "" || !strings.Contains(stderr, want) || p.changes() != "" {
			t.Errorf("%q: got exit code %d, %q, %q, and asked for %q", text, code, stdout, stderr, p.changes())
		}
	}
}

func TestForgettingAWorkerThatLeftIsNoQuestion(t *testing.T) {
	p := &plane{looks: []look{{worker: &leaseholdv1.Worker{Name: "workers/" + workerA, State: departed}}}}
	code, stdout, stderr := p.typed(t, "")
	if code != exitOK || stdout != forgotten || strings.Contains(stderr, "Type yes") {
		t.Errorf("got exit code %d, %q and %q", code, stdout, stderr)
	}
}
