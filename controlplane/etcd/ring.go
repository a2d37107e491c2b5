package etcd

import (
	"context"

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
