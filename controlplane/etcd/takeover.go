package etcd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/singleflight"

	"github.com/leasehold/leasehold/controlplane/session"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

const (
	// askPeersEvery is how often it is read at most whether somebody is superseded whom
	// a dead owner knows. That nobody is may be old: then a reclaim is refused in vain.
	askPeersEvery = time.Second
	// maxDeadOwners bounds the dead owners that a replica remembers. Forgetting one
	// costs a read.
	maxDeadOwners = 1024
	// maxSilent bounds the superseded peers that it remembers. Forgetting them costs a
	// few seconds.
	maxSilent = 16_384
)

// takeovers is what this replica knows of dead owners: their incarnations/{worker}, each
// good for the revision that it has, which the reclaims compare. When a worker dies there
// is a reclaim for each of its sessions, and they all need the same. It is safe for
// concurrent use.
type takeovers struct {
	mu     sync.Mutex                 // guards what follows
	owners map[string]*deadOwner      // by worker id
	over   map[session.Peer]time.Time // since when peers are known to be superseded

	reading singleflight.Group // by worker id
}

type deadOwner struct {
	revision int64 // of the key; 0 when there is none
	value    incarnationValue
	// asked is when it was last read whether one of its peers is superseded, zero for
	// never; peerSuperseded, that one is for so long that no word of it counts any more,
	// never becomes false.
	asked          time.Time
	peerSuperseded bool
}

// get returns a copy of what is known of a worker's incarnation.
func (k *takeovers) get(worker string) (deadOwner, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	o := k.owners[worker]
	if o == nil {
		return deadOwner{}, false
	}
	return *o, true
}

// note keeps what was read of incarnations/{worker}; nil for nothing.
func (k *takeovers) note(worker string, kv *mvccpb.KeyValue) error {
	o := &deadOwner{revision: modRevision(kv)}
	if kv != nil {
		var err error
		if o.value, err = decodeIncarnation(kv); err != nil {
			return err
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if old := k.owners[worker]; old != nil && old.revision == o.revision {
		return nil
	}
	if k.owners == nil || len(k.owners) >= maxDeadOwners {
		k.owners = make(map[string]*deadOwner)
	}
	k.owners[worker] = o
	return nil
}

// notePeers keeps whether one is superseded whom the worker knows at a revision.
func (k *takeovers) notePeers(worker string, revision int64, superseded bool, now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if o := k.owners[worker]; o != nil && o.revision == revision {
		o.asked, o.peerSuperseded = now, o.peerSuperseded || superseded
	}
}

// silent notes peers that are superseded, and reports whether one has been for so long
// that no permit is left which its word is a part of: until it left or registered anew,
// it may have said that it takes nothing over.
func (k *takeovers) silent(superseded []session.Peer, now time.Time, silence time.Duration) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.over == nil || len(k.over) > maxSilent {
		k.over = make(map[session.Peer]time.Time)
	}
	long := false
	for _, p := range superseded {
		since, ok := k.over[p]
		if !ok {
			since, k.over[p] = now, now
		}
		long = long || now.Sub(since) >= silence
	}
	return long
}

// unjudgedError says that something has to be read before a takeover is judged.
type unjudgedError struct{ owner session.Peer }

// Error names the owner.
func (e *unjudgedError) Error() string {
	return fmt.Sprintf("not known yet who may take over from %s", e.owner.Worker)
}

// verdict is a takeover that is allowed, if the guard holds too, which has that name.
type verdict struct {
	guard []clientv3.Cmp
	name  string
}

// judge decides whether t may take over from a dead owner, from memory: an unjudgedError
// says that learn must be called before, and the same asked again with learned set. It
// returns ErrStale, ErrOwnerUncertain or ErrHolding.
func (s *Store) judge(owner session.Peer, t session.Taker, learned bool) (verdict, error) {
	o, known := s.takeovers.get(owner.Worker)
	switch {
	case known && (o.revision == t.IncarnationRevision || noDeadOwnerGuard || noCompareAndSwap):
	case known && (learned || t.IncarnationRevision != 0 && o.revision > t.IncarnationRevision):
		return verdict{}, session.ErrStale
	default:
		return verdict{}, &unjudgedError{owner}
	}
	facts, mark := s.facts(owner, o)
	rule := facts.By(t.Peer())
	if noMayTake && rule == leaseholdv1.TakeoverRule_TAKEOVER_RULE_WAITING {
		rule = leaseholdv1.TakeoverRule_TAKEOVER_RULE_LISTED
	}
	superseded := rule == leaseholdv1.TakeoverRule_TAKEOVER_RULE_SUPERSEDED
	switch {
	case superseded:
		return verdict{}, nil
	case t.SupersededOnly:
		return verdict{}, session.ErrOwnerUncertain
	case rule == leaseholdv1.TakeoverRule_TAKEOVER_RULE_WAITING && !learned && s.askPeers(o):
		return verdict{}, &unjudgedError{owner}
	case rule == leaseholdv1.TakeoverRule_TAKEOVER_RULE_WAITING:
		if mark == 0 {
			s.deaths.miss(owner)
		}
		return verdict{}, session.ErrOwnerUncertain
	case s.contact.held() > 0:
		return verdict{}, session.ErrHolding
	}
	return s.expiryGuard(owner, rule, mark), nil
}

// expiryGuard is what proves that an owner was dead for as long as was seen, if that is
// why it may be taken over from.
func (s *Store) expiryGuard(owner session.Peer, rule leaseholdv1.TakeoverRule, mark int64) verdict {
	if rule != leaseholdv1.TakeoverRule_TAKEOVER_RULE_EXPIRED || s.outage == 0 {
		return verdict{}
	}
	dead := deadKey(owner.Worker, owner.Incarnation)
	return verdict{guard: []clientv3.Cmp{unchanged(dead, mark)}, name: fmt.Sprintf("dead at %d", mark)}
}

// facts are what is known of an owner, and the revision of the mark that says that it
// is dead.
func (s *Store) facts(owner session.Peer, o deadOwner) (session.Takeover, int64) {
	age, mark := s.deaths.age(owner)
	return session.Takeover{
		Superseded:     o.value.superseded(o.revision, owner.Incarnation),
		Knows:          o.value.Peers,
		PeerSuperseded: o.peerSuperseded,
		DeadFor:        age,
		MaxOutage:      s.outage,
		TTL:            s.ttl,
	}, mark
}

// askPeers reports whether it is time to read the peers of an owner.
func (s *Store) askPeers(o deadOwner) bool {
	return o.asked.IsZero() || s.contact.now().Sub(o.asked) >= askPeersEvery
}

// mayTake is judge with what has to be read for it.
func (s *Store) mayTake(ctx context.Context, owner session.Peer, t session.Taker) (verdict, error) {
	for learned := false; ; learned = true {
		may, err := s.judge(owner, t, learned)
		var unjudged *unjudgedError
		if !errors.As(err, &unjudged) {
			return may, err
		}
		if err := s.learn(ctx, owner); err != nil {
			return verdict{}, err
		}
	}
}

// learn reads what judge needs. Those who ask at the same time share it.
func (s *Store) learn(ctx context.Context, owner session.Peer) error {
	_, err, _ := s.takeovers.reading.Do(owner.Worker, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), batchTimeout)
		defer cancel()
		return nil, s.readOwner(ctx, owner)
	})
	return unanswered(err)
}

func (s *Store) readOwner(ctx context.Context, owner session.Peer) error {
	read, err := s.get(ctx, "takeover", incarnationKey(owner.Worker))
	if err != nil {
		return err
	}
	if err := s.takeovers.note(owner.Worker, first(read.Kvs)); err != nil {
		return err
	}
	o, ok := s.takeovers.get(owner.Worker)
	facts, _ := s.facts(owner, o)
	if !ok || facts.Open() != leaseholdv1.TakeoverRule_TAKEOVER_RULE_UNSPECIFIED || !s.askPeers(o) {
		return nil
	}
	now := s.contact.now()
	superseded, err := s.superseded(ctx, o.value.Peers)
	if err == nil {
		s.takeovers.notePeers(owner.Worker, o.revision, s.takeovers.silent(superseded, now, s.muted), now)
	}
	return err
}

// superseded returns those of the peers that left or registered anew, and so answer
// nobody any more under that incarnation. One of which nothing is known any more was
// condemned once, and may run without knowing it: it answers still.
func (s *Store) superseded(ctx context.Context, peers []session.Peer) (over []session.Peer, err error) {
	states, err := s.readPeers(ctx, "takeover", peers)
	for i, p := range states {
		if p.superseded && p.revision != 0 {
			over = append(over, peers[i])
		}
	}
	return over, err
}

// peerState is what the store has of an incarnation that somebody knows.
type peerState struct {
	revision   int64 // of incarnations/{worker}; 0 when there is none
	value      incarnationValue
	superseded bool
	condemned  bool
}

// peersPerRead is how many peers are read in one transaction, with two keys each.
const peersPerRead = maxGets / 2

// readPeers reads the states of peers, each of one revision.
func (s *Store) readPeers(ctx context.Context, op string, peers []session.Peer) ([]peerState, error) {
	states := make([]peerState, 0, len(peers))
	for some := range slices.Chunk(peers, peersPerRead) {
		var gets []clientv3.Op
		for _, p := range some {
			gets = append(gets, clientv3.OpGet(incarnationKey(p.Worker)), clientv3.OpGet(condemnedKey(p.Worker, p.Incarnation), clientv3.WithCountOnly()))
		}
		resp, err := s.txn(ctx, op, nil, gets, nil)
		if err != nil {
			return nil, err
		}
		for i, p := range some {
			state := peerState{condemned: resp.Responses[2*i+1].GetResponseRange().Count > 0}
			if kv := first(resp.Responses[2*i].GetResponseRange().Kvs); kv != nil {
				state.revision = kv.ModRevision
				if state.value, err = decodeIncarnation(kv); err != nil {
					return nil, err
				}
			}
			state.superseded = state.value.superseded(state.revision, p.Incarnation)
			states = append(states, state)
		}
	}
	return states, nil
}
