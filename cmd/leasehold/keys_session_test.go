package main

import (
	"context"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// keyPlane has a key that waits until it was looked at that many times.
type keyPlane struct {
	leaseholdv1.UnimplementedKeyServiceServer
	waits   int32
	refuse  error
	looks   atomic.Int32
	rotated atomic.Int32
}

func (p *keyPlane) GetSessionKeys(context.Context, *leaseholdv1.GetSessionKeysRequest) (*leaseholdv1.GetSessionKeysResponse, error) {
	ago := func(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(time.Now().Add(-d)) }
	const hour = time.Hour
	old := &leaseholdv1.SessionKey{Id: "aaaaaaaa", State: leaseholdv1.SessionKeyState_SESSION_KEY_STATE_RETIRED,
		CreateTime: ago(72 * hour), SealTime: ago(71 * hour), RetireTime: ago(24 * hour), ExpireTime: ago(-20*24*hour - hour)}
	sealing := &leaseholdv1.SessionKey{Id: "bbbbbbbb", State: leaseholdv1.SessionKeyState_SESSION_KEY_STATE_SEALING, CreateTime: ago(5 * hour), SealTime: ago(4 * hour)}
	fresh := &leaseholdv1.SessionKey{Id: "cccccccc", State: leaseholdv1.SessionKeyState_SESSION_KEY_STATE_WAITING, CreateTime: ago(3 * hour)}
	if p.looks.Add(1) > p.waits {
		fresh.State = leaseholdv1.SessionKeyState_SESSION_KEY_STATE_SEALING
	}
	return &leaseholdv1.GetSessionKeysResponse{Keys: []*leaseholdv1.SessionKey{old, sealing, fresh}}, nil
}

func (p *keyPlane) RotateSessionKey(context.Context, *leaseholdv1.RotateSessionKeyRequest) (*leaseholdv1.RotateSessionKeyResponse, error) {
	p.rotated.Add(1)
	return &leaseholdv1.RotateSessionKeyResponse{Key: &leaseholdv1.SessionKey{Id: "cccccccc"}}, p.refuse
}

// run runs a command against the plane.
func (p *keyPlane) run(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	leaseholdv1.RegisterKeyServiceServer(server, p)
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(listener) }()
	defer func() { server.Stop(); <-done }()
	return call(t, "", append(args, "--control", listener.Addr().String())...)
}

func TestRotateSessionWaitsUntilTheKeySeals(t *testing.T) {
	p := &keyPlane{waits: 2}
	code, stdout, stderr := p.run(t, "keys", "rotate", "session")
	if code != exitOK || stdout != "session key cccccccc seals\n" || stderr != "" || p.looks.Load() != 3 || p.rotated.Load() != 1 {
		t.Errorf("got %d, %q and %q after %d looks, want success after 3", code, stdout, stderr, p.looks.Load())
	}
	p = &keyPlane{waits: 1 << 30}
	code, stdout, _ = p.run(t, "keys", "rotate", "session", "--wait=false")
	if code != exitOK || !strings.Contains(stdout, "cccccccc made") || p.looks.Load() != 0 {
		t.Errorf("without --wait: got %d, %q after %d looks", code, stdout, p.looks.Load())
	}
	code, stdout, stderr = p.run(t, "keys", "rotate", "session", "--timeout", "1s")
	if code != exitFailed || stdout != "" || !strings.Contains(stderr, "cccccccc was made, and does not seal yet") {
		t.Errorf("while a worker lags: got %d, %q and %q", code, stdout, stderr)
	}
}

func TestRotateSessionSaysWhyNot(t *testing.T) {
	p := &keyPlane{refuse: status.Error(codes.ResourceExhausted, "the key ring has 96 keys")}
	if code, _, stderr := p.run(t, "keys", "rotate", "session"); code != exitFailed || stderr != "error: the key ring has 96 keys\n" {
		t.Errorf("got %d and %q", code, stderr)
	}
}

func TestKeysSessionShowsAgesAndStates(t *testing.T) {
	const want = "" +
		"KEY       STATE    AGE  SEALED-SINCE  EXPIRES\n" +
		"aaaaaaaa  RETIRED  3d   2d            20d\n" +
		"bbbbbbbb  SEALING  5h   4h            -\n" +
		"cccccccc  WAITING  3h   -             -\n"
	if code, stdout, stderr := (&keyPlane{waits: 1}).run(t, "keys", "session"); code != exitOK || stdout != want {
		t.Errorf("got %d %q and\n%s\nwant\n%s", code, stderr, stdout, want)
	}
}
