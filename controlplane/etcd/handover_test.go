package etcd

import (
	"errors"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/leasehold/leasehold/controlplane/session"
)

// to is w's wish that another own a session.
func (w alive) to(other alive) session.HandOver {
	return session.HandOver{From: w.key(), To: other.key(), Cursors: map[string]string{"u": "17"}}
}

func TestHandOver(t *testing.T) {
	tests := []struct {
		name   string
		before func(t *testing.T, s *Store, owner, next alive, key session.Key, revision int64)
		want   error
	}{
		{"both are alive", func(*testing.T, *Store, alive, alive, session.Key, int64) {}, nil},
		{"the owner is dead", func(t *testing.T, s *Store, owner, _ alive, _ session.Key, _ int64) { owner.kill(t, s) }, session.ErrNotAlive},
		{"the next one is dead", func(t *testing.T, s *Store, _, next alive, _ session.Key, _ int64) { next.kill(t, s) }, session.ErrTargetNotAlive},
		{"the next one registered anew", func(t *testing.T, s *Store, _, next alive, _ session.Key, _ int64) {
			next.kill(t, s)
			next.again(t, s)
		}, session.ErrTargetNotAlive},
		{"it was saved", func(t *testing.T, s *Store, owner, _ alive, key session.Key, revision int64) {
			rec := owner.record()
			rec.ProtocolVersion = "another"
			if _, err := s.Save(testContext(t), key, revision, rec); err != nil {
				t.Fatal(err)
			}
		}, session.ErrStale},
		{"it ended", func(t *testing.T, s *Store, owner, _ alive, key session.Key, _ int64) { mustEnd(t, s, owner, key) }, session.ErrEnded},
		{"it was taken over", func(t *testing.T, s *Store, owner, _ alive, key session.Key, _ int64) {
			owner.kill(t, s)
			if _, _, err := s.Reclaim(testContext(t), key, register(t, s).taker(resolve(t, s, key))); err != nil {
				t.Fatal(err)
			}
		}, session.ErrStale},
		{"it was handed over to another", func(t *testing.T, s *Store, owner, _ alive, key session.Key, revision int64) {
			if _, _, err := s.HandOver(testContext(t), key, revision, owner.to(register(t, s))); err != nil {
				t.Fatal(err)
			}
		}, session.ErrStale},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newStore(t)
			owner, next, key := register(t, s), register(t, s), newSession()
			revision := owner.claim(t, s, key)
			tt.before(t, s, owner, next, key, revision)
			rec, given, err := s.HandOver(testContext(t), key, revision, owner.to(next))
			if !errors.Is(err, tt.want) {
				t.Fatalf("hand over: %v, want %v", err, tt.want)
			}
			stored := resolve(t, s, key)
			if mine := session.OwnedBy(stored.Record, next.id, next.incarnation); mine != (tt.want == nil) {
				t.Errorf("the next one owns it: %v, want %v", mine, tt.want == nil)
			}
			if tt.want != nil {
				return
			}
			if rec.Epoch != 2 || stored.Revision != given || rec.Upstreams[0].EventCursor != "17" || string(rec.Upstreams[0].SealedSessionId) != "sealed" {
				t.Errorf("record %v at %d, want the next one's with epoch 2, the cursor, and the same upstream session", rec, given)
			}
			if exists(t, s, condemnedKey(owner.id, owner.incarnation)) {
				t.Error("the giver was condemned")
			}
			again, at, err := s.HandOver(testContext(t), key, revision, owner.to(next))
			if err != nil || at != given || again.Epoch != 2 {
				t.Errorf("repeated: %v at %d, %v; want it granted at %d as before", again, at, err, given)
			}
		})
	}
}

// H6: a hand-over whose outcome is unknown is decided by a write, whichever comes first.
func TestALateHandOverIsKilledByASaveAndTheOtherWayRound(t *testing.T) {
	for _, first := range []string{"save", "hand-over"} {
		s, slow := newStore(t), newStore(t)
		owner, next, key := register(t, s), register(t, s), newSession()
		revision := owner.claim(t, s, key)
		rec := owner.record()
		rec.ProtocolVersion = "another"
		save := func(s *Store) error {
			_, err := s.Save(testContext(t), key, revision, rec)
			return err
		}
		give := func(s *Store) error {
			_, _, err := s.HandOver(testContext(t), key, revision, owner.to(next))
			return err
		}
		early, late := save, give
		if first == "hand-over" {
			early, late = give, save
		}
		// What is late has read the record already.
		slow.client.KV = &interrupted{KV: slow.client.KV, before: 2, run: func() {
			if err := early(s); err != nil {
				t.Errorf("%s: %v", first, err)
			}
		}}
		if err := late(slow); !errors.Is(err, session.ErrStale) {
			t.Errorf("%s first: the other says %v, want ErrStale", first, err)
		}
		if given := resolve(t, s, key).Record.Worker == next.id; given != (first == "hand-over") {
			t.Errorf("%s first: it was handed over: %v", first, given)
		}
	}
}

// Whatever is asked of a session at the same time, one of them comes first, and the
// epoch counts the owners.
func TestHandOversRacingReclaimsEndsAndSavesLeaveOneOwner(t *testing.T) {
	stores := []*Store{newStore(t), newStore(t)}
	s := stores[0]
	for range 20 {
		owner, next, other, taker, key := register(t, s), register(t, s), register(t, s), register(t, s), newSession()
		revision := owner.claim(t, s, key)
		ask := taker.taker(resolve(t, s, key))
		ctx := testContext(t)
		errs := make([]error, 5)
		var group sync.WaitGroup
		group.Go(func() { _, _, errs[0] = stores[0].HandOver(ctx, key, revision, owner.to(next)) })
		group.Go(func() { _, _, errs[1] = stores[1].HandOver(ctx, key, revision, owner.to(other)) })
		group.Go(func() {
			owner.kill(t, s)
			_, _, errs[2] = stores[0].Reclaim(ctx, key, ask)
		})
		group.Go(func() {
			rec := owner.record()
			rec.ProtocolVersion = "another"
			_, errs[3] = stores[1].Save(ctx, key, revision, rec)
		})
		group.Go(func() { _, errs[4] = stores[0].End(ctx, key, owner.end()) })
		group.Wait()
		changed, rec := 0, resolve(t, s, key).Record
		for _, i := range []int{0, 1, 2} {
			if errs[i] == nil {
				changed++
			}
		}
		if changed > 1 || rec.Epoch != uint64(1+changed) {
			t.Errorf("%d changes of the owner were granted, %v; the epoch is %d", changed, errs, rec.Epoch)
		}
		want := []alive{next, other, taker}
		for i, w := range want {
			if errs[i] == nil && !session.OwnedBy(rec, w.id, w.incarnation) {
				t.Errorf("granted to %s, and owned by %s", w.id, rec.Worker)
			}
		}
		if errs[4] == nil != session.Ended(rec) {
			t.Errorf("end: %v, and it has ended: %v", errs[4], session.Ended(rec))
		}
	}
}

// A worker that drains gives thousands of sessions away at once.
func TestHandOversThatWaitTogetherShareATransaction(t *testing.T) {
	reg := prometheus.NewRegistry()
	s := openStore(t, ownServer(t), reg)
	owner, next := register(t, s), register(t, s)
	keys := claimMany(t, s, owner, maxBatch)
	revisions := make([]int64, len(keys))
	for i, key := range keys {
		revisions[i] = resolve(t, s, key).Revision
	}
	release, ctx := hold(t, s), testContext(t)
	before := requests(t, reg, "batch") + requests(t, reg, "batch_read")
	var group sync.WaitGroup
	for i, key := range keys {
		group.Go(func() {
			if _, _, err := s.HandOver(ctx, key, revisions[i], owner.to(next)); err != nil {
				t.Errorf("hand over: %v", err)
			}
		})
	}
	waitFor(t, func() bool { return len(s.writes.waiting) == len(keys) })
	release()
	group.Wait()
	if got := requests(t, reg, "batch") + requests(t, reg, "batch_read") - before; got != 2 {
		t.Errorf("%d hand-overs took %d requests, want 2", len(keys), got)
	}
}

// How much is written is known only once the records were read.
func TestHandOversOfLargeRecordsFitIntoTransactions(t *testing.T) {
	s := newStore(t)
	owner, next := register(t, s), register(t, s)
	keys, revisions := make([]session.Key, 12), make([]int64, 12)
	for i := range keys {
		rec := owner.record()
		rec.ClientCapabilities = make([]byte, 250<<10)
		keys[i] = newSession()
		var err error
		if revisions[i], err = s.Claim(testContext(t), keys[i], rec); err != nil {
			t.Fatal(err)
		}
	}
	release, ctx, errs := hold(t, s), testContext(t), make([]error, len(keys))
	var group sync.WaitGroup
	for i, key := range keys {
		group.Go(func() { _, _, errs[i] = s.HandOver(ctx, key, revisions[i], owner.to(next)) })
	}
	waitFor(t, func() bool { return len(s.writes.waiting) == len(keys) })
	release()
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Errorf("hand-overs of 3 MiB together: %v", err)
	}
}
