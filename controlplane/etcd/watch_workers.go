package etcd

import (
	"context"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/leasehold/leasehold/controlplane/store"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// WatchWorkers is WatchGateways for the workers that are alive. Of one that is
// gone only the key is told.
//
// For a moment a worker has two incarnations, of which the newer one counts, so
// what is to be told of a key depends on the others: the members are remembered,
// beginning with those of the revision at which the watch begins.
func (s *Store) WatchWorkers(ctx context.Context, revision int64, send func(store.Change[store.Member]) error) error {
	w := &workerWatch{store: s, send: send, alive: map[string]map[int64]store.Member{}}
	first := revision == 0
	resp, err := s.at(ctx, membersPrefix, "", revision, 0)
	if err != nil {
		return err
	}
	for _, kv := range resp.Kvs {
		w.put(kv)
	}
	if first {
		revision = resp.Header.Revision
		if err := w.state(revision); err != nil {
			return err
		}
	}
	return s.since(ctx, revision, history{prefix: membersPrefix, changes: w.changes, upTo: w.bookmark})
}

type workerWatch struct {
	store *Store
	send  func(store.Change[store.Member]) error
	alive map[string]map[int64]store.Member // by worker and incarnation
}

func (w *workerWatch) state(revision int64) error {
	table := &store.Table[store.MemberKey, store.Member]{Entries: map[store.MemberKey]store.Member{}}
	for _, incarnations := range w.alive {
		for _, m := range incarnations {
			table.Entries[m.MemberKey] = m
		}
	}
	for _, m := range store.Newest(table) {
		if err := w.send(store.Change[store.Member]{Type: leaseholdv1.ChangeType_CHANGE_TYPE_PUT, Resource: m}); err != nil {
			return err
		}
	}
	return w.bookmark(revision)
}

func (w *workerWatch) bookmark(revision int64) error {
	return w.send(store.Change[store.Member]{Type: leaseholdv1.ChangeType_CHANGE_TYPE_BOOKMARK, Revision: revision})
}

// newest returns the incarnation of a worker that counts.
func (w *workerWatch) newest(worker string) (newest store.Member, ok bool) {
	for _, m := range w.alive[worker] {
		if !ok || m.Incarnation > newest.Incarnation {
			newest, ok = m, true
		}
	}
	return newest, ok
}

func (w *workerWatch) put(kv *mvccpb.KeyValue) {
	m, err := decodeMember(kv)
	if err != nil {
		w.store.log.Error("cannot use what etcd holds", "key", string(kv.Key), "error", err)
		return
	}
	if w.alive[m.Worker] == nil {
		w.alive[m.Worker] = map[int64]store.Member{}
	}
	w.alive[m.Worker][m.Incarnation] = m
}

func (w *workerWatch) remove(key store.MemberKey) {
	delete(w.alive[key.Worker], key.Incarnation)
	if len(w.alive[key.Worker]) == 0 {
		delete(w.alive, key.Worker)
	}
}

func (w *workerWatch) changes(events []*mvccpb.Event, revision int64, whole bool) error {
	var list []store.Change[store.Member]
	for _, ev := range events {
		key, ok := parseMember(membersPrefix, string(ev.Kv.Key))
		if !ok {
			continue
		}
		before, was := w.newest(key.Worker)
		if ev.Type == mvccpb.DELETE {
			w.remove(key)
		} else {
			w.put(ev.Kv)
		}
		now, is := w.newest(key.Worker)
		switch {
		case is && was && now.MemberKey == before.MemberKey && now.Ack().Same(before.Ack()) && proto.Equal(now.Info, before.Info):
		case is:
			list = append(list, store.Change[store.Member]{Type: leaseholdv1.ChangeType_CHANGE_TYPE_PUT, Resource: now})
		case was:
			list = append(list, store.Change[store.Member]{Type: leaseholdv1.ChangeType_CHANGE_TYPE_REMOVED, Resource: store.Member{MemberKey: before.MemberKey}})
		}
	}
	for _, c := range stamp(list, revision, whole) {
		if err := w.send(c); err != nil {
			return err
		}
	}
	return nil
}
