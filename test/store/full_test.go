package store

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
	"github.com/leasehold/leasehold/test/internal/client"
	"github.com/leasehold/leasehold/test/internal/cluster"
)

// TestAFullEtcdIsToldAndNoSessionOrMemberIsLost fills etcd up under sessions that go
// on, and makes room again; nothing is restarted for it.
func TestAFullEtcdIsToldAndNoSessionOrMemberIsLost(t *testing.T) {
	c := cluster.Test(t, cluster.Config{
		EtcdMembers: 1, EtcdQuota: 8 << 20, Workers: 3, Race: true,
	})
	c.Serve(t, "counter", "")
	c.Settle(t)
	before, err := incarnations(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	owner, front, spare := c.Workers[0], c.Workers[1], c.Workers[2]
	u := open(t, "counter", 3, owner, front)
	u.call(t, "counter", front)

	if err := c.FillEtcd(t.Context()); err != nil {
		t.Fatal(err)
	}
	gateways := leaseholdv1.NewGatewayServiceClient(operate(t, c, 0))
	_, err = gateways.UpdateGateway(t.Context(), &leaseholdv1.UpdateGatewayRequest{Gateway: &leaseholdv1.Gateway{
		Name: "gateways/counter", Description: "other", Upstreams: []*leaseholdv1.Upstream{{Name: "u", Url: "http://127.0.0.1:1/mcp"}}}})
	if status.Code(err) != codes.ResourceExhausted || reason(err) != "STORE_FULL" || !strings.Contains(err.Error(), "store is full") {
		t.Errorf("an update: got %v, want RESOURCE_EXHAUSTED with STORE_FULL and its meaning", err)
	}
	eventually(t, func(ctx context.Context) error {
		code, body, err := readyz(ctx, c.Control[0].Admin)
		if err == nil && (code != 200 || !strings.Contains(body, "alarm: etcd: store is full")) {
			err = fmt.Errorf("/readyz says %d %q, want 200 with the alarm", code, body)
		}
		return err
	})
	if err := said(c.Control[0].Process, "[ERROR]", "etcd has no space left"); err != nil {
		t.Error(err)
	}

	// Longer than a lease, of which each is renewed six times: renewals pass, and calls.
	renewals := func(ctx context.Context) float64 {
		m, err := cluster.Scrape(ctx, owner.Admin)
		if err != nil {
			t.Error(err)
		}
		return m[`leasehold_control_requests_total{method="Renew"}`]
	}
	for begin := renewals(t.Context()); renewals(t.Context()) < begin+7; {
		u.call(t, "counter", owner)
		u.call(t, "counter", front)
	}
	late, err := client.Open(t.Context(), owner.URL("counter"))
	if err != nil {
		t.Fatalf("a new session: %v", err)
	}
	if got, err := late.Increment(t.Context(), front.URL("counter")); err != nil || got != 1 {
		t.Errorf("its first call, at another worker: got %d, %v", got, err)
	}
	if now, err := incarnations(t.Context(), c); err != nil || !maps.Equal(now, before) {
		t.Errorf("the members are %v, %v; want %v", now, err, before)
	}

	// A worker that is started now cannot register. It serves others' sessions from the
	// configuration on its disk.
	spare.Kill()
	if err := c.LaunchWorker(t.Context(), spare); err != nil {
		t.Fatal(err)
	}
	eventually(t, func(context.Context) error {
		return said(spare.Process, "serving as a front from the last good configuration")
	})
	if err := said(spare.Process, "control plane refuses, since its store is full"); err != nil {
		t.Error(err)
	}
	u.call(t, "counter", spare)

	if err := c.FreeEtcd(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, func(ctx context.Context) error {
		_, err := gateways.UpdateGateway(ctx, &leaseholdv1.UpdateGatewayRequest{Gateway: &leaseholdv1.Gateway{
			Name: "gateways/counter", Description: "there is room"}, UpdateMask: mask("description")})
		if err == nil {
			err = c.Applied(ctx, "counter") // at the worker, too, that could not register
		}
		return err
	})
	eventually(t, func(ctx context.Context) error {
		if _, err := c.Session(ctx, "counter", late.ID); err != nil {
			return fmt.Errorf("the session that was opened without room: %w", err)
		}
		_, body, err := readyz(ctx, c.Control[0].Admin)
		if err == nil && strings.Contains(body, "alarm") {
			err = fmt.Errorf("/readyz says %q", body)
		}
		return err
	})
	u.call(t, "counter", spare)
	now, err := incarnations(t.Context(), c)
	for name, incarnation := range before {
		if again, alive := now[name]; alive && again != incarnation {
			t.Errorf("%s registered anew", name)
		}
	}
	if err != nil || len(now) != 3 {
		t.Errorf("the members are %v, %v; want three", now, err)
	}
	for i, s := range u.sessions {
		if err := s.Close(t.Context(), front.URL("counter")); err != nil {
			t.Errorf("session %d: %v", i, err)
		}
	}
}
