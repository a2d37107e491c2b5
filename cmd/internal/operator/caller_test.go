package operator

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// answering is a replica that answers as it is told.
type answering struct {
	leaseholdv1.UnimplementedGatewayServiceServer
	answer func(context.Context) error
}

func (a *answering) GetGateway(ctx context.Context, _ *leaseholdv1.GetGatewayRequest) (*leaseholdv1.GetGatewayResponse, error) {
	return &leaseholdv1.GetGatewayResponse{}, a.answer(ctx)
}

// answers serves a replica; stop kills it.
func answers(t *testing.T, answer func(context.Context) error) (addr string, stop func()) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	leaseholdv1.RegisterGatewayServiceServer(server, &answering{answer: answer})
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(listener) }()
	stop = func() { server.Stop(); <-done }
	t.Cleanup(stop)
	return listener.Addr().String(), stop
}

// caller returns a Caller and what it noted.
func caller(t *testing.T, control ...string) (*Caller, *[]string) {
	var notes []string
	c := NewCaller(control, func(text string) { notes = append(notes, text) })
	t.Cleanup(c.Close)
	return c, &notes
}

// getGateway is a call that may be made more than once.
func getGateway(ctx context.Context, conn *grpc.ClientConn) error {
	_, err := leaseholdv1.NewGatewayServiceClient(conn).GetGateway(ctx, &leaseholdv1.GetGatewayRequest{Name: "gateways/a"})
	return err
}

func TestACallIsAnsweredByAnotherReplicaWhenOneDies(t *testing.T) {
	asked := make(chan struct{}, 1)
	first, kill := answers(t, func(ctx context.Context) error {
		asked <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	})
	second, _ := answers(t, func(context.Context) error { return nil })
	c, notes := caller(t, first, second)
	killed := make(chan struct{})
	go func() { defer close(killed); <-asked; kill() }()
	if err := c.Call(t.Context(), getGateway); err != nil {
		t.Errorf("got %v, want the second replica's answer", err)
	}
	<-killed
	if len(*notes) != 2 || !strings.HasPrefix((*notes)[0], "lost the control plane: ") || !strings.HasPrefix((*notes)[1], "back") {
		t.Errorf("noted %q, want that it was lost and is back", *notes)
	}
}

func TestACallIsMadeAgainUntilAReplicaAnswers(t *testing.T) {
	var tries atomic.Int32
	addr, _ := answers(t, func(context.Context) error {
		if tries.Add(1) < 3 {
			return status.Error(codes.Unavailable, "no etcd")
		}
		return nil
	})
	c, notes := caller(t, addr)
	if err := c.Call(t.Context(), getGateway); err != nil || tries.Load() != 3 {
		t.Errorf("got %v after %d tries, want an answer at the third", err, tries.Load())
	}
	if len(*notes) != 2 {
		t.Errorf("noted %q, want one note of the loss and one of the return", *notes)
	}
}

func TestACallEndsWithAnAnswerThatAllReplicasWouldGive(t *testing.T) {
	for _, code := range []codes.Code{codes.NotFound, codes.FailedPrecondition, codes.InvalidArgument, codes.Unimplemented} {
		addr, _ := answers(t, func(context.Context) error { return status.Error(code, "never") })
		c, notes := caller(t, addr)
		if err := c.Call(t.Context(), getGateway); Code(err) != code || len(*notes) != 0 {
			t.Errorf("%v: got %v and %q", code, err, *notes)
		}
	}
	c, _ := caller(t, "127.0.0.1:1")
	var unreachable *UnreachableError
	if err := c.Call(t.Context(), getGateway); !errors.As(err, &unreachable) {
		t.Errorf("nobody there to begin with: got %v, want an UnreachableError", err)
	}
}

func TestACallGoesToTheNextReplicaWhenOneCannotServe(t *testing.T) {
	first, _ := answers(t, func(context.Context) error { return status.Error(codes.Unavailable, "no etcd") })
	second, _ := answers(t, func(context.Context) error { return nil })
	c, _ := caller(t, first, second)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := c.Call(ctx, getGateway); err != nil {
		t.Errorf("got %v, want the second replica's answer", err)
	}
}

func TestACallEndsWithItsContext(t *testing.T) {
	cause := errors.New("enough")
	t.Run("within a call", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		addr, _ := answers(t, func(answered context.Context) error {
			cancel(cause)
			<-answered.Done()
			return answered.Err()
		})
		c, notes := caller(t, addr)
		if err := c.Call(ctx, getGateway); !errors.Is(err, cause) || len(*notes) != 0 {
			t.Errorf("got %v and %q, want the cause", err, *notes)
		}
	})
	t.Run("between calls", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		addr, kill := answers(t, func(context.Context) error { return nil })
		c := NewCaller([]string{addr}, func(string) { cancel(cause) }) // once it is lost
		defer c.Close()
		if err := c.Call(ctx, getGateway); err != nil {
			t.Fatal(err)
		}
		kill()
		if err := c.Call(ctx, getGateway); !errors.Is(err, cause) {
			t.Errorf("got %v, want the cause", err)
		}
	})
}
