package etcd

import (
	"context"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/leasehold/leasehold/controlplane/session"
	"github.com/leasehold/leasehold/controlplane/store"
)

// readOwnersEvery is how often all sessions are read at most to find out whose
// they are.
const readOwnersEvery = time.Hour

// collectDead deletes what is left of incarnations that died long ago and own no
// session any more: dead/w/E, and incarnations/w if that still says E, in one
// transaction, so that E cannot be re-adopted afterwards. An incarnation that is
// dead without a mark gets one, from which its time counts.
func (s *Store) collectDead(ctx context.Context, now time.Time) error {
	alive, marks, err := s.readDead(ctx)
	if err != nil {
		return err
	}
	current := map[store.MemberKey]int64{} // the revision of incarnations/w
	err = s.page(ctx, incarnationsPrefix, func(kvs []*mvccpb.KeyValue) error {
		for _, kv := range kvs {
			key, ok := s.incarnationIn(kv)
			if !ok {
				continue
			}
			current[key] = kv.ModRevision
			if _, marked := marks[key]; alive[key] || marked {
				continue
			}
			if _, err := s.markDead(ctx, key, now); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for key, m := range marks {
		if now.Sub(m.died) <= incarnationGrace {
			delete(marks, key)
		}
	}
	if len(marks) == 0 || now.Sub(time.Unix(s.ownersRead.Load(), 0)) < readOwnersEvery {
		return nil
	}
	return s.collectMarks(ctx, marks, current, now)
}

// incarnationIn returns the incarnation that incarnations/w says, if the worker
// did not leave.
func (s *Store) incarnationIn(kv *mvccpb.KeyValue) (store.MemberKey, bool) {
	worker := strings.TrimPrefix(string(kv.Key), incarnationsPrefix)
	v, err := decodeIncarnation(kv)
	return store.MemberKey{Worker: worker, Incarnation: v.Incarnation}, err == nil && session.ValidWorkerID(worker) && !v.Left
}

// collectMarks deletes those of marks whose incarnation has no session. A dead
// incarnation gets no new ones.
func (s *Store) collectMarks(ctx context.Context, marks map[store.MemberKey]mark, current map[store.MemberKey]int64, now time.Time) error {
	owners := map[store.MemberKey]bool{}
	err := s.eachLive(ctx, func(_ session.Key, _ *mvccpb.KeyValue, rec *session.Record) error {
		owners[store.MemberKey{Worker: rec.Worker, Incarnation: rec.Incarnation}] = true
		return nil
	})
	if err != nil {
		return err
	}
	for key, m := range marks {
		if owners[key] {
			continue
		}
		dead := deadKey(key.Worker, key.Incarnation)
		when := []clientv3.Cmp{absent(memberKey(key.Worker, key.Incarnation)), unchanged(dead, m.revision)}
		then := []clientv3.Op{clientv3.OpDelete(dead)}
		if revision, ok := current[key]; ok {
			when = append(when, unchanged(incarnationKey(key.Worker), revision))
			then = append(then, clientv3.OpDelete(incarnationKey(key.Worker)), clientv3.OpDelete(condemnedKey(key.Worker, key.Incarnation)))
		}
		if _, err := s.txn(ctx, "collect", when, then, nil); err != nil {
			return err
		}
	}
	s.ownersRead.Store(now.Unix())
	return nil
}
