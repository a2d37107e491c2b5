package e2e

import (
	"testing"

	"github.com/leasehold/leasehold/test/internal/cluster"
)

func TestCallsOnLiveSessionsMakeNoEtcdRequest(t *testing.T) {
	const sessions, calls = 10, 100
	c := shared(t)
	remote := c.Serve(t, "quiet", "")
	f := newFleet(t, c, "quiet", remote, sessions)
	f.work(len(c.Workers)) // every worker has met every session
	before := requests(t, c)
	f.work(calls)
	grown := requests(t, c).Since(before)

	t.Logf("%d calls on %d sessions, and meanwhile %v", sessions*calls, sessions, grown)
	if caused := grown.Foreground(); len(caused) > 0 {
		t.Errorf("calls on live sessions made requests: %v", caused)
	}
	f.close()
	if caused := requests(t, c).Since(before).Foreground(); len(caused) == 0 {
		t.Error("the end of all sessions was not counted, so the counters prove nothing")
	}
}

// requests counts the requests to etcd and the control planes.
func requests(t *testing.T, c *cluster.Cluster) cluster.Metrics {
	t.Helper()
	m, err := c.Requests(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return m
}
