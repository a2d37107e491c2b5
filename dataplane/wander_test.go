package dataplane_test

import (
	"context"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/leasehold/leasehold/dataplane/sessionid"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// TestASessionThatMovesToAndFroIsServedEverywhere moves one between workers that all
// owned it before, while clients ask for it at each. What a worker remembers of an
// earlier move must not send a request away that comes after a later one.
func TestASessionThatMovesToAndFroIsServedEverywhere(t *testing.T) {
	const moves, callers = 60, 2
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	var workers []*worker
	var peers []leaseholdv1.PeerServiceClient
	for range 3 {
		w := startWorker(t, p)
		conn, err := grpc.NewClient(p.members[w.id].GetInfo().GetPeerAddress(), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		workers, peers = append(workers, w), append(peers, leaseholdv1.NewPeerServiceClient(conn))
	}
	c := newClient(t, "g")
	c.initialize(workers[0])
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var group sync.WaitGroup
	var calls atomic.Int64
	for i := range callers * len(workers) {
		one := *c
		one.ids = 1_000_000 * (i + 1)
		group.Go(func() {
			for ctx.Err() == nil {
				if status, got := one.call(workers[i%len(workers)]); status != http.StatusOK {
					t.Errorf("got %d %s, want 200", status, got)
					return
				}
				calls.Add(1)
			}
		})
	}
	digest := sessionid.DigestOf(c.session).String()
	for n := range moves {
		between := calls.Load() + callers
		eventually(t, "calls between two moves", func() bool { return calls.Load() >= between || t.Failed() })
		to := workers[[]int{1, 0, 1, 2, 0, 2}[n%6]]
		eventually(t, "move "+strconv.Itoa(n), func() bool {
			for i, peer := range peers {
				if workers[i] == to {
					continue
				}
				_, err := peer.HandOverNow(ctx, &leaseholdv1.HandOverNowRequest{Gateway: "g", Session: digest, To: to.id})
				if err == nil {
					return true
				}
			}
			live := p.live()
			return len(live) == 1 && live[0].GetWorker() == to.id
		})
	}
	cancel()
	group.Wait()
	t.Logf("%d calls while the session moved %d times", calls.Load(), p.live()[0].GetEpoch()-1)
	if u.opened != 1 {
		t.Errorf("%d upstream sessions were opened, want 1", u.opened)
	}
}
