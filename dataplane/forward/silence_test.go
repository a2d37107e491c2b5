package forward

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// scripted is a worker that answers probes as it is told to, and each message of
// a stream with another.
type scripted struct {
	leaseholdv1.UnimplementedPeerServiceServer
	probe   func(context.Context) error
	probes  atomic.Int32
	streams atomic.Int32 // that are open
}

// Probe implements leaseholdv1.PeerServiceServer.
func (s *scripted) Probe(ctx context.Context, _ *leaseholdv1.ProbeRequest) (*leaseholdv1.ProbeResponse, error) {
	s.probes.Add(1)
	return &leaseholdv1.ProbeResponse{}, s.probe(ctx)
}

// Forward implements leaseholdv1.PeerServiceServer.
func (s *scripted) Forward(stream leaseholdv1.PeerService_ForwardServer) error {
	s.streams.Add(1)
	defer s.streams.Add(-1)
	if err := stream.SendHeader(nil); err != nil {
		return err
	}
	for {
		if _, err := stream.Recv(); err != nil {
			return nil
		}
		if err := stream.Send(&leaseholdv1.ForwardResponse{}); err != nil {
			return err
		}
	}
}

func answers(context.Context) error { return nil }

func hangs(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// rig is a client with a stream to a scripted worker, and looks at it when it is
// told to.
type rig struct {
	t      *testing.T
	worker *scripted
	client *Client
	peer   *peer
	lane   *lane
	now    time.Time // of the last look
	asked  sync.WaitGroup
}

func startRig(t *testing.T, probe func(context.Context) error) *rig {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, worker: &scripted{probe: probe}, client: NewClient(nil)}
	server := grpc.NewServer()
	leaseholdv1.RegisterPeerServiceServer(server, r.worker)
	var serving sync.WaitGroup
	serving.Go(func() { server.Serve(l) })
	late := time.AfterFunc(20*time.Second, r.client.Close) // so that a test waits for nothing for ever
	t.Cleanup(func() {
		late.Stop()
		r.client.Close()
		server.Stop()
		serving.Wait()
		r.asked.Wait()
	})
	if r.peer, err = r.client.peer(l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	r.lane = r.open()
	r.now = time.Now()
	return r
}

// open makes a stream.
func (r *rig) open() *lane {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 10*time.Second)
	defer cancel()
	l, err := r.peer.open(ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	return l
}

// look looks once, after a while. It returns whether that led to a question, which
// goes on by itself.
func (r *rig) look(after time.Duration) bool {
	r.now = r.now.Add(after)
	questions := r.client.look(r.t.Context(), r.now)
	for _, ask := range questions {
		r.asked.Go(ask)
	}
	return len(questions) > 0
}

// given reports whether the worker was given up.
func (r *rig) given() bool { return r.peer.givenUp.Load() > 0 }

// eventually waits until ok holds.
func (r *rig) eventually(what string, ok func() bool) {
	r.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			r.t.Fatalf("not within 10 s: %s", what)
		}
		<-time.After(time.Millisecond)
	}
}

func TestAWorkerThatIsSilentForFourLooksIsGivenUpAndReachedAnew(t *testing.T) {
	r := startRig(t, hangs)
	r.peer.carries.Add(1)
	waits := r.open()
	r.peer.keep(waits)
	r.now = time.Now()
	for i := range 1 + silentLooks {
		if r.given() {
			t.Fatalf("given up after %d looks, want %d", i, 1+silentLooks)
		}
		if asked := r.look(lookEvery); asked != (i == 0) {
			t.Errorf("look %d: asked %v, want %v: one question at a time", i, asked, i == 0)
		}
	}
	if !r.given() {
		t.Fatalf("not given up after %d looks", 1+silentLooks)
	}
	if _, err := r.lane.recv(); !errors.Is(err, errSilent) {
		t.Errorf("the stream in flight: got %v, want %v", err, errSilent)
	}
	if waits.stream.Context().Err() == nil {
		t.Error("the stream that waits for a request is still there")
	}
	r.asked.Wait() // the question is over too
	r.eventually("no stream is left", func() bool { return r.worker.streams.Load() == 0 })
	next := r.open()
	if r.worker.streams.Load() != 1 || next.stream.Context().Err() != nil {
		t.Errorf("a stream after it: got %d, %v; want one", r.worker.streams.Load(), next.stream.Context().Err())
	}
	r.now = time.Now()
	if r.look(0) || r.peer.doubt != nil {
		t.Error("a worker that was just reached anew is doubted")
	}
}

func TestAWorkerThatShowsAnySignOfLifeIsNotGivenUp(t *testing.T) {
	for name, c := range map[string]struct {
		probe func(context.Context) error
		sign  func(*rig) // between two looks
	}{
		"answers":        {answers, func(r *rig) { r.asked.Wait() }},
		"knows no probe": {func(context.Context) error { return status.Error(codes.Unimplemented, "") }, func(r *rig) { r.asked.Wait() }},
		"hangs, but sends answers": {hangs, func(r *rig) {
			r.lane.stream.Send(&leaseholdv1.ForwardRequest{})
			if _, err := r.lane.recv(); err != nil {
				r.t.Fatal(err)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			r := startRig(t, c.probe)
			r.peer.carries.Add(1)
			for i := range 5 * silentLooks {
				r.look(lookEvery)
				c.sign(r)
				if r.given() {
					t.Fatalf("given up after %d looks", i)
				}
			}
			if r.lane.stream.Context().Err() != nil {
				t.Error("the stream in flight was cut")
			}
		})
	}
}

func TestAWorkerIsAskedOnlyWhileItHasRequestsAndIsSilent(t *testing.T) {
	r := startRig(t, answers)
	for range 3 {
		if r.look(time.Minute) {
			t.Error("asked without a request in flight")
		}
	}
	r.peer.carries.Add(1)
	r.now = time.Now()
	r.peer.sees()
	if r.look(0) {
		t.Error("asked just after it was heard of")
	}
	if !r.look(lookEvery + time.Second) {
		t.Error("not asked after it was silent")
	}
	r.asked.Wait()
	if got := r.worker.probes.Load(); got != 1 {
		t.Errorf("probes: got %d, want 1", got)
	}
}

func TestADoubtEndsWithTheLastRequest(t *testing.T) {
	r := startRig(t, hangs)
	r.peer.carries.Add(1)
	for range silentLooks {
		r.look(lookEvery)
	}
	r.peer.carries.Add(-1)
	r.look(lookEvery)
	r.asked.Wait() // the question is taken back
	r.peer.carries.Add(1)
	if r.look(lookEvery); r.given() {
		t.Error("a new request was cut for a silence before it")
	}
}

func TestAPauseOfThisWorkerIsNotASilenceOfTheOther(t *testing.T) {
	r := startRig(t, hangs)
	r.peer.carries.Add(1)
	r.look(lookEvery)
	if r.look(time.Hour); r.given() {
		t.Error("given up for a pause between two looks")
	}
}

func TestAProbeThatFailsIsRepeatedAndShowsNothing(t *testing.T) {
	r := startRig(t, func(context.Context) error { return status.Error(codes.Unavailable, "") })
	r.peer.carries.Add(1)
	for range silentLooks {
		if !r.look(lookEvery) {
			t.Error("not asked again after a failure")
		}
		r.asked.Wait()
	}
	if r.given() {
		t.Error("given up too soon")
	}
	if r.look(lookEvery); !r.given() {
		t.Errorf("not given up after %d failures", silentLooks)
	}
}

func TestAStreamThatWaitsForARequestIsClosedAfterItsTimeAndNotBefore(t *testing.T) {
	r := startRig(t, answers)
	old, young := r.lane, r.open()
	r.peer.keep(old)
	r.peer.keep(young)
	young.since = old.since.Add(time.Second)
	ended := func(l *lane) bool { return l.stream.Context().Err() != nil }
	r.now = old.since
	if r.look(idleTime); ended(old) || ended(young) {
		t.Fatalf("closed after %v, want later", idleTime)
	}
	if r.look(time.Nanosecond); !ended(old) || ended(young) {
		t.Errorf("after more than %v: old closed %v, young closed %v; want only the old one", idleTime, ended(old), ended(young))
	}
	r.eventually("the other end knows", func() bool { return r.worker.streams.Load() == 1 })
	if l, err := r.peer.pop(); l != young || err != nil {
		t.Errorf("the next request gets %p, %v; want the young stream %p", l, err, young)
	}
	r.peer.keep(young)
	if r.look(2 * idleTime); !ended(young) {
		t.Error("the last one is still there")
	}
	r.eventually("the other end has none", func() bool { return r.worker.streams.Load() == 0 })
}
