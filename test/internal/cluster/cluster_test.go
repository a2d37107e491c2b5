package cluster

import (
	"context"
	"errors"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/leasehold/leasehold/test/internal/poll"
)

// shell starts a shell script as a process.
func shell(t *testing.T, script string) (*Process, error) {
	t.Helper()
	p, err := Run(t.Context(), t.TempDir(), Command{Name: "script", Path: "sh", Args: []string{"-c", script}})
	if p != nil {
		t.Cleanup(p.Kill)
	}
	return p, err
}

func TestRunWaitsForTheReadyLine(t *testing.T) {
	p, err := shell(t, `echo starting; echo "script is ready on 7"; exec cat /dev/zero >/dev/null`)
	if err != nil {
		t.Fatal(err)
	}
	if want := "script is ready on 7"; p.ReadyLine != want {
		t.Errorf("ready line: got %q, want %q", p.ReadyLine, want)
	}
}

func TestRunShowsTheOutputOfAProcessThatFails(t *testing.T) {
	_, err := shell(t, `echo "no such flag" >&2; exit 2`)
	if err == nil || !strings.Contains(err.Error(), "no such flag") {
		t.Errorf("got %v, want an error with the output", err)
	}
}

func TestKillTakesTheWholeProcessGroup(t *testing.T) {
	p, err := shell(t, `cat /dev/zero >/dev/null & echo "ready $!"; wait`)
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimPrefix(p.ReadyLine, "ready "))
	if err != nil {
		t.Fatal(err)
	}
	p.Kill()
	p.Kill()
	if p.Running() {
		t.Error("the process still runs")
	}
	_, err = poll.Until(t.Context(), 5*time.Second, func(context.Context) error {
		if alive(child) {
			return errors.New("the child still runs")
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// alive reports whether a process runs; one that nobody has waited for does not.
func alive(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

func TestWaitReturnsTheExitCode(t *testing.T) {
	p, err := shell(t, `trap 'exit 3' INT; echo ready; while :; do :; done`)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if code, err := p.Wait(5 * time.Second); err != nil || code != 3 {
		t.Errorf("exit code %d, %v; want 3", code, err)
	}
}

func TestFaultFindsWhatTheRuntimeSays(t *testing.T) {
	p, err := shell(t, `printf 'ready\nfine\nWARNING: DATA RACE\nwrite at\n'`)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Wait(5 * time.Second); err != nil {
		t.Fatal(err)
	}
	if fault := p.Fault(); !strings.HasPrefix(fault, "WARNING: DATA RACE\nwrite at") {
		t.Errorf("fault: got %q", fault)
	}
}

func TestMetricsAreReadByNameAndLabels(t *testing.T) {
	before := parseMetrics("# HELP x y\n# TYPE x counter\nx{op=\"put\"} 1\nx{op=\"get a b\"} 2\nxy 5\n")
	after := parseMetrics("x{op=\"put\"} 4\nx{op=\"get a b\"} 2\nx{op=\"new\"} 1e+02\nxy 6\n")
	if got := before.Sum("x"); got != 3 {
		t.Errorf("sum of x: got %v, want 3", got)
	}
	grown := after.Of("x").Since(before)
	if len(grown) != 2 || grown[`x{op="put"}`] != 3 || grown[`x{op="new"}`] != 100 {
		t.Errorf("growth of x: got %v", grown)
	}
}

func TestForegroundLeavesOutWhatCallsCannotCause(t *testing.T) {
	m := Metrics{EtcdRequests + `{op="renew"}`: 5, ControlRequests + `{method="Renew"}`: 5, EtcdRequests + `{op="claim"}`: 1}
	if got := m.Foreground(); len(got) != 1 || got[EtcdRequests+`{op="claim"}`] != 1 {
		t.Errorf("foreground: got %v, want the claim alone", got)
	}
}

func TestFreePortsAreNeverGivenTwice(t *testing.T) {
	seen := map[int]bool{}
	for range 50 {
		first, err := FreePorts(3)
		if err != nil {
			t.Fatal(err)
		}
		for port := first; port < first+3; port++ {
			if seen[port] {
				t.Fatalf("port %d was given twice", port)
			}
			seen[port] = true
		}
	}
}

func TestSessionNameIsTheDigest(t *testing.T) {
	got := SessionName("counter", "lh1.abc")
	if want := "gateways/counter/sessions/"; !strings.HasPrefix(got, want) || len(got) != len(want)+32 {
		t.Errorf("got %q, want %q and 32 hexadecimal digits", got, want)
	}
}
