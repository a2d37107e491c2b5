package dataplane

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/forward"
	"github.com/leasehold/leasehold/dataplane/inspect"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

const (
	// inspectTime bounds an inspection.
	inspectTime = 30 * time.Second
	// maxInspections bounds the inspections at a time.
	maxInspections = 4
	// appliedWithin is how long an inspection waits for the newest definition.
	appliedWithin = 2 * time.Second
	// maxComplaint bounds what is said of an error.
	maxComplaint = 256
	// maxCircuitsTold bounds the addresses of an upstream that are told.
	maxCircuitsTold = 4
)

// lookout tells operators how upstreams are. It implements forward.Looker.
type lookout struct {
	*worker
	inspections chan struct{} // one for each that goes on
}

func newLookout(w *worker) *lookout {
	return &lookout{w, make(chan struct{}, maxInspections)}
}

// Upstreams implements forward.Looker.
func (l *lookout) Upstreams(gateway string) *leaseholdv1.ObserveUpstreamsResponse {
	resp := &leaseholdv1.ObserveUpstreamsResponse{Incarnation: l.control.Authority().Incarnation()}
	if g := l.world.Load().Gateways[gateway]; g != nil {
		for _, u := range g.Real() {
			resp.Upstreams = append(resp.Upstreams, &leaseholdv1.UpstreamStatus{Name: u.Name, Workers: []*leaseholdv1.UpstreamWorker{l.upstream(u)}})
		}
		if g.Upstream.Merged != nil {
			l.unlisted(resp, g.Upstream.Merged)
		}
	}
	return resp
}

func (l *lookout) upstream(u *config.Upstream) *leaseholdv1.UpstreamWorker {
	known := &leaseholdv1.UpstreamWorker{State: leaseholdv1.UpstreamState_UPSTREAM_STATE_UNKNOWN}
	if state, ok := l.checkup.State(u); ok && state.Asked {
		known.State, known.Since = leaseholdv1.UpstreamState_UPSTREAM_STATE_HEALTHY, timestamppb.New(state.Since)
		if state.Ejected {
			known.State = leaseholdv1.UpstreamState_UPSTREAM_STATE_EJECTED
		}
		known.LastError = complaint(state.LastError)
	}
	circuits := l.upstreams.http.Circuits(u)
	for _, c := range circuits[:min(len(circuits), maxCircuitsTold)] {
		told := &leaseholdv1.UpstreamCircuit{
			Address: c.Address, State: leaseholdv1.CircuitState_CIRCUIT_STATE_CLOSED, Failures: int32(min(c.Failures, 1<<30)), LastError: complaint(c.LastError)}
		switch {
		case !c.Opened:
		case time.Now().Before(c.Until):
			told.State, told.RetryTime = leaseholdv1.CircuitState_CIRCUIT_STATE_OPEN, timestamppb.New(c.Until)
		default:
			told.State = leaseholdv1.CircuitState_CIRCUIT_STATE_HALF_OPEN
		}
		known.Circuits = append(known.Circuits, told)
	}
	return known
}

// complaint returns an error in words, as short as they are told.
func complaint(err error) string {
	if err == nil {
		return ""
	}
	return inspect.Reason(err, maxComplaint)
}

// Inspect implements forward.Looker.
func (l *lookout) Inspect(ctx context.Context, gateway string, revision int64) (*leaseholdv1.InspectNowResponse, error) {
	select {
	case l.inspections <- struct{}{}:
		defer func() { <-l.inspections }()
	default:
		return nil, fmt.Errorf("%w: %d", forward.ErrTooMany, maxInspections)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, inspectTime, fmt.Errorf("the inspection took %v, which is its bound", inspectTime))
	defer cancel()
	g := l.await(ctx, gateway, revision)
	if g == nil {
		return nil, forward.ErrUnknownGateway
	}
	own := l.upstreams.afresh()
	defer own.hangUp()
	resp := &leaseholdv1.InspectNowResponse{Revision: g.Revision, Upstreams: make([]*leaseholdv1.UpstreamInspection, len(g.Real()))}
	var group sync.WaitGroup
	for i, u := range g.Real() {
		group.Go(func() { resp.Upstreams[i] = inspect.Inspect(ctx, own, u) })
	}
	group.Wait()
	return resp, nil
}

// await returns a gateway as the definition of that revision has it, or after a moment
// as it is, nil if there is none.
func (l *lookout) await(ctx context.Context, gateway string, revision int64) *config.Gateway {
	timer := time.NewTimer(appliedWithin)
	defer timer.Stop()
	for {
		changed := l.world.Changed()
		g := l.world.Load().Gateways[gateway]
		if g != nil && g.Revision >= revision {
			return g
		}
		select {
		case <-changed:
		case <-timer.C:
			return g
		case <-ctx.Done():
			return g
		}
	}
}

// close waits for the inspections that go on, and lets no other begin.
func (l *lookout) close() {
	for range maxInspections {
		l.inspections <- struct{}{}
	}
}
