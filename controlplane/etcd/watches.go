package etcd

import (
	"context"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/leasehold/leasehold/controlplane/gateway"
	"github.com/leasehold/leasehold/controlplane/session"
	"github.com/leasehold/leasehold/controlplane/store"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// The operators' watches. Each tells the state first, if it does not resume, and
// then what etcd's history has after it; so any replica resumes what another one
// began, and nothing is kept for a watch but its place.
//
// A watch that resumes begins with a read at its revision, which fails at once if
// etcd does not have that revision any more, or not yet.

// watcher turns the keys under a prefix into changes of resources.
type watcher[T any] struct {
	store  *Store
	prefix string
	// show returns the resource in kv (nil for none), or false if there is none
	// or it does not match.
	show func(kv *mvccpb.KeyValue) (T, bool)
	// gone returns what is told of a resource that is gone or does not match any
	// more, given what is there now (nil for nothing) and what was before.
	gone func(now, before *mvccpb.KeyValue) T
	// same reports whether nothing that can be seen changed.
	same func(now, before T) bool
	// end, if set, is where the watched keys end beyond those with the prefix, and
	// beside what other keys there say is to be told again at a revision; may be nil.
	end    string
	beside func(ctx context.Context, ev *mvccpb.Event) ([]T, error)
	// fill completes resources before they are told; may be nil.
	fill func(context.Context, []store.Change[T])
	send func(store.Change[T]) error
}

// run watches from revision on, or from the state if it is 0.
func (w watcher[T]) run(ctx context.Context, revision int64) (err error) {
	if revision > 0 {
		_, err = w.store.at(ctx, w.prefix, "", revision, 1)
	} else {
		revision, err = w.store.state(ctx, w.prefix, func(kvs []*mvccpb.KeyValue) error { return w.page(ctx, kvs) })
		if err == nil {
			err = w.bookmark(revision)
		}
	}
	if err != nil {
		return err
	}
	return w.store.since(ctx, revision, history{
		prefix: w.prefix,
		end:    w.end,
		upTo:   w.bookmark,
		changes: func(events []*mvccpb.Event, revision int64, whole bool) error {
			list, err := w.changes(ctx, events)
			if err != nil {
				return err
			}
			return w.all(ctx, stamp(list, revision, whole))
		},
	})
}

func (w watcher[T]) bookmark(revision int64) error {
	return w.send(store.Change[T]{Type: leaseholdv1.ChangeType_CHANGE_TYPE_BOOKMARK, Revision: revision})
}

// page tells a part of the state. Nobody can resume in the middle of it.
func (w watcher[T]) page(ctx context.Context, kvs []*mvccpb.KeyValue) error {
	var list []store.Change[T]
	for _, kv := range kvs {
		if resource, ok := w.show(kv); ok {
			list = append(list, store.Change[T]{Type: leaseholdv1.ChangeType_CHANGE_TYPE_PUT, Resource: resource})
		}
	}
	return w.all(ctx, list)
}

func (w watcher[T]) changes(ctx context.Context, events []*mvccpb.Event) (list []store.Change[T], err error) {
	for _, ev := range events {
		if !strings.HasPrefix(string(ev.Kv.Key), w.prefix) {
			again, err := w.beside(ctx, ev)
			if err != nil {
				return nil, err
			}
			for _, resource := range again {
				list = append(list, store.Change[T]{Type: leaseholdv1.ChangeType_CHANGE_TYPE_PUT, Resource: resource})
			}
			continue
		}
		kv := ev.Kv
		if ev.Type == mvccpb.DELETE {
			kv = nil
		}
		now, shown := w.show(kv)
		before, was := w.show(ev.PrevKv)
		if kv == nil && ev.PrevKv == nil { // etcd has forgotten what it was
			was = true
			ev.PrevKv = &mvccpb.KeyValue{Key: ev.Kv.Key}
		}
		switch {
		case shown && was && w.same(now, before):
		case shown:
			list = append(list, store.Change[T]{Type: leaseholdv1.ChangeType_CHANGE_TYPE_PUT, Resource: now})
		case was:
			list = append(list, store.Change[T]{Type: leaseholdv1.ChangeType_CHANGE_TYPE_REMOVED, Resource: w.gone(kv, ev.PrevKv)})
		}
	}
	return list, nil
}

// stamp says where a watch resumes that has seen the changes of one revision.
// Only the last one says that revision: whoever breaks off in between resumes
// before all of them, and misses none.
func stamp[T any](list []store.Change[T], revision int64, whole bool) []store.Change[T] {
	for i := range list {
		list[i].Revision = revision - 1
	}
	if whole && len(list) > 0 {
		list[len(list)-1].Revision = revision
	}
	return list
}

func (w watcher[T]) all(ctx context.Context, list []store.Change[T]) error {
	if w.fill != nil && len(list) > 0 {
		w.fill(ctx, list)
	}
	for _, c := range list {
		if err := w.send(c); err != nil {
			return err
		}
	}
	return nil
}

// WatchGateways tells the gateways that match and what becomes of them, until
// ctx ends or send fails. Revision 0 begins with those that there are; any other
// one with what happened after it, or store.ErrCompacted or
// store.ErrFutureRevision. Their status is that of the moment in which they are
// told. A gateway is also told again when a worker begins or ceases to reject it: that is in
// etcd's history too, with the members, and a watch that resumes misses none.
func (s *Store) WatchGateways(ctx context.Context, revision int64, f gateway.Filter, send func(store.Change[*leaseholdv1.Gateway]) error) error {
	w := watcher[*leaseholdv1.Gateway]{
		store:  s,
		prefix: gatewaysPrefix,
		send:   send,
		show: func(kv *mvccpb.KeyValue) (*leaseholdv1.Gateway, bool) {
			if kv == nil {
				return nil, false
			}
			g, err := s.decodeGateway(kv)
			if err != nil {
				s.log.Error("cannot use what etcd holds", "key", string(kv.Key), "error", err)
				return nil, false
			}
			return g, f.Matches(g)
		},
		same: func(now, before *leaseholdv1.Gateway) bool { return now.Status.Revision == before.Status.Revision },
		gone: func(_, before *mvccpb.KeyValue) *leaseholdv1.Gateway {
			return &leaseholdv1.Gateway{Name: gateway.Name(strings.TrimPrefix(string(before.Key), gatewaysPrefix))}
		},
		end:  watchEnd,
		fill: s.fillChanges,
	}
	w.beside = func(ctx context.Context, ev *mvccpb.Event) (again []*leaseholdv1.Gateway, err error) {
		for _, id := range s.rejectedOtherwise(ev) {
			resp, err := s.at(ctx, gatewayKey(id), "", ev.Kv.ModRevision, 1)
			if err != nil {
				return nil, err
			}
			if kv := first(resp.Kvs); kv != nil && string(kv.Key) == gatewayKey(id) {
				if g, ok := w.show(kv); ok {
					again = append(again, g)
				}
			}
		}
		return again, nil
	}
	return w.run(ctx, revision)
}

// rejectedOtherwise returns the ids of the gateways of which a member says something else
// than before an event.
func (s *Store) rejectedOtherwise(ev *mvccpb.Event) (ids []string) {
	if !strings.HasPrefix(string(ev.Kv.Key), membersPrefix) {
		return nil
	}
	rejections := func(kv *mvccpb.KeyValue) map[string]store.Rejection {
		all := map[string]store.Rejection{}
		if kv == nil || kv == ev.Kv && ev.Type == mvccpb.DELETE {
			return all
		}
		v, err := decodeMemberValue(kv)
		if err != nil {
			s.log.Error("cannot use what etcd holds", "key", string(kv.Key), "error", err)
		}
		for _, r := range v.Rejections {
			all[r.Gateway] = r
		}
		return all
	}
	now, before := rejections(ev.Kv), rejections(ev.PrevKv)
	for id, r := range now {
		if before[id] != r {
			ids = append(ids, id)
		}
	}
	for id := range before {
		if _, still := now[id]; !still {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// fillChanges fills the status of the gateways that are there. When it cannot be
// read now, the change is told without it.
func (s *Store) fillChanges(ctx context.Context, list []store.Change[*leaseholdv1.Gateway]) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var gateways []*leaseholdv1.Gateway
	for _, c := range list {
		if c.Type == leaseholdv1.ChangeType_CHANGE_TYPE_PUT {
			gateways = append(gateways, c.Resource)
		}
	}
	if err := s.fillStatus(ctx, gateways...); err != nil && ctx.Err() == nil {
		s.log.Warn("watched gateways are told without their status", "error", err)
	}
}

// WatchSessions is WatchGateways for live sessions. One that ended is told as
// removed, with its end.
func (s *Store) WatchSessions(ctx context.Context, revision int64, f session.Filter, send func(store.Change[*leaseholdv1.Session]) error) error {
	w := watcher[*leaseholdv1.Session]{
		store:  s,
		prefix: sessionsPrefix,
		send:   send,
		show: func(kv *mvccpb.KeyValue) (*leaseholdv1.Session, bool) {
			key, rec := s.sessionIn(kv)
			if rec == nil || session.Ended(rec) || !f.Matches(key, rec) {
				return nil, false
			}
			return session.Session(key, rec), true
		},
		same: session.Same,
		gone: func(now, before *mvccpb.KeyValue) *leaseholdv1.Session {
			if key, rec := s.sessionIn(now); rec != nil {
				return session.Session(key, rec)
			}
			key, _ := parseSession(sessionsPrefix, string(before.Key))
			return &leaseholdv1.Session{Name: key.Name()}
		},
	}
	if f.Gateway != "" {
		w.prefix += f.Gateway + "/"
	}
	return w.run(ctx, revision)
}

// sessionIn returns the record in kv, nil if there is none that can be used.
func (s *Store) sessionIn(kv *mvccpb.KeyValue) (session.Key, *session.Record) {
	if kv == nil {
		return session.Key{}, nil
	}
	key, ok := parseSession(sessionsPrefix, string(kv.Key))
	rec, err := decodeRecord(kv)
	if !ok || err != nil {
		s.log.Error("cannot use what etcd holds", "key", string(kv.Key), "error", err)
		return key, nil
	}
	return key, rec
}
