package rpc

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/leasehold/leasehold/controlplane/gateway"
	"github.com/leasehold/leasehold/controlplane/session"
	"github.com/leasehold/leasehold/controlplane/store"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

const (
	// inspectTimeout bounds an inspection: the worker's own bound of 30 s, and what is
	// needed around it.
	inspectTimeout = 40 * time.Second
	// inspectAttempts is how many workers are asked, one after the other, when it does not
	// matter which.
	inspectAttempts = 3
	// maxUpstreamWorkers bounds the workers that are shown of an upstream.
	maxUpstreamWorkers = 100
)

// InspectGateway implements GatewayService.
func (s *gateways) InspectGateway(ctx context.Context, req *leaseholdv1.InspectGatewayRequest) (*leaseholdv1.InspectGatewayResponse, error) {
	var c check
	id, ok := gateway.ParseName(req.GetName())
	if !ok {
		c.add("name", "%s", gatewayRule(req.GetName()))
	}
	worker := ""
	if req.GetWorker() != "" {
		worker = c.workerName("worker", req.GetWorker())
	}
	if err := c.err(); err != nil {
		return nil, err
	}
	g, err := s.store.GetGateway(ctx, id)
	if err != nil {
		return nil, err
	}
	candidates, err := s.inspectors(ctx, worker)
	if err != nil {
		return nil, err
	}
	newest := g.GetStatus().GetRevision()
	err = gateway.ErrNobodyInspects
	for _, m := range candidates {
		var found *leaseholdv1.InspectNowResponse
		found, err = s.observer.Inspect(ctx, m, &leaseholdv1.InspectNowRequest{Gateway: id, Revision: newest})
		if err == nil {
			return &leaseholdv1.InspectGatewayResponse{
				Worker: session.WorkerName(m.Worker), Revision: found.GetRevision(), NewestRevision: newest, Upstreams: found.GetUpstreams()}, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, err
}

// inspectors returns who may inspect: the worker that is named, or some that live, those
// that do not drain before others.
func (s *gateways) inspectors(ctx context.Context, named string) ([]store.Member, error) {
	members, err := s.store.Members(ctx)
	if err != nil {
		return nil, err
	}
	if named == "" {
		rand.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
		slices.SortStableFunc(members, func(a, b store.Member) int { return last(a.Info.GetDraining()) - last(b.Info.GetDraining()) })
		return members[:min(len(members), inspectAttempts)], nil
	}
	at := slices.IndexFunc(members, func(m store.Member) bool { return m.Worker == named })
	if at >= 0 {
		return members[at : at+1], nil
	}
	if _, err := s.store.Worker(ctx, named); err != nil {
		return nil, err
	}
	return nil, session.ErrNotAlive
}

// last is 1 for what comes last, and 0 for others.
func last(yes bool) int {
	if yes {
		return 1
	}
	return 0
}

// observe asks the living workers how the upstreams of g are, and puts what they say
// into its status.
func (s *gateways) observe(ctx context.Context, id string, g *leaseholdv1.Gateway) error {
	members, err := s.store.Members(ctx)
	if err != nil {
		return err
	}
	known := map[string][]*leaseholdv1.UpstreamWorker{}
	all := map[string]*leaseholdv1.ObserveUpstreamsResponse{}
	for key, said := range s.observer.Upstreams(ctx, members, id) {
		all[key.Worker] = said
		for _, u := range said.GetUpstreams() {
			for _, w := range u.GetWorkers() {
				w.Worker = session.WorkerName(key.Worker)
				known[u.GetName()] = append(known[u.GetName()], w)
			}
		}
	}
	if g.Status == nil {
		g.Status = &leaseholdv1.GatewayStatus{}
	}
	for _, u := range g.GetUpstreams() {
		g.Status.Upstreams = append(g.Status.Upstreams, &leaseholdv1.UpstreamStatus{Name: u.GetName(), Workers: shownWorkers(known[u.GetName()])})
	}
	showConflicts(g.Status, all)
	return nil
}

// shownWorkers returns as many as are shown, ordered by worker: those first that have
// something to complain of, if there are more.
func shownWorkers(all []*leaseholdv1.UpstreamWorker) []*leaseholdv1.UpstreamWorker {
	byName := func(a, b *leaseholdv1.UpstreamWorker) int { return strings.Compare(a.GetWorker(), b.GetWorker()) }
	slices.SortFunc(all, byName)
	if len(all) <= maxUpstreamWorkers {
		return all
	}
	slices.SortStableFunc(all, func(a, b *leaseholdv1.UpstreamWorker) int { return last(!complains(a)) - last(!complains(b)) })
	all = all[:maxUpstreamWorkers]
	slices.SortFunc(all, byName)
	return all
}

func complains(w *leaseholdv1.UpstreamWorker) bool {
	return w.GetState() == leaseholdv1.UpstreamState_UPSTREAM_STATE_EJECTED || w.GetLastError() != "" || len(w.GetCircuits()) > 0
}
