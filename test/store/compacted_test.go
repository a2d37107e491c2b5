package store

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
	"github.com/leasehold/leasehold/test/internal/client"
	"github.com/leasehold/leasehold/test/internal/cluster"
)

// gateways is how many there are beside the one that sessions use.
const gateways = 1000

// TestAnEtcdThatIsStartedAnewAndCompactedUnderAllWatchesLosesNoGateway has one control
// plane miss what etcd then forgets.
func TestAnEtcdThatIsStartedAnewAndCompactedUnderAllWatchesLosesNoGateway(t *testing.T) {
	c := cluster.Test(t, cluster.Config{EtcdMembers: 1, ControlPlanes: 2, Workers: 2, Race: true})
	upstream := c.Serve(t, "counter", "")
	operators := []leaseholdv1.GatewayServiceClient{
		leaseholdv1.NewGatewayServiceClient(operate(t, c, 0)), leaseholdv1.NewGatewayServiceClient(operate(t, c, 1)),
	}
	createAll(t, operators[0], upstream.URL())
	eventually(t, func(ctx context.Context) error { return c.Applied(ctx, lastGateway) })
	c.Settle(t)
	u := open(t, "counter", 3, c.Workers...)
	u.call(t, "counter", c.Workers[0])
	before, err := incarnations(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	_, revision := list(t, operators[1], gateways+1)

	ctx, stop := context.WithCancel(t.Context())
	var group sync.WaitGroup
	defer group.Wait()
	defer stop()
	group.Go(func() { probe(ctx, t, c) })

	if err := c.Control[1].Pause(); err != nil {
		t.Fatal(err)
	}
	c.Etcd[0].Kill()
	u.call(t, "counter", c.Workers[1])
	if err := c.RestartEtcd(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	for n := range 10 {
		eventually(t, func(ctx context.Context) error { return describe(ctx, operators[0], fmt.Sprintf("change %d", n)) })
	}
	if err := c.CompactEtcd(t.Context()); err != nil {
		t.Fatal(err)
	}
	resumed := time.Now()
	if err := c.Control[1].Resume(); err != nil {
		t.Fatal(err)
	}

	err = watch(t.Context(), operators[1], revision, func(*leaseholdv1.WatchGatewaysResponse) bool { return true })
	if status.Code(err) != codes.OutOfRange || reason(err) != "COMPACTED" {
		t.Errorf("a watch that resumes at what is forgotten: got %v, want OUT_OF_RANGE with COMPACTED", err)
	}
	if _, newer := list(t, operators[1], gateways+1); newer <= revision {
		t.Errorf("listed anew at revision %d, before at %d", newer, revision)
	}
	eventually(t, func(ctx context.Context) error { return describe(ctx, operators[1], "after the compaction") })
	eventually(t, func(ctx context.Context) error { return c.Applied(ctx, "counter") })
	t.Logf("all workers had a change of the control plane that had missed some, %v after it went on", time.Since(resumed).Round(time.Millisecond))
	eventually(t, func(context.Context) error { return said(c.Control[1].Process, "watch has a gap: compacted") })
	u.call(t, "counter", c.Workers[0])
	u.call(t, "counter", c.Workers[1])
	if now, err := incarnations(t.Context(), c); err != nil || !maps.Equal(now, before) {
		t.Errorf("the members are %v, %v; want %v", now, err, before)
	}
}

var lastGateway = fmt.Sprintf("other-%d", gateways-1)

func createAll(t *testing.T, operator leaseholdv1.GatewayServiceClient, upstream string) {
	t.Helper()
	group, ctx := errgroup.WithContext(t.Context())
	group.SetLimit(32)
	for n := range gateways {
		group.Go(func() error {
			_, err := operator.CreateGateway(ctx, &leaseholdv1.CreateGatewayRequest{GatewayId: fmt.Sprintf("other-%d", n), Gateway: &leaseholdv1.Gateway{
				Upstreams: []*leaseholdv1.Upstream{{Name: "upstream", Url: upstream}}}})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
}

// describe changes the gateway of the sessions.
func describe(ctx context.Context, operator leaseholdv1.GatewayServiceClient, text string) error {
	_, err := operator.UpdateGateway(ctx, &leaseholdv1.UpdateGatewayRequest{
		Gateway: &leaseholdv1.Gateway{Name: "gateways/counter", Description: text}, UpdateMask: mask("description"),
	})
	return err
}

// watch watches gateways from a revision on, until each says that it is enough.
func watch(ctx context.Context, operator leaseholdv1.GatewayServiceClient, revision int64, enough func(*leaseholdv1.WatchGatewaysResponse) bool) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	stream, err := operator.WatchGateways(ctx, &leaseholdv1.WatchGatewaysRequest{Revision: revision})
	if err != nil {
		return err
	}
	for {
		change, err := stream.Recv()
		if err != nil || enough(change) {
			return err
		}
	}
}

// list begins a watch, which tells what there is, and returns how many gateways that
// are and at which revision.
func list(t *testing.T, operator leaseholdv1.GatewayServiceClient, want int) (n int, revision int64) {
	t.Helper()
	began := time.Now()
	err := watch(t.Context(), operator, 0, func(change *leaseholdv1.WatchGatewaysResponse) bool {
		if change.GetType() != leaseholdv1.ChangeType_CHANGE_TYPE_BOOKMARK {
			n++
			return false
		}
		revision = change.GetRevision()
		return true
	})
	if err != nil || n != want {
		t.Fatalf("a watch told of %d gateways, %v; want %d", n, err, want)
	}
	t.Logf("%d gateways were listed in %v", n, time.Since(began).Round(time.Millisecond))
	return n, revision
}

// probe asks the workers for one gateway after the other until ctx ends: they have all
// of them all the time. They answer without an upstream, as no gateway has the method.
func probe(ctx context.Context, t *testing.T, c *cluster.Cluster) {
	asked := 0
	defer func() { t.Logf("the workers were asked for gateways %d times", asked) }()
	for ; ctx.Err() == nil; asked++ {
		w := c.Workers[asked%len(c.Workers)]
		resp, err := client.Do(t.Context(), http.MethodPut, w.URL(fmt.Sprintf("other-%d", asked%gateways)), nil, nil)
		if err != nil || resp.Status != http.StatusMethodNotAllowed {
			t.Errorf("%s, asked for a gateway with a method that none has: got %d, %v; want 405", w.Name, resp.Status, err)
			return
		}
	}
}
