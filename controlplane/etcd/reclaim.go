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
)

// Reclaim makes the taker the owner with the next epoch, and condemns the dead
// owner's incarnation in the same transaction, so that it can never come back
// and believe that it still owns the session. It returns the record as it is
// then. Asked by the owner itself it succeeds and changes nothing.
//
// It returns ErrStale when the record or the owner's incarnation is not what was
// read, ErrNotFound, ErrEnded, ErrNotAlive, ErrOwnerAlive, ErrOwnerUncertain or
// ErrHolding.
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
// Who may take over is read before, if it is not known.
func (s *Store) reclaim(ctx context.Context, key session.Key, t session.Taker) (*session.Record, int64, error) {
	known := s.seen.takeUnlessOwnedBy(t, key)
	for learned, waited := false, false; ; {
		rec, revision, err := s.reclaimTogether(ctx, key, t, known, learned)
		var unnamed *notCondemnedError
		if errors.As(err, &unnamed) {
			over, mine := s.condemned.begin(unnamed.incarnation)
			if !mine && !waited {
				select {
				case <-over:
					waited = true
					continue
				case <-ctx.Done():
					return nil, 0, ctx.Err()
				}
			}
			rec, revision, err = s.reclaimFirst(ctx, key, t, learned)
			if mine {
				s.condemned.end(unnamed.incarnation)
			}
		}
		var unjudged *unjudgedError
		switch {
		case errors.As(err, &unjudged):
			if err := s.learn(ctx, unjudged.owner); err != nil {
				return nil, 0, err
			}
			learned = true
		case errors.Is(err, errWasBack):
			learned = false
		case known != nil && (errors.Is(err, session.ErrStale) || errors.Is(err, session.ErrOwnerUncertain) || errors.Is(err, session.ErrHolding)):
			known = nil // the same reclaim may have been granted since
		default:
			return rec, revision, err
		}
	}
}

// planned is a reclaim of a record that was read.
type planned struct {
	stored, next *session.Record
	granted      bool // before; next is stored then
	verdict      verdict
}

// planReclaim decides what is to be stored in the place of kv. The error may be an
// unjudgedError.
func (s *Store) planReclaim(kv *mvccpb.KeyValue, t session.Taker, learned bool) (p planned, err error) {
	if p.stored, err = decodeRecord(kv); err != nil {
		return p, err
	}
	p.next, p.granted, err = session.Reclaim(p.stored, t.Worker, t.Incarnation, time.Now())
	switch {
	case err != nil || p.granted:
		return p, err
	case kv.ModRevision != t.Revision && !noCompareAndSwap:
		return p, session.ErrStale
	}
	p.verdict, err = s.judge(session.Peer{Worker: p.stored.Worker, Incarnation: p.stored.Incarnation}, t, learned)
	return p, err
}

// reclaimTogether reclaims from an incarnation that is known to be condemned. The
// error is a notCondemnedError if it is not, and an unjudgedError before it is known who
// may. known is the record if it was read before.
func (s *Store) reclaimTogether(ctx context.Context, key session.Key, t session.Taker, known *mvccpb.KeyValue, learned bool) (*session.Record, int64, error) {
	var next *session.Record // is set before the outcome is sent
	var condemned string     // so are these
	var guarded bool
	revision, err := s.writes.do(ctx, &write{
		key:   key,
		reads: true,
		known: known,
		size:  sessionSize,
		plan: func(kv *mvccpb.KeyValue) (step, bool, int64, error) {
			p, err := s.planReclaim(kv, t, learned)
			if next = p.next; err != nil || p.granted {
				return step{}, true, modRevision(kv), err
			}
			condemned, guarded = condemnedKey(p.stored.Worker, p.stored.Incarnation), len(p.verdict.guard) > 0
			if !s.condemned.has(condemned) {
				return step{}, true, 0, &notCondemnedError{condemned}
			}
			value, err := encodeProto(next)
			return step{
				premise:   reclaimPremise(p, t),
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
			next, revision, err = s.reclaimRefusal(own[0], shared, t, guarded)
			return revision, err
		},
	})
	return next, revision, err
}

// reclaimPremise is what all reclaims of a taker from one condemned incarnation
// have in common.
func reclaimPremise(p planned, t session.Taker) *premise {
	condemned := condemnedKey(p.stored.Worker, p.stored.Incarnation)
	return &premise{
		name:      fmt.Sprintf("%s %d %s %s", condemned, t.IncarnationRevision, memberKey(t.Worker, t.Incarnation), p.verdict.name),
		when:      append(reclaimSharedGuards(p, t), present(condemned)),
		otherwise: append(reclaimSharedFacts(p.stored, t), clientv3.OpGet(condemned, clientv3.WithCountOnly())),
	}
}

// reclaimFirst condemns the owner's incarnation too. The error may be an unjudgedError.
func (s *Store) reclaimFirst(ctx context.Context, key session.Key, t session.Taker, learned bool) (*session.Record, int64, error) {
	name := sessionKey(key)
	read, err := s.get(ctx, "reclaim", name)
	if err != nil {
		return nil, 0, err
	}
	kv := first(read.Kvs)
	p, err := s.planReclaim(kv, t, learned)
	if err != nil || p.granted {
		return p.next, modRevision(kv), err
	}
	value, err := encodeProto(p.next)
	if err != nil {
		return nil, 0, err
	}
	then := []clientv3.Op{clientv3.OpPut(name, value)}
	condemned := condemnedKey(p.stored.Worker, p.stored.Incarnation)
	if !condemnedLater {
		then = append(then, clientv3.OpPut(condemned, unixText(time.Now())))
	}
	resp, err := s.txn(ctx, "reclaim", append(reclaimSharedGuards(p, t), reclaimOwnGuards(key, t)...), then,
		append(reclaimSharedFacts(p.stored, t), clientv3.OpGet(name)))
	switch {
	case err != nil:
		return nil, 0, err
	case !resp.Succeeded:
		return s.reclaimRefusal(resp.Responses[3], resp.Responses[:3], t, len(p.verdict.guard) > 0)
	case condemnedLater:
		s.condemnLater(condemned)
	default:
		s.condemned.add(condemned)
	}
	return p.next, resp.Header.Revision, nil
}

// reclaimSharedFacts reads why a reclaim is refused, but for the record.
func reclaimSharedFacts(stored *session.Record, t session.Taker) []clientv3.Op {
	return []clientv3.Op{
		clientv3.OpGet(memberKey(stored.Worker, stored.Incarnation), clientv3.WithCountOnly()),
		clientv3.OpGet(memberKey(t.Worker, t.Incarnation), clientv3.WithCountOnly()),
		clientv3.OpGet(incarnationKey(stored.Worker), clientv3.WithKeysOnly()),
	}
}

// reclaimSharedGuards hold while the owner's incarnation and whom it knows are what was
// read, the owner is dead, and the taker is alive and may take over.
func reclaimSharedGuards(p planned, t session.Taker) []clientv3.Cmp {
	guards := []clientv3.Cmp{present(memberKey(t.Worker, t.Incarnation))}
	if !noDeadOwnerGuard && !noCompareAndSwap { // whoever is back has changed it
		guards = append(guards, unchanged(incarnationKey(p.stored.Worker), t.IncarnationRevision))
	}
	if !noDeadOwnerGuard {
		guards = append(guards, absent(memberKey(p.stored.Worker, p.stored.Incarnation)))
	}
	return append(guards, p.verdict.guard...)
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
// same reclaim may have been granted meanwhile. guarded says that the transaction
// compared how long the owner was dead.
func (s *Store) reclaimRefusal(record *etcdserverpb.ResponseOp, shared []*etcdserverpb.ResponseOp, t session.Taker, guarded bool) (*session.Record, int64, error) {
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
	err = session.ReclaimFacts{
		Unchanged:  revision == t.Revision && modRevision(incarnation) == t.IncarnationRevision,
		OwnerAlive: shared[0].GetResponseRange().Count > 0,
		TakerAlive: shared[1].GetResponseRange().Count > 0,
		Expired:    guarded,
	}.Refusal()
	if errors.Is(err, session.ErrOwnerUncertain) {
		s.deaths.miss(session.Peer{Worker: stored.Worker, Incarnation: stored.Incarnation})
		err = errWasBack
	}
	return nil, 0, err
}

// errWasBack says that an owner was not dead for as long as was seen: who may take over
// is judged anew, without that.
var errWasBack = errors.New("owner was back meanwhile")
