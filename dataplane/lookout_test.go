package dataplane_test

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// peerOf returns a client of a worker's peer listener.
func peerOf(t *testing.T, p *plane, w *worker) leaseholdv1.PeerServiceClient {
	t.Helper()
	conn, err := grpc.NewClient(p.members[w.id].GetInfo().GetPeerAddress(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return leaseholdv1.NewPeerServiceClient(conn)
}

// known returns what a worker says of the upstream of a gateway.
func known(t *testing.T, peer leaseholdv1.PeerServiceClient, gateway string) *leaseholdv1.UpstreamWorker {
	t.Helper()
	resp, err := peer.ObserveUpstreams(t.Context(), &leaseholdv1.ObserveUpstreamsRequest{Gateway: gateway})
	if err != nil {
		t.Fatal(err)
	}
	if len(resp.GetUpstreams()) != 1 || resp.GetUpstreams()[0].GetName() != "up" || resp.GetIncarnation() == 0 {
		t.Fatalf("got %v, want one upstream", resp)
	}
	return resp.GetUpstreams()[0].GetWorkers()[0]
}

func TestAWorkerSaysHowItsUpstreamsAre(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	u.setHook(func(w http.ResponseWriter, _ *http.Request, method string) bool {
		if method == "ping" {
			w.WriteHeader(http.StatusInternalServerError)
		}
		return method == "ping"
	})
	p.setUpstream("asked", u.URL, func(u *leaseholdv1.Upstream) {
		u.HealthCheck = &leaseholdv1.HealthCheck{Interval: durationpb.New(time.Second), UnhealthyAfter: 2, HealthyAfter: 1}
	})
	p.setGateway("dead", "http://127.0.0.1:1/mcp", nil)
	p.setGateway("fine", u.URL, nil)
	w := startWorker(t, p)
	peer := peerOf(t, p, w)
	eventually(t, "the upstream is ejected", func() bool {
		return known(t, peer, "asked").GetState() == leaseholdv1.UpstreamState_UPSTREAM_STATE_EJECTED
	})
	if got := known(t, peer, "asked"); got.GetLastError() != "ping: the server answered HTTP 500" || got.GetSince() == nil {
		t.Errorf("ejected: got %v, want why and since when", got)
	}
	u.setHook(nil)
	eventually(t, "the upstream is admitted again", func() bool {
		got := known(t, peer, "asked")
		return got.GetState() == leaseholdv1.UpstreamState_UPSTREAM_STATE_HEALTHY && got.GetLastError() == ""
	})

	c := newClient(t, "dead")
	for n := 1; n <= 5; n++ {
		c.do(w, http.MethodPost, initialize)
		got := known(t, peer, "dead")
		want := leaseholdv1.CircuitState_CIRCUIT_STATE_CLOSED
		if n == 5 {
			want = leaseholdv1.CircuitState_CIRCUIT_STATE_OPEN
		}
		if len(got.GetCircuits()) != 1 || got.GetState() != leaseholdv1.UpstreamState_UPSTREAM_STATE_UNKNOWN {
			t.Fatalf("after %d failures: got %v, want a circuit, and that it was not asked", n, got)
		}
		if circuit := got.GetCircuits()[0]; circuit.GetState() != want || circuit.GetFailures() != int32(n) || circuit.GetAddress() != "127.0.0.1:1" ||
			!strings.Contains(circuit.GetLastError(), "connection refused") || (circuit.GetRetryTime() != nil) != (n == 5) {
			t.Errorf("after %d failures: got %v, want %v", n, circuit, want)
		}
	}
	eventually(t, "the circuit is half open", func() bool {
		return known(t, peer, "dead").GetCircuits()[0].GetState() == leaseholdv1.CircuitState_CIRCUIT_STATE_HALF_OPEN
	})
	newClient(t, "fine").initialize(w)
	if got := known(t, peer, "fine"); got.GetState() != leaseholdv1.UpstreamState_UPSTREAM_STATE_UNKNOWN || len(got.GetCircuits()) != 0 {
		t.Errorf("an upstream that works and is not asked: got %v", got)
	}
	if resp, err := peer.ObserveUpstreams(t.Context(), &leaseholdv1.ObserveUpstreamsRequest{Gateway: "none"}); err != nil || len(resp.GetUpstreams()) != 0 {
		t.Errorf("an unknown gateway: got %v, %v, want nothing", resp, err)
	}
}

func inspect(t *testing.T, peer leaseholdv1.PeerServiceClient, gateway string, revision int64) (*leaseholdv1.UpstreamInspection, error) {
	t.Helper()
	resp, err := peer.InspectNow(t.Context(), &leaseholdv1.InspectNowRequest{Gateway: gateway, Revision: revision})
	if err != nil {
		return nil, err
	}
	if len(resp.GetUpstreams()) != 1 || resp.GetRevision() == 0 {
		t.Fatalf("got %v, want one upstream, by a revision", resp)
	}
	return resp.GetUpstreams()[0], nil
}

func TestAnInspectionIsMadeOverConnectionsOfItsOwnAndLeavesNoSession(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setUpstream("g", u.URL, withBearer(&leaseholdv1.Secret{Source: &leaseholdv1.Secret_Env{Env: "LEASEHOLD_SECRET_INSPECT"}}))
	p.setUpstream("program", "", runs(""))
	t.Setenv("LEASEHOLD_SECRET_INSPECT", "shown")
	n := noteShown(u)
	w := startWorkerWith(t, p, allowStdio)
	peer := peerOf(t, p, w)
	newClient(t, "g").initialize(w) // its connection is there to be used again
	for range 2 {
		got, err := inspect(t, peer, "g", 0)
		if err != nil || got.GetServerName() != "u" || len(got.GetSteps()) < 3 || got.GetSteps()[2].GetKind() != leaseholdv1.InspectionStepKind_INSPECTION_STEP_KIND_CONNECT {
			t.Fatalf("got %v, %v, want the server, after it was connected to", got, err)
		}
	}
	if live := u.live(); live != 1 || strings.Contains(n.String(), "[]") || !strings.Contains(n.String(), "DELETE:[Bearer shown Bearer shown]") {
		t.Errorf("sessions: got %d, want the client's; shown: %s, want the credential each time", live, n)
	}
	if got, err := inspect(t, peer, "program", 0); err != nil || got.GetServerName() != "program" {
		t.Errorf("program: got %v, %v", got, err)
	}
	if _, err := inspect(t, peer, "none", 0); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("an unknown gateway: got %v", err)
	}
}

func TestAnInspectionWaitsForTheNewestDefinition(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", "http://127.0.0.1:1/mcp", nil)
	w := startWorker(t, p)
	peer := peerOf(t, p, w)
	p.mu.Lock()
	next := p.revision + 1
	p.mu.Unlock()
	var group sync.WaitGroup
	group.Go(func() {
		if got, err := inspect(t, peer, "g", next); err != nil || got.GetServerName() != "u" {
			t.Errorf("got %v, %v, want it by the next definition", got, err)
		}
	})
	p.setGateway("g", u.URL, nil)
	group.Wait()
	if resp, err := peer.InspectNow(t.Context(), &leaseholdv1.InspectNowRequest{Gateway: "g", Revision: next + 100}); err != nil || resp.GetRevision() != next {
		t.Errorf("one that does not come: got %v, %v, want it by %d", resp, err, next)
	}
}

func TestInspectionsAtATimeAreBoundedAndEndWithTheWorker(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	w := startWorker(t, p)
	peer := peerOf(t, p, w)
	const most = 4
	entered := make(chan struct{}, most)
	u.setHook(func(_ http.ResponseWriter, r *http.Request, method string) bool {
		if method == "notifications/initialized" { // the session is there
			entered <- struct{}{}
			<-r.Context().Done()
			return true
		}
		if r.Method == http.MethodDelete { // takes a while
			<-time.After(300 * time.Millisecond)
		}
		return false
	})
	var group sync.WaitGroup
	defer group.Wait()
	for range most {
		group.Go(func() {
			peer.InspectNow(context.WithoutCancel(t.Context()), &leaseholdv1.InspectNowRequest{Gateway: "g"})
		})
	}
	for range most {
		await(t, entered)
	}
	if _, err := inspect(t, peer, "g", 0); status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "4") {
		t.Errorf("one more: got %v, want the bound", err)
	}
	w.stop()
	if live := u.live(); live != 0 || u.opened != most {
		t.Errorf("sessions: got %d of %d left, want none of %d", live, u.opened, most)
	}
}

func TestAWorkerSaysWhichItemsOfSeveralUpstreamsAreNotOffered(t *testing.T) {
	s := startSeveral(t, "a", "b", "c")
	s.p.change(func() {
		s.p.gateways["gateways/g"].Naming = &leaseholdv1.Naming{Mode: leaseholdv1.NamingMode_NAMING_MODE_KEEP}
	})
	s.of["c"].setHook(func(w http.ResponseWriter, r *http.Request, method string) bool {
		if method != "tools/list" {
			return false
		}
		var message struct{ ID json.RawMessage }
		json.NewDecoder(r.Body).Decode(&message)
		reply(w, message.ID, `{"tools":[{"name":"n"},{"name":7},{}]}`)
		return true
	})
	w := startWorker(t, s.p)
	peer := peerOf(t, s.p, w)
	ask := func() *leaseholdv1.ObserveUpstreamsResponse {
		resp, err := peer.ObserveUpstreams(t.Context(), &leaseholdv1.ObserveUpstreamsRequest{Gateway: "g"})
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	if got := ask(); len(got.GetConflicts()) != 0 || len(got.GetUpstreams()) != 3 {
		t.Errorf("before a list was fetched: got %v", got)
	}
	c := newClient(t, "g")
	c.initialize(w)
	c.do(w, http.MethodPost, `{"jsonrpc":"2.0","id":"l","method":"tools/list"}`)
	got := ask()
	if all := got.GetConflicts(); len(all) != 1 || got.GetConflictsTotal() != 2 || all[0].GetKind() != leaseholdv1.ItemKind_ITEM_KIND_TOOL ||
		all[0].GetName() != "n" || all[0].GetLeadsTo() != "a" || !slices.Equal(all[0].GetHidden(), []string{"b", "c"}) {
		t.Errorf("conflicts: got %v, want that n leads to a and not to b and c", all)
	}
	if all := got.GetDropped(); len(all) != 1 || all[0].GetUpstream() != "c" || all[0].GetCount() != 2 || all[0].GetReason() == "" {
		t.Errorf("dropped: got %v, want two of c", all)
	}
	s.p.change(func() { s.p.gateways["gateways/g"].Naming = nil })
	eventually(t, "with prefixes there is no conflict", func() bool { return ask().GetConflictsTotal() == 0 })
}
