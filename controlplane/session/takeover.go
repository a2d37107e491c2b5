package session

import (
	"slices"
	"time"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Peer names one registration of a worker.
type Peer struct {
	// Worker is the worker's id.
	Worker string
	// Incarnation is the revision at which it registered.
	Incarnation int64
}

// Takeover is what is known of an owner without a lease, whose sessions somebody wants
// to take over. It may still run: a worker serves on without the control plane while all
// whom it is recorded to know tell it that they could not have taken anything from it. So
// those may take its sessions, whom it asks, and others only if it cannot serve on.
type Takeover struct {
	// Superseded says that it registered anew, left, was forgotten, or was collected:
	// it certainly never acts again. That never becomes false.
	Superseded bool
	// Knows are those whom it is recorded to know, in the revision that the taker's
	// transaction compares.
	Knows []Peer
	// PeerSuperseded says that one of those left or registered anew, longer ago than
	// PermitLasts, and so cannot answer it, nor counts what it answered before.
	PeerSuperseded bool
	// DeadFor is for how long it was seen to be dead without a break.
	DeadFor time.Duration
	// MaxOutage is for how long a worker may serve on; 0 means not at all.
	MaxOutage time.Duration
	// TTL is the workers' lease.
	TTL time.Duration
}

// Open returns why everybody may take over, and unspecified if not everybody may.
func (t Takeover) Open() leaseholdv1.TakeoverRule {
	switch {
	case t.Superseded:
		return leaseholdv1.TakeoverRule_TAKEOVER_RULE_SUPERSEDED
	case len(t.Knows) == 0:
		return leaseholdv1.TakeoverRule_TAKEOVER_RULE_ALONE
	case t.PeerSuperseded:
		return leaseholdv1.TakeoverRule_TAKEOVER_RULE_PEER_SUPERSEDED
	case t.MaxOutage == 0 || t.DeadFor > ServesOn(t.MaxOutage, t.TTL):
		return leaseholdv1.TakeoverRule_TAKEOVER_RULE_EXPIRED
	}
	return leaseholdv1.TakeoverRule_TAKEOVER_RULE_UNSPECIFIED
}

// By returns why taker may take over, and waiting if it may not. How long the owner was
// dead, which may turn out to be wrong, is looked at last.
func (t Takeover) By(taker Peer) leaseholdv1.TakeoverRule {
	rule := t.Open()
	expired := rule == leaseholdv1.TakeoverRule_TAKEOVER_RULE_EXPIRED
	switch {
	case rule != leaseholdv1.TakeoverRule_TAKEOVER_RULE_UNSPECIFIED && !expired:
		return rule
	case slices.Contains(t.Knows, taker):
		return leaseholdv1.TakeoverRule_TAKEOVER_RULE_LISTED
	case expired:
		return rule
	}
	return leaseholdv1.TakeoverRule_TAKEOVER_RULE_WAITING
}

// driftPart is the part of a time by which two clocks may differ after it.
const driftPart = 64

// PermitLasts returns for how long a worker serves on at most after another one was
// asked: its permits last a third of a lease.
func PermitLasts(ttl time.Duration) time.Duration {
	permit := ttl / 3
	return permit + permit/driftPart
}

// ServesOn returns the longest time after its death was seen that a worker can act by
// itself: until its lease has ended by its own clock, and maxOutage after that.
func ServesOn(maxOutage, ttl time.Duration) time.Duration {
	return maxOutage + maxOutage/driftPart + ttl
}
