package cluster

import (
	"context"
	"testing"
	"time"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
	"github.com/leasehold/leasehold/test/internal/ledger"
	"github.com/leasehold/leasehold/test/internal/poll"
)

// Test starts a cluster for a test. When the test is over it is closed; if the
// test is red its logs are shown, and a data race or a panic in any process
// makes the test red.
func Test(tb testing.TB, cfg Config) *Cluster {
	tb.Helper()
	cfg.Dir = tb.TempDir()
	start := time.Now()
	c, err := Start(tb.Context(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Logf("cluster is ready after %v", time.Since(start).Round(time.Millisecond))
	tb.Cleanup(func() {
		c.Close()
		for _, fault := range c.Faults() {
			tb.Error(fault)
		}
		if tb.Failed() {
			tb.Log(c.Logs())
		}
	})
	return c
}

// Serve starts a ledger, puts a gateway in front of it and waits until every
// worker that runs serves the gateway. session is as for Apply.
func (c *Cluster) Serve(tb testing.TB, gateway, session string) ledger.Remote {
	tb.Helper()
	remote, _, err := c.StartLedger(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	c.Publish(tb, gateway, remote.URL(), session)
	return remote
}

// Settle waits until the cluster has settled; see Settled.
func (c *Cluster) Settle(tb testing.TB) {
	tb.Helper()
	if _, err := poll.Until(tb.Context(), 40*time.Second, c.Settled); err != nil {
		tb.Fatal(err)
	}
}

// Publish applies a gateway and waits until every worker that runs serves it.
func (c *Cluster) Publish(tb testing.TB, gateway, upstream, session string) {
	tb.Helper()
	if err := c.Apply(tb.Context(), gateway, upstream, session); err != nil {
		tb.Fatal(err)
	}
	_, err := poll.Until(tb.Context(), 10*time.Second, func(ctx context.Context) error {
		return c.Applied(ctx, gateway)
	})
	if err != nil {
		tb.Fatal(err)
	}
}

// SessionOwner returns a session's record and its owner.
func (c *Cluster) SessionOwner(tb testing.TB, gateway, id string) (*leaseholdv1.Session, *Worker) {
	tb.Helper()
	s, err := c.Session(tb.Context(), gateway, id)
	if err != nil {
		tb.Fatal(err)
	}
	w, err := c.Owner(tb.Context(), s)
	if err != nil {
		tb.Fatal(err)
	}
	return s, w
}
