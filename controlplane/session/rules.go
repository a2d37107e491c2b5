package session

import (
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// FirstEpoch is the epoch of a session's first owner.
const FirstEpoch = 1

// longestLife is how long a tombstone is kept when nobody knows when the session
// would have expired: no gateway lets a session live longer.
const longestLife = 30 * 24 * time.Hour

// Record is what the store keeps of a session.
type Record = leaseholdv1.SessionRecord

// OwnedBy reports whether r names this incarnation of worker as the owner.
func OwnedBy(r *Record, worker string, incarnation int64) bool {
	return r != nil && r.Worker == worker && r.Incarnation == incarnation
}

// Ended reports whether r is a tombstone.
func Ended(r *Record) bool { return r.GetEnd() != nil }

// Claimed judges a claim that was not granted: stored is the record that is
// there (nil if there is none), want the one that was claimed. It returns nil if
// the claim had been granted before, so that repeating it is safe.
func Claimed(stored, want *Record) error {
	switch {
	case stored == nil:
		return ErrNotAlive
	case Ended(stored):
		return ErrEnded
	case sameButEvents(stored, want):
		return nil
	}
	return ErrHeld
}

// Reclaim returns the record with worker as the next owner from now on. Asked by
// the owner itself it returns stored as it is, and true: the reclaim was granted
// before.
func Reclaim(stored *Record, worker string, incarnation int64, now time.Time) (next *Record, granted bool, err error) {
	switch {
	case stored == nil:
		return nil, false, ErrNotFound
	case Ended(stored):
		return nil, false, ErrEnded
	case OwnedBy(stored, worker, incarnation):
		return stored, true, nil
	}
	next = proto.CloneOf(stored)
	next.Worker, next.Incarnation, next.Epoch = worker, incarnation, stored.Epoch+1
	happened(next, leaseholdv1.SessionEventType_SESSION_EVENT_TYPE_RECLAIMED, now)
	return next, false, nil
}

// Taker is a worker that asks for a session whose owner it believes dead.
type Taker struct {
	// Worker and Incarnation are the asker.
	Worker      string
	Incarnation int64
	// Revision is the record's, and IncarnationRevision that of the owner's
	// incarnations/ key, as Resolve returned them.
	Revision            int64
	IncarnationRevision int64
	// SupersededOnly says that the asker may only take from an owner that is
	// superseded: its contact with the control plane has not lasted long enough.
	SupersededOnly bool
}

// Peer returns the asker.
func (t Taker) Peer() Peer { return Peer{t.Worker, t.Incarnation} }

// ReclaimFacts is what decides a reclaim.
type ReclaimFacts struct {
	// Unchanged says that record and incarnation are those that were read.
	Unchanged bool
	// OwnerAlive says that the recorded owner is alive.
	OwnerAlive bool
	// TakerAlive says that the calling worker is alive.
	TakerAlive bool
	// Expired says that the reclaim rests on how long the owner was dead.
	Expired bool
}

// Refusal says why a reclaim was refused. What the caller must do first comes
// first: read again, then see to its own life, then ask the owner.
func (f ReclaimFacts) Refusal() error {
	switch {
	case !f.Unchanged:
		return ErrStale
	case !f.TakerAlive:
		return ErrNotAlive
	case f.OwnerAlive:
		return ErrOwnerAlive
	case f.Expired: // the owner was back meanwhile
		return ErrOwnerUncertain
	}
	return ErrStale
}

// HandOver is an owner's wish that another worker own a session of its.
type HandOver struct {
	// From is the owner, and To the next one.
	From, To Peer
	// Cursors are the ids of the last events that went to the client, by upstream.
	Cursors map[string]string
}

// Next returns the record with the next owner from now on; seen says that stored has the
// revision that the owner last saw. When the next owner has the session already, it
// returns stored as it is, and true: the hand-over was granted before.
func (h HandOver) Next(stored *Record, seen bool, now time.Time) (next *Record, granted bool, err error) {
	switch {
	case stored == nil:
		return nil, false, ErrStale
	case Ended(stored):
		return nil, false, ErrEnded
	case OwnedBy(stored, h.To.Worker, h.To.Incarnation):
		return stored, true, nil
	case !seen || !OwnedBy(stored, h.From.Worker, h.From.Incarnation):
		return nil, false, ErrStale
	}
	next = proto.CloneOf(stored)
	next.Worker, next.Incarnation, next.Epoch = h.To.Worker, h.To.Incarnation, stored.Epoch+1
	for _, u := range next.Upstreams {
		u.EventCursor = h.Cursors[u.Upstream]
	}
	happened(next, leaseholdv1.SessionEventType_SESSION_EVENT_TYPE_HANDED_OVER, now)
	return next, false, nil
}

// HandOverFacts is what decides a hand-over.
type HandOverFacts struct {
	// Unchanged says that the record is the one that the owner saw.
	Unchanged bool
	// OwnerAlive and TargetAlive say that the owner and the next one are alive.
	OwnerAlive, TargetAlive bool
}

// Refusal says why a hand-over was refused: what the owner must do first comes first.
func (f HandOverFacts) Refusal() error {
	switch {
	case !f.Unchanged:
		return ErrStale
	case !f.OwnerAlive:
		return ErrNotAlive
	case !f.TargetAlive:
		return ErrTargetNotAlive
	}
	return ErrStale
}

// Save judges whether next may replace stored; seen says that stored has the revision
// that the worker last saw. It returns true if next was saved before. What has the
// revision that was seen is replaced even by the same: so a worker can make sure that
// nothing that compares with that revision has any effect any more.
func Save(stored *Record, seen bool, next *Record) (saved bool, err error) {
	switch {
	case stored == nil:
		return false, ErrStale
	case Ended(stored):
		return false, ErrEnded
	case !seen && sameButEvents(stored, next):
		return true, nil
	case !seen || !OwnedBy(stored, next.Worker, next.Incarnation) || stored.Epoch != next.Epoch:
		return false, ErrStale
	}
	return false, nil
}

// End is the wish of an owner to end a session.
type End struct {
	// Worker and Incarnation are the owner.
	Worker      string
	Incarnation int64
	// Reason is why.
	Reason leaseholdv1.EndReason
	// Time is when.
	Time time.Time
	// Expire is until when the session could have lived, for a session that has
	// no record.
	Expire time.Time
}

// Tombstone returns what is to take the place of stored. It returns nil without
// an error if stored is a tombstone already. With no record at all a tombstone
// is made too: it keeps a claim that is still under way from being granted.
func (e End) Tombstone(stored *Record) (*Record, error) {
	end := &leaseholdv1.SessionEnd{Reason: e.Reason, Time: timestamppb.New(e.Time)}
	switch {
	case stored == nil:
		tomb := &Record{Worker: e.Worker, Incarnation: e.Incarnation, ExpireTime: timestamppb.New(e.expire()), End: end}
		happened(tomb, leaseholdv1.SessionEventType_SESSION_EVENT_TYPE_ENDED, e.Time)
		return tomb, nil
	case Ended(stored):
		return nil, nil
	case !OwnedBy(stored, e.Worker, e.Incarnation):
		return nil, ErrStale
	}
	tomb := proto.CloneOf(stored)
	tomb.End = end
	happened(tomb, leaseholdv1.SessionEventType_SESSION_EVENT_TYPE_ENDED, e.Time)
	forget(tomb)
	return tomb, nil
}

func (e End) expire() time.Time {
	latest := e.Time.Add(longestLife)
	if e.Expire.IsZero() || e.Expire.After(latest) {
		return latest
	}
	return e.Expire
}

// forget removes from a tombstone what only a living session needs.
func forget(r *Record) {
	r.ClientCapabilities, r.PrincipalDigest, r.SealedWishes = nil, nil, nil
	for _, u := range r.Upstreams {
		u.SealedSessionId, u.ConnectionFingerprint, u.EventCursor = nil, nil, ""
	}
	if r.ExpireTime == nil {
		r.ExpireTime = timestamppb.New(r.End.Time.AsTime().Add(longestLife))
	}
}

// Session returns the record as operators see it.
func Session(k Key, r *Record) *leaseholdv1.Session {
	s := &leaseholdv1.Session{
		Name:            k.Name(),
		Owner:           WorkerName(r.Worker),
		Incarnation:     r.Incarnation,
		Epoch:           r.Epoch,
		Class:           r.Class,
		ProtocolVersion: r.ProtocolVersion,
		Client:          r.Client,
		CreateTime:      r.CreateTime,
		ExpireTime:      r.ExpireTime,
		End:             r.End,
		Events:          r.Events,
		Durable:         true,
		OutlivesPinned:  r.Merged && !r.Connected && r.Class == leaseholdv1.Class_CLASS_PINNED,
	}
	for _, u := range r.Upstreams {
		s.Upstreams = append(s.Upstreams, &leaseholdv1.UpstreamSession{
			Upstream:        u.Upstream,
			ProtocolVersion: u.ProtocolVersion,
			Class:           u.Class,
			Address:         u.Address,
		})
	}
	return s
}

// Same reports whether operators see the same of two sessions.
func Same(a, b *leaseholdv1.Session) bool { return proto.Equal(a, b) }
