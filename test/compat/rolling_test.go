package compat

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
	"github.com/leasehold/leasehold/test/internal/client"
	"github.com/leasehold/leasehold/test/internal/cluster"
	"github.com/leasehold/leasehold/test/internal/poll"
)

const (
	limit = 30 * time.Second
	// clients call all the time, each with a pause of pace between two calls.
	clients = 12
	pace    = 50 * time.Millisecond
)

// system is a cluster of two versions, under a light load.
type system struct {
	*cluster.Cluster
	t      *testing.T
	now    string // this version's program
	calls  atomic.Int64
	inturn []sync.RWMutex // of each worker: is held by who calls at it
}

// TestARollingUpgradeAndItsUndoingLoseNoSessionAndFailNoCall upgrades the control
// planes and then the workers, and undoes it in the same order, so that control planes
// of each version serve workers of the other.
func TestARollingUpgradeAndItsUndoingLoseNoSessionAndFailNoCall(t *testing.T) {
	now, err := cluster.Program("cmd/leasehold", true)
	if err != nil {
		t.Fatal(err)
	}
	s := &system{t: t, now: now, inturn: make([]sync.RWMutex, 3)}
	s.Cluster = cluster.Test(t, cluster.Config{
		EtcdMembers: 1, ControlPlanes: 2, Workers: 3, Race: true, Leasehold: before,
		WorkerArgs: []string{"--drain-notice", "500ms"},
	})
	upstream := s.Serve(t, "counter", "")
	s.put()
	ctx, stop := context.WithCancel(t.Context())
	var group sync.WaitGroup
	defer group.Wait()
	defer stop()
	for i := range clients {
		one, err := client.Open(t.Context(), s.Workers[i%3].URL("counter"))
		if err != nil {
			t.Fatal(err)
		}
		group.Go(func() { s.call(ctx, one, i) })
	}
	s.configure("all of the release before")
	for _, program := range []string{now, before} {
		for i, cp := range s.Control {
			stopProcess(t, cp.Process)
			cp.Become(program)
			if err := s.RestartControl(t.Context(), cp); err != nil {
				t.Fatal(err)
			}
			s.configure(fmt.Sprintf("control plane %d of 2 replaced", i+1))
		}
		for i, w := range slices.Clone(s.Workers) {
			s.replace(i, w, program)
			s.configure(fmt.Sprintf("worker %d of 3 replaced", i+1))
		}
		t.Logf("%d calls until all are replaced", s.calls.Load())
	}
	stop()
	group.Wait()
	report, err := upstream.Summary(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if report.Opened != clients || len(report.Live) != clients {
		t.Errorf("at the upstream %d sessions were opened and %d are left, want %d", report.Opened, len(report.Live), clients)
	}
	s.kept()
}

// put puts a field that neither version knows into the gateway.
func (s *system) put() {
	s.t.Helper()
	s.operate(func(ctx context.Context, gateways leaseholdv1.GatewayServiceClient) error {
		got, err := gateways.GetGateway(ctx, &leaseholdv1.GetGatewayRequest{Name: "gateways/counter"})
		if err != nil {
			return err
		}
		got.Gateway.Upstreams[0].ProtoReflect().SetUnknown(later())
		_, err = gateways.UpdateGateway(ctx, &leaseholdv1.UpdateGatewayRequest{Gateway: got.Gateway, UpdateMask: mask("upstreams")})
		return err
	})
}

// kept checks that the field is still there, after updates by replicas of both
// versions.
func (s *system) kept() {
	s.t.Helper()
	s.operate(func(ctx context.Context, gateways leaseholdv1.GatewayServiceClient) error {
		got, err := gateways.GetGateway(ctx, &leaseholdv1.GetGatewayRequest{Name: "gateways/counter"})
		if err == nil && !slices.Equal(got.GetGateway().GetUpstreams()[0].ProtoReflect().GetUnknown(), later()) {
			s.t.Errorf("the upstream has %x, want the field that was put there", got.GetGateway().GetUpstreams()[0].ProtoReflect().GetUnknown())
		}
		return err
	})
}

// later is a field of a later version.
func later() []byte {
	return protowire.AppendString(protowire.AppendTag(nil, 2000, protowire.BytesType), "later")
}

func mask(paths ...string) *fieldmaskpb.FieldMask { return &fieldmaskpb.FieldMask{Paths: paths} }

// operate has each control plane asked, as an operator does.
func (s *system) operate(do func(context.Context, leaseholdv1.GatewayServiceClient) error) {
	s.t.Helper()
	for _, cp := range s.Control {
		conn, err := s.Dial(cp.Address, cluster.Operator)
		if err != nil {
			s.t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(s.t.Context(), limit)
		err = do(ctx, leaseholdv1.NewGatewayServiceClient(conn))
		cancel()
		conn.Close()
		if err != nil {
			s.t.Fatalf("%s: %v", cp.Name, err)
		}
	}
}

// configure changes the gateway by way of each control plane, and waits until all
// workers have applied that.
func (s *system) configure(stage string) {
	s.t.Helper()
	s.operate(func(ctx context.Context, gateways leaseholdv1.GatewayServiceClient) error {
		got, err := gateways.GetGateway(ctx, &leaseholdv1.GetGatewayRequest{Name: "gateways/counter"})
		if err != nil {
			return err
		}
		got.Gateway.Description = fmt.Sprintf("%s, revision %d", stage, got.GetGateway().GetStatus().GetRevision())
		if _, err = gateways.UpdateGateway(ctx, &leaseholdv1.UpdateGatewayRequest{Gateway: got.Gateway, UpdateMask: mask("description")}); err != nil {
			return err
		}
		_, err = poll.Until(ctx, limit, func(ctx context.Context) error { return s.Applied(ctx, "counter") })
		return err
	})
}

// call has a client call at all workers in turn until ctx ends.
func (s *system) call(ctx context.Context, one *client.Session, first int) {
	pause := time.NewTicker(pace)
	defer pause.Stop()
	for n := 1; ctx.Err() == nil; n++ {
		at := (first + n) % len(s.Workers)
		for !s.inturn[at].TryRLock() { // it is being replaced
			at = (at + 1) % len(s.Workers)
		}
		got, err := one.Increment(s.t.Context(), s.Workers[at].URL("counter"))
		s.inturn[at].RUnlock()
		if err != nil || got != n {
			s.t.Errorf("call %d of client %d, at worker %d: got %d, %v", n, first, at, got, err)
			return
		}
		s.calls.Add(1)
		select {
		case <-pause.C:
		case <-ctx.Done():
		}
	}
}

// replace stops a worker, which clients no longer call at, and starts it again as
// another program.
func (s *system) replace(i int, w *cluster.Worker, program string) {
	s.t.Helper()
	s.inturn[i].Lock()
	defer s.inturn[i].Unlock()
	stopProcess(s.t, w.Process)
	w.Become(program)
	if err := s.RestartWorker(s.t.Context(), w); err != nil {
		s.t.Fatal(err)
	}
}

func stopProcess(t *testing.T, p *cluster.Process) {
	t.Helper()
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code, err := p.Wait(40 * time.Second); err != nil || code != 0 {
		t.Fatalf("%s, which was to stop: exit code %d, %v", p.Name, code, err)
	}
}
