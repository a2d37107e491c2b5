package etcd

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/leasehold/leasehold/controlplane/session"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// maxScans bounds the reads that one page of sessions takes when most of what
// lies there has ended and is not asked for.
const maxScans = 10

// GetSession returns a session, live or ended, or ErrNotFound.
func (s *Store) GetSession(ctx context.Context, key session.Key) (*leaseholdv1.Session, error) {
	resp, err := s.get(ctx, "get_session", sessionKey(key))
	if err != nil {
		return nil, err
	}
	if len(resp.Kvs) == 0 {
		return nil, fmt.Errorf("get %s: %w", key.Name(), session.ErrNotFound)
	}
	rec, err := decodeRecord(resp.Kvs[0])
	if err != nil {
		return nil, err
	}
	return session.Session(key, rec), nil
}

// ListSessions returns a page of sessions ordered by name, and whether more may
// follow after the returned key. It reads no more than a few pages of records,
// whatever their number, and may therefore return fewer than asked for.
func (s *Store) ListSessions(ctx context.Context, q session.Query) (page []*leaseholdv1.Session, last session.Key, more bool, err error) {
	from, end := bounds(q)
	more = true
	for scans := 0; more && scans < maxScans && len(page) < q.Size; scans++ {
		resp, err := s.get(ctx, "list_sessions", from, clientv3.WithRange(end), clientv3.WithLimit(int64(q.Size)))
		if err != nil {
			return nil, last, false, err
		}
		more = resp.More
		for i, kv := range resp.Kvs {
			if len(page) == q.Size {
				more = true
				break
			}
			from = string(kv.Key) + "\x00"
			key, ok := parseSession(sessionsPrefix, string(kv.Key))
			if !ok {
				s.log.Warn("not a session's key", "key", string(kv.Key))
				continue
			}
			last = key
			rec, err := decodeRecord(resp.Kvs[i])
			if err != nil {
				return nil, last, false, err
			}
			if q.Ended || !session.Ended(rec) {
				page = append(page, session.Session(key, rec))
			}
		}
	}
	return page, last, more, nil
}

func bounds(q session.Query) (from, end string) {
	prefix := sessionsPrefix
	if q.Gateway != "" {
		prefix += q.Gateway + "/"
	}
	end = clientv3.GetPrefixRangeEnd(prefix)
	if q.After != (session.Key{}) {
		return sessionKey(q.After) + "\x00", end
	}
	return prefix, end
}
