package control

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/session"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// replica is a scripted control-plane replica.
type scripted struct {
	leaseholdv1.UnimplementedControlServiceServer
	ttl      time.Duration
	register func() error
	renew    func(ctx context.Context) error
	readopt  func() error
	claim    func() error
}

func (s *scripted) Register(context.Context, *leaseholdv1.RegisterRequest) (*leaseholdv1.RegisterResponse, error) {
	if s.register != nil {
		if err := s.register(); err != nil {
			return nil, err
		}
	}
	return &leaseholdv1.RegisterResponse{Incarnation: 7, Lease: 70, Ttl: durationpb.New(s.ttl)}, nil
}

func (s *scripted) Renew(ctx context.Context, _ *leaseholdv1.RenewRequest) (*leaseholdv1.RenewResponse, error) {
	if err := s.renew(ctx); err != nil {
		return nil, err
	}
	return &leaseholdv1.RenewResponse{Ttl: durationpb.New(s.ttl)}, nil
}

func (s *scripted) Readopt(context.Context, *leaseholdv1.ReadoptRequest) (*leaseholdv1.ReadoptResponse, error) {
	if err := s.readopt(); err != nil {
		return nil, err
	}
	return &leaseholdv1.ReadoptResponse{Lease: 71, Ttl: durationpb.New(s.ttl)}, nil
}

func (s *scripted) Claim(context.Context, *leaseholdv1.ClaimRequest) (*leaseholdv1.ClaimResponse, error) {
	if err := s.claim(); err != nil {
		return nil, err
	}
	return &leaseholdv1.ClaimResponse{Revision: 9}, nil
}

func (s *scripted) Watch(stream leaseholdv1.ControlService_WatchServer) error {
	<-stream.Context().Done()
	return nil
}

func start(t *testing.T, s leaseholdv1.ControlServiceServer) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, done := grpc.NewServer(), make(chan struct{})
	leaseholdv1.RegisterControlServiceServer(server, s)
	go func() {
		defer close(done)
		server.Serve(l)
	}()
	t.Cleanup(func() {
		server.Stop()
		<-done
	})
	return l.Addr().String()
}

func newClient(t *testing.T, lost func(), endpoints ...string) *Client {
	t.Helper()
	c, err := New(Config{
		Endpoints: endpoints, Worker: "0123456789abcdef", Info: &leaseholdv1.WorkerInfo{},
		Apply: func(*config.State) ([]config.Rejection, error) { return nil, nil }, Lost: lost, Registered: func(int64, time.Duration) {}, DataDir: t.TempDir(),
		Logger: hclog.New(&hclog.LoggerOptions{Level: hclog.Debug, Output: t.Output()}),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func run(t *testing.T, c *Client) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
}

func refused(code codes.Code, reason string) error {
	st, _ := status.New(code, reason).WithDetails(&errdetails.ErrorInfo{Reason: reason})
	return st.Err()
}

func TestAuthorityEndsAMarginBeforeTheLease(t *testing.T) {
	var now time.Duration
	a := newAuthority(func() time.Duration { return now })
	if a.Holds(0) || a.Holds(7) {
		t.Error("authority before any lease")
	}
	a.extend(7, 100*time.Second, terms{ttl: 6 * time.Second}) // sent at 100 s, whenever the reply came
	for at, want := range map[time.Duration]bool{
		100 * time.Second:         true,
		104499 * time.Millisecond: true,
		104500 * time.Millisecond: false, // the margin is a quarter of the TTL
		106 * time.Second:         false,
	} {
		if now = at; a.Holds(7) != want {
			t.Errorf("at %v: got %v, want %v", at, !want, want)
		}
	}
	now = 101 * time.Second
	if a.Holds(6) {
		t.Error("authority of another incarnation")
	}
	a.revoke()
	if a.Holds(7) {
		t.Error("authority after it was revoked")
	}
}

func TestRenewalTurnsToTheNextReplicaWhenOneHangs(t *testing.T) {
	renewed := make(chan struct{}, 100)
	hanging := &scripted{ttl: 2 * time.Second, renew: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}
	working := &scripted{ttl: 2 * time.Second, renew: func(context.Context) error { renewed <- struct{}{}; return nil }}
	c := newClient(t, func() { t.Error("lost") }, start(t, hanging), start(t, working))
	run(t, c)
	for range 3 {
		select {
		case <-renewed:
		case <-time.After(5 * time.Second):
			t.Fatal("no renewal at the second replica within 5 s")
		}
		if !c.Authority().Holds(7) {
			t.Error("the worker was fenced although a replica answers")
		}
	}
}

func TestALeaseThatIsKnownToBeGoneFencesAtOnce(t *testing.T) {
	s := &scripted{ttl: 30 * time.Second} // it would hold for long
	s.renew = func(context.Context) error { return refused(codes.NotFound, "LEASE_LOST") }
	reached, release := make(chan struct{}, 10), make(chan struct{})
	s.readopt = func() error { reached <- struct{}{}; <-release; return nil }
	c := newClient(t, func() {}, start(t, s))
	run(t, c)
	select {
	case <-reached:
	case <-time.After(15 * time.Second):
		t.Fatal("no re-adoption within 15 s")
	}
	if c.Authority().Holds(7) || c.Authority().Incarnation() != 7 {
		t.Errorf("while it re-adopts: holds %v, incarnation %d; want no authority and incarnation 7", c.Authority().Holds(7), c.Authority().Incarnation())
	}
	close(release)
}

func TestLostLeaseIsReadoptedAndCondemnedIncarnationDropped(t *testing.T) {
	var readopted, registered atomic.Int32
	s := &scripted{ttl: 2 * time.Second}
	s.register = func() error { registered.Add(1); return nil }
	s.renew = func(context.Context) error { return refused(codes.NotFound, "LEASE_LOST") }
	s.readopt = func() error {
		if readopted.Add(1) == 1 {
			return nil
		}
		return refused(codes.FailedPrecondition, "CONDEMNED")
	}
	lost := make(chan int32, 10)
	run(t, newClient(t, func() { lost <- registered.Load() }, start(t, s)))
	select {
	case n := <-lost:
		if n != 1 || readopted.Load() != 2 {
			t.Errorf("lost after %d registrations and %d re-adoptions, want 1 and 2", n, readopted.Load())
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the condemned incarnation was not given up within 10 s")
	}
	for registered.Load() < 2 { // it registers anew, after it dropped everything
		<-time.After(time.Millisecond)
	}
}

func TestACallWithAnUnknownOutcomeIsRepeatedUntilItIsKnown(t *testing.T) {
	var calls atomic.Int32
	flaky := func() error {
		if calls.Add(1) < 4 {
			return status.Error(codes.Unavailable, "gone in between")
		}
		return nil
	}
	a, b := &scripted{claim: flaky}, &scripted{claim: flaky}
	c := newClient(t, nil, start(t, a), start(t, b))
	revision, err := c.Claim(t.Context(), "g", "s", &leaseholdv1.SessionRecord{})
	if err != nil || revision != 9 || calls.Load() != 4 {
		t.Errorf("got revision %d, error %v after %d calls; want 9, none, 4", revision, err, calls.Load())
	}
	calls.Store(-1000)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := c.Claim(ctx, "g", "s", &leaseholdv1.SessionRecord{}); !errors.Is(err, session.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want session.ErrUnavailable and the deadline", err)
	}
}

func TestVerdictsAreNotRepeated(t *testing.T) {
	var verdict error
	var calls int
	c := newClient(t, nil, start(t, &scripted{claim: func() error { calls++; return verdict }}))
	for code, want := range map[codes.Code]error{
		codes.FailedPrecondition: session.ErrRefused, codes.Aborted: session.ErrStale, codes.NotFound: session.ErrNoRecord, codes.InvalidArgument: session.ErrRefused,
	} {
		calls, verdict = 0, refused(code, "X")
		if _, err := c.Claim(t.Context(), "g", "s", &leaseholdv1.SessionRecord{}); !errors.Is(err, want) || calls != 1 {
			t.Errorf("%v: got %v after %d calls, want %v after 1", code, err, calls, want)
		}
	}
}

func TestAStateIsHandedOutWhenItsLastPartIsThere(t *testing.T) {
	gateway := func(id string) *leaseholdv1.Gateway { return &leaseholdv1.Gateway{Name: "gateways/" + id} }
	var w world
	if w.add(&leaseholdv1.WatchResponse{Revision: 5, Complete: true, More: true, Gateways: []*leaseholdv1.Gateway{gateway("a")},
		Members: &leaseholdv1.MemberList{Members: []*leaseholdv1.Member{{Worker: "w"}}}}) != nil {
		t.Fatal("a part was handed out as a state")
	}
	first := w.add(&leaseholdv1.WatchResponse{Revision: 5, Complete: true, Gateways: []*leaseholdv1.Gateway{gateway("b")}})
	if first == nil || len(first.Gateways) != 2 || len(first.Members) != 1 {
		t.Fatalf("got %v, want both gateways and the member", first)
	}
	second := w.add(&leaseholdv1.WatchResponse{Revision: 6, RemovedGateways: []string{"gateways/a"}, Members: &leaseholdv1.MemberList{}})
	if second.Revision != 6 || len(second.Gateways) != 1 || second.Gateways["gateways/b"] == nil || len(second.Members) != 0 {
		t.Errorf("got %v, want gateway b alone and no members", second)
	}
	if len(first.Gateways) != 2 {
		t.Error("a state that was handed out has changed")
	}
	if third := w.add(&leaseholdv1.WatchResponse{Revision: 7, Complete: true}); len(third.Gateways) != 0 {
		t.Errorf("got %v, want nothing of the state before", third)
	}
}
