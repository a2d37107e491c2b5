package rpc

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/leasehold/leasehold/controlplane/session"
	"github.com/leasehold/leasehold/controlplane/store"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// workers implements WorkerService.
type workers struct {
	leaseholdv1.UnimplementedWorkerServiceServer
	store    Store
	observer Observer
	watches  *watches
}

// GetWorker implements WorkerService.
func (s *workers) GetWorker(ctx context.Context, req *leaseholdv1.GetWorkerRequest) (*leaseholdv1.GetWorkerResponse, error) {
	w, err := s.get(ctx, req.GetName())
	if err != nil {
		return nil, err
	}
	found, err := s.show(ctx, w)
	if err != nil {
		return nil, err
	}
	return &leaseholdv1.GetWorkerResponse{Worker: found}, nil
}

// get returns the worker that a request names.
func (s *workers) get(ctx context.Context, name string) (store.Worker, error) {
	var c check
	id := c.workerName("name", name)
	if err := c.err(); err != nil {
		return store.Worker{}, err
	}
	return s.store.Worker(ctx, id)
}

// show returns a worker with everything that can be said of it.
func (s *workers) show(ctx context.Context, w store.Worker) (*leaseholdv1.Worker, error) {
	list, err := s.list(ctx, []store.Worker{w})
	if err != nil {
		return nil, err
	}
	for _, p := range w.Peers {
		list[0].Peers = append(list[0].Peers, session.WorkerName(p.Worker))
	}
	list[0].Takeover = w.Takeover
	return list[0], nil
}

// ListWorkers implements WorkerService.
func (s *workers) ListWorkers(ctx context.Context, req *leaseholdv1.ListWorkersRequest) (*leaseholdv1.ListWorkersResponse, error) {
	var c check
	size := pageSize(&c, req.GetPageSize())
	cur := newCursor("workers", showDead(req.GetShowDead()))
	after := cur.after(&c, req.GetPageToken(), session.ValidWorkerID)
	if err := c.err(); err != nil {
		return nil, err
	}
	all, err := s.all(ctx, req.GetShowDead())
	if err != nil {
		return nil, err
	}
	resp := &leaseholdv1.ListWorkersResponse{}
	var page []store.Worker
	for _, w := range all {
		if w.Worker <= after {
			continue
		}
		if len(page) == size {
			resp.NextPageToken = cur.token()
			break
		}
		page, cur.After = append(page, w), w.Worker
	}
	resp.Workers, err = s.list(ctx, page)
	return resp, err
}

// showDead is what page tokens of lists with the dead are for.
func showDead(dead bool) string {
	if dead {
		return "dead"
	}
	return ""
}

// all returns the workers that are alive, or all that are known, ordered by id.
func (s *workers) all(ctx context.Context, dead bool) ([]store.Worker, error) {
	if dead {
		return s.store.Workers(ctx)
	}
	members, err := s.store.Members(ctx)
	list := make([]store.Worker, len(members))
	for i, m := range members {
		list[i] = store.Living(m)
	}
	return list, err
}

// list returns workers with what they say of their load, or for those that are dead,
// with what is recorded.
func (s *workers) list(ctx context.Context, workers []store.Worker) ([]*leaseholdv1.Worker, error) {
	var living []store.Member
	for _, w := range workers {
		if w.Alive() {
			living = append(living, w.Member)
		}
	}
	var owned map[string]int32
	if len(living) < len(workers) {
		var err error
		if owned, err = s.store.CountOwned(ctx); err != nil {
			return nil, err
		}
	}
	loads := s.observer.Loads(ctx, living)
	list := make([]*leaseholdv1.Worker, len(workers))
	for i, w := range workers {
		load := loads[w.MemberKey]
		list[i] = worker(w)
		list[i].Sessions, list[i].PinnedSessions, list[i].UndurableSessions = load.GetSessions(), load.GetPinnedSessions(), load.GetUndurableSessions()
		if !w.Alive() {
			list[i].Sessions = owned[w.Worker]
		}
	}
	return list, nil
}

// DrainWorker implements WorkerService.
func (s *workers) DrainWorker(ctx context.Context, req *leaseholdv1.DrainWorkerRequest) (*leaseholdv1.DrainWorkerResponse, error) {
	w, err := s.drain(ctx, req.GetName(), true)
	if err != nil {
		return nil, err
	}
	return &leaseholdv1.DrainWorkerResponse{Worker: w}, nil
}

// UndrainWorker implements WorkerService.
func (s *workers) UndrainWorker(ctx context.Context, req *leaseholdv1.UndrainWorkerRequest) (*leaseholdv1.UndrainWorkerResponse, error) {
	w, err := s.drain(ctx, req.GetName(), false)
	if err != nil {
		return nil, err
	}
	return &leaseholdv1.UndrainWorkerResponse{Worker: w}, nil
}

func (s *workers) drain(ctx context.Context, name string, draining bool) (*leaseholdv1.Worker, error) {
	w, err := s.get(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := s.store.SetDraining(ctx, w.MemberKey, draining); err != nil {
		return nil, err
	}
	if w, err = s.store.Worker(ctx, w.Worker); err != nil {
		return nil, err
	}
	return s.show(ctx, w)
}

// ForgetWorker implements WorkerService.
func (s *workers) ForgetWorker(ctx context.Context, req *leaseholdv1.ForgetWorkerRequest) (*leaseholdv1.ForgetWorkerResponse, error) {
	var c check
	id := c.workerName("name", req.GetName())
	if err := c.err(); err != nil {
		return nil, err
	}
	if err := s.store.Forget(ctx, id); err != nil {
		return nil, err
	}
	w, err := s.store.Worker(ctx, id)
	if err != nil {
		return nil, err
	}
	found, err := s.show(ctx, w)
	if err != nil {
		return nil, err
	}
	return &leaseholdv1.ForgetWorkerResponse{Worker: found}, nil
}

// WatchWorkers implements WorkerService.
func (s *workers) WatchWorkers(req *leaseholdv1.WatchWorkersRequest, stream grpc.ServerStreamingServer[leaseholdv1.WatchWorkersResponse]) error {
	var c check
	c.notNegative("revision", req.GetRevision())
	if err := c.err(); err != nil {
		return err
	}
	return serveWatch(s.watches, stream, func(ctx context.Context, send func(*leaseholdv1.WatchWorkersResponse) error) error {
		return s.store.WatchWorkers(ctx, req.GetRevision(), func(c store.Change[store.Member]) error {
			return send(&leaseholdv1.WatchWorkersResponse{Type: c.Type, Worker: changed(c), Revision: c.Revision})
		})
	})
}

func changed(c store.Change[store.Member]) *leaseholdv1.Worker {
	switch c.Type {
	case leaseholdv1.ChangeType_CHANGE_TYPE_PUT:
		return worker(store.Living(c.Resource))
	case leaseholdv1.ChangeType_CHANGE_TYPE_REMOVED:
		return &leaseholdv1.Worker{Name: session.WorkerName(c.Resource.Worker), Incarnation: c.Resource.Incarnation}
	}
	return nil
}

// worker returns what is recorded of a worker.
func worker(w store.Worker) *leaseholdv1.Worker {
	return &leaseholdv1.Worker{
		Name:            session.WorkerName(w.Worker),
		Incarnation:     w.Incarnation,
		ListenAddress:   w.Info.GetListenAddress(),
		PeerAddress:     w.Info.GetPeerAddress(),
		AdminAddress:    w.Info.GetAdminAddress(),
		Zone:            w.Info.GetZone(),
		Version:         w.Info.GetVersion(),
		RegisterTime:    timestamppb.New(w.RegisterTime),
		AppliedRevision: w.AppliedRevision,
		State:           w.State,
		Capacity:        w.Info.GetCapacity(),
	}
}
