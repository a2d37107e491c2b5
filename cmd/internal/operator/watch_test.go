package operator

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

const (
	put      = leaseholdv1.ChangeType_CHANGE_TYPE_PUT
	removed  = leaseholdv1.ChangeType_CHANGE_TYPE_REMOVED
	bookmark = leaseholdv1.ChangeType_CHANGE_TYPE_BOOKMARK
)

// scripted is a control plane that answers each watch with the next script.
type scripted struct {
	leaseholdv1.UnimplementedGatewayServiceServer
	scripts chan script
	asked   chan int64 // the revision of each watch
}

// script sends what it likes and returns how the stream ends.
type script func(send func(leaseholdv1.ChangeType, string, int64)) error

func (s *scripted) WatchGateways(request *leaseholdv1.WatchGatewaysRequest, stream grpc.ServerStreamingServer[leaseholdv1.WatchGatewaysResponse]) error {
	s.asked <- request.GetRevision()
	select {
	case play := <-s.scripts:
		return play(func(kind leaseholdv1.ChangeType, text string, revision int64) {
			response := &leaseholdv1.WatchGatewaysResponse{Type: kind, Revision: revision}
			if text != "" {
				name, description, _ := strings.Cut(text, "=")
				response.Gateway = &leaseholdv1.Gateway{Name: name, Description: description}
			}
			_ = stream.Send(response)
		})
	case <-stream.Context().Done():
		return stream.Context().Err()
	}
}

// replica serves a script as a replica of the control plane; stop kills it.
func replica(t *testing.T, s *scripted) (addr string, stop func()) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	leaseholdv1.RegisterGatewayServiceServer(server, s)
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			server.Stop()
			<-done
		}
	}
	t.Cleanup(stop)
	return listener.Addr().String(), stop
}

func newScripted(scripts ...script) *scripted {
	s := &scripted{scripts: make(chan script, len(scripts)), asked: make(chan int64, 100)}
	for _, one := range scripts {
		s.scripts <- one
	}
	return s
}

// watched is a Watch that runs.
type watched struct {
	t      *testing.T
	told   chan string
	notes  chan string
	cancel context.CancelCauseFunc
	ended  chan error
}

var errEnough = errors.New("enough")

func follow(t *testing.T, control ...string) *watched {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	r := &watched{t: t, told: make(chan string, 100), notes: make(chan string, 100), cancel: cancel, ended: make(chan error, 1)}
	watch := &Watch[*leaseholdv1.Gateway]{
		Control: control,
		Open: func(ctx context.Context, conn *grpc.ClientConn, revision int64) (func() (Change[*leaseholdv1.Gateway], error), error) {
			stream, err := leaseholdv1.NewGatewayServiceClient(conn).WatchGateways(ctx, &leaseholdv1.WatchGatewaysRequest{Revision: revision})
			if err != nil {
				return nil, err
			}
			return func() (Change[*leaseholdv1.Gateway], error) {
				m, err := stream.Recv()
				return Change[*leaseholdv1.Gateway]{Type: m.GetType(), Resource: m.GetGateway(), Revision: m.GetRevision()}, err
			}, nil
		},
		Tell: func(c Change[*leaseholdv1.Gateway]) error {
			r.told <- fmt.Sprintf("%s %s=%s @%d", strings.TrimPrefix(c.Type.String(), "CHANGE_TYPE_"), c.Resource.GetName(), c.Resource.GetDescription(), c.Revision)
			return nil
		},
		Note: func(text string) { r.notes <- text },
	}
	go func() { r.ended <- watch.Run(ctx) }()
	return r
}

// expect checks what is told next.
func (r *watched) expect(want ...string) {
	r.t.Helper()
	var got []string
	for range want {
		select {
		case text := <-r.told:
			got = append(got, text)
		case err := <-r.ended:
			r.t.Fatalf("ended with %v after %q, want %q", err, got, want)
		case <-time.After(10 * time.Second):
			r.t.Fatalf("told %q, want %q", got, want)
		}
	}
	if !slices.Equal(got, want) {
		r.t.Errorf("told\n%q\nwant\n%q", got, want)
	}
}

// stop ends it and checks that nothing else was told.
func (r *watched) stop() {
	r.t.Helper()
	r.cancel(errEnough)
	if err := <-r.ended; !errors.Is(err, errEnough) {
		r.t.Errorf("ended with %v, want the cause", err)
	}
	select {
	case text := <-r.told:
		r.t.Errorf("told %q too", text)
	default:
	}
}

func TestABrokenWatchIsResumedByRevisionAndTellsNothingTwice(t *testing.T) {
	s := newScripted(
		func(send func(leaseholdv1.ChangeType, string, int64)) error {
			send(put, "a", 3)
			return status.Error(codes.Unavailable, "before the bookmark")
		},
		func(send func(leaseholdv1.ChangeType, string, int64)) error {
			send(put, "b", 5)
			send(put, "a", 5)
			send(bookmark, "", 5)
			send(put, "c", 6)
			return status.Error(codes.ResourceExhausted, "too slow")
		},
		func(send func(leaseholdv1.ChangeType, string, int64)) error {
			send(bookmark, "", 7)
			send(removed, "a", 8)
			return status.Error(codes.Internal, "anything")
		},
	)
	addr, _ := replica(t, s)
	r := follow(t, addr)
	r.expect("PUT a= @5", "PUT b= @5", "BOOKMARK = @5", "PUT c= @6", "REMOVED a= @8")
	for _, want := range []int64{0, 0, 6, 8} {
		if got := <-s.asked; got != want {
			t.Errorf("asked from revision %d, want %d", got, want)
		}
	}
	r.stop()
	if first := <-r.notes; !strings.Contains(first, "before the bookmark") || !strings.Contains(first, "trying again") {
		t.Errorf("noted %q first, want that the stream was lost", first)
	}
	if second := <-r.notes; !strings.HasPrefix(second, "back") {
		t.Errorf("noted %q next, want that it is back", second)
	}
}

func TestAWatchGoesOnAtAnotherReplica(t *testing.T) {
	alive := make(chan struct{})
	first := newScripted(func(send func(leaseholdv1.ChangeType, string, int64)) error {
		send(put, "a", 1)
		send(bookmark, "", 1)
		<-alive
		return nil
	})
	second := newScripted(func(send func(leaseholdv1.ChangeType, string, int64)) error {
		send(put, "a=new", 2)
		<-alive
		return nil
	})
	one, stop := replica(t, first)
	two, _ := replica(t, second)
	r := follow(t, one, two)
	r.expect("PUT a= @1", "BOOKMARK = @1")
	stopped := make(chan struct{})
	go func() { defer close(stopped); stop() }()
	r.expect("PUT a=new @2")
	if got := <-second.asked; got != 1 {
		t.Errorf("asked from revision %d, want 1", got)
	}
	r.stop()
	close(alive)
	<-stopped
}

func TestACompactedWatchTellsOnlyWhatDiffers(t *testing.T) {
	s := newScripted(
		func(send func(leaseholdv1.ChangeType, string, int64)) error {
			for _, name := range []string{"gone", "same", "changed"} {
				send(put, name, 1)
			}
			send(bookmark, "", 1)
			return status.Error(codes.Unavailable, "x")
		},
		func(func(leaseholdv1.ChangeType, string, int64)) error {
			return status.Error(codes.OutOfRange, "compacted")
		},
		func(send func(leaseholdv1.ChangeType, string, int64)) error {
			for _, name := range []string{"same", "changed=1", "new"} {
				send(put, name, 90)
			}
			send(bookmark, "", 90)
			send(put, "same=2", 91)
			return nil
		},
	)
	addr, _ := replica(t, s)
	r := follow(t, addr)
	r.expect("PUT changed= @1", "PUT gone= @1", "PUT same= @1", "BOOKMARK = @1",
		"REMOVED gone= @90", "PUT changed=1 @90", "PUT new= @90", "PUT same=2 @91")
	for _, want := range []int64{0, 1, 0} {
		if got := <-s.asked; got != want {
			t.Errorf("asked from revision %d, want %d", got, want)
		}
	}
	r.stop()
}

func TestAWatchThatIsNotPossibleEnds(t *testing.T) {
	for _, code := range []codes.Code{codes.InvalidArgument, codes.Unimplemented, codes.OutOfRange} {
		s := newScripted(func(func(leaseholdv1.ChangeType, string, int64)) error { return status.Error(code, "never") })
		addr, _ := replica(t, s)
		r := follow(t, addr)
		select {
		case err := <-r.ended:
			if Code(err) != code {
				t.Errorf("%v: ended with %v", code, err)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%v: goes on", code)
		}
	}
	r := follow(t, "127.0.0.1:1")
	var unreachable *UnreachableError
	if err := <-r.ended; !errors.As(err, &unreachable) {
		t.Errorf("ended with %v, want an UnreachableError", err)
	}
}
