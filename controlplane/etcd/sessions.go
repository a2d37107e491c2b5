package etcd

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/leasehold/leasehold/controlplane/session"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// maxScans bounds the reads that one page of sessions takes when most of what
// lies there is not asked for.
const maxScans = 10

// selectiveScan is how much is read at once at least when a page is small but
// not everything is asked for.
const selectiveScan = 200

func scanSize(page int, selective bool) int64 {
	if selective {
		return int64(max(page, selectiveScan))
	}
	return int64(page)
}

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
	if q.Filter.None {
		return nil, last, false, nil
	}
	from, end := bounds(q)
	limit := scanSize(q.Size, q.Filter.Owner != "" || q.Filter.Class != 0)
	more = true
	for scans := 0; more && scans < maxScans && len(page) < q.Size; scans++ {
		resp, err := s.scan(ctx, "list_sessions", from, clientv3.WithRange(end), clientv3.WithLimit(limit))
		if err != nil {
			return nil, last, false, err
		}
		more = resp.More
		for _, kv := range resp.Kvs {
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
			rec, err := decodeRecord(kv)
			if err != nil {
				return nil, last, false, err
			}
			if (q.Ended || !session.Ended(rec)) && q.Filter.Matches(key, rec) {
				page = append(page, session.Session(key, rec))
			}
		}
	}
	return page, last, more, nil
}

func bounds(q session.Query) (from, end string) {
	prefix := sessionsPrefix
	if q.Filter.Gateway != "" {
		prefix += q.Filter.Gateway + "/"
	}
	end = clientv3.GetPrefixRangeEnd(prefix)
	if q.After != (session.Key{}) {
		return sessionKey(q.After) + "\x00", end
	}
	return prefix, end
}
