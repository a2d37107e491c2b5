package etcd

import (
	"context"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/leasehold/leasehold/controlplane/store"
)

// mark is what dead/{worker}/{E} says.
type mark struct {
	died     time.Time
	revision int64
}

// markDead writes down that an incarnation is dead since now, unless it is alive
// or that was written before, and returns the mark; a zero one if it is alive.
func (s *Store) markDead(ctx context.Context, key store.MemberKey, now time.Time) (mark, error) {
	name := deadKey(key.Worker, key.Incarnation)
	resp, err := s.txn(ctx, "collect",
		[]clientv3.Cmp{absent(memberKey(key.Worker, key.Incarnation)), absent(name)},
		[]clientv3.Op{clientv3.OpPut(name, unixText(now))},
		[]clientv3.Op{clientv3.OpGet(name)})
	if err != nil {
		return mark{}, err
	}
	if resp.Succeeded {
		return mark{died: now, revision: resp.Header.Revision}, nil
	}
	kv := first(resp.Responses[0].GetResponseRange().Kvs)
	if kv == nil {
		return mark{}, nil
	}
	died, err := parseUnix(kv.Value)
	return mark{died: died, revision: kv.ModRevision}, err
}

// readDead returns the incarnations that are alive, and the marks of those that
// are dead.
func (s *Store) readDead(ctx context.Context) (alive map[store.MemberKey]bool, marks map[store.MemberKey]mark, err error) {
	resp, err := s.readAll(ctx, "collect", []clientv3.Op{
		clientv3.OpGet(membersPrefix, clientv3.WithPrefix(), clientv3.WithKeysOnly()),
		clientv3.OpGet(deadPrefix, clientv3.WithPrefix()),
	})
	if err != nil {
		return nil, nil, err
	}
	alive, marks = map[store.MemberKey]bool{}, map[store.MemberKey]mark{}
	for _, kv := range resp.Responses[0].GetResponseRange().Kvs {
		if key, ok := parseMember(membersPrefix, string(kv.Key)); ok {
			alive[key] = true
		}
	}
	for _, kv := range resp.Responses[1].GetResponseRange().Kvs {
		key, ok := parseMember(deadPrefix, string(kv.Key))
		died, err := parseUnix(kv.Value)
		if !ok || err != nil {
			s.log.Warn("cannot use when a worker died", "key", string(kv.Key), "error", err)
			continue
		}
		marks[key] = mark{died: died, revision: kv.ModRevision}
	}
	return alive, marks, nil
}
