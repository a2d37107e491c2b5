package store

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
	"github.com/leasehold/leasehold/test/internal/cluster"
)

// writeGap is how long no change of the configuration may succeed when an etcd member
// is lost: an election, and as much again for a machine that is busy.
const writeGap = 5 * time.Second

// TestALostEtcdMemberLosesNoChangeOfTheConfiguration kills the leader of three members
// under changes, and then, when it is back, a follower.
func TestALostEtcdMemberLosesNoChangeOfTheConfiguration(t *testing.T) {
	c := cluster.Test(t, cluster.Config{EtcdMembers: 3, ControlPlanes: 2, Workers: 1, Race: true})
	c.Serve(t, "counter", "")
	operators := []leaseholdv1.GatewayServiceClient{
		leaseholdv1.NewGatewayServiceClient(operate(t, c, 0)), leaseholdv1.NewGatewayServiceClient(operate(t, c, 1)),
	}
	n := 0
	for _, victim := range []string{"leader", "follower"} {
		member, err := c.EtcdLeader(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if victim == "follower" {
			member = (member + 1) % len(c.Etcd)
		}
		c.Etcd[member].Kill()
		var gap time.Duration
		last := time.Now()
		for begin := last; time.Since(begin) < writeGap; {
			n++
			err := describe(t.Context(), operators[n%2], "change "+strconv.Itoa(n))
			if err != nil && status.Code(err) != codes.Unavailable {
				t.Fatalf("change %d: got %v, want it carried out, or UNAVAILABLE", n, err)
			}
			if err == nil {
				gap, last = max(gap, time.Since(last)), time.Now()
				if got := described(t, operators[(n+1)%2]); got != n {
					t.Fatalf("change %d was acknowledged, and the other control plane has %d", n, got)
				}
			}
		}
		gap = max(gap, time.Since(last))
		t.Logf("the %s was killed: %d changes so far, none for %v", victim, n, gap.Round(time.Millisecond))
		if gap >= writeGap {
			t.Errorf("the %s was killed: no change for %v", victim, gap)
		}
		eventually(t, func(ctx context.Context) error { return c.Applied(ctx, "counter") })
		if err := c.RestartEtcd(t.Context(), member); err != nil {
			t.Fatal(err)
		}
	}
}

// described is the number of the newest change.
func described(t *testing.T, operator leaseholdv1.GatewayServiceClient) int {
	t.Helper()
	var n int
	eventually(t, func(ctx context.Context) error {
		got, err := operator.GetGateway(ctx, &leaseholdv1.GetGatewayRequest{Name: "gateways/counter"})
		if err != nil {
			return err
		}
		_, number, _ := strings.Cut(got.GetGateway().GetDescription(), " ")
		if n, err = strconv.Atoi(number); err != nil {
			err = fmt.Errorf("described as %q: %w", got.GetGateway().GetDescription(), err)
		}
		return err
	})
	return n
}
