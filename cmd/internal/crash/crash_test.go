package crash

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// child is what a child process of the tests is asked to do, by its arguments: to keep
// its crash in a file, and then to end in some way.
func child(path, how string) {
	if _, err := Keep(path); err != nil {
		os.Exit(1)
	}
	switch how {
	case "panic":
		panic("poison")
	case "fatal":
		var mu sync.Mutex
		mu.Unlock()
	case "exit":
		os.Exit(0)
	}
	os.Stdout.WriteString("waiting\n")
	time.Sleep(time.Hour) // until the signal comes
}

func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "child" {
		child(os.Args[2], os.Args[3])
	}
	os.Exit(m.Run())
}

// run runs a child, which gets a signal once it waits, if it does.
func run(t *testing.T, path, how string, signal os.Signal) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "child", path, how)
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, _ := bufio.NewReader(out).ReadString('\n'); signal != nil && line != "" {
		if err := cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
	}
	var ended *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &ended) {
		t.Fatal(err)
	}
}

func TestACrashIsToldToTheNextProcessAndNoOtherEndIs(t *testing.T) {
	for name, c := range map[string]struct {
		how    string
		signal os.Signal
		want   string
	}{
		"panic":       {how: "panic", want: "panic: poison"},
		"fatal error": {how: "fatal", want: "sync.(*Mutex).Unlock"},
		"exit":        {how: "exit"},
		"killed":      {how: "wait", signal: syscall.SIGKILL},
		"quit":        {how: "wait", signal: syscall.SIGQUIT},
		"aborted":     {how: "wait", signal: syscall.SIGABRT},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "crash")
			run(t, path, c.how, c.signal)
			got, err := read(path)
			if err != nil || !strings.Contains(got, c.want) || (got == "") != (c.want == "") {
				t.Errorf("got %q, %v; want %q", got, err, c.want)
			}
			run(t, path, "exit", nil)
			if got, err := read(path); err != nil || got != "" {
				t.Errorf("after a process that did not crash: got %q, %v; want nothing", got, err)
			}
		})
	}
}

func TestAFileThatCannotBeUsedIsAnError(t *testing.T) {
	if _, err := Keep(t.TempDir()); err == nil {
		t.Error("a directory was taken for a file")
	}
}
