package session

import (
	"slices"
	"time"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// ReturnTime is how long an owner that is gone may take to come back before
// anything of its is ended: one that was merely cut off re-adopts its incarnation
// within seconds of its being able to.
const ReturnTime = 5 * time.Second

// Orphan is a live session whose owner is dead.
type Orphan struct {
	// Key names the session.
	Key Key
	// Revision is the record's.
	Revision int64
	// Worker and Incarnation are the owner.
	Worker      string
	Incarnation int64
	// Died is when the owner was first seen to be dead.
	Died time.Time
	// Expire is when the session ends at the latest; zero if it is not known.
	Expire time.Time

	due    time.Time
	reason leaseholdv1.EndReason
}

// Owner returns the dead owner.
func (o Orphan) Owner() Peer { return Peer{o.Worker, o.Incarnation} }

// Policy is what a gateway says of its sessions.
type Policy struct {
	// Exists says that there is such a gateway.
	Exists bool
	// IdleTimeout is how long a session lives without use.
	IdleTimeout time.Duration
}

// Due returns when the orphan is to be ended if nobody asks for it, and why: its
// last use was before its owner died. Of one whose gateway is gone, or whose time
// is over, that is as soon as its owner can no longer be expected back.
func (o Orphan) Due(p Policy) (time.Time, leaseholdv1.EndReason) {
	back := o.Died.Add(ReturnTime)
	if !p.Exists {
		return back, leaseholdv1.EndReason_END_REASON_GATEWAY_DELETED
	}
	due, reason := o.Died.Add(p.IdleTimeout), leaseholdv1.EndReason_END_REASON_IDLE
	if !o.Expire.IsZero() && o.Expire.Before(due) {
		due, reason = o.Expire, leaseholdv1.EndReason_END_REASON_EXPIRED
	}
	if due.Before(back) {
		due = back
	}
	return due, reason
}

// Reason returns why the orphan is ended when it is due.
func (o Orphan) Reason() leaseholdv1.EndReason { return o.reason }

// Orphans are orphans in the order in which they are due. It keeps a bounded
// number of them, and of the others knows when the first was due. It is not safe
// to call from several goroutines.
type Orphans struct {
	most int
	list []Orphan
	// dropped is when the first of those is due that found no room; zero for none.
	dropped time.Time
}

// NewOrphans returns an empty one that keeps at most the given number.
func NewOrphans(most int) *Orphans { return &Orphans{most: most} }

// Add adds an orphan of a gateway with this policy. It has its place in the order
// after the next call of Schedule.
func (o *Orphans) Add(one Orphan, p Policy) {
	one.due, one.reason = one.Due(p)
	o.list = append(o.list, one)
	if len(o.list) >= 2*o.most {
		o.sort()
	}
}

// Schedule decides anew when each is due. The policies are those by gateway id.
func (o *Orphans) Schedule(policy func(gateway string) Policy) {
	for i := range o.list {
		one := &o.list[i]
		one.due, one.reason = one.Due(policy(one.Key.Gateway))
	}
	o.sort()
}

// sort puts the orphans in order and drops those for which there is no room.
func (o *Orphans) sort() {
	slices.SortFunc(o.list, func(a, b Orphan) int { return a.due.Compare(b.due) })
	if len(o.list) <= o.most {
		return
	}
	if first := o.list[o.most].due; o.dropped.IsZero() || first.Before(o.dropped) {
		o.dropped = first
	}
	clear(o.list[o.most:])
	o.list = o.list[:o.most]
}

// Forget removes the orphans of an incarnation that came back.
func (o *Orphans) Forget(worker string, incarnation int64) {
	o.list = slices.DeleteFunc(o.list, func(one Orphan) bool { return one.Worker == worker && one.Incarnation == incarnation })
}

// Postpone puts off the ends of orphans of these owners that are due before t. Schedule
// forgets that.
func (o *Orphans) Postpone(owners map[Peer]bool, t time.Time) {
	for i := range o.list {
		if one := &o.list[i]; owners[one.Owner()] && one.due.Before(t) {
			one.due = t
		}
	}
	o.sort()
}

// Due returns up to most orphans that are due now, those that have been for
// longest first. They stay until they are taken off with Done.
func (o *Orphans) Due(now time.Time, most int) []Orphan {
	n := 0
	for n < min(most, len(o.list)) && !now.Before(o.list[n].due) {
		n++
	}
	return o.list[:n:n]
}

// Done takes off the first n.
func (o *Orphans) Done(n int) { o.list = o.list[n:] }

// Complete reports whether all orphans found room that are due by now: otherwise
// what there is must be read again.
func (o *Orphans) Complete(now time.Time) bool {
	return o.dropped.IsZero() || now.Before(o.dropped)
}

// Partial reports whether some orphan found no room.
func (o *Orphans) Partial() bool { return !o.dropped.IsZero() }
