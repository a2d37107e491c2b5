package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/leasehold/leasehold/controlplane/session"
)

// Claim records a new session and returns the record's revision: there is no
// record, and the owner that rec names is alive.
//
// When the session is recorded exactly like that already, Claim succeeds, so
// that it can be repeated after an unknown outcome. Otherwise it returns
// ErrEnded, ErrHeld or ErrNotAlive.
func (s *Store) Claim(ctx context.Context, key session.Key, rec *session.Record) (int64, error) {
	value, err := encodeProto(session.Opened(rec, time.Now()))
	if err != nil {
		return 0, err
	}
	name := sessionKey(key)
	claim := step{
		when:      []clientv3.Cmp{absent(name), present(memberKey(rec.Worker, rec.Incarnation))},
		then:      []clientv3.Op{clientv3.OpPut(name, value)},
		otherwise: []clientv3.Op{clientv3.OpGet(name)},
	}
	revision, err := s.writes.do(ctx, &write{
		key:  key,
		size: len(value),
		plan: func(*mvccpb.KeyValue) (step, bool, int64, error) { return claim, false, 0, nil },
		verdict: func(own, _ []*etcdserverpb.ResponseOp) (int64, error) {
			stored, revision, err := readRecord(own[0])
			if err != nil {
				return 0, err
			}
			return revision, session.Claimed(stored, rec)
		},
	})
	if err != nil {
		return 0, fmt.Errorf("claim %s: %w", key.Name(), err)
	}
	return revision, nil
}

// Save replaces the record that had revision by rec, and returns the new
// revision. Owner and epoch stay, and the owner is alive. When another revision has rec
// already, it was saved before, and Save returns that revision. Otherwise it returns
// ErrStale, ErrEnded or ErrNotAlive.
func (s *Store) Save(ctx context.Context, key session.Key, revision int64, rec *session.Record) (int64, error) {
	name := sessionKey(key)
	saved, err := s.writes.do(ctx, &write{
		key:   key,
		reads: true,
		size:  proto.Size(rec),
		plan: func(kv *mvccpb.KeyValue) (step, bool, int64, error) {
			stored, err := decodeRecord(kv)
			if err != nil {
				return step{}, true, 0, err
			}
			done, err := session.Save(stored, modRevision(kv) == revision || noCompareAndSwap, rec)
			if done || err != nil {
				return step{}, true, modRevision(kv), err
			}
			value, err := encodeProto(session.Saved(stored, rec))
			guards := []clientv3.Cmp{present(memberKey(rec.Worker, rec.Incarnation))}
			if !noCompareAndSwap {
				guards = append(guards, unchanged(name, revision))
			}
			return step{
				when:      guards,
				then:      []clientv3.Op{clientv3.OpPut(name, value)},
				otherwise: []clientv3.Op{clientv3.OpGet(name)},
			}, false, 0, err
		},
		verdict: func(own, _ []*etcdserverpb.ResponseOp) (int64, error) {
			stored, now, err := readRecord(own[0])
			if err != nil {
				return 0, err
			}
			if done, err := session.Save(stored, now == revision, rec); done || err != nil {
				return now, err
			}
			return 0, session.ErrNotAlive
		},
	})
	if err != nil {
		return 0, fmt.Errorf("save %s: %w", key.Name(), err)
	}
	return saved, nil
}

// End puts a tombstone in the place of the record, or where there is none, and
// forgets an operator's wish to end the session. It returns the tombstone's
// revision, also when the session had ended before. It returns ErrStale when
// another owner has the session.
func (s *Store) End(ctx context.Context, key session.Key, end session.End) (int64, error) {
	for {
		revision, err := s.writes.do(ctx, &write{
			key:     key,
			reads:   true,
			size:    sessionSize,
			plan:    func(kv *mvccpb.KeyValue) (step, bool, int64, error) { return planEnd(key, kv, end) },
			verdict: func(_, _ []*etcdserverpb.ResponseOp) (int64, error) { return 0, errChanged },
		})
		switch {
		case err == nil:
			return revision, nil
		case !errors.Is(err, errChanged):
			return 0, fmt.Errorf("end %s: %w", key.Name(), err)
		}
	}
}

// errChanged says that the record changed between reading and writing: the end
// is decided anew.
var errChanged = errors.New("record changed meanwhile")

// sessionSize is about what a record without bulky capabilities takes.
const sessionSize = 4096

func planEnd(key session.Key, kv *mvccpb.KeyValue, end session.End) (step, bool, int64, error) {
	stored, err := decodeRecord(kv)
	if err != nil {
		return step{}, true, 0, err
	}
	tomb, err := end.Tombstone(stored)
	if err != nil || tomb == nil {
		return step{}, true, modRevision(kv), err
	}
	value, err := encodeProto(tomb)
	if err != nil {
		return step{}, true, 0, err
	}
	then := []clientv3.Op{
		clientv3.OpPut(sessionKey(key), value),
		clientv3.OpPut(endedKey(key), unixText(tomb.ExpireTime.AsTime().Add(tombstoneGrace))),
		clientv3.OpDelete(endingKey(key)),
	}
	if endDeletes {
		then = []clientv3.Op{clientv3.OpDelete(sessionKey(key)), clientv3.OpDelete(endingKey(key))}
	}
	return step{when: []clientv3.Cmp{unchanged(sessionKey(key), modRevision(kv))}, then: then}, false, 0, nil
}

// tombstoneGrace is how long a tombstone outlives its session's expire time: a
// claim that is still under way then must find it.
const tombstoneGrace = 24 * time.Hour

// readRecord returns the record that a get in a transaction found, nil for none.
func readRecord(op *etcdserverpb.ResponseOp) (*session.Record, int64, error) {
	kv := first(op.GetResponseRange().GetKvs())
	rec, err := decodeRecord(kv)
	return rec, modRevision(kv), err
}

func modRevision(kv *mvccpb.KeyValue) int64 {
	if kv == nil {
		return 0
	}
	return kv.ModRevision
}
