package etcd

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/leasehold/leasehold/controlplane/session"
)

const (
	collectEvery = 5 * time.Minute
	// collectorTTL is longer than a collection may take, so that there is one
	// collector at a time; a replica that dies meanwhile holds the others up that
	// long. Only work is at stake: every deletion is guarded by itself.
	collectorTTL  = 10 * time.Minute
	maxCollection = 8 * time.Minute
	collectPage   = 1000
	// incarnationGrace is how long an incarnation that is over is remembered: the
	// longest that its sessions' tombstones are by default, and an hour.
	incarnationGrace = 49 * time.Hour
)

// collect removes from time to time what is no longer needed, until ctx ends.
func (s *Store) collect(ctx context.Context) {
	for {
		wait(ctx, collectEvery+rand.N(collectEvery/4))
		if ctx.Err() != nil {
			return
		}
		if err := s.collectAlone(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("collecting garbage was interrupted", "error", err)
		}
	}
}

// collectAlone collects if no other replica does.
func (s *Store) collectAlone(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, maxCollection)
	defer cancel()
	lease, err := s.client.Grant(withOp(ctx, "collect"), int64(collectorTTL.Seconds()))
	if err != nil {
		return s.wrap(ctx, "collect", err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_, _ = s.client.Revoke(withOp(ctx, "collect"), lease.ID) // it ends by itself too
	}()
	resp, err := s.txn(ctx, "collect", []clientv3.Cmp{absent(collectorKey)},
		[]clientv3.Op{clientv3.OpPut(collectorKey, "", clientv3.WithLease(lease.ID))}, nil)
	if err != nil || !resp.Succeeded {
		return err
	}
	return s.Collect(ctx, time.Now())
}

// Collect deletes tombstones whose time is over, and what is left of
// incarnations that have been over for long.
func (s *Store) Collect(ctx context.Context, now time.Time) error {
	return errors.Join(
		s.page(ctx, endedPrefix, func(kvs []*mvccpb.KeyValue) error { return s.collectTombstones(ctx, kvs, now) }),
		s.page(ctx, incarnationsPrefix, func(kvs []*mvccpb.KeyValue) error { return s.collectLeft(ctx, kvs, now) }),
		s.collectDead(ctx, now),
		s.collectCondemned(ctx, now),
	)
}

// page reads everything under prefix, a bounded page at a time.
func (s *Store) page(ctx context.Context, prefix string, visit func([]*mvccpb.KeyValue) error) error {
	_, err := s.pages(ctx, prefix, visit)
	return err
}

// pages is page, and returns the revision of the first.
func (s *Store) pages(ctx context.Context, prefix string, visit func([]*mvccpb.KeyValue) error) (revision int64, err error) {
	from := prefix
	for {
		resp, err := s.scan(ctx, "collect", from, clientv3.WithRange(clientv3.GetPrefixRangeEnd(prefix)), clientv3.WithLimit(collectPage))
		if err != nil {
			return 0, err
		}
		if revision == 0 {
			revision = resp.Header.Revision
		}
		if len(resp.Kvs) == 0 {
			return revision, nil
		}
		if err := visit(resp.Kvs); err != nil || !resp.More {
			return revision, err
		}
		from = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}

// collectTombstones deletes tombstones by the keys beside them. Both were put in
// one transaction and a tombstone never changes, so the one's revision guards
// the other.
func (s *Store) collectTombstones(ctx context.Context, kvs []*mvccpb.KeyValue, now time.Time) error {
	var steps []step
	for _, kv := range kvs {
		key, ok := parseSession(endedPrefix, string(kv.Key))
		due, err := parseUnix(kv.Value)
		if !ok || err != nil {
			s.log.Warn("cannot collect a tombstone", "key", string(kv.Key), "error", err)
			continue
		}
		if now.After(due) {
			steps = append(steps, step{
				when: []clientv3.Cmp{unchanged(sessionKey(key), kv.ModRevision)},
				then: []clientv3.Op{clientv3.OpDelete(sessionKey(key)), clientv3.OpDelete(endedKey(key))},
			})
		}
	}
	for some := range slices.Chunk(steps, maxBatch) {
		ops, _ := nest(some)
		if _, err := s.txn(ctx, "collect", nil, ops, nil); err != nil {
			return err
		}
	}
	return nil
}

// collectLeft deletes incarnations/w of workers that left. Those that died are
// collectDead's.
func (s *Store) collectLeft(ctx context.Context, kvs []*mvccpb.KeyValue, now time.Time) error {
	for _, kv := range kvs {
		worker := strings.TrimPrefix(string(kv.Key), incarnationsPrefix)
		v, err := decodeIncarnation(kv)
		if err != nil || !session.ValidWorkerID(worker) || !v.Left || now.Sub(v.Registered) <= incarnationGrace {
			continue
		}
		then := []clientv3.Op{
			clientv3.OpDelete(string(kv.Key)),
			clientv3.OpDelete(condemnedKey(worker, v.Incarnation)),
		}
		when := []clientv3.Cmp{unchanged(string(kv.Key), kv.ModRevision), absent(memberKey(worker, v.Incarnation))}
		if _, err := s.txn(ctx, "collect", when, then, nil); err != nil {
			return err
		}
	}
	return nil
}
