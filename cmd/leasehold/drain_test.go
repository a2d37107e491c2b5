package main

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

const drained = "workers/" + workerA + " drained\n"

func TestDrainSaysWhatIsLeftUntilNothingIs(t *testing.T) {
	t.Parallel()
	unrecorded := workerIn(drains, 0, 0)
	unrecorded.UndurableSessions = 1
	both := workerIn(drains, 5, 3)
	both.UndurableSessions = 2
	p := &plane{looks: states(
		workerIn(drains, 1203, 3), workerIn(drains, 1203, 3), workerIn(drains, 17, 3), both, workerIn(drains, 2, 0), workerIn(drains, 3, 3), unrecorded, workerIn(drains, 0, 0),
	)}
	code, stdout, stderr := p.run(t, "drain", "worker", workerA)
	want := strings.ReplaceAll(`W 1203 sessions left (3 pinned)
W 17 sessions left (3 pinned)
W 7 sessions left (3 pinned, 2 not recorded yet)
W 2 sessions left
W 3 sessions left (pinned: they end when its drain timeout has passed)
W 1 session left (1 not recorded yet)
`, "W", "workers/"+workerA)
	if code != exitOK || stdout != drained || stderr != want {
		t.Errorf("got exit code %d, %q and\n%s\nwant 0, %q and\n%s", code, stdout, stderr, drained, want)
	}
	expect(t, p.changes(), "drain workers/"+workerA)
}

func TestDrainDoesNotTakeAWorkerThatDoesNotAnswerForEmpty(t *testing.T) {
	t.Parallel()
	own := &leaseholdv1.Session{Name: "gateways/demo/sessions/" + digestA, Owner: "workers/" + workerA, Incarnation: 7}
	orphan := &leaseholdv1.Session{Name: "gateways/demo/sessions/" + digestA, Owner: "workers/" + workerA, Incarnation: 6} // which it does not own any more
	silent := workerIn(drains, 0, 0)
	p := &plane{looks: []look{
		{worker: silent, sessions: []*leaseholdv1.Session{orphan, own}},
		{worker: workerIn(drains, 1, 0)},
		{worker: silent, sessions: []*leaseholdv1.Session{orphan}},
	}}
	code, stdout, stderr := p.run(t, "drain", "worker", workerA)
	want := "workers/" + workerA + " sessions left; it does not say how many\nworkers/" + workerA + " 1 session left\n"
	if code != exitOK || stdout != drained || stderr != want {
		t.Errorf("got exit code %d, %q and\n%s\nwant 0, %q and\n%s", code, stdout, stderr, drained, want)
	}
}

func TestAWorkerThatIsGoneHasDrained(t *testing.T) {
	t.Parallel()
	begun := look{worker: workerIn(drains, 4, 1)}
	for name, c := range map[string]struct {
		looks []look
		said  string
	}{
		"it left":                      {[]look{begun, {worker: workerIn(departed, 1, 0)}}, ""},
		"it is not known any more":     {[]look{begun, {err: status.Error(codes.NotFound, "no such worker")}}, ""},
		"it died with nothing left":    {[]look{begun, {worker: workerIn(dead, 0, 0)}}, ""},
		"it died, and others took all": {[]look{begun, {worker: workerIn(dead, 2, 0)}, {worker: workerIn(dead, 0, 0)}}, "workers/" + workerA + " 2 sessions left (it is dead)\n"},
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := (&plane{looks: c.looks}).run(t, "drain", "worker", workerA)
			want := "workers/" + workerA + " 4 sessions left (1 pinned)\n" + c.said
			if code != exitOK || stdout != drained || stderr != want {
				t.Errorf("got exit code %d, %q and %q, want 0, %q and %q", code, stdout, stderr, drained, want)
			}
		})
	}
}

func TestDrainThatTakesTooLongFailsAndSaysWhatIsLeft(t *testing.T) {
	t.Parallel()
	hang := func(ctx context.Context) { <-ctx.Done() }
	for name, c := range map[string]struct {
		look look
		want []string
	}{
		"sessions":       {look{worker: workerIn(drains, 14, 3)}, []string{": not drained after 3s (--timeout): 14 sessions left (3 pinned)\n", "goes on draining", "`leasehold undrain worker " + workerA + "`"}},
		"a dead worker":  {look{worker: workerIn(dead, 2, 0)}, []string{": 2 sessions left (it is dead)\n", "`leasehold describe worker " + workerA + "` says what they wait for"}},
		"nobody answers": {look{before: hang}, []string{": not drained after 3s (--timeout): how many sessions are left is not known\n", "goes on draining"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code, stdout, stderr := (&plane{looks: []look{c.look}}).run(t, "drain", "worker", workerA, "--timeout", "3s")
			if code != exitFailed || stdout != "" {
				t.Errorf("got exit code %d and %q, want 1 and nothing", code, stdout)
			}
			for _, want := range append(c.want, "error: workers/"+workerA) {
				if !strings.Contains(stderr, want) {
					t.Errorf("errors lack %q: %s", want, stderr)
				}
			}
		})
	}
}

func TestDrainWithoutWaitReturnsOnceItIsNoted(t *testing.T) {
	t.Parallel()
	p := &plane{looks: states(workerIn(drains, 14, 3))}
	code, stdout, stderr := p.run(t, "drain", "worker", "workers/"+workerA, "--wait=false")
	if code != exitOK || stdout != "workers/"+workerA+" drains\n" || stderr != "" {
		t.Errorf("got exit code %d, %q and %q", code, stdout, stderr)
	}
	if p.n != 0 {
		t.Errorf("looked at the worker %d times, want none", p.n)
	}
}

func TestDrainGoesOnWhenAReplicaDies(t *testing.T) {
	t.Parallel()
	var kill func()
	killed := make(chan struct{})
	p := &plane{looks: []look{
		{worker: workerIn(drains, 14, 0)},
		{worker: workerIn(drains, 13, 0), before: func(ctx context.Context) {
			go func() { defer close(killed); kill() }()
			<-ctx.Done() // it dies within the call
		}},
		{worker: workerIn(drains, 2, 0)},
		{worker: workerIn(drains, 0, 0)},
	}}
	first, killFirst := p.replica(t)
	second, _ := p.replica(t)
	kill = killFirst
	code, stdout, stderr := call(t, "", "drain", "worker", workerA, "--control", first+","+second)
	<-killed
	if code != exitOK || stdout != drained {
		t.Errorf("got exit code %d, %q and %s", code, stdout, stderr)
	}
	at := 0
	for _, want := range []string{"14 sessions left\n", "note: lost the control plane: ", "note: back", "2 sessions left\n"} {
		found := strings.Index(stderr[at:], want)
		if found < 0 {
			t.Fatalf("%q is not said in its turn:\n%s", want, stderr)
		}
		at += found
	}
	expect(t, p.changes(), "drain workers/"+workerA)
}

func TestDrainEndsWhenItIsRefusedOrTakenBack(t *testing.T) {
	t.Parallel()
	p := &plane{refuse: status.Error(codes.FailedPrecondition, "the worker is not alive")}
	if code, _, stderr := p.run(t, "drain", "worker", workerA); code != exitFailed || stderr != "error: workers/"+workerA+": the worker is not alive\n" {
		t.Errorf("refused: got exit code %d and %q", code, stderr)
	}
	p = &plane{looks: states(workerIn(drains, 14, 0), workerIn(serving, 9, 0))}
	if code, _, stderr := p.run(t, "drain", "worker", workerA); code != exitFailed || !strings.Contains(stderr, "does not drain any more") || !strings.Contains(stderr, "9 sessions left") {
		t.Errorf("taken back: got exit code %d and %q", code, stderr)
	}
	p = &plane{refuse: status.Error(codes.Unavailable, "no etcd")}
	if code, _, stderr := p.run(t, "drain", "worker", workerA, "--timeout", "1s"); code != exitFailed || !strings.Contains(stderr, "whether it drains is not known: no answer in time (--timeout)") {
		t.Errorf("not answered: got exit code %d and %q", code, stderr)
	}
}

func TestUndrainMakesAWorkerTakeSessionsAgain(t *testing.T) {
	t.Parallel()
	p := &plane{all: []*leaseholdv1.Worker{workerIn(drains, 0, 0)}}
	code, stdout, stderr := p.run(t, "undrain", "worker", workerA[:8])
	if code != exitOK || stdout != "workers/"+workerA+" undrained\n" {
		t.Errorf("got exit code %d, %q and %q", code, stdout, stderr)
	}
	expect(t, p.changes(), "undrain workers/"+workerA)
	p.refuse = status.Error(codes.FailedPrecondition, "the worker is not alive")
	if code, _, stderr := p.run(t, "undrain", "worker", workerA); code != exitFailed || stderr != "error: workers/"+workerA+": the worker is not alive\n" {
		t.Errorf("refused: got exit code %d and %q", code, stderr)
	}
}
