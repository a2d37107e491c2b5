package controlplane_test

import (
	"context"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// giver is an owner that hands its session over when it is asked to, or says why not.
type giver struct {
	owner
	control leaseholdv1.ControlServiceClient
	from    *leaseholdv1.Peer
	others  map[string]*leaseholdv1.Peer
	refuse  error
	asked   []string
}

func (g *giver) HandOverNow(ctx context.Context, req *leaseholdv1.HandOverNowRequest) (*leaseholdv1.HandOverNowResponse, error) {
	g.asked = append(g.asked, req.To)
	if g.refuse != nil {
		return nil, g.refuse
	}
	res, err := g.control.Resolve(ctx, &leaseholdv1.ResolveRequest{Gateway: req.Gateway, Session: req.Session})
	if err != nil {
		return nil, err
	}
	to := req.To
	if to == "" {
		to = workerB
	}
	_, err = g.control.HandOver(ctx, &leaseholdv1.HandOverRequest{
		Gateway: req.Gateway, Session: req.Session, Revision: res.Revision, Worker: g.from.Worker, Incarnation: g.from.Incarnation, To: g.others[to],
	})
	return &leaseholdv1.HandOverNowResponse{Worker: to}, err
}

// because is a refusal as workers make it.
func because(code codes.Code, reason string) error {
	st, err := status.New(code, "no").WithDetails(&errdetails.ErrorInfo{Reason: reason, Domain: "leasehold"})
	if err != nil {
		return err
	}
	return st.Err()
}

func TestMoveSessionAsksTheOwnerAndReturnsWhatIsStoredThen(t *testing.T) {
	cfg := embedded(t)
	cfg.LeaseTTL = time.Minute
	r := start(t, cfg)
	ctx := testContext(t)
	g := &giver{control: r.control}
	a, err := r.control.Register(ctx, &leaseholdv1.RegisterRequest{Worker: workerA, Info: &leaseholdv1.WorkerInfo{PeerAddress: g.listen(t, g)}})
	if err != nil {
		t.Fatal(err)
	}
	b, c := r.register(t, workerB), r.register(t, workerC)
	g.from = peer(workerA, a)
	g.others = map[string]*leaseholdv1.Peer{workerB: peer(workerB, b), workerC: peer(workerC, c)}
	name := "gateways/g/sessions/" + digest
	move := func(worker string) (*leaseholdv1.Session, error) {
		resp, err := r.sessions.MoveSession(ctx, &leaseholdv1.MoveSessionRequest{Name: name, Worker: worker})
		return resp.GetSession(), err
	}
	_, err = move("")
	wantStatus(t, err, codes.NotFound, "SESSION_NOT_FOUND")
	r.claim(t, "g", digest, workerA, a.Incarnation)

	if s, err := move("workers/" + workerA); err != nil || s.Epoch != 1 || len(g.asked) != 0 {
		t.Errorf("move to where it is: %v, %v, and its owner was asked %d times", s, err, len(g.asked))
	}
	_, err = move("workers/00000000000000ee")
	wantStatus(t, err, codes.FailedPrecondition, "NOT_ALIVE")
	for _, draining := range []bool{true, false} {
		if _, err := r.control.SetDraining(ctx, &leaseholdv1.SetDrainingRequest{Worker: workerC, Incarnation: c.Incarnation, Draining: draining}); err != nil {
			t.Fatal(err)
		}
		if draining {
			_, err = move("workers/" + workerC)
			wantStatus(t, err, codes.FailedPrecondition, "NOT_ALIVE")
		}
	}
	if len(g.asked) != 0 {
		t.Errorf("the owner was asked %d times for what cannot be", len(g.asked))
	}
	for _, tt := range []struct {
		refuse error
		code   codes.Code
		reason string
		asked  int
	}{
		{because(codes.FailedPrecondition, "PINNED"), codes.FailedPrecondition, "PINNED", 1},
		{because(codes.FailedPrecondition, "BUSY"), codes.FailedPrecondition, "BUSY", 1},
		{because(codes.FailedPrecondition, "NOT_ALIVE"), codes.FailedPrecondition, "NOT_ALIVE", 1},
		{because(codes.FailedPrecondition, "NOT_OWNER"), codes.Aborted, "STALE", 3},
		{because(codes.Unavailable, "NO_WORKER"), codes.Unavailable, "NOBODY_TAKES", 1},
		{status.Error(codes.Unavailable, "connection refused"), codes.Unavailable, "OWNER_SILENT", 1},
		{status.Error(codes.Unimplemented, "an older version"), codes.Unavailable, "OWNER_SILENT", 1},
	} {
		g.refuse, g.asked = tt.refuse, nil
		_, err := move("workers/" + workerC)
		wantStatus(t, err, tt.code, tt.reason)
		if len(g.asked) != tt.asked || g.asked[0] != workerC {
			t.Errorf("%v: the owner was asked for %v, want %d times for C", tt.refuse, g.asked, tt.asked)
		}
	}
	g.refuse, g.asked = nil, nil
	s, err := move("")
	if err != nil || s.Owner != "workers/"+workerB || s.Epoch != 2 || s.Incarnation != b.Incarnation || !s.Durable {
		t.Errorf("move: %v, %v; want it at B, with epoch 2", s, err)
	}
	if last := s.GetEvents()[len(s.GetEvents())-1]; last.Type != leaseholdv1.SessionEventType_SESSION_EVENT_TYPE_HANDED_OVER || last.Worker != "workers/"+workerB {
		t.Errorf("its last event is %v, want that it was handed over", last)
	}
	if len(g.asked) != 1 || g.asked[0] != "" {
		t.Errorf("the owner was asked for %q, want it to choose", g.asked)
	}
	if _, err := r.control.Leave(ctx, &leaseholdv1.LeaveRequest{Worker: workerB, Incarnation: b.Incarnation, Lease: b.Lease}); err != nil {
		t.Fatal(err)
	}
	_, err = move("workers/" + workerC)
	wantStatus(t, err, codes.FailedPrecondition, "NOT_ALIVE")
	_, err = move("workers/" + workerB)
	wantStatus(t, err, codes.FailedPrecondition, "NOT_ALIVE")
}

func TestMoveOfAPinnedOrEndedSessionIsRefusedWithoutAskingItsOwner(t *testing.T) {
	cfg := embedded(t)
	cfg.LeaseTTL = time.Minute
	r := start(t, cfg)
	ctx := testContext(t)
	a := r.register(t, workerA)
	if _, err := r.control.Claim(ctx, &leaseholdv1.ClaimRequest{Gateway: "g", Session: digest, Record: &leaseholdv1.SessionRecord{
		Worker: workerA, Incarnation: a.Incarnation, Epoch: 1, Class: leaseholdv1.Class_CLASS_PINNED,
	}}); err != nil {
		t.Fatal(err)
	}
	move := &leaseholdv1.MoveSessionRequest{Name: "gateways/g/sessions/" + digest}
	_, err := r.sessions.MoveSession(ctx, move)
	wantStatus(t, err, codes.FailedPrecondition, "PINNED")
	if _, err := r.control.End(ctx, &leaseholdv1.EndRequest{Gateway: "g", Session: digest, Worker: workerA, Incarnation: a.Incarnation}); err != nil {
		t.Fatal(err)
	}
	_, err = r.sessions.MoveSession(ctx, move)
	wantStatus(t, err, codes.FailedPrecondition, "ENDED")
}

func TestHandOverIsRefusedWithAReasonThatSaysWhatToDo(t *testing.T) {
	cfg := embedded(t)
	cfg.LeaseTTL = time.Minute
	r := start(t, cfg)
	ctx := testContext(t)
	a, b := r.register(t, workerA), r.register(t, workerB)
	revision := r.claim(t, "g", digest, workerA, a.Incarnation)
	req := &leaseholdv1.HandOverRequest{
		Gateway: "g", Session: digest, Revision: revision, Worker: workerA, Incarnation: a.Incarnation,
		To: &leaseholdv1.Peer{Worker: workerB, Incarnation: b.Incarnation + 1},
	}
	_, err := r.control.HandOver(ctx, req)
	wantStatus(t, err, codes.FailedPrecondition, "TARGET_NOT_ALIVE")
	req.To, req.Revision = peer(workerB, b), revision+1
	_, err = r.control.HandOver(ctx, req)
	wantStatus(t, err, codes.Aborted, "STALE")
	req.Revision = revision
	for range 2 { // it may be repeated
		given, err := r.control.HandOver(ctx, req)
		if err != nil || given.Record.Worker != workerB || given.Record.Epoch != 2 || given.Revision <= revision {
			t.Errorf("hand over: %v, %v; want it B's with epoch 2", given, err)
		}
	}
}

// Workers are told at once who drains, whoever says so, and operators see it.
func TestWhoDrainsIsToldToAllWorkers(t *testing.T) {
	cfg := embedded(t)
	cfg.LeaseTTL = time.Minute
	r := start(t, cfg)
	ctx := testContext(t)
	a, b := r.register(t, workerA), r.register(t, workerB)
	w := r.watch(t, workerB, b.Incarnation)
	pushed := func(draining bool) {
		t.Helper()
		w.until(func(resp *leaseholdv1.WatchResponse) bool {
			for _, m := range resp.GetMembers().GetMembers() {
				if m.Worker == workerA && m.Incarnation == a.Incarnation && m.Info.Draining == draining {
					return true
				}
			}
			return false
		})
	}
	pushed(false)
	drained, err := r.workers.DrainWorker(ctx, &leaseholdv1.DrainWorkerRequest{Name: "workers/" + workerA})
	if err != nil || drained.Worker.State != leaseholdv1.WorkerState_WORKER_STATE_DRAINING {
		t.Errorf("drain: %v, %v", drained, err)
	}
	pushed(true)
	list, err := r.workers.ListWorkers(ctx, &leaseholdv1.ListWorkersRequest{})
	if err != nil || list.Workers[0].State != leaseholdv1.WorkerState_WORKER_STATE_DRAINING || list.Workers[1].State != leaseholdv1.WorkerState_WORKER_STATE_SERVING {
		t.Errorf("list: %v, %v; want that A drains", list, err)
	}
	undrained, err := r.workers.UndrainWorker(ctx, &leaseholdv1.UndrainWorkerRequest{Name: "workers/" + workerA})
	if err != nil || undrained.Worker.State != leaseholdv1.WorkerState_WORKER_STATE_SERVING {
		t.Errorf("undrain: %v, %v", undrained, err)
	}
	pushed(false)
	if _, err := r.control.SetDraining(ctx, &leaseholdv1.SetDrainingRequest{Worker: workerA, Incarnation: a.Incarnation, Draining: true}); err != nil {
		t.Fatal(err)
	}
	pushed(true)
	_, err = r.control.SetDraining(ctx, &leaseholdv1.SetDrainingRequest{Worker: workerA, Incarnation: a.Incarnation + 1, Draining: true})
	wantStatus(t, err, codes.FailedPrecondition, "NOT_ALIVE")
	_, err = r.workers.DrainWorker(ctx, &leaseholdv1.DrainWorkerRequest{Name: "workers/00000000000000ee"})
	wantStatus(t, err, codes.NotFound, "WORKER_NOT_FOUND")
}
