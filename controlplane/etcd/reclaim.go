package etcd

import (
	"context"
	"errors"
	"fmt"
	"sync"
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
// reclaim from an incarnation condemns it, and cannot.
func (s *Store) reclaim(ctx context.Context, key session.Key, t session.Taker) (*session.Record, int64, error) {
	rec, revision, err := s.reclaimTogether(ctx, key, t)
	if errors.Is(err, errNotCondemned) {
		return s.reclaimFirst(ctx, key, t)
	}
	return rec, revision, err
}

// errNotCondemned says that a reclaim has to condemn the owner's incarnation.
var errNotCondemned = errors.New("the owner's incarnation is not condemned yet")

// reclaimTogether reclaims from an incarnation that is known to be condemned.
func (s *Store) reclaimTogether(ctx context.Context, key session.Key, t session.Taker) (*session.Record, int64, error) {
	var next *session.Record // is set before the outcome is sent
	name := sessionKey(key)
	revision, err := s.writes.do(ctx, &write{
		key:   key,
		reads: true,
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
			condemned := condemnedKey(stored.Worker, stored.Incarnation)
			if !s.condemned.has(condemned) {
				return step{}, true, 0, errNotCondemned
			}
			value, err := encodeProto(next)
			return step{
				when:      append(reclaimGuards(key, stored, t), present(condemned)),
				then:      []clientv3.Op{clientv3.OpPut(name, value)},
				otherwise: append(reclaimFacts(key, stored, t), clientv3.OpGet(condemned, clientv3.WithCountOnly())),
			}, false, 0, err
		},
		verdict: func(resp *etcdserverpb.TxnResponse) (revision int64, err error) {
			if resp.Responses[4].GetResponseRange().Count == 0 {
				return 0, errNotCondemned
			}
			next, revision, err = reclaimRefusal(resp.Responses, t)
			return revision, err
		},
	})
	return next, revision, err
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
	resp, err := s.txn(ctx, "reclaim", reclaimGuards(key, stored, t), then, reclaimFacts(key, stored, t))
	switch {
	case err != nil:
		return nil, 0, err
	case !resp.Succeeded:
		return reclaimRefusal((*etcdserverpb.TxnResponse)(resp).Responses, t)
	case condemnedLater:
		s.condemnLater(condemned)
	default:
		s.condemned.add(condemned)
	}
	return next, resp.Header.Revision, nil
}

// reclaimFacts reads why a reclaim is refused.
func reclaimFacts(key session.Key, stored *session.Record, t session.Taker) []clientv3.Op {
	return []clientv3.Op{
		clientv3.OpGet(sessionKey(key)),
		clientv3.OpGet(memberKey(stored.Worker, stored.Incarnation), clientv3.WithCountOnly()),
		clientv3.OpGet(memberKey(t.Worker, t.Incarnation), clientv3.WithCountOnly()),
		clientv3.OpGet(incarnationKey(stored.Worker), clientv3.WithKeysOnly()),
	}
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

// reclaimRefusal judges a refused reclaim by the facts that the same transaction
// read. The same reclaim may have been granted meanwhile.
func reclaimRefusal(facts []*etcdserverpb.ResponseOp, t session.Taker) (*session.Record, int64, error) {
	stored, revision, err := readRecord(facts[0])
	if err != nil {
		return nil, 0, err
	}
	if rec, granted, err := session.Reclaim(stored, t.Worker, t.Incarnation, time.Now()); granted || err != nil {
		return rec, revision, err
	}
	incarnation := first(facts[3].GetResponseRange().Kvs)
	return nil, 0, session.ReclaimFacts{
		Unchanged:  revision == t.Revision && modRevision(incarnation) == t.IncarnationRevision,
		OwnerAlive: facts[1].GetResponseRange().Count > 0,
		TakerAlive: facts[2].GetResponseRange().Count > 0,
	}.Refusal()
}

// maxCondemned bounds the condemned incarnations that a replica remembers.
const maxCondemned = 1024

// condemnedSet is incarnations that this replica has condemned. Forgetting one
// costs a transaction. Safe for concurrent use.
type condemnedSet struct {
	mu   sync.Mutex // guards keys
	keys map[string]bool
}

func (c *condemnedSet) has(key string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.keys[key]
}

func (c *condemnedSet) add(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.keys == nil || len(c.keys) >= maxCondemned {
		c.keys = make(map[string]bool)
	}
	c.keys[key] = true
}
