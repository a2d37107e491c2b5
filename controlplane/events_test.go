package controlplane_test

import (
	"slices"
	"testing"

	"google.golang.org/grpc/codes"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func TestSessionsTellTheirEventsAndAreWatched(t *testing.T) {
	r := start(t, embedded(t))
	ctx := testContext(t)
	a := r.register(t, workerA)
	watch, err := r.sessions.WatchSessions(ctx, &leaseholdv1.WatchSessionsRequest{Parent: "gateways/g"})
	if err != nil {
		t.Fatal(err)
	}
	next := func() *leaseholdv1.WatchSessionsResponse {
		for {
			resp, err := watch.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if resp.Type != leaseholdv1.ChangeType_CHANGE_TYPE_BOOKMARK {
				return resp
			}
			if resp.Revision == 0 || resp.Session != nil {
				t.Errorf("bookmark %v", resp)
			}
		}
	}
	// What is claimed before the first bookmark belongs to the state that a watch
	// begins with, which has no revision.
	if first, err := watch.Recv(); err != nil || first.Type != leaseholdv1.ChangeType_CHANGE_TYPE_BOOKMARK {
		t.Fatalf("the watch of nothing begins with %v, %v; want a bookmark", first, err)
	}
	revision := r.claim(t, "g", digest, workerA, a.Incarnation)
	if got := next(); got.Type != leaseholdv1.ChangeType_CHANGE_TYPE_PUT || got.Revision != revision || got.Session.Events[0].Type != leaseholdv1.SessionEventType_SESSION_EVENT_TYPE_OPENED {
		t.Errorf("claim is told as %v", got)
	}
	if _, err := r.control.Leave(ctx, &leaseholdv1.LeaveRequest{Worker: workerA, Incarnation: a.Incarnation, Lease: a.Lease}); err != nil {
		t.Fatal(err)
	}
	b := r.register(t, workerB)
	res, err := r.control.Resolve(ctx, &leaseholdv1.ResolveRequest{Gateway: "g", Session: digest})
	if err != nil {
		t.Fatal(err)
	}
	taken, err := r.control.Reclaim(ctx, &leaseholdv1.ReclaimRequest{
		Gateway: "g", Session: digest, Revision: res.Revision, IncarnationRevision: res.IncarnationRevision, Worker: workerB, Incarnation: b.Incarnation,
	})
	if err != nil {
		t.Fatal(err)
	}
	rec := taken.Record
	rec.Events, rec.ProtocolVersion = nil, "2025-11-25" // a worker cannot make events go
	if _, err := r.control.Save(ctx, &leaseholdv1.SaveRequest{Gateway: "g", Session: digest, Revision: taken.Revision, Record: rec}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.control.End(ctx, &leaseholdv1.EndRequest{Gateway: "g", Session: digest, Worker: workerB, Incarnation: b.Incarnation}); err != nil {
		t.Fatal(err)
	}
	for next().Type != leaseholdv1.ChangeType_CHANGE_TYPE_REMOVED {
	}
	got, err := r.sessions.GetSession(ctx, &leaseholdv1.GetSessionRequest{Name: "gateways/g/sessions/" + digest})
	if err != nil {
		t.Fatal(err)
	}
	var what []string
	for _, e := range got.Session.Events {
		what = append(what, e.Type.String()[len("SESSION_EVENT_TYPE_"):]+" "+e.Worker)
		if e.Time.AsTime().Unix() == 0 {
			t.Errorf("event %v has no time", e)
		}
	}
	if want := []string{"OPENED workers/" + workerA, "RECLAIMED workers/" + workerB, "ENDED workers/" + workerB}; !slices.Equal(what, want) {
		t.Errorf("events %v, want %v", what, want)
	}
}

func TestWorkersAndGatewaysAreWatchedAndResumedAtAnotherReplica(t *testing.T) {
	server := startEtcd(t)
	root := writeRootKey(t, "0a")
	one, two := start(t, external(server, root)), start(t, external(server, root))
	ctx := testContext(t)
	a := one.register(t, workerA)
	workers, err := one.workers.WatchWorkers(ctx, &leaseholdv1.WatchWorkersRequest{})
	if err != nil {
		t.Fatal(err)
	}
	first, err := workers.Recv()
	if err != nil || first.Type != leaseholdv1.ChangeType_CHANGE_TYPE_PUT || first.Worker.Name != "workers/"+workerA || first.Revision != 0 || first.Worker.Version != "test" {
		t.Errorf("state: %v, %v; want worker A", first, err)
	}
	mark, err := workers.Recv()
	if err != nil || mark.Type != leaseholdv1.ChangeType_CHANGE_TYPE_BOOKMARK || mark.Worker != nil {
		t.Fatalf("after the state: %v, %v; want a bookmark", mark, err)
	}
	if _, err := one.control.Leave(ctx, &leaseholdv1.LeaveRequest{Worker: workerA, Incarnation: a.Incarnation, Lease: a.Lease}); err != nil {
		t.Fatal(err)
	}
	again, err := two.workers.WatchWorkers(ctx, &leaseholdv1.WatchWorkersRequest{Revision: mark.Revision})
	if err != nil {
		t.Fatal(err)
	}
	for {
		got, err := again.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if got.Type == leaseholdv1.ChangeType_CHANGE_TYPE_BOOKMARK {
			continue
		}
		if got.Type != leaseholdv1.ChangeType_CHANGE_TYPE_REMOVED || got.Worker.Name != "workers/"+workerA || got.Worker.Incarnation != a.Incarnation || got.Worker.Version != "" {
			t.Errorf("a worker that left is told as %v", got)
		}
		break
	}
	g := one.create(t, counter("g"))
	gateways, err := two.gateways.WatchGateways(ctx, &leaseholdv1.WatchGatewaysRequest{Revision: g.Status.Revision - 1})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := gateways.Recv(); err != nil || got.Gateway.GetEtag() != g.Etag || got.Revision != g.Status.Revision {
		t.Errorf("resumed: %v, %v; want the gateway as created", got, err)
	}
	future, err := two.gateways.WatchGateways(ctx, &leaseholdv1.WatchGatewaysRequest{Revision: g.Status.Revision + 1000})
	if err != nil {
		t.Fatal(err)
	}
	_, err = future.Recv()
	wantStatus(t, err, codes.OutOfRange, "FUTURE_REVISION")
}
