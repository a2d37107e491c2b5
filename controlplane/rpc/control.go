package rpc

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/leasehold/leasehold/controlplane/publish"
	"github.com/leasehold/leasehold/controlplane/session"
	"github.com/leasehold/leasehold/controlplane/store"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// control implements ControlService.
type control struct {
	leaseholdv1.UnimplementedControlServiceServer
	store Store
	hub   *publish.Hub
	acks  *publish.Acks
	// outage is for how long workers may serve on without the control plane.
	outage *durationpb.Duration
	// receivers are the goroutines that read streams. Each ends with its stream.
	receivers sync.WaitGroup
}

// Register implements ControlService.
func (s *control) Register(ctx context.Context, req *leaseholdv1.RegisterRequest) (*leaseholdv1.RegisterResponse, error) {
	var c check
	c.worker("worker", req.GetWorker())
	c.info("info", req.GetInfo())
	if err := c.err(); err != nil {
		return nil, err
	}
	if err := compatible(req.GetInfo().GetProtocol()); err != nil {
		return nil, err
	}
	incarnation, lease, err := s.register(ctx, req)
	if err != nil {
		return nil, err
	}
	return &leaseholdv1.RegisterResponse{Incarnation: incarnation, Lease: lease.ID, Ttl: durationpb.New(lease.TTL), MaxOutage: s.outage}, nil
}

func (s *control) register(ctx context.Context, req *leaseholdv1.RegisterRequest) (int64, store.Lease, error) {
	return s.store.RegisterAs(ctx, req.GetWorker(), callerName(ctx), store.Attempt{Number: req.GetAttempt(), Previous: req.GetPrevious()}, req.GetInfo())
}

// Renew implements ControlService.
func (s *control) Renew(ctx context.Context, req *leaseholdv1.RenewRequest) (*leaseholdv1.RenewResponse, error) {
	var c check
	c.worker("worker", req.GetWorker())
	c.positive("incarnation", req.GetIncarnation())
	c.positive("lease", req.GetLease())
	if err := c.err(); err != nil {
		return nil, err
	}
	ttl, err := s.store.Renew(ctx, req.GetWorker(), req.GetIncarnation(), req.GetLease())
	if err != nil {
		return nil, err
	}
	return &leaseholdv1.RenewResponse{Ttl: durationpb.New(ttl), MaxOutage: s.outage}, nil
}

// Readopt implements ControlService.
func (s *control) Readopt(ctx context.Context, req *leaseholdv1.ReadoptRequest) (*leaseholdv1.ReadoptResponse, error) {
	var c check
	c.worker("worker", req.GetWorker())
	c.positive("incarnation", req.GetIncarnation())
	c.info("info", req.GetInfo())
	if err := c.err(); err != nil {
		return nil, err
	}
	if err := compatible(req.GetInfo().GetProtocol()); err != nil {
		return nil, err
	}
	lease, err := s.store.Readopt(ctx, req.GetWorker(), req.GetIncarnation(), req.GetInfo())
	if err != nil {
		return nil, err
	}
	return &leaseholdv1.ReadoptResponse{Lease: lease.ID, Ttl: durationpb.New(lease.TTL), MaxOutage: s.outage}, nil
}

// Leave implements ControlService.
func (s *control) Leave(ctx context.Context, req *leaseholdv1.LeaveRequest) (*leaseholdv1.LeaveResponse, error) {
	var c check
	c.worker("worker", req.GetWorker())
	c.positive("incarnation", req.GetIncarnation())
	if err := c.err(); err != nil {
		return nil, err
	}
	if err := s.store.Leave(ctx, req.GetWorker(), req.GetIncarnation(), req.GetLease()); err != nil {
		return nil, err
	}
	return &leaseholdv1.LeaveResponse{}, nil
}

// RecordPeers implements ControlService.
func (s *control) RecordPeers(ctx context.Context, req *leaseholdv1.RecordPeersRequest) (*leaseholdv1.RecordPeersResponse, error) {
	var c check
	c.worker("worker", req.GetWorker())
	c.positive("incarnation", req.GetIncarnation())
	peers, gone := c.peers("peers", req.GetPeers(), req.GetWorker()), c.peers("gone", req.GetGone(), req.GetWorker())
	if err := c.err(); err != nil {
		return nil, err
	}
	recorded, err := s.store.RecordPeers(ctx, session.Peer{Worker: req.GetWorker(), Incarnation: req.GetIncarnation()}, req.GetNumber(), peers, gone)
	if err != nil {
		return nil, err
	}
	resp := &leaseholdv1.RecordPeersResponse{}
	for _, p := range recorded {
		resp.Peers = append(resp.Peers, &leaseholdv1.Peer{Worker: p.Worker, Incarnation: p.Incarnation})
	}
	return resp, nil
}

// SetDraining implements ControlService.
func (s *control) SetDraining(ctx context.Context, req *leaseholdv1.SetDrainingRequest) (*leaseholdv1.SetDrainingResponse, error) {
	var c check
	c.worker("worker", req.GetWorker())
	c.positive("incarnation", req.GetIncarnation())
	if err := c.err(); err != nil {
		return nil, err
	}
	key := store.MemberKey{Worker: req.GetWorker(), Incarnation: req.GetIncarnation()}
	if err := s.store.SetDraining(ctx, key, req.GetDraining()); err != nil {
		return nil, err
	}
	return &leaseholdv1.SetDrainingResponse{}, nil
}

// Claim implements ControlService.
func (s *control) Claim(ctx context.Context, req *leaseholdv1.ClaimRequest) (*leaseholdv1.ClaimResponse, error) {
	key, rec := session.Key{Gateway: req.GetGateway(), Digest: req.GetSession()}, req.GetRecord()
	var c check
	c.session(key)
	c.record(rec)
	if rec != nil && rec.GetEpoch() != session.FirstEpoch {
		c.add("record.epoch", "must be %d; is %d", session.FirstEpoch, rec.GetEpoch())
	}
	if err := c.err(); err != nil {
		return nil, err
	}
	revision, err := s.store.Claim(ctx, key, rec)
	if err != nil {
		return nil, err
	}
	return &leaseholdv1.ClaimResponse{Revision: revision}, nil
}

// Resolve implements ControlService.
func (s *control) Resolve(ctx context.Context, req *leaseholdv1.ResolveRequest) (*leaseholdv1.ResolveResponse, error) {
	key := session.Key{Gateway: req.GetGateway(), Digest: req.GetSession()}
	var c check
	c.session(key)
	var opener session.Peer
	if req.GetOpenedBy() != nil {
		opener = c.peer("opened_by", req.GetOpenedBy(), "")
	}
	if err := c.err(); err != nil {
		return nil, err
	}
	ask := s.store.Resolve
	if req.GetMeasureOwner() {
		ask = s.store.ResolveAndMeasure
	}
	res, err := ask(ctx, key)
	if errors.Is(err, session.ErrNotFound) && req.GetOpenedBy() != nil {
		return s.store.ResolveUnrecorded(ctx, key, opener)
	}
	return res, err
}

// Reclaim implements ControlService.
func (s *control) Reclaim(ctx context.Context, req *leaseholdv1.ReclaimRequest) (*leaseholdv1.ReclaimResponse, error) {
	key := session.Key{Gateway: req.GetGateway(), Digest: req.GetSession()}
	var c check
	c.session(key)
	c.worker("worker", req.GetWorker())
	c.positive("incarnation", req.GetIncarnation())
	c.positive("revision", req.GetRevision())
	if err := c.err(); err != nil {
		return nil, err
	}
	rec, revision, err := s.store.Reclaim(ctx, key, session.Taker{
		Worker:              req.GetWorker(),
		Incarnation:         req.GetIncarnation(),
		Revision:            req.GetRevision(),
		IncarnationRevision: req.GetIncarnationRevision(),
		SupersededOnly:      req.GetSupersededOnly(),
	})
	if err != nil {
		return nil, err
	}
	return &leaseholdv1.ReclaimResponse{Record: rec, Revision: revision}, nil
}

// HandOver implements ControlService.
func (s *control) HandOver(ctx context.Context, req *leaseholdv1.HandOverRequest) (*leaseholdv1.HandOverResponse, error) {
	key := session.Key{Gateway: req.GetGateway(), Digest: req.GetSession()}
	var c check
	c.session(key)
	c.worker("worker", req.GetWorker())
	c.positive("incarnation", req.GetIncarnation())
	c.positive("revision", req.GetRevision())
	to := c.peer("to", req.GetTo(), req.GetWorker())
	c.cursors("event_cursors", req.GetEventCursors())
	if err := c.err(); err != nil {
		return nil, err
	}
	rec, revision, err := s.store.HandOver(ctx, key, req.GetRevision(), session.HandOver{
		From:    session.Peer{Worker: req.GetWorker(), Incarnation: req.GetIncarnation()},
		To:      to,
		Cursors: req.GetEventCursors(),
	})
	if err != nil {
		return nil, err
	}
	return &leaseholdv1.HandOverResponse{Record: rec, Revision: revision}, nil
}

// Save implements ControlService.
func (s *control) Save(ctx context.Context, req *leaseholdv1.SaveRequest) (*leaseholdv1.SaveResponse, error) {
	key := session.Key{Gateway: req.GetGateway(), Digest: req.GetSession()}
	var c check
	c.session(key)
	c.record(req.GetRecord())
	c.positive("revision", req.GetRevision())
	if err := c.err(); err != nil {
		return nil, err
	}
	revision, err := s.store.Save(ctx, key, req.GetRevision(), req.GetRecord())
	if err != nil {
		return nil, err
	}
	return &leaseholdv1.SaveResponse{Revision: revision}, nil
}

// End implements ControlService.
func (s *control) End(ctx context.Context, req *leaseholdv1.EndRequest) (*leaseholdv1.EndResponse, error) {
	key := session.Key{Gateway: req.GetGateway(), Digest: req.GetSession()}
	var c check
	c.session(key)
	c.worker("worker", req.GetWorker())
	c.positive("incarnation", req.GetIncarnation())
	c.time("expire_time", req.GetExpireTime())
	if err := c.err(); err != nil {
		return nil, err
	}
	end := session.End{Worker: req.GetWorker(), Incarnation: req.GetIncarnation(), Reason: req.GetReason(), Time: time.Now()}
	if req.GetExpireTime() != nil {
		end.Expire = req.GetExpireTime().AsTime()
	}
	revision, err := s.store.End(ctx, key, end)
	if err != nil {
		return nil, err
	}
	return &leaseholdv1.EndResponse{Revision: revision}, nil
}

// GetKeyRingRevision implements ControlService.
func (s *control) GetKeyRingRevision(ctx context.Context, _ *leaseholdv1.GetKeyRingRevisionRequest) (*leaseholdv1.GetKeyRingRevisionResponse, error) {
	ring, err := s.store.Ring(ctx)
	if err != nil {
		return nil, err
	}
	if ring == nil {
		return nil, store.ErrNoRing
	}
	return &leaseholdv1.GetKeyRingRevisionResponse{Revision: ring.Revision}, nil
}

// Watch implements ControlService. The handler is the one that sends; a second
// goroutine reads acknowledgements and ends with the stream.
func (s *control) Watch(stream grpc.BidiStreamingServer[leaseholdv1.WatchRequest, leaseholdv1.WatchResponse]) error {
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	key, closeAcks, err := s.open(ctx, stream)
	if err != nil {
		return err
	}
	s.receivers.Go(func() {
		defer closeAcks()
		cancel(s.receive(stream, key))
	})
	err = s.hub.Stream(ctx, stream.Send)
	if errors.Is(err, io.EOF) { // the worker has closed its half
		return nil
	}
	return err
}

// open reads the first request.
func (s *control) open(ctx context.Context, stream grpc.BidiStreamingServer[leaseholdv1.WatchRequest, leaseholdv1.WatchResponse]) (store.MemberKey, func(), error) {
	req, err := stream.Recv()
	if err != nil {
		return store.MemberKey{}, nil, errors.Join(context.Canceled, err)
	}
	var c check
	c.worker("worker", req.GetWorker())
	c.positive("incarnation", req.GetIncarnation())
	if err := c.err(); err != nil {
		return store.MemberKey{}, nil, err
	}
	key := store.MemberKey{Worker: req.GetWorker(), Incarnation: req.GetIncarnation()}
	closeAcks := s.acks.Open(key)
	s.acks.Ack(key, ackOf(req))
	return key, closeAcks, nil
}

// receive takes acknowledgements until the stream ends, and says why it did.
func (s *control) receive(stream grpc.BidiStreamingServer[leaseholdv1.WatchRequest, leaseholdv1.WatchResponse], key store.MemberKey) error {
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return io.EOF
		}
		if err != nil {
			return context.Canceled
		}
		s.acks.Ack(key, ackOf(req))
	}
}
