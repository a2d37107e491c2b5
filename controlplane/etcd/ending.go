package etcd

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/leasehold/leasehold/controlplane/session"
	"github.com/leasehold/leasehold/controlplane/store"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// WishEnd records an operator's wish that a session end, in a transaction that
// holds only while the session lives: whatever ends the session deletes the wish
// with it, so none is ever left over. It returns the wish's revision, or 0 if
// the session has ended already.
func (s *Store) WishEnd(ctx context.Context, key session.Key, reason leaseholdv1.EndReason) (int64, error) {
	wish, err := encodeProto(&leaseholdv1.Ending{Gateway: key.Gateway, Session: key.Digest, Reason: reason})
	if err != nil {
		return 0, err
	}
	for {
		read, err := s.txn(ctx, "terminate", nil, []clientv3.Op{
			clientv3.OpGet(sessionKey(key)),
			clientv3.OpGet(endingsPrefix, clientv3.WithPrefix(), clientv3.WithCountOnly()),
		}, nil)
		if err != nil {
			return 0, err
		}
		rec, revision, err := readRecord(read.Responses[0])
		switch {
		case err != nil:
			return 0, err
		case rec == nil:
			return 0, fmt.Errorf("terminate %s: %w", key.Name(), session.ErrNotFound)
		case session.Ended(rec):
			return 0, nil
		case read.Responses[1].GetResponseRange().Count >= store.MaxEndings:
			return 0, fmt.Errorf("terminate %s: %w", key.Name(), store.ErrTooManyEndings)
		}
		if at, err := s.wish(ctx, key, wish, revision); err != nil || at > 0 {
			return at, err
		}
	}
}

// wish records a wish if the record is still the one of revision, and returns
// the wish's revision; 0 if it is not.
func (s *Store) wish(ctx context.Context, key session.Key, wish string, revision int64) (int64, error) {
	resp, err := s.txn(ctx, "terminate",
		[]clientv3.Cmp{unchanged(sessionKey(key), revision)},
		[]clientv3.Op{clientv3.OpPut(endingKey(key), wish)}, nil)
	if err != nil || !resp.Succeeded {
		return 0, err
	}
	return resp.Header.Revision, nil
}
