package etcd

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/leasehold/leasehold/controlplane/session"
)

// Forget marks the newest incarnation of a dead worker as left, as Leave does, on an
// operator's word that its process is gone. It succeeds when the worker has left
// already, and returns ErrWorkerAlive or ErrWorkerNotFound.
func (s *Store) Forget(ctx context.Context, worker string) error {
	key := incarnationKey(worker)
	for {
		read, err := s.get(ctx, "forget", key)
		if err != nil {
			return err
		}
		kv := first(read.Kvs)
		if kv == nil {
			return fmt.Errorf("forget %s: %w", worker, session.ErrWorkerNotFound)
		}
		v, err := decodeIncarnation(kv)
		if err != nil || v.Left {
			return err
		}
		v.Left = true
		member := memberKey(worker, v.Incarnation)
		resp, err := s.txn(ctx, "forget",
			[]clientv3.Cmp{unchanged(key, kv.ModRevision), absent(member)},
			[]clientv3.Op{clientv3.OpPut(key, encode(v))},
			[]clientv3.Op{clientv3.OpGet(member, clientv3.WithCountOnly())})
		switch {
		case err != nil || resp.Succeeded:
			return err
		case resp.Responses[0].GetResponseRange().Count > 0:
			return fmt.Errorf("forget %s: %w", worker, session.ErrWorkerAlive)
		}
	}
}
