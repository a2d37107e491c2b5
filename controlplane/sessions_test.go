package controlplane_test

import (
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

const (
	workerA = "00000000000000aa"
	workerB = "00000000000000bb"
	digest  = "00000000000000000000000000000001"
)

func TestASessionFromClaimToReclaimToEnd(t *testing.T) {
	r := start(t, embedded(t))
	ctx := testContext(t)
	a, b := r.register(t, workerA), r.register(t, workerB)
	if a.Ttl.AsDuration() != 2*time.Second {
		t.Errorf("ttl %v, want 2 s", a.Ttl.AsDuration())
	}
	_, err := r.control.Resolve(ctx, &leaseholdv1.ResolveRequest{Gateway: "g", Session: digest})
	wantStatus(t, err, codes.NotFound, "SESSION_NOT_FOUND")
	r.claim(t, "g", digest, workerA, a.Incarnation)
	res, err := r.control.Resolve(ctx, &leaseholdv1.ResolveRequest{Gateway: "g", Session: digest})
	if err != nil || !res.OwnerAlive || res.Owner.GetInfo().GetCapacity() != 7 {
		t.Fatalf("resolve: %v, %v", res, err)
	}
	if res.OwnerSilence != nil {
		t.Errorf("resolve says the owner's silence, %v, which nobody asked for", res.OwnerSilence)
	}
	measured, err := r.control.Resolve(ctx, &leaseholdv1.ResolveRequest{Gateway: "g", Session: digest, MeasureOwner: true})
	if err != nil || measured.OwnerSilence.AsDuration() < time.Second {
		t.Errorf("resolve: %v, %v; want the owner's silence, of 1 s at least", measured, err)
	}
	take := &leaseholdv1.ReclaimRequest{
		Gateway: "g", Session: digest, Revision: res.Revision, IncarnationRevision: res.IncarnationRevision,
		Worker: workerB, Incarnation: b.Incarnation,
	}
	_, err = r.control.Reclaim(ctx, take)
	wantStatus(t, err, codes.FailedPrecondition, "OWNER_ALIVE")

	eventually(t, "the owner's lease expires", func() bool {
		if _, err := r.control.Renew(ctx, &leaseholdv1.RenewRequest{Worker: workerB, Incarnation: b.Incarnation, Lease: b.Lease}); err != nil {
			t.Fatal(err)
		}
		res, err := r.control.Resolve(ctx, &leaseholdv1.ResolveRequest{Gateway: "g", Session: digest})
		return err == nil && !res.OwnerAlive
	})
	_, err = r.control.Renew(ctx, &leaseholdv1.RenewRequest{Worker: workerA, Incarnation: a.Incarnation, Lease: a.Lease})
	wantStatus(t, err, codes.NotFound, "LEASE_LOST")
	taken, err := r.control.Reclaim(ctx, take)
	if err != nil || taken.Record.Epoch != 2 || taken.Record.Worker != workerB {
		t.Fatalf("reclaim: %v, %v; want B with epoch 2", taken, err)
	}
	_, err = r.control.Readopt(ctx, &leaseholdv1.ReadoptRequest{Worker: workerA, Incarnation: a.Incarnation, Info: &leaseholdv1.WorkerInfo{PeerAddress: "h:1"}})
	wantStatus(t, err, codes.FailedPrecondition, "CONDEMNED")
	_, err = r.control.End(ctx, &leaseholdv1.EndRequest{Gateway: "g", Session: digest, Worker: workerA, Incarnation: a.Incarnation})
	wantStatus(t, err, codes.Aborted, "STALE")
	take.Revision = taken.Revision - 1
	take.Worker, take.Incarnation = "00000000000000cc", 1
	_, err = r.control.Reclaim(ctx, take)
	wantStatus(t, err, codes.Aborted, "STALE")
	save := &leaseholdv1.SaveRequest{Gateway: "g", Session: digest, Revision: taken.Revision, Record: taken.Record}
	saved, err := r.control.Save(ctx, save)
	if err != nil || saved.Revision <= taken.Revision {
		t.Errorf("save of what is stored: %v, %v; want a new revision", saved, err)
	}
	again, err := r.control.Save(ctx, save)
	if err != nil || again.Revision != saved.Revision {
		t.Errorf("the same save again: %v, %v; want the revision %d of the first", again, err, saved.Revision)
	}
	if _, err := r.control.End(ctx, &leaseholdv1.EndRequest{Gateway: "g", Session: digest, Worker: workerB, Incarnation: b.Incarnation, Reason: leaseholdv1.EndReason_END_REASON_CLIENT}); err != nil {
		t.Fatal(err)
	}
	got, err := r.sessions.GetSession(ctx, &leaseholdv1.GetSessionRequest{Name: "gateways/g/sessions/" + digest})
	if err != nil || got.Session.End.GetReason() != leaseholdv1.EndReason_END_REASON_CLIENT || got.Session.Owner != "workers/"+workerB || got.Session.Epoch != 2 {
		t.Errorf("session: %v, %v", got, err)
	}
	_, err = r.control.Claim(ctx, &leaseholdv1.ClaimRequest{Gateway: "g", Session: digest, Record: &leaseholdv1.SessionRecord{Worker: workerB, Incarnation: b.Incarnation, Epoch: 1}})
	wantStatus(t, err, codes.FailedPrecondition, "ENDED")
}

func TestTerminateWaitsUntilTheOwnerHasEndedTheSession(t *testing.T) {
	server := startEtcd(t)
	root := writeRootKey(t, "0a")
	one, two := start(t, external(server, root)), start(t, external(server, root))
	ctx := testContext(t)
	name := "gateways/g/sessions/" + digest
	_, err := one.sessions.TerminateSession(ctx, &leaseholdv1.TerminateSessionRequest{Name: name})
	wantStatus(t, err, codes.NotFound, "SESSION_NOT_FOUND")
	a := one.register(t, workerA)
	one.claim(t, "g", digest, workerA, a.Incarnation)
	w := two.watch(t, workerA, a.Incarnation)

	type answer struct {
		resp *leaseholdv1.TerminateSessionResponse
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		resp, err := one.sessions.TerminateSession(ctx, &leaseholdv1.TerminateSessionRequest{Name: name})
		answers <- answer{resp, err}
	}()
	wish := w.until(func(resp *leaseholdv1.WatchResponse) bool { return len(resp.GetEndings().GetEndings()) == 1 }).Endings.Endings[0]
	if wish.Gateway != "g" || wish.Session != digest || wish.Reason != leaseholdv1.EndReason_END_REASON_TERMINATED {
		t.Errorf("wish is %v", wish)
	}
	select {
	case got := <-answers:
		t.Errorf("terminate returned %v, %v before the session ended", got.resp, got.err)
	default:
	}
	if _, err := two.control.End(ctx, &leaseholdv1.EndRequest{Gateway: "g", Session: digest, Worker: workerA, Incarnation: a.Incarnation, Reason: wish.Reason}); err != nil {
		t.Fatal(err)
	}
	got := <-answers
	if got.err != nil || got.resp.Session.End.GetReason() != leaseholdv1.EndReason_END_REASON_TERMINATED {
		t.Errorf("terminate: %v, %v; want the session ended", got.resp, got.err)
	}
	gone := w.until(func(resp *leaseholdv1.WatchResponse) bool { return resp.Endings != nil })
	if len(gone.Endings.Endings) != 0 {
		t.Errorf("endings are %v, want none", gone.Endings)
	}
	if again, err := two.sessions.TerminateSession(ctx, &leaseholdv1.TerminateSessionRequest{Name: name}); err != nil || again.Session.End == nil {
		t.Errorf("terminate again: %v, %v; want success", again, err)
	}
}
