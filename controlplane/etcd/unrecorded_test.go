package etcd

import (
	"errors"
	"testing"

	"github.com/leasehold/leasehold/controlplane/session"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// H9: before it is said that a session without a record is over, it is made so.
func TestASessionWithoutARecordIsOverOnceItsOpenerCannotRecordIt(t *testing.T) {
	tests := []struct {
		name   string
		before func(t *testing.T, r *replica, opener, other alive)
		want   error // nil: its opener has it
	}{
		{"its opener is alive", func(*testing.T, *replica, alive, alive) {}, nil},
		{"its opener is dead", func(t *testing.T, r *replica, opener, _ alive) { opener.kill(t, r.Store) }, session.ErrOwnerUncertain},
		{"its opener left", func(t *testing.T, r *replica, opener, _ alive) { opener.leave(t, r.Store) }, session.ErrNotFound},
		{"its opener registered anew", func(t *testing.T, r *replica, opener, _ alive) {
			opener.kill(t, r.Store)
			opener.again(t, r.Store)
		}, session.ErrNotFound},
		{"its opener was collected", func(t *testing.T, r *replica, opener, _ alive) {
			opener.kill(t, r.Store)
			if _, err := r.client.Delete(testContext(t), incarnationKey(opener.id)); err != nil {
				t.Fatal(err)
			}
		}, session.ErrNotFound},
		{"its opener was condemned", func(t *testing.T, r *replica, opener, other alive) {
			opener.kill(t, r.Store)
			if _, err := r.RecordPeers(testContext(t), other.key(), 0, nil, peersOf(opener)); err != nil {
				t.Fatal(err)
			}
		}, session.ErrNotFound},
		{"its opener may still serve on", func(t *testing.T, r *replica, opener, _ alive) {
			opener.kill(t, r.Store)
			r.seeDeaths(t)
			r.pass(session.ServesOn(testOutage, testTTL))
		}, session.ErrOwnerUncertain},
		{"its opener cannot serve on any more", func(t *testing.T, r *replica, opener, _ alive) {
			opener.kill(t, r.Store)
			r.seeDeaths(t)
			r.pass(session.ServesOn(testOutage, testTTL) + 1)
		}, session.ErrNotFound},
		{"its opener cannot, and the replica holds", func(t *testing.T, r *replica, opener, _ alive) {
			opener.kill(t, r.Store)
			r.seeDeaths(t)
			r.pass(session.ServesOn(testOutage, testTTL) + 1)
			r.contact.mu.Lock()
			defer r.contact.mu.Unlock()
			r.contact.until = r.clock.now().Add(1)
		}, session.ErrOwnerUncertain},
		{"its opener was back meanwhile, which this replica missed", func(t *testing.T, r *replica, opener, _ alive) {
			opener.kill(t, r.Store)
			r.seeDeaths(t)
			opener.readopt(t, r.Store).kill(t, r.Store)
			r.pass(session.ServesOn(testOutage, testTTL) + 1)
		}, session.ErrOwnerUncertain},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newReplica(t)
			opener, other, key := register(t, r.Store), register(t, r.Store), newSession()
			tt.before(t, r, opener, other)
			res, err := r.ResolveUnrecorded(testContext(t), key, opener.key())
			if !errors.Is(err, tt.want) {
				t.Fatalf("resolve: %v, %v; want %v", res, err, tt.want)
			}
			if over := exists(t, r.Store, sessionKey(key)); over != (tt.want == session.ErrNotFound) {
				t.Errorf("a tombstone is there: %v, want %v", over, tt.want == session.ErrNotFound)
			}
			switch tt.want {
			case nil:
				if res.Record != nil || res.Owner.GetIncarnation() != opener.incarnation || res.Owner.GetInfo().GetZone() != "here" {
					t.Errorf("resolved %v, want no record, and its opener as the owner", res)
				}
			case session.ErrNotFound:
				if _, err := r.Claim(testContext(t), key, opener.record()); !errors.Is(err, session.ErrEnded) {
					t.Errorf("a late claim: %v, want ErrEnded", err)
				}
				got, err := r.GetSession(testContext(t), key)
				if err != nil || got.End.GetReason() != leaseholdv1.EndReason_END_REASON_OWNER_LOST || !exists(t, r.Store, endedKey(key)) {
					t.Errorf("session: %v, %v; want that its owner was lost, and that it is collected", got, err)
				}
			}
		})
	}
}

// Between what is read of the opener and the tombstone.
func TestASessionThatIsRecordedMeanwhileIsNotOver(t *testing.T) {
	for name, meanwhile := range map[string]func(t *testing.T, s *Store, opener alive, key session.Key) (recorded bool){
		"it is claimed": func(t *testing.T, s *Store, opener alive, key session.Key) bool {
			opener.readopt(t, s).claim(t, s, key)
			return true
		},
		"its opener came back": func(t *testing.T, s *Store, opener alive, _ session.Key) bool {
			opener.readopt(t, s)
			return false
		},
	} {
		r, slow := newReplica(t), newReplica(t)
		opener, key := register(t, r.Store), newSession()
		opener.kill(t, r.Store)
		slow.seeDeaths(t)
		slow.pass(session.ServesOn(testOutage, testTTL) + 1)
		recorded := false
		slow.client.KV = &interrupted{KV: slow.client.KV, before: 2, run: func() { recorded = meanwhile(t, r.Store, opener, key) }}
		res, err := slow.ResolveUnrecorded(testContext(t), key, opener.key())
		if err != nil || res.Owner.GetWorker() != opener.id || (res.Record != nil) != recorded || session.Ended(res.Record) {
			t.Errorf("%s: resolved %v, %v; want its opener, alive", name, res, err)
		}
	}
}

func TestResolveSaysThatAnOwnerIsSuperseded(t *testing.T) {
	s := newStore(t)
	for name, tt := range map[string]struct {
		over func(alive)
		want bool
	}{
		"alive":           {func(alive) {}, false},
		"dead":            {func(w alive) { w.kill(t, s) }, false},
		"left":            {func(w alive) { w.leave(t, s) }, true},
		"registered anew": {func(w alive) { w.again(t, s) }, true},
	} {
		w, key := register(t, s), newSession()
		w.knows(t, s, register(t, s)) // which changes the key's revision and not the incarnation
		w.claim(t, s, key)
		tt.over(w)
		if got := resolve(t, s, key).OwnerSuperseded; got != tt.want {
			t.Errorf("%s: superseded %v, want %v", name, got, tt.want)
		}
	}
}
