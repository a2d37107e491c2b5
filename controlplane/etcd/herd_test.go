package etcd

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/leasehold/leasehold/controlplane/session"
)

// orphaned claims sessions of a worker and kills it.
func orphaned(t testing.TB, s *Store, n int) (alive, []session.Key) {
	t.Helper()
	owner, keys := register(t, s), make([]session.Key, n)
	for i := range keys {
		keys[i] = newSession()
		owner.claim(t, s, keys[i])
	}
	owner.kill(t, s)
	return owner, keys
}

func TestReclaimsThatWaitTogetherTakeOneTransactionAndReadNothing(t *testing.T) {
	reg := prometheus.NewRegistry()
	s := openStore(t, ownServer(t), reg)
	_, keys := orphaned(t, s, maxBatch+1)
	takers := []alive{register(t, s), register(t, s)}
	if _, _, err := s.Reclaim(testContext(t), keys[maxBatch], takers[0].taker(resolve(t, s, keys[maxBatch]))); err != nil {
		t.Fatal(err)
	}
	keys = keys[:maxBatch]
	asks := make([]session.Taker, len(keys))
	for i, key := range keys {
		asks[i] = takers[i%2].taker(resolve(t, s, key))
	}
	release := hold(t, s)
	before := requests(t, reg, "batch") + requests(t, reg, "batch_read") + requests(t, reg, "reclaim")
	errs := reclaimAll(t, s, keys, asks, release)
	for i, err := range errs {
		if err != nil {
			t.Errorf("reclaim %d: %v", i, err)
		}
	}
	if got := requests(t, reg, "batch") + requests(t, reg, "batch_read") + requests(t, reg, "reclaim") - before; got != 1 {
		t.Errorf("%d reclaims took %d requests, want 1", len(keys), got)
	}
	for i, key := range keys {
		if got := resolve(t, s, key).Record; got.Worker != takers[i%2].id || got.Epoch != 2 {
			t.Errorf("session %d: got owner %s at epoch %d, want %s at 2", i, got.Worker, got.Epoch, takers[i%2].id)
		}
	}
}

// reclaimAll reclaims all sessions in one batch, which goes when release is called.
func reclaimAll(t *testing.T, s *Store, keys []session.Key, asks []session.Taker, release func()) []error {
	t.Helper()
	ctx, errs := testContext(t), make([]error, len(keys))
	var group sync.WaitGroup
	for i, key := range keys {
		group.Go(func() { _, _, errs[i] = s.Reclaim(ctx, key, asks[i]) })
	}
	waitFor(t, func() bool { return len(s.writes.waiting) == len(keys) })
	release()
	group.Wait()
	return errs
}

// What some of them have in common may not hold, and so may what is each one's own.
func TestReclaimsThatShareATransactionGetTheirOwnVerdicts(t *testing.T) {
	s, other := newStore(t), newStore(t)
	owner, keys := orphaned(t, s, 61)
	taker, dead, rival := register(t, s), register(t, s), register(t, s)
	claimed := newSession()
	if _, _, err := s.Reclaim(testContext(t), keys[60], taker.taker(resolve(t, s, keys[60]))); err != nil {
		t.Fatal(err)
	}
	keys = keys[:60]
	asks, wants := make([]session.Taker, len(keys)), make([]error, len(keys))
	for i, key := range keys {
		asks[i] = taker.taker(resolve(t, s, key))
		switch i % 6 {
		case 1:
			asks[i], wants[i] = dead.taker(resolve(t, s, key)), session.ErrNotAlive
		case 2: // another has taken it since this replica read it
			if _, _, err := other.Reclaim(testContext(t), key, rival.taker(resolve(t, other, key))); err != nil {
				t.Fatal(err)
			}
			wants[i] = session.ErrStale
		case 3: // it was granted, and the taker does not know
			if _, _, err := other.Reclaim(testContext(t), key, asks[i]); err != nil {
				t.Fatal(err)
			}
		case 4:
			if _, _, err := other.Reclaim(testContext(t), key, rival.taker(resolve(t, other, key))); err != nil {
				t.Fatal(err)
			}
			mustEnd(t, other, rival, key)
			wants[i] = session.ErrEnded
		case 5:
			asks[i].IncarnationRevision++
			wants[i] = session.ErrStale
		}
	}
	dead.kill(t, s)
	release := hold(t, s)
	claim := make(chan error, 1)
	go func() {
		_, err := s.Claim(testContext(t), claimed, taker.record())
		claim <- err
	}()
	waitFor(t, func() bool { return len(s.writes.waiting) == 1 })
	ctx, errs := testContext(t), make([]error, len(keys))
	var group sync.WaitGroup
	for i, key := range keys {
		group.Go(func() { _, _, errs[i] = s.Reclaim(ctx, key, asks[i]) })
	}
	waitFor(t, func() bool { return len(s.writes.waiting) == len(keys)+1 })
	release()
	group.Wait()
	if err := <-claim; err != nil {
		t.Errorf("a claim in the same transaction: %v", err)
	}
	for i, key := range keys {
		if !errors.Is(errs[i], wants[i]) {
			t.Errorf("reclaim %d: got %v, want %v", i, errs[i], wants[i])
		}
		rec := resolve(t, s, key).Record
		want := map[int]string{0: taker.id, 1: owner.id, 2: rival.id, 3: taker.id, 4: rival.id, 5: owner.id}[i%6]
		if rec.Worker != want {
			t.Errorf("session %d: got owner %s, want %s", i, rec.Worker, want)
		}
	}
}

func TestAReturnedOwnerKeepsWhatIsReclaimedTogether(t *testing.T) {
	s := newStore(t)
	owner, keys := orphaned(t, s, 2)
	taker := register(t, s)
	asks := []session.Taker{taker.taker(resolve(t, s, keys[0])), taker.taker(resolve(t, s, keys[1]))}
	if _, err := s.Readopt(testContext(t), owner.id, owner.incarnation, someInfo); err != nil {
		t.Fatal(err)
	}
	s.condemned.add(condemnedKey(owner.id, owner.incarnation)) // as this replica wrongly believes
	for i, key := range keys {
		if _, _, err := s.Reclaim(testContext(t), key, asks[i]); !errors.Is(err, session.ErrStale) {
			t.Errorf("reclaim from an owner that is back: got %v, want ErrStale", err)
		}
		if got := resolve(t, s, key).Record.Epoch; got != 1 {
			t.Errorf("epoch: got %d, want 1", got)
		}
	}
}

func TestADeadIncarnationIsCondemnedOnceByAllWhoAskAtTheSameTime(t *testing.T) {
	const sessions = 40
	reg := prometheus.NewRegistry()
	s := openStore(t, ownServer(t), reg)
	owner, keys := orphaned(t, s, sessions)
	taker := register(t, s)
	asks := make([]session.Taker, sessions)
	for i, key := range keys {
		asks[i] = taker.taker(resolve(t, s, key))
	}
	for i, err := range reclaimAll(t, s, keys, asks, hold(t, s)) {
		if err != nil {
			t.Errorf("reclaim %d: %v", i, err)
		}
	}
	if got := requests(t, reg, "reclaim"); got != 2 {
		t.Errorf("got %d requests of reclaims by themselves, want 2: one reads and condemns", got)
	}
	if !exists(t, s, condemnedKey(owner.id, owner.incarnation)) {
		t.Error("the owner is not condemned")
	}
}

// When the first of them may not condemn, those who waited for it still get a verdict.
func TestWhoWaitsForACondemnationThatFailsAsksForItself(t *testing.T) {
	s := newStore(t)
	owner, keys := orphaned(t, s, 5)
	taker, dead := register(t, s), register(t, s)
	asks := make([]session.Taker, len(keys))
	for i, key := range keys {
		asks[i] = dead.taker(resolve(t, s, key))
	}
	asks[4] = taker.taker(resolve(t, s, keys[4]))
	dead.kill(t, s)
	for i, err := range reclaimAll(t, s, keys, asks, hold(t, s)) {
		if want := map[bool]error{false: session.ErrNotAlive}[i == 4]; !errors.Is(err, want) {
			t.Errorf("reclaim %d: got %v, want %v", i, err, want)
		}
	}
	if got := resolve(t, s, keys[4]).Record.Worker; got != taker.id {
		t.Errorf("owner: got %s, want %s rather than %s", got, taker.id, owner.id)
	}
}

func TestLookUpsThatWaitTogetherEachFindTheirOwner(t *testing.T) {
	reg := prometheus.NewRegistry()
	s := openStore(t, ownServer(t), reg)
	const owners = maxLookups
	keys, of := make([]session.Key, owners), make([]alive, owners)
	for i := range keys {
		keys[i] = newSession()
		if of[i] = register(t, s); i%10 == 9 {
			of[i] = of[i-1]
		}
		of[i].claim(t, s, keys[i])
	}
	for i := range of {
		if i%3 == 0 {
			of[i].kill(t, s)
		}
	}
	asked := requests(t, reg, "resolve")
	for round := range 2 { // the second knows some owners from the first
		release := holdLookups(t, s, reg)
		var group sync.WaitGroup
		for i, key := range keys {
			group.Go(func() {
				res, err := s.Resolve(testContext(t), key)
				dead := i%3 == 0 || i%10 == 8 && i%3 == 2 || i%10 == 9 && (i-1)%3 == 0
				switch {
				case err != nil:
					t.Errorf("round %d, session %d: %v", round, i, err)
				case res.Record.Worker != of[i].id || res.IncarnationRevision != of[i].incarnation:
					t.Errorf("round %d, session %d: got owner %s of %d, want %s of %d", round, i, res.Record.Worker, res.IncarnationRevision, of[i].id, of[i].incarnation)
				case res.OwnerAlive == dead:
					t.Errorf("round %d, session %d: got an owner that is alive: %v, want %v", round, i, res.OwnerAlive, !dead)
				}
			})
		}
		waitFor(t, func() bool { return len(s.lookups.waiting) == len(keys) })
		release()
		group.Wait()
	}
	if got, most := requests(t, reg, "resolve")-asked, 2*(1+4)+2; got > most {
		t.Errorf("%d sessions of as many owners took %d requests, want at most %d", 2*owners, got, most)
	}
}

// holdLookups keeps the look-ups busy until release is called.
func holdLookups(t testing.TB, s *Store, reg *prometheus.Registry) (release func()) {
	t.Helper()
	asked := requests(t, reg, "resolve")
	full := make(chan found) // has no room
	s.lookups.waiting <- &lookup{key: newSession(), found: full}
	release = sync.OnceFunc(func() { <-full })
	t.Cleanup(release)
	waitFor(t, func() bool { return requests(t, reg, "resolve") > asked })
	return release
}

func TestALookUpOfTheLastOwnersSessionsIsOneRequest(t *testing.T) {
	reg := prometheus.NewRegistry()
	s := openStore(t, ownServer(t), reg)
	_, keys := orphaned(t, s, 3)
	resolve(t, s, keys[0])
	before := requests(t, reg, "resolve")
	for _, key := range keys[1:] {
		if resolve(t, s, key).OwnerAlive {
			t.Error("got a living owner, want a dead one")
		}
	}
	if got := requests(t, reg, "resolve") - before; got != 2 {
		t.Errorf("2 look-ups took %d requests, want 2", got)
	}
}

func TestRecordsThatWereSeenAreBoundedAndGoodForTheirRevisionOnly(t *testing.T) {
	var seen seenRecords
	key := func(i int) session.Key { return session.Key{Gateway: "g", Digest: fmt.Sprint(i)} }
	record := func(revision int64) *mvccpb.KeyValue {
		return &mvccpb.KeyValue{ModRevision: revision, Value: make([]byte, 1<<20)}
	}
	seen.note(key(0), record(7))
	if got := seen.take(key(0), 8); got != nil {
		t.Errorf("revision 8: got %v, want nothing", got.ModRevision)
	}
	seen.note(key(0), record(7))
	seen.note(key(0), record(8))
	if got := seen.take(key(0), 8); got.GetModRevision() != 8 {
		t.Errorf("revision 8: got %d", got.GetModRevision())
	}
	if got := seen.take(key(0), 8); got != nil {
		t.Error("a record was taken twice")
	}
	for i := range 100 {
		if seen.note(key(i), record(1)); seen.size > maxSeen {
			t.Fatalf("%d bytes are kept after %d records, want at most %d", seen.size, i+1, maxSeen)
		}
	}
	if got := seen.take(key(99), 1); got == nil {
		t.Error("the newest record was forgotten")
	}
}
