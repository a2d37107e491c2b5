package store

import (
	"cmp"
	"slices"
	"time"

	"github.com/leasehold/leasehold/controlplane/session"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Snapshot is everything that workers are told, at one revision. It and what it
// points to are never changed after it was handed out: a newer Snapshot shares
// the maps that did not change, so comparing two is cheap.
type Snapshot struct {
	// Revision is the store's revision; everything up to it is included.
	Revision int64
	// Gateways are the definitions by id, with status.revision filled.
	Gateways *Table[string, *leaseholdv1.Gateway]
	// Unusable are the gateways that are there, but of which no definition can be used
	// by this replica, and why, by id. None of them is among Gateways.
	Unusable *Table[string, string]
	// Members are the incarnations that are alive.
	Members *Table[MemberKey, Member]
	// Endings are the sessions that an operator wants ended.
	Endings *Table[EndingKey, *leaseholdv1.Ending]
	// Ring is the sealed key ring; nil until it was made.
	Ring *SealedRing
}

// Table is one kind of entry of a Snapshot. Two snapshots have the same pointer
// exactly when nothing of the kind changed between them.
type Table[K comparable, V any] struct {
	// Entries must not be changed.
	Entries map[K]V
}

// SealedRing is the key ring as it is stored.
type SealedRing struct {
	// Revision is the revision at which it was written.
	Revision int64
	// Sealed is the wrapped ring.
	Sealed []byte
}

// RingState is the key ring and the workers that are alive, read at one revision.
type RingState struct {
	// Revision is the revision at which both were read.
	Revision int64
	// Ring is the sealed key ring.
	Ring *SealedRing
	// Members are the incarnations that are alive.
	Members []Member
}

// Everywhere reports whether every living worker has applied the ring.
func (s *RingState) Everywhere() bool {
	return !slices.ContainsFunc(s.Members, func(m Member) bool { return m.AppliedRevision < s.Ring.Revision })
}

// MemberKey names one registration of a worker.
type MemberKey = session.Peer

// Member is a worker that is alive.
type Member struct {
	MemberKey
	// Info is what the worker says of itself.
	Info *leaseholdv1.WorkerInfo
	// AppliedRevision is the newest revision that it acknowledged, but for Rejections.
	AppliedRevision int64
	// Rejections are the gateways whose newest definition it cannot apply.
	Rejections []Rejection
	// RegisterTime is when the incarnation registered.
	RegisterTime time.Time
}

// EndingKey names a session that an operator wants ended.
type EndingKey struct {
	// Gateway is the gateway's id.
	Gateway string
	// Session is the session's digest.
	Session string
}

// Newest returns the living members ordered by worker id, one for each worker:
// for a moment after a worker registered anew, both of its incarnations are
// alive, and the newer one is what counts.
func Newest(members *Table[MemberKey, Member]) []Member {
	byWorker := make(map[string]Member, len(members.Entries))
	for key, m := range members.Entries {
		if old, ok := byWorker[key.Worker]; !ok || old.Incarnation < key.Incarnation {
			byWorker[key.Worker] = m
		}
	}
	list := make([]Member, 0, len(byWorker))
	for _, m := range byWorker {
		list = append(list, m)
	}
	slices.SortFunc(list, func(a, b Member) int { return cmp.Compare(a.Worker, b.Worker) })
	return list
}

// Proto returns the member as workers are told of it.
func (m Member) Proto() *leaseholdv1.Member {
	return &leaseholdv1.Member{Worker: m.Worker, Incarnation: m.Incarnation, Info: m.Info}
}
