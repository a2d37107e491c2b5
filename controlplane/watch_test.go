package controlplane_test

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// watching is a worker's stream.
type watching struct {
	t      testing.TB
	stream leaseholdv1.ControlService_WatchClient
	worker string
	inc    int64
}

func (r *replica) watch(t testing.TB, worker string, incarnation int64) *watching {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	t.Cleanup(cancel)
	stream, err := r.control.Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	w := &watching{t: t, stream: stream, worker: worker, inc: incarnation}
	w.ack(0)
	return w
}

func (w *watching) ack(revision int64) {
	w.t.Helper()
	err := w.stream.Send(&leaseholdv1.WatchRequest{Worker: w.worker, Incarnation: w.inc, AppliedRevision: revision})
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *watching) next() *leaseholdv1.WatchResponse {
	w.t.Helper()
	resp, err := w.stream.Recv()
	if err != nil {
		w.t.Fatalf("watch: %v", err)
	}
	return resp
}

// until reads until a message satisfies ok.
func (w *watching) until(ok func(*leaseholdv1.WatchResponse) bool) *leaseholdv1.WatchResponse {
	w.t.Helper()
	for {
		if resp := w.next(); ok(resp) {
			return resp
		}
	}
}

func TestWatchGetsTheCompleteStateAndThenDifferencesWithinASecond(t *testing.T) {
	r := start(t, embedded(t))
	r.create(t, counter("one"))
	reg := r.register(t, "00000000000000aa")
	w := r.watch(t, "00000000000000aa", reg.Incarnation)
	first := w.next()
	// The replica may hear of the worker and the gateway only after this.
	if !first.Complete || first.More || len(first.KeyRing.GetKeys()) != 1 || first.Members == nil || first.Endings == nil {
		t.Errorf("first state is %v, want it complete with a ring", first)
	}
	if len(first.Members.Members) == 0 {
		w.until(func(resp *leaseholdv1.WatchResponse) bool { return len(resp.GetMembers().GetMembers()) == 1 })
	}
	began := time.Now()
	two := r.create(t, counter("two"))
	diff := w.until(func(resp *leaseholdv1.WatchResponse) bool {
		return len(resp.Gateways) == 1 && resp.Gateways[0].Name == "gateways/two"
	})
	if took := time.Since(began); took > time.Second {
		t.Errorf("a new gateway took %s, want at most 1 s", took)
	}
	if diff.Complete || diff.Revision < two.Status.Revision || diff.Members != nil || diff.KeyRing != nil {
		t.Errorf("difference is %v, want the new gateway alone", diff)
	}
	if g := diff.Gateways[0]; g.Etag != "" || !proto.Equal(g.Status, &leaseholdv1.GatewayStatus{Revision: two.Status.Revision}) {
		t.Errorf("pushed gateway is %v, want its revision as the only status", g)
	}
	if _, err := r.gateways.DeleteGateway(testContext(t), &leaseholdv1.DeleteGatewayRequest{Name: "gateways/one"}); err != nil {
		t.Fatal(err)
	}
	if gone := w.next(); len(gone.RemovedGateways) != 1 || gone.RemovedGateways[0] != "gateways/one" {
		t.Errorf("after the delete got %v, want it removed", gone)
	}
	r.register(t, "00000000000000bb")
	if joined := w.next(); len(joined.Members.GetMembers()) != 2 {
		t.Errorf("after a worker joined got %v, want both", joined)
	}
	if _, err := r.control.Leave(testContext(t), &leaseholdv1.LeaveRequest{Worker: "00000000000000aa", Incarnation: reg.Incarnation, Lease: reg.Lease}); err != nil {
		t.Fatal(err)
	}
	if left := w.next(); len(left.Members.GetMembers()) != 1 {
		t.Errorf("after a worker left got %v, want the other", left)
	}
	if err := w.stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.stream.Recv(); err != io.EOF {
		t.Errorf("after closing our half: %v, want the stream's end", err)
	}
}

func TestAnAcknowledgementCountsAtEveryReplicaAndIsNotPushed(t *testing.T) {
	server := startEtcd(t)
	root := writeRootKey(t, "0a")
	one := start(t, external(server, root))
	two := start(t, external(server, root))
	g := one.create(t, counter("one"))
	reg := one.register(t, "00000000000000aa")
	w := one.watch(t, "00000000000000aa", reg.Incarnation)
	state := w.until(func(resp *leaseholdv1.WatchResponse) bool {
		return resp.Revision >= g.Status.Revision && len(resp.Gateways) > 0
	})
	w.ack(state.Revision)
	eventually(t, "applied at the other replica", func() bool {
		got, err := two.gateways.GetGateway(testContext(t), &leaseholdv1.GetGatewayRequest{Name: "gateways/one"})
		if err != nil {
			t.Fatal(err)
		}
		if s := got.Gateway.Status; s.WorkersTotal != 1 {
			t.Fatalf("status %v, want 1 worker", s)
		}
		return got.Gateway.Status.WorkersApplied == 1
	})
	worker, err := two.workers.GetWorker(testContext(t), &leaseholdv1.GetWorkerRequest{Name: "workers/00000000000000aa"})
	if err != nil || worker.Worker.AppliedRevision != state.Revision || worker.Worker.Incarnation != reg.Incarnation {
		t.Errorf("worker %v, %v; want revision %d applied", worker, err, state.Revision)
	}
	two.create(t, counter("two"))
	if next := w.until(func(resp *leaseholdv1.WatchResponse) bool { return len(resp.Gateways) > 0 }); next.Members != nil {
		t.Errorf("the acknowledgement was pushed as %v", next.Members)
	}
}

// eventually polls for what nothing announces.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(testTimeout)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: it did not come to pass", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestLargeStateComesInPartsAndStaysWhole(t *testing.T) {
	r := start(t, embedded(t))
	const count = 400
	for i := range count {
		g := counter(fmt.Sprintf("g%d", i))
		g.Labels = map[string]string{}
		for j := range 16 {
			g.Labels[fmt.Sprint(j)] = strings.Repeat("x", 255)
		}
		r.create(t, g)
	}
	w := r.watch(t, "00000000000000aa", 1)
	got, messages := 0, 0
	for {
		resp := w.next()
		got += len(resp.Gateways)
		messages++
		if size := proto.Size(resp); size > 1<<20 {
			t.Errorf("message has %d bytes, want at most 1 MiB", size)
		}
		if !resp.More && got == count {
			break
		}
	}
	if messages < 2 {
		t.Errorf("%d gateways came in %d message, want several", got, messages)
	}
}

func TestWatchOfAMalformedWorkerIsRefused(t *testing.T) {
	r := start(t, embedded(t))
	w := r.watch(t, "x", 0)
	_, err := w.stream.Recv()
	wantStatus(t, err, codes.InvalidArgument, "INVALID_ARGUMENT")
}

func TestStoppingReplicaEndsItsStreamsAsUnavailable(t *testing.T) {
	r := start(t, embedded(t))
	w := r.watch(t, "00000000000000aa", 1)
	w.next()
	began := time.Now()
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 1500*time.Millisecond {
		t.Errorf("stopped after %s although the stream could end at once", took)
	}
	_, err := w.stream.Recv()
	wantStatus(t, err, codes.Unavailable, "STOPPING")
}
