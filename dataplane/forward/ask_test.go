package forward

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/leasehold/leasehold/dataplane/route"
	"github.com/leasehold/leasehold/dataplane/session"
	"github.com/leasehold/leasehold/dataplane/sessionid"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// nobody owns nothing.
type nobody struct{}

func (nobody) Admit(context.Context, route.Target, *session.Request) (route.Admitted, error) {
	return nil, route.NotOwner
}
func (nobody) Find(sessionid.Digest) (*session.Session, bool) { return nil, false }

// known says the same of itself every time.
type known struct{}

var (
	knownWitness = &leaseholdv1.WitnessResponse{Incarnation: 7, PowerAge: durationpb.New(3 * time.Second), PowerIn: durationpb.New(time.Second)}
	knownLoad    = &leaseholdv1.ObserveLoadResponse{Incarnation: 7, Sessions: 3, Capacity: 10, PinnedSessions: 1, Power: true}
)

func (known) Await(int64) bool                       { return true }
func (known) Witness() *leaseholdv1.WitnessResponse  { return knownWitness }
func (known) Load() *leaseholdv1.ObserveLoadResponse { return knownLoad }

// serve serves a worker to others and returns its address.
func serve(t *testing.T, self Self) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(nobody{}, hclog.NewNullLogger())
	if self != nil {
		s.Knows(self)
	}
	var serving sync.WaitGroup
	serving.Go(func() { s.Serve(l) })
	t.Cleanup(func() {
		s.Stop()
		serving.Wait()
	})
	return l.Addr().String()
}

func newTestClient(t *testing.T) *Client {
	c := NewClient()
	t.Cleanup(c.Close)
	return c
}

func TestAWorkerSaysOfItselfWhatItIsAsked(t *testing.T) {
	c, at := newTestClient(t), serve(t, known{})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if got, err := c.Witness(ctx, at, &leaseholdv1.WitnessRequest{Worker: "w"}); err != nil || !proto.Equal(got, knownWitness) {
		t.Errorf("Witness: got %v, %v; want %v", got, err, knownWitness)
	}
	if got, err := c.ObserveLoad(ctx, at); err != nil || !proto.Equal(got, knownLoad) {
		t.Errorf("ObserveLoad: got %v, %v; want %v", got, err, knownLoad)
	}
	if got, err := c.Locate(ctx, at, sessionid.Digest{}); err != nil || got != nil {
		t.Errorf("Locate: got %v, %v; want no session", got, err)
	}
	for _, n := range []int{0, 15, 17} {
		_, err := ask(ctx, c, at, &leaseholdv1.LocateRequest{Session: make([]byte, n)}, leaseholdv1.PeerServiceClient.Locate)
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "want 16") {
			t.Errorf("Locate with a digest of %d bytes: got %v, want an error that names the 16", n, err)
		}
	}
}

func TestAWorkerThatSaysNothingOfItselfSaysSo(t *testing.T) {
	c, at := newTestClient(t), serve(t, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	_, witness := c.Witness(ctx, at, &leaseholdv1.WitnessRequest{})
	_, locate := c.Locate(ctx, at, sessionid.Digest{})
	_, load := c.ObserveLoad(ctx, at)
	for what, err := range map[string]error{"Witness": witness, "Locate": locate, "ObserveLoad": load} {
		if status.Code(err) != codes.Unimplemented {
			t.Errorf("%s: got %v, want Unimplemented", what, err)
		}
	}
}

func TestAQuestionToNobodyFailsAndOneOfAClosedClientToo(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	c := NewClient()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := c.Witness(ctx, l.Addr().String(), &leaseholdv1.WitnessRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("nobody listens: got %v, want Unavailable, long before the time is over", err)
	}
	c.Close()
	if _, err := c.Witness(ctx, l.Addr().String(), &leaseholdv1.WitnessRequest{}); err == nil {
		t.Error("a closed client asked")
	}
}

// flooding is a worker whose answers are endless.
type flooding struct {
	leaseholdv1.UnimplementedPeerServiceServer
}

func (flooding) Forward(stream leaseholdv1.PeerService_ForwardServer) error {
	if err := stream.SendHeader(nil); err != nil {
		return err
	}
	piece := &leaseholdv1.ForwardResponse{Body: make([]byte, 256<<10)}
	for {
		if err := stream.Send(piece); err != nil {
			return err
		}
	}
}

func (flooding) Witness(context.Context, *leaseholdv1.WitnessRequest) (*leaseholdv1.WitnessResponse, error) {
	return knownWitness, nil
}

func TestAQuestionWaitsForNoAnswerThatNobodyReads(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	leaseholdv1.RegisterPeerServiceServer(server, flooding{})
	var serving sync.WaitGroup
	serving.Go(func() { server.Serve(l) })
	c := NewClient()
	t.Cleanup(func() {
		c.Close()
		server.Stop()
		serving.Wait()
	})
	p, err := c.peer(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for range 2 * connWindow / streamWindow {
		if _, err := p.open(ctx); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		if got, err := c.Witness(ctx, l.Addr().String(), &leaseholdv1.WitnessRequest{}); err != nil || !proto.Equal(got, knownWitness) {
			t.Fatalf("got %v, %v; want an answer beside %d that nobody reads", got, err, 2*connWindow/streamWindow)
		}
	}
}
