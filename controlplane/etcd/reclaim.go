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
// is one state of the store: the owner's keys are read in a transaction that
// holds only while the record is the one that named the owner. It returns
// ErrNotFound when there is no record.
func (s *Store) Resolve(ctx context.Context, key session.Key) (*leaseholdv1.ResolveResponse, error) {
	read, err := s.get(ctx, "resolve", sessionKey(key))
	if err != nil {
		return nil, err
	}
	res, _, err := s.resolve(ctx, key, first(read.Kvs))
	return res, err
}

// ResolveAndMeasure is Resolve, and says of an owner that is alive how long it has
// not renewed its lease.
func (s *Store) ResolveAndMeasure(ctx context.Context, key session.Key) (*leaseholdv1.ResolveResponse, error) {
	read, err := s.get(ctx, "resolve", sessionKey(key))
	if err != nil {
		return nil, err
	}
	res, lease, err := s.resolve(ctx, key, first(read.Kvs))
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

// resolve begins with the record as it was read in kv, nil for none, and also
// returns the lease of an owner that is alive.
func (s *Store) resolve(ctx context.Context, key session.Key, kv *mvccpb.KeyValue) (*leaseholdv1.ResolveResponse, clientv3.LeaseID, error) {
	name := sessionKey(key)
	for kv != nil {
		rec, err := decodeRecord(kv)
		if err != nil {
			return nil, 0, err
		}
		resp, err := s.txn(ctx, "resolve",
			[]clientv3.Cmp{unchanged(name, kv.ModRevision)},
			[]clientv3.Op{
				clientv3.OpGet(memberKey(rec.Worker, rec.Incarnation)),
				clientv3.OpGet(incarnationKey(rec.Worker), clientv3.WithKeysOnly()),
			},
			[]clientv3.Op{clientv3.OpGet(name)})
		if err != nil {
			return nil, 0, err
		}
		if resp.Succeeded {
			member := first(resp.Responses[0].GetResponseRange().Kvs)
			incarnation := first(resp.Responses[1].GetResponseRange().Kvs)
			res, err := resolution(kv, rec, member, incarnation)
			return res, clientv3.LeaseID(member.GetLease()), err
		}
		kv = first(resp.Responses[0].GetResponseRange().Kvs)
	}
	return nil, 0, fmt.Errorf("resolve %s: %w", key.Name(), session.ErrNotFound)
}

func resolution(kv *mvccpb.KeyValue, rec *session.Record, member, incarnation *mvccpb.KeyValue) (*leaseholdv1.ResolveResponse, error) {
	res := &leaseholdv1.ResolveResponse{
		Record:              rec,
		Revision:            kv.ModRevision,
		OwnerAlive:          member != nil,
		IncarnationRevision: modRevision(incarnation),
	}
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

// Reclaim makes the taker the owner with the next epoch, and condemns the dead
// owner's incarnation in the same transaction, so that it can never come back
// and believe that it still owns the session. It returns the record as it is
// then. Asked by the owner itself it succeeds and changes nothing.
//
// It returns ErrStale when the record or the owner's incarnation is not what was
// read, ErrNotFound, ErrEnded, ErrNotAlive or ErrOwnerAlive.
func (s *Store) Reclaim(ctx context.Context, key session.Key, t session.Taker) (*session.Record, int64, error) {
	rec, revision, err := s.reclaim(ctx, key, t)
	if err != nil {
		return nil, 0, fmt.Errorf("reclaim %s: %w", key.Name(), err)
	}
	return rec, revision, nil
}

func (s *Store) reclaim(ctx context.Context, key session.Key, t session.Taker) (*session.Record, int64, error) {
	name := sessionKey(key)
	read, err := s.get(ctx, "reclaim", name)
	if err != nil {
		return nil, 0, err
	}
	kv := first(read.Kvs)
	stored, err := decodeRecord(kv)
	if err != nil {
		return nil, 0, err
	}
	next, granted, err := session.Reclaim(stored, t.Worker, t.Incarnation, time.Now())
	if err != nil || granted {
		return next, modRevision(kv), err
	}
	if kv.ModRevision != t.Revision && !noCompareAndSwap {
		return nil, 0, session.ErrStale
	}
	value, err := encodeProto(next)
	if err != nil {
		return nil, 0, err
	}
	then := []clientv3.Op{clientv3.OpPut(name, value)}
	condemned := condemnedKey(stored.Worker, stored.Incarnation)
	if !condemnedLater {
		then = append(then, clientv3.OpPut(condemned, unixText(time.Now())))
	}
	resp, err := s.txn(ctx, "reclaim", reclaimGuards(key, stored, t), then,
		[]clientv3.Op{
			clientv3.OpGet(name),
			clientv3.OpGet(memberKey(stored.Worker, stored.Incarnation), clientv3.WithCountOnly()),
			clientv3.OpGet(memberKey(t.Worker, t.Incarnation), clientv3.WithCountOnly()),
			clientv3.OpGet(incarnationKey(stored.Worker), clientv3.WithKeysOnly()),
		})
	if err != nil {
		return nil, 0, err
	}
	if resp.Succeeded {
		if condemnedLater {
			s.condemnLater(condemned)
		}
		return next, resp.Header.Revision, nil
	}
	return reclaimRefusal(resp, t)
}

// reclaimGuards hold while the record and its owner's incarnation are those that
// were read, the owner is dead and the taker is alive.
func reclaimGuards(key session.Key, stored *session.Record, t session.Taker) []clientv3.Cmp {
	guards := []clientv3.Cmp{
		present(memberKey(t.Worker, t.Incarnation)),
		unchanged(incarnationKey(stored.Worker), t.IncarnationRevision),
	}
	if !noCompareAndSwap {
		guards = append(guards, unchanged(sessionKey(key), t.Revision))
	}
	if !noDeadOwnerGuard {
		guards = append(guards, absent(memberKey(stored.Worker, stored.Incarnation)))
	}
	return guards
}

// reclaimRefusal judges a refused reclaim by what the same transaction read. The
// same reclaim may have been granted meanwhile.
func reclaimRefusal(resp *clientv3.TxnResponse, t session.Taker) (*session.Record, int64, error) {
	stored, revision, err := readRecord(resp.Responses[0])
	if err != nil {
		return nil, 0, err
	}
	if rec, granted, err := session.Reclaim(stored, t.Worker, t.Incarnation, time.Now()); granted || err != nil {
		return rec, revision, err
	}
	incarnation := first(resp.Responses[3].GetResponseRange().Kvs)
	return nil, 0, session.ReclaimFacts{
		Unchanged:  revision == t.Revision && modRevision(incarnation) == t.IncarnationRevision,
		OwnerAlive: resp.Responses[1].GetResponseRange().Count > 0,
		TakerAlive: resp.Responses[2].GetResponseRange().Count > 0,
	}.Refusal()
}
