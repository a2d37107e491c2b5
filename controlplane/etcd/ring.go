package etcd

import (
	"context"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/leasehold/leasehold/controlplane/store"
)

// Ring returns the sealed key ring, and nil when none was made yet.
func (s *Store) Ring(ctx context.Context) (*store.SealedRing, error) {
	resp, err := s.get(ctx, "ring", RingKey)
	if err != nil || len(resp.Kvs) == 0 {
		return nil, err
	}
	return &store.SealedRing{Revision: resp.Kvs[0].ModRevision, Sealed: resp.Kvs[0].Value}, nil
}

// MakeRing stores a sealed key ring unless there is one, and returns the one
// that is there then: of several replicas that start at once, one makes it.
func (s *Store) MakeRing(ctx context.Context, sealed []byte) (*store.SealedRing, error) {
	_, err := s.txn(ctx, "ring", []clientv3.Cmp{absent(RingKey)}, []clientv3.Op{clientv3.OpPut(RingKey, string(sealed))}, nil)
	if err != nil {
		return nil, err
	}
	return s.Ring(ctx)
}

// RingState returns the key ring and who has applied it. It fails with
// store.ErrNoRing if there is none.
func (s *Store) RingState(ctx context.Context) (*store.RingState, error) {
	resp, err := s.readAll(ctx, "ring", []clientv3.Op{clientv3.OpGet(RingKey), clientv3.OpGet(membersPrefix, clientv3.WithPrefix())})
	if err != nil {
		return nil, err
	}
	ring := first(resp.Responses[0].GetResponseRange().Kvs)
	if ring == nil {
		return nil, store.ErrNoRing
	}
	state := &store.RingState{Revision: resp.Header.Revision, Ring: &store.SealedRing{Revision: ring.ModRevision, Sealed: ring.Value}}
	for _, kv := range resp.Responses[1].GetResponseRange().Kvs {
		m, err := decodeMember(kv)
		if err != nil {
			return nil, err
		}
		state.Members = append(state.Members, m)
	}
	return state, nil
}

// ReplaceRing stores a sealed key ring in place of the one that was read, and reports
// whether it did: not if the ring has changed since, nor if a worker has come, which
// may not have what the others have. If it says no after it had to ask again, its own
// first attempt may be what changed the ring.
func (s *Store) ReplaceRing(ctx context.Context, read *store.RingState, sealed []byte) (bool, error) {
	resp, err := s.txn(ctx, "ring",
		[]clientv3.Cmp{unchanged(RingKey, read.Ring.Revision), noneSince(membersPrefix, read.Revision)},
		[]clientv3.Op{clientv3.OpPut(RingKey, string(sealed))}, nil)
	if err != nil {
		return false, err
	}
	return resp.Succeeded, nil
}

const (
	// ringTurn is how often the key ring is looked after.
	ringTurn = time.Second
	// ringWork bounds one turn.
	ringWork = 10 * time.Second
)

// KeepRing has the key ring tended every second at one replica at a time, until ctx
// ends. Only work is at stake when two do: ReplaceRing is guarded.
func (s *Store) KeepRing(ctx context.Context, tend func(context.Context) error) {
	office := office{store: s, key: rotatorKey}
	defer office.leave(ctx)
	failing := false
	for ctx.Err() == nil {
		wait(ctx, ringTurn)
		err := s.ringTurn(ctx, &office, tend)
		if err != nil && !failing && ctx.Err() == nil {
			s.log.Warn("the key ring is not looked after", "error", err)
		}
		failing = err != nil
	}
}

func (s *Store) ringTurn(ctx context.Context, office *office, tend func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, ringWork)
	defer cancel()
	mine, err := office.hold(ctx)
	if err != nil || !mine {
		return err
	}
	return tend(ctx)
}
