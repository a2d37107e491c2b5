package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
	"github.com/leasehold/leasehold/test/internal/client"
	"github.com/leasehold/leasehold/test/internal/cluster"
	"github.com/leasehold/leasehold/test/internal/ledger"
)

// The load under which settings change: 60 sessions that call 5 times a second.
const (
	sessionsEach = 30
	callEvery    = 200 * time.Millisecond
)

// oldLeft is how long sessions may be left at an upstream that is not a gateway's any
// more.
const oldLeft = 10 * time.Second

// caller is a client that calls all the time, at one worker after the other.
type caller struct {
	gateway string
	cluster *cluster.Cluster
	// again says that it opens another session when its own is over.
	again bool

	session *client.Session
	count   int   // what its session's counter is at
	over    int   // how often its session was over
	calls   int   // that succeeded
	err     error // why it gave up
}

// run calls until ctx ends. It gives up at the first failure but the end of a session.
func (c *caller) run(ctx context.Context, first int) {
	tick := time.NewTicker(callEvery)
	defer tick.Stop()
	for i := first; c.err == nil; i++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		// A call that has begun is waited for, though the load ends.
		c.err = c.call(context.WithoutCancel(ctx), c.cluster.Workers[i%workers].URL(c.gateway))
	}
}

func (c *caller) call(ctx context.Context, url string) error {
	got, err := c.session.Increment(ctx, url)
	var status *client.StatusError
	switch {
	case errors.As(err, &status) && status.Response.Status == http.StatusNotFound && c.again:
		c.over++
		c.count = 0
		c.session, err = client.Open(ctx, url)
		return err
	case err != nil:
		return err
	case got != c.count+1 && got != 1:
		return fmt.Errorf("the counter is at %d after %d", got, c.count)
	case got == 1 && c.count > 0:
		c.over++ // the upstream session is another one
	}
	c.count = got
	c.calls++
	return nil
}

func bearing(gateway, url, token string, lost leaseholdv1.OnUpstreamLost) *leaseholdv1.Gateway {
	return &leaseholdv1.Gateway{
		Name: "gateways/" + gateway,
		Upstreams: []*leaseholdv1.Upstream{{Name: "upstream", Url: url, Credential: &leaseholdv1.Credential{
			Kind: &leaseholdv1.Credential_Bearer{Bearer: &leaseholdv1.Secret{Source: &leaseholdv1.Secret_Value{Value: token}}}}}},
		Session: &leaseholdv1.SessionPolicy{OnUpstreamLost: lost},
	}
}

// TestChangedSettingsAreUsedEverywhereOnceTheWriteReturns changes the URL and the credential of
// one of two gateways under load, and waits for all workers.
func TestChangedSettingsAreUsedEverywhereOnceTheWriteReturns(t *testing.T) {
	c := shared(t)
	conn, err := c.Dial(c.Control[0].Address, cluster.Operator)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	gateways := leaseholdv1.NewGatewayServiceClient(conn)
	for name, lost := range map[string]leaseholdv1.OnUpstreamLost{
		"fail":         leaseholdv1.OnUpstreamLost_ON_UPSTREAM_LOST_FAIL,
		"reinitialize": leaseholdv1.OnUpstreamLost_ON_UPSTREAM_LOST_REINITIALIZE,
	} {
		t.Run(name, func(t *testing.T) { changeUnderLoad(t, c, gateways, "changed-"+name, lost) })
	}
}

func changeUnderLoad(t *testing.T, c *cluster.Cluster, gateways leaseholdv1.GatewayServiceClient, changed string, lost leaseholdv1.OnUpstreamLost) {
	startLedger := func() ledger.Remote {
		remote, _, err := c.StartLedger(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return remote
	}
	before, after, others := startLedger(), startLedger(), startLedger()
	other := changed + "-other"
	for _, g := range []*leaseholdv1.Gateway{bearing(changed, before.URL(), "old", lost), bearing(other, others.URL(), "other", lost)} {
		if _, err := gateways.CreateGateway(t.Context(), &leaseholdv1.CreateGatewayRequest{Gateway: g, Wait: leaseholdv1.Wait_WAIT_APPLIED}); err != nil {
			t.Fatal(err)
		}
	}
	var all []*caller
	for i := range sessionsEach {
		for _, gateway := range []string{changed, other} {
			all = append(all, &caller{gateway: gateway, cluster: c, session: open(t, c.Workers[i%workers], gateway),
				again: gateway == changed && lost == leaseholdv1.OnUpstreamLost_ON_UPSTREAM_LOST_FAIL})
		}
	}
	var load sync.WaitGroup
	loading, stop := context.WithCancel(t.Context())
	defer stop()
	for i, one := range all {
		load.Go(func() { one.run(loading, i) })
	}
	eventually(t, limitOfLoad, func(ctx context.Context) error { return hasCalls(ctx, before, 3*sessionsEach) })

	began := time.Now()
	_, err := gateways.UpdateGateway(t.Context(), &leaseholdv1.UpdateGatewayRequest{
		Gateway: bearing(changed, after.URL(), "new", lost), Wait: leaseholdv1.Wait_WAIT_APPLIED, WaitTimeout: durationpb.New(time.Minute)})
	returned := time.Now()
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range c.Workers {
		increment(t, open(t, w, changed), w, changed, 1)
	}
	gone := upstreamHas(t, before, 0, oldLeft)
	t.Logf("the write returned after %v; no session was left at the old upstream %v after that",
		returned.Sub(began).Round(time.Millisecond), max(gone, time.Since(returned)).Round(time.Millisecond))
	eventually(t, limitOfLoad, func(ctx context.Context) error { return hasCalls(ctx, after, 3*sessionsEach) })
	stop()
	load.Wait()

	calls := 0
	for _, one := range all {
		calls += one.calls
		want := 0
		if one.gateway == changed {
			want = 1
		}
		if one.err != nil || one.over > want {
			t.Errorf("client of %s: %v; its session was over %d times, want at most %d", one.gateway, one.err, one.over, want)
		}
	}
	t.Logf("%d calls succeeded", calls)
	for _, e := range report(t, before).Entries {
		if e.Authorization != "Bearer old" || e.Time.After(returned) && e.HTTP != http.MethodDelete {
			t.Errorf("the old upstream got %s %s with %q, %v after the write returned", e.HTTP, e.Method, e.Authorization, e.Time.Sub(returned))
		}
	}
	for _, e := range report(t, after).Entries {
		if e.Authorization != "Bearer new" {
			t.Errorf("the new upstream got %s %s with %q", e.HTTP, e.Method, e.Authorization)
		}
	}
	for _, gateway := range []string{changed, other} {
		if _, err := gateways.DeleteGateway(t.Context(), &leaseholdv1.DeleteGatewayRequest{Name: "gateways/" + gateway, Wait: leaseholdv1.Wait_WAIT_APPLIED}); err != nil {
			t.Error(err)
		}
	}
	upstreamHas(t, after, 0, oldLeft)
	upstreamHas(t, others, 0, oldLeft)
}

// limitOfLoad bounds the time for what clients do.
const limitOfLoad = 30 * time.Second

// hasCalls returns nil once an upstream has had that many calls.
func hasCalls(ctx context.Context, remote ledger.Remote, want int) error {
	r, err := remote.Report(ctx)
	if err != nil {
		return err
	}
	got := 0
	for _, e := range r.Entries {
		if e.Tool != "" {
			got++
		}
	}
	if got < want {
		return fmt.Errorf("the upstream had %d calls, want %d", got, want)
	}
	return nil
}
