package controlplane_test

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/stats"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// owner is what a worker's peer listener says of its sessions.
type owner struct {
	leaseholdv1.UnimplementedPeerServiceServer
	hangs bool
	load  *leaseholdv1.ObserveLoadResponse
	calls atomic.Int32
	conns atomic.Int32 // open now
	made  atomic.Int32
}

func (o *owner) ObserveSessions(ctx context.Context, req *leaseholdv1.ObserveSessionsRequest) (*leaseholdv1.ObserveSessionsResponse, error) {
	o.calls.Add(1)
	if o.hangs {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	resp := &leaseholdv1.ObserveSessionsResponse{Activities: map[string]*leaseholdv1.SessionActivity{}}
	for i := range 10 { // it was not asked for all of these
		resp.Activities[fmt.Sprintf("%032x", i)] = &leaseholdv1.SessionActivity{Calls: 1}
	}
	for _, s := range req.Sessions {
		resp.Activities[s] = &leaseholdv1.SessionActivity{Calls: 42, CallsInFlight: uint32(len(req.Sessions))}
	}
	return resp, nil
}

func (o *owner) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (o *owner) HandleRPC(context.Context, stats.RPCStats)                         {}
func (o *owner) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (o *owner) HandleConn(_ context.Context, s stats.ConnStats) {
	switch s.(type) {
	case *stats.ConnBegin:
		o.conns.Add(1)
		o.made.Add(1)
	case *stats.ConnEnd:
		o.conns.Add(-1)
	}
}

func (o *owner) ObserveLoad(ctx context.Context, _ *leaseholdv1.ObserveLoadRequest) (*leaseholdv1.ObserveLoadResponse, error) {
	if o.hangs {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return o.load, nil
}

// listen serves the owner's peer listener, with the service of whoever embeds it, and
// returns its address.
func (o *owner) listen(t testing.TB, service leaseholdv1.PeerServiceServer) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.StatsHandler(o))
	leaseholdv1.RegisterPeerServiceServer(server, service)
	served := make(chan error, 1)
	go func() { served <- server.Serve(lis) }()
	t.Cleanup(func() {
		server.Stop()
		<-served
	})
	return lis.Addr().String()
}

func TestActivityComesFromTheOwnersThatAnswer(t *testing.T) {
	r := start(t, embedded(t))
	ctx := testContext(t)
	good, hanging := &owner{}, &owner{hangs: true}
	owners := map[string]string{workerA: good.listen(t, good), workerB: hanging.listen(t, hanging), "00000000000000cc": "127.0.0.1:1"}
	registered := map[string]*leaseholdv1.RegisterResponse{}
	n := 0
	for worker, address := range owners {
		resp, err := r.control.Register(ctx, &leaseholdv1.RegisterRequest{Worker: worker, Info: &leaseholdv1.WorkerInfo{PeerAddress: address}})
		if err != nil {
			t.Fatal(err)
		}
		registered[worker] = resp
		for range 2 {
			n++
			r.claim(t, "g", fmt.Sprintf("%032x", n), worker, resp.Incarnation)
		}
	}
	watch := r.watch(t, workerA, registered[workerA].Incarnation)
	watch.until(func(resp *leaseholdv1.WatchResponse) bool { return len(resp.GetMembers().GetMembers()) == 3 })

	plain, err := r.sessions.ListSessions(ctx, &leaseholdv1.ListSessionsRequest{})
	if err != nil || len(plain.Sessions) != 6 || plain.Sessions[0].Activity != nil || good.calls.Load() != 0 {
		t.Errorf("list without activity: %v, %v; asked %d times", plain, err, good.calls.Load())
	}
	for range 2 {
		began := time.Now()
		list, err := r.sessions.ListSessions(ctx, &leaseholdv1.ListSessionsRequest{ShowActivity: true})
		if err != nil || len(list.Sessions) != 6 {
			t.Fatalf("list: %v, %v", list, err)
		}
		if took := time.Since(began); took > 3*time.Second/2 {
			t.Errorf("list took %s, want at most about 1 s for all owners together", took)
		}
		for _, s := range list.Sessions {
			answered := s.Owner == "workers/"+workerA
			if (s.Activity != nil) != answered || answered && (s.Activity.Calls != 42 || s.Activity.CallsInFlight != 2) {
				t.Errorf("%s of %s has activity %v", s.Name, s.Owner, s.Activity)
			}
			if answered {
				got, err := r.sessions.GetSession(ctx, &leaseholdv1.GetSessionRequest{Name: s.Name})
				if err != nil || got.Session.Activity.GetCalls() != 42 {
					t.Errorf("get: %v, %v; want its activity", got, err)
				}
			}
		}
	}
	if calls, made := good.calls.Load(), good.made.Load(); calls != 6 || made != 1 {
		t.Errorf("%d calls over %d connections, want 6 over 1", calls, made)
	}
	if _, err := r.control.Leave(ctx, &leaseholdv1.LeaveRequest{Worker: workerA, Incarnation: registered[workerA].Incarnation}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the connection to a worker that left is closed", func() bool { return good.conns.Load() == 0 })
}

func TestWorkersSayHowMuchTheyHaveToDo(t *testing.T) {
	cfg := embedded(t)
	cfg.LeaseTTL = time.Minute
	r := start(t, cfg)
	ctx := testContext(t)
	good, hanging, other := &owner{}, &owner{hangs: true}, &owner{}
	for worker, o := range map[string]*owner{workerA: good, workerB: hanging, workerC: other} {
		reg, err := r.control.Register(ctx, &leaseholdv1.RegisterRequest{Worker: worker, Info: &leaseholdv1.WorkerInfo{PeerAddress: o.listen(t, o), Capacity: 7}})
		if err != nil {
			t.Fatal(err)
		}
		o.load = &leaseholdv1.ObserveLoadResponse{Incarnation: reg.Incarnation, Sessions: 5, PinnedSessions: 2, UndurableSessions: 1}
	}
	other.load.Incarnation++ // it has just registered anew
	began := time.Now()
	list, err := r.workers.ListWorkers(ctx, &leaseholdv1.ListWorkersRequest{})
	if err != nil || len(list.Workers) != 3 {
		t.Fatalf("list: %v, %v", list, err)
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("list took %s, want at most about 1 s for all workers together", took)
	}
	got, err := r.workers.GetWorker(ctx, &leaseholdv1.GetWorkerRequest{Name: "workers/" + workerA})
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range append(list.Workers, got.Worker) {
		answered := w.Name == "workers/"+workerA
		if said := w.Sessions == 5 && w.PinnedSessions == 2 && w.UndurableSessions == 1; said != answered || !answered && w.Sessions != 0 || w.Capacity != 7 {
			t.Errorf("%v; want what it says only of the one that answers", w)
		}
	}
}
