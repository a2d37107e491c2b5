package etcd

import (
	"context"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

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
	return s.resolve(ctx, key, first(read.Kvs))
}

// resolve begins with the record as it was read in kv, nil for none.
func (s *Store) resolve(ctx context.Context, key session.Key, kv *mvccpb.KeyValue) (*leaseholdv1.ResolveResponse, error) {
	name := sessionKey(key)
	for kv != nil {
		rec, err := decodeRecord(kv)
		if err != nil {
			return nil, err
		}
		resp, err := s.txn(ctx, "resolve",
			[]clientv3.Cmp{unchanged(name, kv.ModRevision)},
			[]clientv3.Op{
				clientv3.OpGet(memberKey(rec.Worker, rec.Incarnation)),
				clientv3.OpGet(incarnationKey(rec.Worker), clientv3.WithKeysOnly()),
			},
			[]clientv3.Op{clientv3.OpGet(name)})
		if err != nil {
			return nil, err
		}
		if resp.Succeeded {
			member := first(resp.Responses[0].GetResponseRange().Kvs)
			incarnation := first(resp.Responses[1].GetResponseRange().Kvs)
			return resolution(kv, rec, member, incarnation)
		}
		kv = first(resp.Responses[0].GetResponseRange().Kvs)
	}
	return nil, fmt.Errorf("resolve %s: %w", key.Name(), session.ErrNotFound)
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
	if kv.ModRevision != t.Revision {
		return nil, 0, session.ErrStale
	}
	value, err := encodeProto(next)
	if err != nil {
		return nil, 0, err
	}
	owner, taker := memberKey(stored.Worker, stored.Incarnation), memberKey(t.Worker, t.Incarnation)
	resp, err := s.txn(ctx, "reclaim",
		[]clientv3.Cmp{
			unchanged(name, t.Revision),
			absent(owner),
			present(taker),
			unchanged(incarnationKey(stored.Worker), t.IncarnationRevision),
		},
		[]clientv3.Op{
			clientv3.OpPut(name, value),
			clientv3.OpPut(condemnedKey(stored.Worker, stored.Incarnation), unixText(time.Now())),
		},
		[]clientv3.Op{
			clientv3.OpGet(name),
			clientv3.OpGet(owner, clientv3.WithCountOnly()),
			clientv3.OpGet(taker, clientv3.WithCountOnly()),
			clientv3.OpGet(incarnationKey(stored.Worker), clientv3.WithKeysOnly()),
		})
	if err != nil {
		return nil, 0, err
	}
	if resp.Succeeded {
		return next, resp.Header.Revision, nil
	}
	return reclaimRefusal(resp, t)
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
