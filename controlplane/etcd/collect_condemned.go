package etcd

import (
	"context"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/leasehold/leasehold/controlplane/store"
)

// collectCondemned deletes condemned/w/E long after it was put, together with
// incarnations/w if that still says E, in one transaction: a re-adoption of E needs the
// one to be absent and the other to say E, so it is refused before and after.
//
// Once incarnations/w is gone, E counts as superseded, and anybody may take over from
// whoever knows it. But its process may still run, and tell a worker that serves on that
// it could not have taken anything. So it stays while a worker that can come back knows
// it, and is deleted only if no list was put since they were read.
func (s *Store) collectCondemned(ctx context.Context, now time.Time) error {
	condemned, due := map[store.MemberKey]bool{}, []store.MemberKey{}
	err := s.page(ctx, condemnedPrefix, func(kvs []*mvccpb.KeyValue) error {
		for _, kv := range kvs {
			key, ok := parseMember(condemnedPrefix, string(kv.Key))
			since, err := parseUnix(kv.Value)
			if !ok || err != nil {
				s.log.Warn("cannot collect a condemned incarnation", "key", string(kv.Key), "error", err)
				continue
			}
			if condemned[key] = true; now.Sub(since) > incarnationGrace {
				due = append(due, key)
			}
		}
		return nil
	})
	if err != nil || len(due) == 0 {
		return err
	}
	l, err := s.readLists(ctx, condemned)
	if err != nil {
		return err
	}
	for _, key := range due {
		if err := s.collectOne(ctx, key, l); err != nil {
			return err
		}
	}
	return nil
}

// lists is what incarnations/ said from one revision on.
type lists struct {
	revision int64
	// current are the incarnations that the keys say, with the keys' revisions.
	current map[store.MemberKey]int64
	// keys are the revisions of all keys by worker.
	keys map[string]int64
	// known are those whom an incarnation knows that can come back.
	known map[store.MemberKey]bool
}

func (s *Store) readLists(ctx context.Context, condemned map[store.MemberKey]bool) (lists, error) {
	l := lists{current: map[store.MemberKey]int64{}, keys: map[string]int64{}, known: map[store.MemberKey]bool{}}
	var err error
	l.revision, err = s.pages(ctx, incarnationsPrefix, func(kvs []*mvccpb.KeyValue) error {
		for _, kv := range kvs {
			worker := strings.TrimPrefix(string(kv.Key), incarnationsPrefix)
			v, err := decodeIncarnation(kv)
			if err != nil {
				return err
			}
			key := store.MemberKey{Worker: worker, Incarnation: v.Incarnation}
			l.current[key], l.keys[worker] = kv.ModRevision, kv.ModRevision
			if v.Left || condemned[key] {
				continue
			}
			for _, p := range v.Peers {
				l.known[p] = true
			}
		}
		return nil
	})
	return l, err
}

// collectOne deletes what is left of a condemned incarnation.
func (s *Store) collectOne(ctx context.Context, key store.MemberKey, l lists) error {
	then := []clientv3.Op{clientv3.OpDelete(condemnedKey(key.Worker, key.Incarnation))}
	when := []clientv3.Cmp{
		unchanged(incarnationKey(key.Worker), l.keys[key.Worker]),
		absent(memberKey(key.Worker, key.Incarnation)),
	}
	if _, ok := l.current[key]; ok {
		if l.known[key] {
			return nil
		}
		then = append(then, clientv3.OpDelete(incarnationKey(key.Worker)))
		when = append(when, notSince(incarnationsPrefix, l.revision))
	}
	_, err := s.txn(ctx, "collect", when, then, nil)
	return err
}
