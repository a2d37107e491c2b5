package e2e

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
	"github.com/leasehold/leasehold/test/internal/client"
	"github.com/leasehold/leasehold/test/internal/cluster"
)

// wantReason checks why the control plane says that a session ended.
func wantReason(t *testing.T, c *cluster.Cluster, gateway string, s *client.Session, want leaseholdv1.EndReason) {
	t.Helper()
	eventually(t, 5*time.Second, func(ctx context.Context) error {
		record, err := c.Session(ctx, gateway, s.ID)
		if err == nil && record.GetEnd().GetReason() != want {
			err = fmt.Errorf("the session's end is %v, want %v", record.GetEnd(), want)
		}
		return err
	})
}

func TestIdleSessionsEndAndBusyOnesDoNot(t *testing.T) {
	const idle = 2 * time.Second
	c := shared(t)
	remote := c.Serve(t, "idle", "{idle_timeout: 2s}")
	streaming, calling := open(t, c.Workers[0], "idle"), open(t, c.Workers[1], "idle")
	ctx, disconnect := context.WithCancel(t.Context())
	defer disconnect()
	stream, err := client.Stream(ctx, "GET", c.Workers[1].URL("idle"), streaming.Header(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Body.Close()
	if stream.StatusCode != 200 {
		t.Fatalf("GET stream: status %d", stream.StatusCode)
	}
	called := make(chan error, 1)
	go func() {
		_, err := calling.Call(t.Context(), c.Workers[2].URL("idle"), "gate", `{"name":"busy"}`)
		called <- err
	}()
	eventually(t, 5*time.Second, func(ctx context.Context) error {
		r, err := remote.Summary(ctx)
		if err == nil && (r.Running != 1 || r.Streams != 1) {
			err = fmt.Errorf("%d calls and %d streams are under way, want one each", r.Running, r.Streams)
		}
		return err
	})

	// These are used after the others, so that the others would be over first.
	unused := []*client.Session{open(t, c.Workers[0], "idle"), open(t, c.Workers[2], "idle")}
	took := upstreamHas(t, remote, 2, idle+5*time.Second)
	t.Logf("idle sessions with a timeout of %v ended %v after their last request", idle, took.Round(time.Millisecond))
	if took < idle-500*time.Millisecond {
		t.Errorf("idle sessions ended after %v, want %v", took, idle)
	}
	for _, s := range unused {
		refusedAsOver(t, c, s, "idle")
		wantReason(t, c, "idle", s, leaseholdv1.EndReason_END_REASON_IDLE)
	}
	// The two that are left are the busy ones, and they are not about to end.
	increment(t, streaming, c.Workers[2], "idle", 1)
	increment(t, calling, c.Workers[0], "idle", 1)
	if err := remote.Release(t.Context(), "busy"); err != nil {
		t.Fatal(err)
	}
	if err := <-called; err != nil {
		t.Errorf("the call that held its session: %v", err)
	}
	disconnect()
	upstreamHas(t, remote, 0, idle+5*time.Second)
	refusedAsOver(t, c, streaming, "idle")
	refusedAsOver(t, c, calling, "idle")
}

func TestTerminateEndsASessionEverywhere(t *testing.T) {
	c := shared(t)
	remote := c.Serve(t, "terminate", "")
	s, other := open(t, c.Workers[0], "terminate"), open(t, c.Workers[0], "terminate")
	increment(t, s, c.Workers[1], "terminate", 1)
	if _, err := c.CLI(t.Context(), "", "terminate", "session", cluster.SessionName("terminate", s.ID)); err != nil {
		t.Fatal(err)
	}
	// The command has returned, so it is done and not merely under way.
	if live := report(t, remote).Live; len(live) != 1 {
		t.Errorf("the upstream has %d live sessions, want the other one alone", len(live))
	}
	refusedAsOver(t, c, s, "terminate")
	wantReason(t, c, "terminate", s, leaseholdv1.EndReason_END_REASON_TERMINATED)
	increment(t, other, c.Workers[2], "terminate", 1)
	if err := other.Close(t.Context(), c.Workers[1].URL("terminate")); err != nil {
		t.Error(err)
	}
}

func TestDeletingAGatewayEndsItsSessions(t *testing.T) {
	c := shared(t)
	remote := c.Serve(t, "deleted", "")
	var sessions []*client.Session
	for _, w := range c.Workers {
		sessions = append(sessions, open(t, w, "deleted"))
	}
	if _, err := c.CLI(t.Context(), "", "delete", "gateway", "deleted"); err != nil {
		t.Fatal(err)
	}
	took := upstreamHas(t, remote, 0, 5*time.Second)
	t.Logf("the upstream's sessions were over %v after the gateway was deleted", took.Round(time.Millisecond))
	for _, s := range sessions {
		refusedAsOver(t, c, s, "deleted")
	}
}

func TestSessionsEndAtTheirAbsoluteLifetimeThoughInUse(t *testing.T) {
	const lifetime = 2 * time.Second
	c := shared(t)
	remote := c.Serve(t, "lifetime", "{absolute_lifetime: 2s}")
	start := time.Now()
	s := open(t, c.Workers[0], "lifetime")
	age := useUntilOver(t, c, s, start)
	t.Logf("a session with a lifetime of %v was over after %v of use", lifetime, age.Round(time.Millisecond))
	if age < lifetime || age > lifetime+2*time.Second {
		t.Errorf("the session was over after %v, want %v", age, lifetime)
	}
	upstreamHas(t, remote, 0, 5*time.Second)
	refusedAsOver(t, c, s, "lifetime")
	wantReason(t, c, "lifetime", s, leaseholdv1.EndReason_END_REASON_EXPIRED)
}

// useUntilOver calls until the session is over and returns its age then.
func useUntilOver(t *testing.T, c *cluster.Cluster, s *client.Session, start time.Time) time.Duration {
	t.Helper()
	for i := 0; time.Since(start) < 10*time.Second; i++ {
		_, err := s.Increment(t.Context(), c.Workers[i%len(c.Workers)].URL("lifetime"))
		if status := new(client.StatusError); errors.As(err, &status) && status.Response.Status == 404 {
			return time.Since(start)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Fatal("the session is never over")
	return 0
}
