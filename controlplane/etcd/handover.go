package etcd

import (
	"context"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/leasehold/leasehold/controlplane/session"
)

// HandOver makes another worker the owner of the session whose record has revision, with
// the next epoch: both are alive. It returns the record as it is then. When the next
// owner has the session already, HandOver succeeds and changes nothing. Otherwise it
// returns ErrStale, ErrEnded, ErrNotAlive or ErrTargetNotAlive.
//
// An outcome that stays unknown is decided by a Save at the same revision: whichever of
// the two comes first, the other is refused.
func (s *Store) HandOver(ctx context.Context, key session.Key, revision int64, h session.HandOver) (*session.Record, int64, error) {
	var next *session.Record // is set before the outcome is sent
	name, from, to := sessionKey(key), memberKey(h.From.Worker, h.From.Incarnation), memberKey(h.To.Worker, h.To.Incarnation)
	given, err := s.writes.do(ctx, &write{
		key:   key,
		reads: true,
		size:  sessionSize,
		plan: func(kv *mvccpb.KeyValue) (step, bool, int64, error) {
			stored, err := decodeRecord(kv)
			if err != nil {
				return step{}, true, 0, err
			}
			var granted bool
			next, granted, err = h.Next(stored, modRevision(kv) == revision || handOverWithoutCAS, time.Now())
			if err != nil || granted {
				return step{}, true, modRevision(kv), err
			}
			value, err := encodeProto(next)
			guards := []clientv3.Cmp{present(from), present(to)}
			if !handOverWithoutCAS {
				guards = append(guards, unchanged(name, revision))
			}
			return step{
				when: guards,
				then: []clientv3.Op{clientv3.OpPut(name, value)},
				otherwise: []clientv3.Op{
					clientv3.OpGet(name),
					clientv3.OpGet(from, clientv3.WithCountOnly()),
					clientv3.OpGet(to, clientv3.WithCountOnly()),
				},
			}, false, 0, err
		},
		verdict: func(own, _ []*etcdserverpb.ResponseOp) (int64, error) {
			stored, now, err := readRecord(own[0])
			if err != nil {
				return 0, err
			}
			var granted bool
			if next, granted, err = h.Next(stored, now == revision, time.Now()); granted || err != nil {
				return now, err
			}
			return 0, session.HandOverFacts{
				Unchanged:   true,
				OwnerAlive:  own[1].GetResponseRange().Count > 0,
				TargetAlive: own[2].GetResponseRange().Count > 0,
			}.Refusal()
		},
	})
	if err != nil {
		return nil, 0, fmt.Errorf("hand over %s: %w", key.Name(), err)
	}
	return next, given, nil
}
