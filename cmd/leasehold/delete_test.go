package main

import (
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestDeleteWaitsUntilNoWorkerServesIt(t *testing.T) {
	t.Parallel()
	for flag, want := range map[string]string{"--wait": "applied within 29s", "--wait=false": "unspecified"} {
		s := newShelf("search", "a")
		code, stdout, stderr := s.run(t, "", "delete", "gateway", "a", flag)
		if code != exitOK || stdout != "gateways/a deleted\n" || stderr != "" {
			t.Errorf("%s: got exit code %d, %q and %q", flag, code, stdout, stderr)
		}
		expect(t, s.writes(), "delete gateways/a ("+want+")")
	}
}

func TestADeleteThatNotEveryWorkerHasAppliedIsDoneAndSaysWhoHasNot(t *testing.T) {
	t.Parallel()
	late, err := status.New(codes.DeadlineExceeded, "not every worker has applied it").WithDetails(
		&errdetails.ErrorInfo{Reason: "NOT_APPLIED", Domain: "leasehold"}, at(accepted, awaited).status)
	if err != nil {
		t.Fatal(err)
	}
	const want = "error: gateways/a: it is deleted, but not every worker has applied that in time (--timeout): nothing yet from workers/" + workerB + "\n"
	s := newShelf("search", "a")
	s.undeleted = late.Err()
	code, stdout, stderr := s.run(t, "", "delete", "gateway", "a")
	if code != exitFailed || stdout != "gateways/a deleted\n" || stderr != want {
		t.Errorf("got exit code %d, %q and %q, want 1 and %q", code, stdout, stderr, want)
	}
	s = newShelf("search", "a", "b")
	s.undeleted = late.Err()
	s.glances["gateways/b"] = []glance{at(accepted, accepted)}
	code, stdout, stderr = s.run(t, manifestOf("b", "search"), "apply", "-f", "-", "--prune", "--selector", selected, "--yes")
	if code != exitFailed || stdout != "gateways/b unchanged\ngateways/a pruned\n" || !strings.Contains(stderr, want) {
		t.Errorf("got exit code %d, %q and %q, want 1 and %q", code, stdout, stderr, want)
	}
}
