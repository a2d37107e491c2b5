package main

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func TestMoveTakesTheNamesThatOtherVerbsTake(t *testing.T) {
	name := "gateways/demo/sessions/" + digestA
	var got *leaseholdv1.MoveSessionRequest
	p := &plane{
		all:      []*leaseholdv1.Worker{{Name: "workers/" + workerA, State: serving}, {Name: "workers/" + workerB, State: serving}},
		sessions: []*leaseholdv1.Session{{Name: name}},
		move: func(_ context.Context, request *leaseholdv1.MoveSessionRequest) (*leaseholdv1.Session, error) {
			got = request
			return &leaseholdv1.Session{Name: name, Owner: "workers/" + workerB, Epoch: 4}, nil
		},
	}
	for _, args := range [][]string{
		{name}, {"demo/" + digestA}, {"demo/sessions/" + digestA[:8]}, {digestA[:8]},
		{name, "--to", "workers/" + workerB}, {digestA, "--to", workerB}, {digestA[:9], "--to", workerB[:8]},
	} {
		code, stdout, stderr := p.run(t, append([]string{"move", "session"}, args...)...)
		if code != exitOK || stdout != name+" is at workers/"+workerB+" (epoch 4)\n" || stderr != "" {
			t.Errorf("%v: got exit code %d, %q and %q", args, code, stdout, stderr)
		}
		to := ""
		if len(args) > 1 {
			to = "workers/" + workerB
		}
		if got.GetName() != name || got.GetWorker() != to {
			t.Errorf("%v: asked for %v, want %s to %q", args, got, name, to)
		}
	}
}

func TestMoveThatFailsSaysWhatIsKnown(t *testing.T) {
	for _, c := range []struct {
		err     error
		want    string
		unknown bool
	}{
		{status.Error(codes.FailedPrecondition, "the session is pinned to its worker"), "gateways/demo/sessions/" + digestA + ": the session is pinned to its worker\n", false},
		{status.Error(codes.NotFound, "no such session"), ": no such session\n", false},
		{status.Error(codes.Unavailable, "no etcd"), ": the control plane cannot serve now: no etcd\n", true},
		{status.Error(codes.DeadlineExceeded, "too late"), ": no answer in time (--timeout): too late\n", true},
	} {
		p := &plane{move: func(context.Context, *leaseholdv1.MoveSessionRequest) (*leaseholdv1.Session, error) {
			return nil, c.err
		}}
		code, stdout, stderr := p.run(t, "move", "session", "demo/"+digestA)
		if code != exitFailed || stdout != "" || !strings.Contains(stderr, c.want) {
			t.Errorf("%v: got exit code %d, %q and %q", c.err, code, stdout, stderr)
		}
		if got := strings.Contains(stderr, "it may have moved: `leasehold describe session demo/"+digestA+"`"); got != c.unknown {
			t.Errorf("%v: says that it may have moved: %t, want %t: %s", c.err, got, c.unknown, stderr)
		}
	}
}
