package rpc

import (
	"context"
	"fmt"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/leasehold/leasehold/controlplane/session"
	"github.com/leasehold/leasehold/controlplane/store"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// workers implements WorkerService.
type workers struct {
	leaseholdv1.UnimplementedWorkerServiceServer
	store   Store
	watches *watches
}

// GetWorker implements WorkerService.
func (s *workers) GetWorker(ctx context.Context, req *leaseholdv1.GetWorkerRequest) (*leaseholdv1.GetWorkerResponse, error) {
	id, ok := session.ParseWorkerName(req.GetName())
	if !ok {
		return nil, invalid("name", fmt.Sprintf("must be workers/{worker} with an id of %d hexadecimal digits; has %d bytes", session.WorkerIDLength, len(req.GetName())))
	}
	members, err := s.store.Members(ctx)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(members, func(m store.Member) bool { return m.Worker == id })
	if i < 0 {
		return nil, session.ErrWorkerNotFound
	}
	return &leaseholdv1.GetWorkerResponse{Worker: worker(members[i])}, nil
}

// ListWorkers implements WorkerService.
func (s *workers) ListWorkers(ctx context.Context, req *leaseholdv1.ListWorkersRequest) (*leaseholdv1.ListWorkersResponse, error) {
	var c check
	size := pageSize(&c, req.GetPageSize())
	cur := newCursor("workers")
	after := cur.after(&c, req.GetPageToken(), session.ValidWorkerID)
	if err := c.err(); err != nil {
		return nil, err
	}
	members, err := s.store.Members(ctx)
	if err != nil {
		return nil, err
	}
	resp := &leaseholdv1.ListWorkersResponse{}
	for _, m := range members {
		if m.Worker <= after {
			continue
		}
		if len(resp.Workers) == size {
			resp.NextPageToken = cur.token()
			break
		}
		resp.Workers, cur.After = append(resp.Workers, worker(m)), m.Worker
	}
	return resp, nil
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
		return worker(c.Resource)
	case leaseholdv1.ChangeType_CHANGE_TYPE_REMOVED:
		return &leaseholdv1.Worker{Name: session.WorkerName(c.Resource.Worker), Incarnation: c.Resource.Incarnation}
	}
	return nil
}

func worker(m store.Member) *leaseholdv1.Worker {
	return &leaseholdv1.Worker{
		Name:            session.WorkerName(m.Worker),
		Incarnation:     m.Incarnation,
		ListenAddress:   m.Info.GetListenAddress(),
		PeerAddress:     m.Info.GetPeerAddress(),
		AdminAddress:    m.Info.GetAdminAddress(),
		Zone:            m.Info.GetZone(),
		Version:         m.Info.GetVersion(),
		RegisterTime:    timestamppb.New(m.RegisterTime),
		AppliedRevision: m.AppliedRevision,
	}
}
