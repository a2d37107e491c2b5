package controlplane_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// looker is a worker's peer listener that is asked how upstreams are.
type looker struct {
	owner
	incarnation int64
	worker      *leaseholdv1.UpstreamWorker // what it says of the upstream
	refuse      error                       // what inspections are answered with, if it is not nil
	inspected   atomic.Int32
}

func (l *looker) ObserveUpstreams(ctx context.Context, req *leaseholdv1.ObserveUpstreamsRequest) (*leaseholdv1.ObserveUpstreamsResponse, error) {
	if l.hangs {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if req.GetGateway() != "one" {
		return nil, status.Error(codes.InvalidArgument, req.GetGateway())
	}
	return &leaseholdv1.ObserveUpstreamsResponse{Incarnation: l.incarnation, Upstreams: []*leaseholdv1.UpstreamStatus{
		{Name: "counter", Workers: []*leaseholdv1.UpstreamWorker{l.worker}},
		{Name: "another", Workers: []*leaseholdv1.UpstreamWorker{l.worker}}, // which the gateway has not
	}}, nil
}

func (l *looker) InspectNow(_ context.Context, req *leaseholdv1.InspectNowRequest) (*leaseholdv1.InspectNowResponse, error) {
	l.inspected.Add(1)
	if l.refuse != nil {
		return nil, l.refuse
	}
	return &leaseholdv1.InspectNowResponse{Revision: req.GetRevision(), Upstreams: []*leaseholdv1.UpstreamInspection{{Upstream: "counter", ServerName: req.GetGateway()}}}, nil
}

// join registers a looker as a worker.
func (r *replica) join(t *testing.T, worker string, l *looker, draining bool) {
	t.Helper()
	reg, err := r.control.Register(testContext(t), &leaseholdv1.RegisterRequest{Worker: worker, Info: &leaseholdv1.WorkerInfo{PeerAddress: l.listen(t, l)}})
	if err != nil {
		t.Fatal(err)
	}
	l.incarnation = reg.Incarnation
	if draining {
		if _, err := r.workers.DrainWorker(testContext(t), &leaseholdv1.DrainWorkerRequest{Name: "workers/" + worker}); err != nil {
			t.Fatal(err)
		}
	}
}

// lasting is a plane whose workers live on though they do not renew.
func lasting(t *testing.T) *replica {
	cfg := embedded(t)
	cfg.LeaseTTL = time.Minute
	return start(t, cfg)
}

func TestAGatewayShowsHowItsUpstreamsAreAtTheWorkersThatAnswer(t *testing.T) {
	r := lasting(t)
	r.create(t, counter("one"))
	ejected := &leaseholdv1.UpstreamWorker{Worker: "workers/ffffffffffffffff", State: leaseholdv1.UpstreamState_UPSTREAM_STATE_EJECTED, LastError: "ping: no answer"}
	good, hanging, other := &looker{worker: ejected}, &looker{owner: owner{hangs: true}}, &looker{worker: ejected}
	r.join(t, workerA, good, false)
	r.join(t, workerB, hanging, false)
	r.join(t, workerC, other, false)
	other.incarnation++ // it has just registered anew
	began := time.Now()
	got, err := r.gateways.GetGateway(testContext(t), &leaseholdv1.GetGatewayRequest{Name: "gateways/one"})
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("took %v, want about 1 s for all workers together", took)
	}
	ups := got.GetGateway().GetStatus().GetUpstreams()
	if len(ups) != 1 || ups[0].GetName() != "counter" || len(ups[0].GetWorkers()) != 1 {
		t.Fatalf("got %v, want what one worker says of one upstream", ups)
	}
	if w := ups[0].GetWorkers()[0]; w.GetWorker() != "workers/"+workerA || w.GetState() != ejected.State || w.GetLastError() != ejected.LastError {
		t.Errorf("got %v, want that %s has ejected it", w, workerA)
	}
	list, err := r.gateways.ListGateways(testContext(t), &leaseholdv1.ListGatewaysRequest{})
	if err != nil || len(list.GetGateways()[0].GetStatus().GetUpstreams()) != 0 {
		t.Errorf("list: got %v, %v, want that nobody was asked", list, err)
	}
}

func TestAnInspectionIsMadeByTheWorkerThatIsNamedOrByOneThatServes(t *testing.T) {
	r := lasting(t)
	one := r.create(t, counter("one"))
	serves, drains := &looker{}, &looker{}
	r.join(t, workerA, serves, false)
	r.join(t, workerB, drains, true)
	inspect := func(worker string) (*leaseholdv1.InspectGatewayResponse, error) {
		return r.gateways.InspectGateway(testContext(t), &leaseholdv1.InspectGatewayRequest{Name: "gateways/one", Worker: worker})
	}
	for range 5 {
		got, err := inspect("")
		if err != nil || got.GetWorker() != "workers/"+workerA || got.GetRevision() != one.GetStatus().GetRevision() || got.GetNewestRevision() != got.GetRevision() || got.GetUpstreams()[0].GetServerName() != "one" {
			t.Fatalf("got %v, %v, want it by %s, of the newest definition", got, err, workerA)
		}
	}
	if got, err := inspect("workers/" + workerB); err != nil || got.GetWorker() != "workers/"+workerB {
		t.Errorf("named: got %v, %v", got, err)
	}
	serves.refuse = status.Error(codes.Unavailable, "stops")
	if got, err := inspect(""); err != nil || got.GetWorker() != "workers/"+workerB || serves.inspected.Load() != 6 {
		t.Errorf("when the first does not answer: got %v, %v after %d, want the other", got, err, serves.inspected.Load())
	}
}

func TestAnInspectionThatCannotBeMadeSaysWhy(t *testing.T) {
	r := lasting(t)
	r.create(t, counter("one"))
	with := func(code codes.Code, reason string) error {
		st, err := status.New(code, "no").WithDetails(&errdetails.ErrorInfo{Reason: reason, Domain: "leasehold"})
		if err != nil {
			t.Fatal(err)
		}
		return st.Err()
	}
	inspect := func(name, worker string) error {
		_, err := r.gateways.InspectGateway(testContext(t), &leaseholdv1.InspectGatewayRequest{Name: name, Worker: worker})
		return err
	}
	wantStatus(t, inspect("gateways/one", ""), codes.Unavailable, "NOBODY_INSPECTS")
	l := &looker{}
	r.join(t, workerA, l, false)
	for _, c := range []struct {
		refuse error
		code   codes.Code
		reason string
	}{
		{with(codes.FailedPrecondition, "NOT_APPLIED"), codes.FailedPrecondition, "NOT_APPLIED"},
		{with(codes.ResourceExhausted, "TOO_MANY_INSPECTIONS"), codes.ResourceExhausted, "TOO_MANY_INSPECTIONS"},
		{status.Error(codes.Unimplemented, "an older worker"), codes.Unavailable, "NOBODY_INSPECTS"},
	} {
		l.refuse = c.refuse
		wantStatus(t, inspect("gateways/one", ""), c.code, c.reason)
	}
	wantStatus(t, inspect("gateways/none", ""), codes.NotFound, "GATEWAY_NOT_FOUND")
	wantStatus(t, inspect("gateways/one", "workers/"+workerC), codes.NotFound, "WORKER_NOT_FOUND")
	fields := wantStatus(t, inspect("one", "x"), codes.InvalidArgument, "INVALID_ARGUMENT")
	if fmt.Sprint(fields) != "[name worker]" {
		t.Errorf("fields: got %v", fields)
	}
	gone := r.register(t, workerB)
	if _, err := r.control.Leave(testContext(t), &leaseholdv1.LeaveRequest{Worker: workerB, Incarnation: gone.Incarnation}); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, inspect("gateways/one", "workers/"+workerB), codes.FailedPrecondition, "NOT_ALIVE")
}
