package controlplane_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/leasehold/leasehold/controlplane"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// reject acknowledges a revision but for a gateway's definition.
func (w *watching) reject(revision int64, g *leaseholdv1.Gateway, serving int64, quarantined bool) {
	w.t.Helper()
	err := w.stream.Send(&leaseholdv1.WatchRequest{Worker: w.worker, Incarnation: w.inc, AppliedRevision: revision, Rejections: []*leaseholdv1.Rejection{{
		Gateway: g.Name, Revision: g.Status.Revision, ServingRevision: serving, Quarantined: quarantined,
		Error: &leaseholdv1.ApplyError{Field: "upstreams[0].url", Reason: strings.Repeat("x", 600)},
	}}})
	if err != nil {
		w.t.Fatal(err)
	}
}

// joined registers a worker and opens its stream.
func (r *replica) joined(t testing.TB, worker string) *watching {
	t.Helper()
	return r.watch(t, worker, r.register(t, worker).Incarnation)
}

func TestARejectionIsSeenAtEveryReplicaAndIsNoApplication(t *testing.T) {
	server := startEtcd(t)
	root := writeRootKey(t, "0a")
	var log logged
	metrics := prometheus.NewRegistry()
	planeOf := func() controlplane.Config {
		cfg := patient(external(server, root))
		cfg.Logger, cfg.Metrics = hclog.New(&hclog.LoggerOptions{Output: &log}), metrics
		return cfg
	}
	one, two := start(t, planeOf()), start(t, planeOf())
	g := one.create(t, counter("one"))
	good, bad := one.joined(t, "00000000000000aa"), one.joined(t, "00000000000000bb")
	one.joined(t, "00000000000000cc")
	watch, err := two.gateways.WatchGateways(testContext(t), &leaseholdv1.WatchGatewaysRequest{})
	if err != nil {
		t.Fatal(err)
	}
	next := func() *leaseholdv1.WatchGatewaysResponse {
		t.Helper()
		for {
			change, err := watch.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if change.Type != leaseholdv1.ChangeType_CHANGE_TYPE_BOOKMARK {
				return change
			}
		}
	}
	next()
	good.ack(g.Status.Revision + 7)
	began := time.Now()
	bad.reject(g.Status.Revision+7, g, 1, true)
	told := next()
	t.Logf("told of %v after the rejection", time.Since(began).Round(time.Millisecond))
	if w := told.Gateway.GetStatus().GetWorkers(); told.Gateway.GetName() != g.Name || len(w) != 1 || w[0].State != leaseholdv1.ApplyState_APPLY_STATE_QUARANTINED {
		t.Errorf("watch told %v, want the gateway with the worker that rejects it", told)
	}
	var got *leaseholdv1.GatewayStatus
	eventually(t, "the acknowledgements are there", func() bool {
		resp, err := two.gateways.GetGateway(testContext(t), &leaseholdv1.GetGatewayRequest{Name: g.Name})
		if err != nil {
			t.Fatal(err)
		}
		got = resp.Gateway.Status
		return got.WorkersApplied == 1
	})
	var states []string
	for _, w := range got.Workers {
		states = append(states, fmt.Sprint(strings.TrimLeft(strings.TrimPrefix(w.Worker, "workers/"), "0"), " ", strings.TrimPrefix(w.State.String(), "APPLY_STATE_"), " ", w.Revision))
	}
	want := fmt.Sprintf("[aa APPLIED %d bb QUARANTINED 1 cc PENDING 0]", g.Status.Revision)
	if fmt.Sprint(states) != want || got.WorkersTotal != 3 {
		t.Errorf("status: got %v of %d, want %s of 3", states, got.WorkersTotal, want)
	}
	if e := got.Workers[1].GetError(); e.GetField() != "upstreams[0].url" || len(e.GetReason()) != 512 {
		t.Errorf("error: got %q and a reason of %d bytes, want the field, and 512", e.GetField(), len(e.GetReason()))
	}
	list, err := two.gateways.ListGateways(testContext(t), &leaseholdv1.ListGatewaysRequest{})
	if err != nil || len(list.Gateways[0].Status.Workers) != 1 || list.Gateways[0].Status.WorkersApplied != 1 {
		t.Errorf("list: got %v, %v; want the worker that rejects it", list, err)
	}
	resume, err := two.gateways.WatchGateways(testContext(t), &leaseholdv1.WatchGatewaysRequest{Revision: told.Revision - 1})
	if err != nil {
		t.Fatal(err)
	}
	if again, err := resume.Recv(); err != nil || again.Gateway.GetName() != g.Name || again.Revision != told.Revision {
		t.Errorf("resumed before it: got %v, %v; want the same again", again, err)
	}
	if n := gauge(t, metrics, "leasehold_gateways_rejected"); n != 1 {
		t.Errorf("leasehold_gateways_rejected is %v, want 1", n)
	}
	bad.reject(g.Status.Revision+7, g, 1, true)
	bad.ack(g.Status.Revision + 8)
	if over := next(); len(over.Gateway.GetStatus().GetWorkers()) != 0 || over.Revision <= told.Revision {
		t.Errorf("no longer rejected: got %v, want the gateway once more without", over)
	}
	eventually(t, "that is logged", func() bool { return log.count("worker no longer rejects a gateway") == 1 })
	if n := log.count("worker rejects a gateway"); n != 1 {
		t.Errorf("the rejection is logged %d times, want once", n)
	}
	eventually(t, "the metric says so", func() bool { return gauge(t, metrics, "leasehold_gateways_rejected") == 0 })
}

func TestAnAcknowledgementOfManyRejectionsCountsNoneOfThemAsApplied(t *testing.T) {
	r := start(t, patient(embedded(t)))
	w := r.joined(t, "00000000000000aa")
	var all []*leaseholdv1.Gateway
	ack := &leaseholdv1.WatchRequest{Worker: w.worker, Incarnation: w.inc}
	for i := range 102 {
		g := r.create(t, counter(fmt.Sprint("g", i)))
		all = append(all, g)
		ack.AppliedRevision = g.Status.Revision
		ack.Rejections = append(ack.Rejections, &leaseholdv1.Rejection{Gateway: g.Name, Revision: g.Status.Revision})
	}
	if err := w.stream.Send(ack); err != nil {
		t.Fatal(err)
	}
	stateOf := func(g *leaseholdv1.Gateway) leaseholdv1.ApplyState {
		resp, err := r.gateways.GetGateway(testContext(t), &leaseholdv1.GetGatewayRequest{Name: g.Name})
		if err != nil {
			t.Fatal(err)
		}
		return resp.Gateway.Status.Workers[0].State
	}
	eventually(t, "the first is rejected", func() bool { return stateOf(all[0]) == leaseholdv1.ApplyState_APPLY_STATE_REJECTED })
	for _, g := range all[1:] {
		if got := stateOf(g); got == leaseholdv1.ApplyState_APPLY_STATE_APPLIED {
			t.Errorf("%s counts as applied", g.Name)
		}
	}
}

// logged is a log that replicas share.
type logged struct {
	mu   sync.Mutex
	text strings.Builder // guarded by mu
}

// Write implements io.Writer.
func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) count(message string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), message+":")
}

// gauge is the value of a metric without labels.
func gauge(t testing.TB, metrics *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("there is no %s", name)
	return 0
}

// patient gives workers, which do not renew their leases here, time for the whole test.
func patient(cfg controlplane.Config) controlplane.Config {
	cfg.LeaseTTL = time.Minute
	return cfg
}

// waiting is a write that waits.
func waiting(ctx context.Context, write func(context.Context) error) <-chan error {
	done := make(chan error, 1)
	go func() { done <- write(ctx) }()
	return done
}

// statusIn returns the status among an error's details.
func statusIn(t *testing.T, err error) *leaseholdv1.GatewayStatus {
	t.Helper()
	for _, d := range status.Convert(err).Details() {
		if s, ok := d.(*leaseholdv1.GatewayStatus); ok {
			return s
		}
	}
	t.Fatalf("%v has no status among its details", err)
	return nil
}

func TestAWriteReturnsOnceEveryLivingWorkerHasAppliedIt(t *testing.T) {
	server := startEtcd(t)
	root := writeRootKey(t, "0a")
	one, two := start(t, patient(external(server, root))), start(t, patient(external(server, root)))
	const applied = leaseholdv1.Wait_WAIT_APPLIED
	first, err := one.gateways.CreateGateway(testContext(t), &leaseholdv1.CreateGatewayRequest{Gateway: counter("one"), Wait: applied})
	if err != nil || first.Gateway.Status.WorkersTotal != 0 {
		t.Fatalf("without workers: got %v, %v; want it to return at once", first, err)
	}
	a, b := one.joined(t, "00000000000000aa"), two.joined(t, "00000000000000bb")
	writes := map[string]func(context.Context) error{
		"create": func(ctx context.Context) error {
			resp, err := one.gateways.CreateGateway(ctx, &leaseholdv1.CreateGatewayRequest{Gateway: counter("two"), Wait: applied})
			if s := resp.GetGateway().GetStatus(); err == nil && (s.GetWorkersApplied() != 2 || len(s.GetWorkers()) != 2) {
				return fmt.Errorf("status %v, want 2 of 2", s)
			}
			return err
		},
		"update": func(ctx context.Context) error {
			g := counter("one")
			g.Description = "new"
			_, err := one.gateways.UpdateGateway(ctx, &leaseholdv1.UpdateGatewayRequest{Gateway: g, Wait: applied})
			return err
		},
		"delete": func(ctx context.Context) error {
			_, err := one.gateways.DeleteGateway(ctx, &leaseholdv1.DeleteGatewayRequest{Name: "gateways/one", Wait: applied})
			return err
		},
	}
	for _, write := range []struct {
		name string
		seen func(*leaseholdv1.WatchResponse) bool
	}{
		{"create", func(resp *leaseholdv1.WatchResponse) bool {
			return slices.ContainsFunc(resp.Gateways, func(g *leaseholdv1.Gateway) bool { return g.Name == "gateways/two" })
		}},
		{"update", func(resp *leaseholdv1.WatchResponse) bool {
			return slices.ContainsFunc(resp.Gateways, func(g *leaseholdv1.Gateway) bool { return g.Description == "new" })
		}},
		{"delete", func(resp *leaseholdv1.WatchResponse) bool { return len(resp.RemovedGateways) > 0 }},
	} {
		done := waiting(testContext(t), writes[write.name])
		a.ack(a.until(write.seen).Revision)
		select {
		case err := <-done:
			t.Fatalf("%s returned with %v before the other worker had applied it", write.name, err)
		case <-time.After(50 * time.Millisecond):
		}
		b.ack(b.until(write.seen).Revision)
		if err := <-done; err != nil {
			t.Errorf("%s: %v", write.name, err)
		}
	}
}

func TestAWriteSaysWhoHasNotAppliedIt(t *testing.T) {
	r := start(t, patient(embedded(t)))
	fine, lazy := r.joined(t, "00000000000000aa"), r.joined(t, "00000000000000bb")
	create := func(id string, patience time.Duration) (*leaseholdv1.Gateway, error) {
		_, err := r.gateways.CreateGateway(testContext(t), &leaseholdv1.CreateGatewayRequest{
			Gateway: counter(id), Wait: leaseholdv1.Wait_WAIT_APPLIED, WaitTimeout: durationpb.New(patience)})
		resp, getErr := r.gateways.GetGateway(testContext(t), &leaseholdv1.GetGatewayRequest{Name: "gateways/" + id})
		if getErr != nil {
			t.Fatalf("the write is not there: %v", getErr)
		}
		return resp.Gateway, err
	}
	_, err := create("late", 300*time.Millisecond)
	wantStatus(t, err, codes.DeadlineExceeded, "NOT_APPLIED")
	if s := statusIn(t, err); len(s.Workers) != 2 || s.Workers[1].State != leaseholdv1.ApplyState_APPLY_STATE_PENDING || !strings.Contains(err.Error(), lazy.worker) {
		t.Errorf("got %v (%v), want both workers, and the message to name them", s, err)
	}
	done := waiting(testContext(t), func(context.Context) error {
		_, err := create("bad", 15*time.Second)
		return err
	})
	state := lazy.until(func(resp *leaseholdv1.WatchResponse) bool {
		return len(resp.Gateways) > 0 && resp.Gateways[len(resp.Gateways)-1].Name == "gateways/bad"
	})
	fine.ack(state.Revision)
	lazy.reject(state.Revision, state.Gateways[len(state.Gateways)-1], 0, false)
	err = <-done
	wantStatus(t, err, codes.FailedPrecondition, "REJECTED")
	if s := statusIn(t, err); s.WorkersApplied > 1 || !strings.Contains(err.Error(), lazy.worker) || !strings.Contains(err.Error(), "upstreams[0].url") || strings.Contains(err.Error(), fine.worker) {
		t.Errorf("got %v (%v), want the worker that rejects it, and the field", s, err)
	}
}

func TestAWriteDoesNotWaitForAWorkerThatIsGone(t *testing.T) {
	r := start(t, patient(embedded(t)))
	reg := r.register(t, "00000000000000aa")
	r.watch(t, "00000000000000aa", reg.Incarnation)
	done := waiting(testContext(t), func(ctx context.Context) error {
		_, err := r.gateways.CreateGateway(ctx, &leaseholdv1.CreateGatewayRequest{Gateway: counter("one"), Wait: leaseholdv1.Wait_WAIT_APPLIED})
		return err
	})
	eventually(t, "the write is there", func() bool {
		_, err := r.gateways.GetGateway(testContext(t), &leaseholdv1.GetGatewayRequest{Name: "gateways/one"})
		return err == nil
	})
	if _, err := r.control.Leave(testContext(t), &leaseholdv1.LeaveRequest{Worker: "00000000000000aa", Incarnation: reg.Incarnation, Lease: reg.Lease}); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("got %v, want the wait to end with the worker", err)
	}
}

func TestWaitsThatCannotBeAreRefused(t *testing.T) {
	r := start(t, patient(embedded(t)))
	for name, patience := range map[string]time.Duration{"short": 99 * time.Millisecond, "long": 5*time.Minute + 1, "negative": -time.Second} {
		_, err := r.gateways.DeleteGateway(testContext(t), &leaseholdv1.DeleteGatewayRequest{
			Name: "gateways/one", Wait: 9, WaitTimeout: durationpb.New(patience)})
		if fields := wantStatus(t, err, codes.InvalidArgument, "INVALID_ARGUMENT"); fmt.Sprint(fields) != "[wait wait_timeout]" {
			t.Errorf("%s: got %v, want wait and wait_timeout", name, fields)
		}
	}
}
