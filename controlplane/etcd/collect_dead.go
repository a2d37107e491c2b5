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

// roll is the incarnations that there are.
type roll struct {
	alive map[store.MemberKey]bool
	marks map[store.MemberKey]mark
	// current are those that somebody may continue, with the revision of
	// incarnations/{worker}.
	current map[store.MemberKey]int64
}

// callRoll reads who is alive and who is marked as dead, and after that who there is.
func (s *Store) callRoll(ctx context.Context) (r roll, err error) {
	if r.alive, r.marks, err = s.readDead(ctx); err != nil {
		return r, err
	}
	r.current = map[store.MemberKey]int64{}
	return r, s.page(ctx, incarnationsPrefix, func(kvs []*mvccpb.KeyValue) error {
		for _, kv := range kvs {
			worker := strings.TrimPrefix(string(kv.Key), incarnationsPrefix)
			v, err := decodeIncarnation(kv)
			if err == nil && session.ValidWorkerID(worker) && !v.Left {
				r.current[store.MemberKey{Worker: worker, Incarnation: v.Incarnation}] = kv.ModRevision
			}
		}
		return nil
	})
}

// markAll marks those that are dead and not marked yet.
func (s *Store) markAll(ctx context.Context, r roll, now time.Time) error {
	for key := range r.current {
		if _, marked := r.marks[key]; r.alive[key] || marked {
			continue
		}
		if _, err := s.markDead(ctx, key, now); err != nil {
			return err
		}
	}
	return nil
}

// collectDead condemns incarnations that died long ago and own no session any more, and
// forgets when they died. One that is dead without a mark gets one, from which its time
// counts.
func (s *Store) collectDead(ctx context.Context, now time.Time) error {
	r, err := s.callRoll(ctx)
	if err == nil {
		err = s.markAll(ctx, r, now)
	}
	if err != nil {
		return err
	}
	for key, m := range r.marks {
		if now.Sub(m.died) <= incarnationGrace {
			delete(r.marks, key)
		}
	}
	if len(r.marks) == 0 || now.Sub(time.Unix(s.ownersRead.Load(), 0)) < readOwnersEvery {
		return nil
	}
	return s.collectMarks(ctx, r, now)
}

// collectMarks condemns and forgets those marked whose incarnation has no session. A
// dead incarnation gets no new ones. It is condemned as of when it died, so that it is
// collected at once when nobody knows it any more.
func (s *Store) collectMarks(ctx context.Context, r roll, now time.Time) error {
	owned, err := s.countOwned(ctx)
	if err != nil {
		return err
	}
	for key, m := range r.marks {
		if owned[key] > 0 {
			continue
		}
		dead := deadKey(key.Worker, key.Incarnation)
		when := []clientv3.Cmp{absent(memberKey(key.Worker, key.Incarnation)), unchanged(dead, m.revision)}
		then := []clientv3.Op{clientv3.OpDelete(dead)}
		if revision, ok := r.current[key]; ok {
			when = append(when, unchanged(incarnationKey(key.Worker), revision))
			then = append(then, clientv3.OpPut(condemnedKey(key.Worker, key.Incarnation), unixText(m.died)))
		}
		if _, err := s.txn(ctx, "collect", when, then, nil); err != nil {
			return err
		}
	}
	s.ownersRead.Store(now.Unix())
	return nil
}

// countOwned counts the live sessions of each owner.
func (s *Store) countOwned(ctx context.Context) (map[store.MemberKey]int32, error) {
	owned := map[store.MemberKey]int32{}
	err := s.eachLive(ctx, func(_ session.Key, _ *mvccpb.KeyValue, rec *session.Record) error {
		owned[store.MemberKey{Worker: rec.Worker, Incarnation: rec.Incarnation}]++
		return nil
	})
	return owned, err
}
