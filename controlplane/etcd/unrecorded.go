package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/leasehold/leasehold/controlplane/session"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// ResolveUnrecorded is Resolve for a session that had no record a moment ago, and that
// a worker opened, which may have it without. While that worker is alive it is the
// owner. Once it can certainly not record the session any more, ErrNotFound is
// returned, and a tombstone is put before, so that nothing late makes that untrue; until
// then ErrOwnerUncertain.
func (s *Store) ResolveUnrecorded(ctx context.Context, key session.Key, opener session.Peer) (*leaseholdv1.ResolveResponse, error) {
	for {
		res, err := s.resolveUnrecorded(ctx, key, opener)
		if errors.Is(err, errChanged) { // it is recorded, or the opener is back
			if res, err = s.Resolve(ctx, key); errors.Is(err, session.ErrNotFound) {
				continue
			}
		}
		if err != nil {
			return nil, fmt.Errorf("resolve %s: %w", key.Name(), err)
		}
		return res, nil
	}
}

// resolveUnrecorded tries once.
func (s *Store) resolveUnrecorded(ctx context.Context, key session.Key, opener session.Peer) (*leaseholdv1.ResolveResponse, error) {
	read, err := s.readMembership(ctx, "resolve", opener.Worker, opener.Incarnation)
	if err != nil {
		return nil, err
	}
	if read.member != nil {
		m, err := decodeMember(read.member)
		return &leaseholdv1.ResolveResponse{OwnerAlive: true, Owner: m.Proto(), IncarnationRevision: read.revision}, err
	}
	if notFoundWithoutTombstone {
		return nil, session.ErrNotFound
	}
	guards := []clientv3.Cmp{absent(memberKey(opener.Worker, opener.Incarnation))}
	if !read.condemned && !read.over(opener.Incarnation) {
		facts, mark := s.facts(opener, deadOwner{revision: read.revision, value: read.incarnation})
		if mark == 0 {
			s.deaths.miss(opener)
		}
		if facts.DeadFor <= session.ServesOn(s.outage, s.ttl) || s.contact.held() > 0 {
			return nil, session.ErrOwnerUncertain
		}
		guards = append(guards, unchanged(deadKey(opener.Worker, opener.Incarnation), mark))
	}
	if err := s.bury(ctx, key, opener, guards); err != nil {
		return nil, err
	}
	return nil, session.ErrNotFound
}

// bury puts a tombstone where there is no record, while the guards hold. It returns
// errChanged if there is a record, or the opener is back, and ErrOwnerUncertain if the
// opener was back.
func (s *Store) bury(ctx context.Context, key session.Key, opener session.Peer, guards []clientv3.Cmp) error {
	end := session.End{
		Worker: opener.Worker, Incarnation: opener.Incarnation, Time: time.Now(),
		Reason: leaseholdv1.EndReason_END_REASON_OWNER_LOST,
	}
	grave, _, _, err := planEnd(key, nil, end)
	if err != nil {
		return err
	}
	grave.when = append(grave.when, guards...)
	grave.otherwise = []clientv3.Op{
		clientv3.OpGet(sessionKey(key), clientv3.WithCountOnly()),
		clientv3.OpGet(memberKey(opener.Worker, opener.Incarnation), clientv3.WithCountOnly()),
	}
	_, err = s.writes.do(ctx, &write{
		key:  key,
		size: sessionSize,
		plan: func(*mvccpb.KeyValue) (step, bool, int64, error) { return grave, false, 0, nil },
		verdict: func(own, _ []*etcdserverpb.ResponseOp) (int64, error) {
			if own[0].GetResponseRange().Count+own[1].GetResponseRange().Count > 0 {
				return 0, errChanged
			}
			s.deaths.miss(opener)
			return 0, session.ErrOwnerUncertain
		},
	})
	return err
}
