package etcd

import (
	"sync"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/leasehold/leasehold/controlplane/session"
)

// maxSeen bounds the bytes of the records that a replica keeps for the reclaims
// that follow: those of some ten thousand sessions.
const maxSeen = 16 << 20

// seenRecords is records of sessions whose owner was found dead: a reclaim of the
// revision that was read then need not read it again, since a revision of a key has
// one content. Safe for concurrent use.
type seenRecords struct {
	mu      sync.Mutex // guards what follows
	records map[session.Key]*mvccpb.KeyValue
	size    int
}

// note keeps a record. When there is no room it forgets all others, which costs a
// read for each.
func (s *seenRecords) note(key session.Key, record *mvccpb.KeyValue) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgetLocked(key)
	if s.records == nil || s.size+bytesOf(record) > maxSeen {
		s.records, s.size = make(map[session.Key]*mvccpb.KeyValue), 0
	}
	s.records[key] = record
	s.size += bytesOf(record)
}

// take returns the record of a revision and forgets it; nil if it is not kept.
func (s *seenRecords) take(key session.Key, revision int64) *mvccpb.KeyValue {
	s.mu.Lock()
	defer s.mu.Unlock()
	record := s.records[key]
	s.forgetLocked(key)
	if record == nil || record.ModRevision != revision {
		return nil
	}
	return record
}

// takeUnlessOwnedBy is take for a reclaim. That t owns the session already must not be
// told by a record that may be old: another may have taken the session since.
func (s *seenRecords) takeUnlessOwnedBy(t session.Taker, key session.Key) *mvccpb.KeyValue {
	record := s.take(key, t.Revision)
	if rec, err := decodeRecord(record); err != nil || session.OwnedBy(rec, t.Worker, t.Incarnation) {
		return nil
	}
	return record
}

func (s *seenRecords) forgetLocked(key session.Key) {
	if old := s.records[key]; old != nil {
		s.size -= bytesOf(old)
		delete(s.records, key)
	}
}

// bytesOf is about what a record takes, its key and its place included.
func bytesOf(record *mvccpb.KeyValue) int { return len(record.Value) + 400 }
