package rpc

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/leasehold/leasehold/controlplane/gateway"
	"github.com/leasehold/leasehold/controlplane/publish"
	"github.com/leasehold/leasehold/controlplane/store"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// endless is a store whose gateways change all the time, or never.
type endless struct {
	Store
	size int // of each change; 0 for none
	sent chan int
}

func (e *endless) WatchGateways(ctx context.Context, _ int64, _ gateway.Filter, send func(store.Change[*leaseholdv1.Gateway]) error) error {
	if e.size == 0 {
		if err := send(store.Change[*leaseholdv1.Gateway]{Type: leaseholdv1.ChangeType_CHANGE_TYPE_BOOKMARK, Revision: 1}); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	}
	g := &leaseholdv1.Gateway{Description: string(make([]byte, e.size))}
	for n := 0; ; n++ {
		if err := send(store.Change[*leaseholdv1.Gateway]{Type: leaseholdv1.ChangeType_CHANGE_TYPE_PUT, Resource: g, Revision: 1}); err != nil {
			e.sent <- n
			return err
		}
	}
}

func serveStore(t *testing.T, s Store) (*Server, leaseholdv1.GatewayServiceClient) {
	t.Helper()
	hub := publish.NewHub(nil, hclog.NewNullLogger())
	server := NewServer(Config{Audit: auditLog(t), Store: s, Hub: hub, Logger: hclog.NewNullLogger(), ReadPatience: 100 * time.Millisecond})
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.GRPC().Serve(lis) }()
	conn, err := grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		server.GRPC().Stop()
		<-served
	})
	return server, leaseholdv1.NewGatewayServiceClient(conn)
}

func reason(err error) string {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info.Reason
		}
	}
	return ""
}

// A caller that does not read is cut off, and next to nothing was queued for it.
func TestSlowReaderIsCutOff(t *testing.T) {
	s := &endless{size: 8 << 10, sent: make(chan int, 1)}
	server, client := serveStore(t, s)
	stream, err := client.WatchGateways(t.Context(), &leaseholdv1.WatchGatewaysRequest{})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case n := <-s.sent:
		if n > 100 { // what the connection's windows hold
			t.Errorf("%d messages were taken for a caller that does not read", n)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the watch goes on although nobody reads")
	}
	for err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.ResourceExhausted || reason(err) != "SLOW_READER" {
		t.Errorf("watch ended with %v, want RESOURCE_EXHAUSTED, SLOW_READER", err)
	}
	if len(server.watches.places) != 0 {
		t.Error("the watch keeps its place")
	}
	server.watches.senders.Wait()
}

func TestWatchesAreBoundedAndEndWithTheReplica(t *testing.T) {
	server, client := serveStore(t, &endless{})
	var streams []grpc.ServerStreamingClient[leaseholdv1.WatchGatewaysResponse]
	for range maxWatches {
		stream, err := client.WatchGateways(t.Context(), &leaseholdv1.WatchGatewaysRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
		streams = append(streams, stream)
	}
	more, err := client.WatchGateways(t.Context(), &leaseholdv1.WatchGatewaysRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := more.Recv(); status.Code(err) != codes.ResourceExhausted || reason(err) != "TOO_MANY_WATCHES" {
		t.Errorf("one watch more: %v, want RESOURCE_EXHAUSTED, TOO_MANY_WATCHES", err)
	}
	server.watches.stop()
	for _, stream := range streams {
		if _, err := stream.Recv(); status.Code(err) != codes.Unavailable || reason(err) != "STOPPING" {
			t.Errorf("watch of a replica that stops: %v, want UNAVAILABLE, STOPPING", err)
		}
	}
	server.watches.senders.Wait()
}

// The bound on a call is the replica's own: it is the store that did not answer.
func TestStoreThatDoesNotAnswerIsUnavailable(t *testing.T) {
	i := interceptor{log: hclog.NewNullLogger()}
	for method, want := range map[string]codes.Code{
		leaseholdv1.GatewayService_GetGateway_FullMethodName:       codes.Unavailable,
		leaseholdv1.SessionService_TerminateSession_FullMethodName: codes.DeadlineExceeded,
	} {
		_, err := i.unary(t.Context(), nil, &grpc.UnaryServerInfo{FullMethod: method}, func(context.Context, any) (any, error) {
			return nil, context.DeadlineExceeded
		})
		if status.Code(err) != want {
			t.Errorf("%s: %v, want %v", method, err, want)
		}
	}
	ctx, cancel := context.WithDeadline(t.Context(), time.Unix(1, 0))
	defer cancel()
	info := &grpc.UnaryServerInfo{FullMethod: leaseholdv1.GatewayService_GetGateway_FullMethodName}
	_, err := i.unary(ctx, nil, info, func(ctx context.Context, _ any) (any, error) { return nil, ctx.Err() })
	if status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("the caller's own deadline: %v, want DEADLINE_EXCEEDED", err)
	}
}
