package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
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

// reclaim shares a transaction with others once the owner's incarnation is
// condemned: then nothing but the session's own record is written. The first
// reclaim from an incarnation condemns it, and cannot; the others wait for it.
func (s *Store) reclaim(ctx context.Context, key session.Key, t session.Taker) (*session.Record, int64, error) {
	known := s.seen.takeUnlessOwnedBy(t, key)
	for waited := false; ; waited = true {
		rec, revision, err := s.reclaimTogether(ctx, key, t, known)
		unnamed := (*notCondemnedError)(nil)
		if !errors.As(err, &unnamed) {
			return rec, revision, err
		}
		over, mine := s.condemned.begin(unnamed.incarnation)
		if mine || waited {
			rec, revision, err = s.reclaimFirst(ctx, key, t)
			if mine {
				s.condemned.end(unnamed.incarnation)
			}
			return rec, revision, err
		}
		select {
		case <-over:
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		}
	}
}

// reclaimTogether reclaims from an incarnation that is known to be condemned. The
// error is a notCondemnedError if it is not. known is the record if it was read
// before.
func (s *Store) reclaimTogether(ctx context.Context, key session.Key, t session.Taker, known *mvccpb.KeyValue) (*session.Record, int64, error) {
	var next *session.Record // is set before the outcome is sent
	var condemned string     // so is this
	revision, err := s.writes.do(ctx, &write{
		key:   key,
		reads: true,
		known: known,
		size:  sessionSize,
		plan: func(kv *mvccpb.KeyValue) (step, bool, int64, error) {
			stored, err := decodeRecord(kv)
			if err != nil {
				return step{}, true, 0, err
			}
			granted := false
			next, granted, err = session.Reclaim(stored, t.Worker, t.Incarnation, time.Now())
			switch {
			case err != nil || granted:
				return step{}, true, modRevision(kv), err
			case kv.ModRevision != t.Revision && !noCompareAndSwap:
				return step{}, true, 0, session.ErrStale
			}
			condemned = condemnedKey(stored.Worker, stored.Incarnation)
			if !s.condemned.has(condemned) {
				return step{}, true, 0, &notCondemnedError{condemned}
			}
			value, err := encodeProto(next)
			return step{
				premise:   reclaimPremise(stored, t),
				when:      reclaimOwnGuards(key, t),
				then:      []clientv3.Op{clientv3.OpPut(sessionKey(key), value)},
				otherwise: []clientv3.Op{clientv3.OpGet(sessionKey(key))},
			}, false, 0, err
		},
		verdict: func(own, shared []*etcdserverpb.ResponseOp) (revision int64, err error) {
			if shared != nil && shared[3].GetResponseRange().Count == 0 {
				s.condemned.forget(condemned)
				return 0, &notCondemnedError{condemned}
			}
			next, revision, err = reclaimRefusal(own[0], shared, t)
			return revision, err
		},
	})
	return next, revision, err
}

// reclaimPremise is what all reclaims of a taker from one condemned incarnation
// have in common.
func reclaimPremise(stored *session.Record, t session.Taker) *premise {
	condemned := condemnedKey(stored.Worker, stored.Incarnation)
	return &premise{
		name:      fmt.Sprintf("%s %d %s", condemned, t.IncarnationRevision, memberKey(t.Worker, t.Incarnation)),
		when:      append(reclaimSharedGuards(stored, t), present(condemned)),
		otherwise: append(reclaimSharedFacts(stored, t), clientv3.OpGet(condemned, clientv3.WithCountOnly())),
	}
}

func (s *Store) reclaimFirst(ctx context.Context, key session.Key, t session.Taker) (*session.Record, int64, error) {
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
	resp, err := s.txn(ctx, "reclaim", append(reclaimSharedGuards(stored, t), reclaimOwnGuards(key, t)...), then,
		append(reclaimSharedFacts(stored, t), clientv3.OpGet(name)))
	switch {
	case err != nil:
		return nil, 0, err
	case !resp.Succeeded:
		return reclaimRefusal(resp.Responses[3], resp.Responses[:3], t)
	case condemnedLater:
		s.condemnLater(condemned)
	default:
		s.condemned.add(condemned)
	}
	return next, resp.Header.Revision, nil
}

// reclaimSharedFacts reads why a reclaim is refused, but for the record.
func reclaimSharedFacts(stored *session.Record, t session.Taker) []clientv3.Op {
	return []clientv3.Op{
		clientv3.OpGet(memberKey(stored.Worker, stored.Incarnation), clientv3.WithCountOnly()),
		clientv3.OpGet(memberKey(t.Worker, t.Incarnation), clientv3.WithCountOnly()),
		clientv3.OpGet(incarnationKey(stored.Worker), clientv3.WithKeysOnly()),
	}
}

// reclaimSharedGuards hold while the owner's incarnation is the one that was read,
// the owner is dead and the taker is alive.
func reclaimSharedGuards(stored *session.Record, t session.Taker) []clientv3.Cmp {
	guards := []clientv3.Cmp{
		present(memberKey(t.Worker, t.Incarnation)),
		unchanged(incarnationKey(stored.Worker), t.IncarnationRevision),
	}
	if !noDeadOwnerGuard {
		guards = append(guards, absent(memberKey(stored.Worker, stored.Incarnation)))
	}
	return guards
}

// reclaimOwnGuards hold while the record is the one that was read.
func reclaimOwnGuards(key session.Key, t session.Taker) []clientv3.Cmp {
	if noCompareAndSwap {
		return nil
	}
	return []clientv3.Cmp{unchanged(sessionKey(key), t.Revision)}
}

// reclaimRefusal judges a refused reclaim by the record and the shared facts that
// the same transaction read; without those it was the record that had changed. The
// same reclaim may have been granted meanwhile.
func reclaimRefusal(record *etcdserverpb.ResponseOp, shared []*etcdserverpb.ResponseOp, t session.Taker) (*session.Record, int64, error) {
	stored, revision, err := readRecord(record)
	if err != nil {
		return nil, 0, err
	}
	rec, granted, err := session.Reclaim(stored, t.Worker, t.Incarnation, time.Now())
	switch {
	case granted || err != nil:
		return rec, revision, err
	case shared == nil:
		return nil, 0, session.ErrStale
	}
	incarnation := first(shared[2].GetResponseRange().Kvs)
	return nil, 0, session.ReclaimFacts{
		Unchanged:  revision == t.Revision && modRevision(incarnation) == t.IncarnationRevision,
		OwnerAlive: shared[0].GetResponseRange().Count > 0,
		TakerAlive: shared[1].GetResponseRange().Count > 0,
	}.Refusal()
}
