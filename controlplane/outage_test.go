package controlplane_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/leasehold/leasehold/controlplane"
	"github.com/leasehold/leasehold/controlplane/gateway"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

const workerC = "00000000000000cc"

// outage is the config of a plane whose workers may serve on without it. Their leases are
// as long as a busy machine may be late.
func outage(t testing.TB) controlplane.Config {
	cfg := embedded(t)
	cfg.LeaseTTL, cfg.MaxOutage = 4*time.Second, time.Hour
	return cfg
}

// keep renews a worker's lease until the test is over.
func (r *replica) keep(t testing.TB, worker string, reg *leaseholdv1.RegisterResponse) {
	t.Helper()
	stop, done := make(chan struct{}), make(chan struct{})
	ctx := testContext(t)
	go func() {
		defer close(done)
		ticker := time.NewTicker(reg.Ttl.AsDuration() / 8)
		defer ticker.Stop()
		for {
			select {
			case <-stop:
				return
			case <-ticker.C:
				_, _ = r.control.Renew(ctx, &leaseholdv1.RenewRequest{Worker: worker, Incarnation: reg.Incarnation, Lease: reg.Lease})
			}
		}
	}()
	t.Cleanup(func() {
		close(stop)
		<-done
	})
}

func peer(worker string, reg *leaseholdv1.RegisterResponse) *leaseholdv1.Peer {
	return &leaseholdv1.Peer{Worker: worker, Incarnation: reg.Incarnation}
}

// The whole way of a worker that dies while it might serve on: whom it knew may take over
// from it, others may not, and everybody may when an operator says that it is gone.
func TestADeadWorkersSessionsAreTakenByThoseItKnewUntilItIsForgotten(t *testing.T) {
	r := start(t, outage(t))
	ctx := testContext(t)
	a, b, c := r.register(t, workerA), r.register(t, workerB), r.register(t, workerC)
	if a.MaxOutage.AsDuration() != time.Hour {
		t.Errorf("register says that workers serve on for %s, want 1h0m0s", a.MaxOutage.AsDuration())
	}
	renewed, err := r.control.Renew(ctx, &leaseholdv1.RenewRequest{Worker: workerB, Incarnation: b.Incarnation, Lease: b.Lease})
	if err != nil || renewed.MaxOutage.AsDuration() != time.Hour {
		t.Errorf("renew: %v, %v; want that workers serve on for an hour", renewed, err)
	}
	adopted, err := r.control.Readopt(ctx, &leaseholdv1.ReadoptRequest{Worker: workerC, Incarnation: c.Incarnation, Info: &leaseholdv1.WorkerInfo{PeerAddress: "h:1"}})
	if err != nil || adopted.MaxOutage.AsDuration() != time.Hour {
		t.Errorf("re-adopt: %v, %v; want that workers serve on for an hour", adopted, err)
	}
	c.Lease = adopted.GetLease()
	r.keep(t, workerB, b)
	r.keep(t, workerC, c)
	recorded, err := r.control.RecordPeers(ctx, &leaseholdv1.RecordPeersRequest{Worker: workerA, Incarnation: a.Incarnation, Peers: []*leaseholdv1.Peer{peer(workerB, b)}})
	if err != nil || len(recorded.Peers) != 1 || recorded.Peers[0].Worker != workerB || recorded.Peers[0].Incarnation != b.Incarnation {
		t.Fatalf("record peers: %v, %v; want B", recorded, err)
	}
	digests := []string{digest, "00000000000000000000000000000002"}
	for _, d := range digests {
		r.claim(t, "g", d, workerA, a.Incarnation)
	}
	_, err = r.workers.ForgetWorker(ctx, &leaseholdv1.ForgetWorkerRequest{Name: "workers/" + workerA})
	wantStatus(t, err, codes.FailedPrecondition, "ALIVE")
	get := func(worker string) *leaseholdv1.Worker {
		t.Helper()
		resp, err := r.workers.GetWorker(ctx, &leaseholdv1.GetWorkerRequest{Name: "workers/" + worker})
		if err != nil {
			t.Fatal(err)
		}
		return resp.Worker
	}
	if w := get(workerA); w.State != leaseholdv1.WorkerState_WORKER_STATE_SERVING || !slices.Equal(w.Peers, []string{"workers/" + workerB}) || w.Takeover != nil || w.Capacity != 7 {
		t.Errorf("a living worker is %v", w)
	}
	eventually(t, "A's lease expires", func() bool { return get(workerA).State == leaseholdv1.WorkerState_WORKER_STATE_DEAD })
	w := get(workerA)
	if w.Sessions != 2 || w.Takeover.GetRule() != leaseholdv1.TakeoverRule_TAKEOVER_RULE_LISTED ||
		!slices.Equal(w.Takeover.Takers, []string{"workers/" + workerB}) || w.Takeover.LatestTime.AsTime().Before(time.Now().Add(time.Hour)) {
		t.Errorf("a dead worker is %v, want 2 sessions that B may take, and everybody in more than an hour", w)
	}
	take := func(d, worker string, reg *leaseholdv1.RegisterResponse, supersededOnly bool) error {
		t.Helper()
		res, err := r.control.Resolve(ctx, &leaseholdv1.ResolveRequest{Gateway: "g", Session: d})
		if err != nil {
			t.Fatal(err)
		}
		_, err = r.control.Reclaim(ctx, &leaseholdv1.ReclaimRequest{
			Gateway: "g", Session: d, Revision: res.Revision, IncarnationRevision: res.IncarnationRevision,
			Worker: worker, Incarnation: reg.Incarnation, SupersededOnly: supersededOnly,
		})
		return err
	}
	wantStatus(t, take(digests[0], workerC, c, false), codes.FailedPrecondition, "OWNER_UNCERTAIN")
	wantStatus(t, take(digests[0], workerB, b, true), codes.FailedPrecondition, "OWNER_UNCERTAIN")
	if err := take(digests[0], workerB, b, false); err != nil {
		t.Errorf("reclaim by one that it knew: %v", err)
	}
	unrecorded := &leaseholdv1.ResolveRequest{Gateway: "g", Session: "00000000000000000000000000000003", OpenedBy: peer(workerB, b)}
	if res, err := r.control.Resolve(ctx, unrecorded); err != nil || res.Record != nil || res.Owner.GetWorker() != workerB {
		t.Errorf("a session that a living worker opened: %v, %v; want no record, and that worker", res, err)
	}
	list := func(dead bool) (states []leaseholdv1.WorkerState) {
		t.Helper()
		resp, err := r.workers.ListWorkers(ctx, &leaseholdv1.ListWorkersRequest{ShowDead: dead})
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range resp.Workers {
			states = append(states, w.State)
			if w.Name == "workers/"+workerA && w.Sessions != 1 {
				t.Errorf("A owns %d sessions, want the one that was not taken", w.Sessions)
			}
		}
		return states
	}
	serving, dead, left := leaseholdv1.WorkerState_WORKER_STATE_SERVING, leaseholdv1.WorkerState_WORKER_STATE_DEAD, leaseholdv1.WorkerState_WORKER_STATE_LEFT
	if got := list(false); !slices.Equal(got, []leaseholdv1.WorkerState{serving, serving}) {
		t.Errorf("living workers are %v", got)
	}
	if got := list(true); !slices.Equal(got, []leaseholdv1.WorkerState{dead, serving, serving}) {
		t.Errorf("all workers are %v", got)
	}
	_, err = r.workers.DrainWorker(ctx, &leaseholdv1.DrainWorkerRequest{Name: "workers/" + workerA})
	wantStatus(t, err, codes.FailedPrecondition, "NOT_ALIVE")
	for range 2 {
		forgot, err := r.workers.ForgetWorker(ctx, &leaseholdv1.ForgetWorkerRequest{Name: "workers/" + workerA})
		if err != nil || forgot.Worker.State != left || forgot.Worker.Takeover.GetRule() != leaseholdv1.TakeoverRule_TAKEOVER_RULE_SUPERSEDED || len(forgot.Worker.Takeover.Takers) != 2 {
			t.Errorf("forget: %v, %v; want that everybody may take over", forgot, err)
		}
	}
	if got := list(true); !slices.Equal(got, []leaseholdv1.WorkerState{left, serving, serving}) {
		t.Errorf("all workers are %v", got)
	}
	if err := take(digests[1], workerC, c, true); err != nil {
		t.Errorf("reclaim from one that was forgotten: %v", err)
	}
	unrecorded.OpenedBy = peer(workerA, a)
	for range 2 {
		res, err := r.control.Resolve(ctx, unrecorded)
		if err == nil && res.Record.GetEnd() == nil {
			t.Errorf("a session that a forgotten worker opened: %v, want that it is over", res)
		} else if err != nil {
			wantStatus(t, err, codes.NotFound, "SESSION_NOT_FOUND")
		}
	}
	_, err = r.control.RecordPeers(ctx, &leaseholdv1.RecordPeersRequest{Worker: workerA, Incarnation: a.Incarnation})
	wantStatus(t, err, codes.Aborted, "STALE")
	_, err = r.workers.ForgetWorker(ctx, &leaseholdv1.ForgetWorkerRequest{Name: "workers/00000000000000ee"})
	wantStatus(t, err, codes.NotFound, "WORKER_NOT_FOUND")
}

// A replica that has just started asks the caller to go elsewhere, where it may be
// granted.
func TestAReplicaThatHasJustStartedHoldsReclaims(t *testing.T) {
	server := startEtcd(t)
	root := writeRootKey(t, "0a")
	cfg := external(server, root)
	cfg.LeaseTTL = 2 * time.Second
	old := start(t, cfg)
	cfg.Hold = time.Hour
	fresh := start(t, cfg)
	ctx := testContext(t)
	a, b := old.register(t, workerA), old.register(t, workerB)
	old.claim(t, "g", digest, workerA, a.Incarnation)
	old.keep(t, workerB, b)
	var res *leaseholdv1.ResolveResponse
	eventually(t, "A's lease expires", func() (dead bool) {
		var err error
		res, err = fresh.control.Resolve(ctx, &leaseholdv1.ResolveRequest{Gateway: "g", Session: digest})
		return err == nil && !res.OwnerAlive
	})
	take := &leaseholdv1.ReclaimRequest{
		Gateway: "g", Session: digest, Revision: res.Revision, IncarnationRevision: res.IncarnationRevision, Worker: workerB, Incarnation: b.Incarnation,
	}
	_, err := fresh.control.Reclaim(ctx, take)
	wantStatus(t, err, codes.Unavailable, "HOLDING")
	if _, retry, _ := details(err); retry.GetRetryDelay().AsDuration() <= 0 {
		t.Errorf("%v does not say when to try again", err)
	}
	shown, err := fresh.workers.GetWorker(ctx, &leaseholdv1.GetWorkerRequest{Name: "workers/" + workerA})
	if err != nil || shown.Worker.Takeover.GetRule() != leaseholdv1.TakeoverRule_TAKEOVER_RULE_HOLDING {
		t.Errorf("get worker: %v, %v; want that the replica holds", shown, err)
	}
	if _, err := old.control.Reclaim(ctx, take); err != nil {
		t.Errorf("reclaim at the other replica: %v", err)
	}
}

func TestBadRequestsOfWorkersNameEveryField(t *testing.T) {
	r := start(t, embedded(t))
	ctx := testContext(t)
	many := make([]*leaseholdv1.Peer, 1001)
	self := &leaseholdv1.Peer{Worker: workerA, Incarnation: 3}
	tests := []struct {
		call func() error
		want []string
	}{
		{func() error {
			_, err := r.control.RecordPeers(ctx, &leaseholdv1.RecordPeersRequest{Worker: workerA, Peers: []*leaseholdv1.Peer{self}, Gone: many})
			return err
		}, []string{"incarnation", "peers[0].worker", "gone"}},
		{func() error {
			_, err := r.control.RecordPeers(ctx, &leaseholdv1.RecordPeersRequest{Worker: "x", Incarnation: 1, Gone: many[:2]})
			return err
		}, []string{"worker", "gone[0].worker", "gone[0].incarnation"}},
		{func() error {
			_, err := r.control.HandOver(ctx, &leaseholdv1.HandOverRequest{
				Gateway: "-", Session: digest, Worker: workerA, Incarnation: 1, To: self, EventCursors: map[string]string{"u": string(make([]byte, 1025))},
			})
			return err
		}, []string{"gateway", "revision", "to.worker", `event_cursors["u"]`}},
		{func() error {
			_, err := r.control.HandOver(ctx, &leaseholdv1.HandOverRequest{
				Gateway: "g", Session: digest, Worker: workerA, Incarnation: 1, Revision: 1, EventCursors: manyCursors(gateway.MaxUpstreams + 1),
			})
			return err
		}, []string{"to.worker", "to.incarnation", "event_cursors"}},
		{func() error {
			_, err := r.control.SetDraining(ctx, &leaseholdv1.SetDrainingRequest{})
			return err
		}, []string{"worker", "incarnation"}},
		{func() error {
			_, err := r.control.Resolve(ctx, &leaseholdv1.ResolveRequest{Gateway: "g", Session: digest, OpenedBy: &leaseholdv1.Peer{}})
			return err
		}, []string{"opened_by.worker", "opened_by.incarnation"}},
	}
	for i, tt := range tests {
		if got := wantStatus(t, tt.call(), codes.InvalidArgument, "INVALID_ARGUMENT"); !slices.Equal(got, tt.want) {
			t.Errorf("request %d: fields %v, want %v", i, got, tt.want)
		}
	}
}

func manyCursors(n int) map[string]string {
	cursors := map[string]string{}
	for i := range n {
		cursors[fmt.Sprint("u", i)] = "1"
	}
	return cursors
}
