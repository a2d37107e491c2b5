package etcd

import (
	"context"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/leasehold/leasehold/controlplane/session"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Resolve returns a session's record and whether its owner is alive. The answer
// is one state of the store: the owner's keys are read together with the record
// that named the owner. It returns ErrNotFound when there is no record.
func (s *Store) Resolve(ctx context.Context, key session.Key) (*leaseholdv1.ResolveResponse, error) {
	res, _, err := s.resolve(ctx, key)
	return res, err
}

// ResolveAndMeasure is Resolve, and says of an owner that is alive how long it has
// not renewed its lease.
func (s *Store) ResolveAndMeasure(ctx context.Context, key session.Key) (*leaseholdv1.ResolveResponse, error) {
	res, lease, err := s.resolve(ctx, key)
	if err != nil || !res.OwnerAlive {
		return res, err
	}
	silence, err := s.silence(ctx, lease)
	if err != nil {
		return nil, err
	}
	res.OwnerSilence = durationpb.New(silence)
	return res, nil
}

// silence returns how long a lease has not been renewed, rounded up to whole
// seconds, as etcd rounds the time that is left.
func (s *Store) silence(ctx context.Context, lease clientv3.LeaseID) (time.Duration, error) {
	resp, err := attempt(withOp(ctx, "resolve"), s, attemptTimeout, func(ctx context.Context) (*clientv3.LeaseTimeToLiveResponse, error) {
		return s.client.TimeToLive(ctx, lease)
	})
	switch {
	case err != nil:
		return 0, s.wrap(ctx, "resolve", err)
	case resp.TTL < 0: // it has ended since
		return s.ttl, nil
	}
	return max(0, seconds(resp.GrantedTTL-resp.TTL)), nil // a new leader of etcd gives leases more than was granted
}

// resolve also returns the lease of an owner that is alive.
func (s *Store) resolve(ctx context.Context, key session.Key) (*leaseholdv1.ResolveResponse, clientv3.LeaseID, error) {
	for {
		f, err := s.lookups.ask(ctx, key)
		switch {
		case err != nil:
			return nil, 0, err
		case f.record == nil:
			return nil, 0, fmt.Errorf("resolve %s: %w", key.Name(), session.ErrNotFound)
		case !f.settled: // the record changed while it was looked at
			continue
		}
		rec, err := decodeRecord(f.record)
		if err != nil {
			return nil, 0, err
		}
		if f.member == nil && !session.Ended(rec) {
			s.seen.note(key, f.record)
			if err := s.takeovers.note(rec.Worker, f.incarnation); err != nil {
				return nil, 0, err
			}
		}
		res, err := resolution(f.record, rec, f.member, f.incarnation)
		return res, clientv3.LeaseID(f.member.GetLease()), err
	}
}

func resolution(kv *mvccpb.KeyValue, rec *session.Record, member, incarnation *mvccpb.KeyValue) (*leaseholdv1.ResolveResponse, error) {
	res := &leaseholdv1.ResolveResponse{
		Record:              rec,
		Revision:            kv.ModRevision,
		OwnerAlive:          member != nil,
		IncarnationRevision: modRevision(incarnation),
	}
	var value incarnationValue
	if incarnation != nil {
		var err error
		if value, err = decodeIncarnation(incarnation); err != nil {
			return nil, err
		}
	}
	res.OwnerSuperseded = value.superseded(res.IncarnationRevision, rec.Incarnation)
	if member == nil {
		return res, nil
	}
	m, err := decodeMember(member)
	if err != nil {
		return nil, err
	}
	res.Owner = m.Proto()
	return res, nil
}
