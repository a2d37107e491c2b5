package etcd

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/leasehold/leasehold/controlplane/gateway"
	"github.com/leasehold/leasehold/controlplane/session"
	"github.com/leasehold/leasehold/controlplane/store"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// clock is the time as the test has it.
type clock struct{ since atomic.Int64 }

func (c *clock) now() time.Time {
	return time.Unix(1_700_000_000, 0).Add(time.Duration(c.since.Load()))
}
func (c *clock) advance(by time.Duration) { c.since.Add(int64(by)) }

// orphanage is a replica whose keeper takes its turns when the test says so.
type orphanage struct {
	*Store
	keeper *keeper
	seen   *seen
	clock  *clock
}

// openOrphanage opens a store on server that follows it and serves look-ups and
// writes.
func openOrphanage(t testing.TB, server *Server, c *clock) *orphanage {
	t.Helper()
	s, err := Open(ClientConfig{Endpoints: server.Endpoints(), LeaseTTL: testTTL, Hold: unheld})
	if err != nil {
		t.Fatal(err)
	}
	s.now = c.now
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { s.writes.run(ctx) })
	running.Go(func() { s.lookups.run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
		s.Close()
	})
	return &orphanage{Store: s, keeper: newKeeper(s), seen: follow(t, s), clock: c}
}

// turn waits until the store's members are those that are expected, and lets the
// keeper take a turn.
func (o *orphanage) turn(t testing.TB, members ...alive) {
	t.Helper()
	waitFor(t, func() bool {
		there := o.seen.last().Members.Entries
		for _, w := range members {
			if _, ok := there[w.key()]; !ok {
				return false
			}
		}
		return len(there) == len(members)
	})
	if err := o.keeper.turn(testContext(t)); err != nil {
		t.Fatal(err)
	}
}

// pass lets time pass, and the keeper take a turn.
func (o *orphanage) pass(t testing.TB, d time.Duration, members ...alive) {
	t.Helper()
	o.clock.advance(d)
	o.turn(t, members...)
}

// defineIdle makes the sessions' gateway, and waits until the keeper knows it.
func (o *orphanage) defineIdle(t testing.TB, idle time.Duration) {
	t.Helper()
	g := &leaseholdv1.Gateway{
		Name:      gateway.Name("test"),
		Upstreams: []*leaseholdv1.Upstream{{Name: "u", Url: "http://127.0.0.1:1/mcp"}},
		Session:   &leaseholdv1.SessionPolicy{IdleTimeout: durationpb.New(idle)},
	}
	if _, err := o.CreateGateway(testContext(t), g); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return o.seen.last().Gateways.Entries["test"] != nil })
}

// wished returns why it is wished that a session end; unspecified if it is not.
func (o *orphanage) wished(t testing.TB, key session.Key) leaseholdv1.EndReason {
	t.Helper()
	resp, err := o.client.Get(testContext(t), endingKey(key))
	if err != nil {
		t.Fatal(err)
	}
	d := newDraft(o.Store, nil)
	for _, kv := range resp.Kvs {
		d.put(kv)
		for _, e := range d.endings.entries {
			return e.Reason
		}
	}
	return leaseholdv1.EndReason_END_REASON_UNSPECIFIED
}

func (o *orphanage) wantWished(t testing.TB, what string, key session.Key, want leaseholdv1.EndReason) {
	t.Helper()
	if got := o.wished(t, key); got != want {
		t.Errorf("%s: it is wished to end because of %v, want %v", what, got, want)
	}
}

const (
	notWished = leaseholdv1.EndReason_END_REASON_UNSPECIFIED
	wasIdle   = leaseholdv1.EndReason_END_REASON_IDLE
	expired   = leaseholdv1.EndReason_END_REASON_EXPIRED
	noGateway = leaseholdv1.EndReason_END_REASON_GATEWAY_DELETED
)

func TestOrphanIsEndedAfterItsIdleTimeAndNotBefore(t *testing.T) {
	o := openOrphanage(t, ownServer(t), &clock{})
	o.defineIdle(t, time.Minute)
	dead, living := register(t, o.Store), register(t, o.Store)
	orphan, other, taken := newSession(), newSession(), newSession()
	dead.claim(t, o.Store, orphan)
	dead.claim(t, o.Store, taken)
	living.claim(t, o.Store, other)
	o.turn(t, dead, living)
	o.pass(t, time.Hour, dead, living)
	o.wantWished(t, "its owner lives", orphan, notWished)
	dead.kill(t, o.Store)
	o.turn(t, living)
	o.pass(t, 59*time.Second, living)
	o.wantWished(t, "before its idle time is over", orphan, notWished)
	if _, _, err := o.Reclaim(testContext(t), taken, living.taker(resolve(t, o.Store, taken))); err != nil {
		t.Fatal(err)
	}
	o.pass(t, time.Second, living)
	o.wantWished(t, "when its idle time is over", orphan, wasIdle)
	o.wantWished(t, "somebody took it", taken, notWished)
	o.wantWished(t, "its owner lives", other, notWished)
	o.pass(t, time.Hour, living)
	o.wantWished(t, "its owner still lives", other, notWished)
}

// An owner that was merely away keeps its sessions, and when it dies again their
// time begins anew.
func TestReadoptionResetsTheTimeOfOrphans(t *testing.T) {
	for _, name := range []string{"seen by the keeper", "not seen by the keeper"} {
		t.Run(name, func(t *testing.T) {
			o := openOrphanage(t, ownServer(t), &clock{})
			o.defineIdle(t, time.Minute)
			w, key := register(t, o.Store), newSession()
			w.claim(t, o.Store, key)
			o.turn(t, w)
			w.kill(t, o.Store)
			o.turn(t)
			o.pass(t, 50*time.Second)
			if !exists(t, o.Store, deadKey(w.id, w.incarnation)) {
				t.Fatal("nothing says that the owner died")
			}
			lease, err := o.Readopt(testContext(t), w.id, w.incarnation, someInfo)
			if err != nil {
				t.Fatal(err)
			}
			if exists(t, o.Store, deadKey(w.id, w.incarnation)) {
				t.Error("the owner is back and said to be dead")
			}
			w.lease = lease.ID
			if name == "seen by the keeper" {
				o.pass(t, 20*time.Second, w)
				o.wantWished(t, "its owner is back", key, notWished)
				if due := o.keeper.orphans.Due(o.clock.now().Add(time.Hour), 9); len(due) > 0 {
					t.Errorf("%d sessions of an owner that is back are still orphans", len(due))
				}
			}
			w.kill(t, o.Store)
			waitFor(t, func() bool { return len(o.seen.last().Members.Entries) == 0 })
			o.pass(t, 20*time.Second)
			o.pass(t, 2*time.Second)
			o.pass(t, 50*time.Second)
			o.wantWished(t, "less than its idle time since its owner died again", key, notWished)
			o.pass(t, 10*time.Second)
			o.wantWished(t, "its idle time since its owner died again", key, wasIdle)
		})
	}
}

func TestOrphanIsEndedWhenItsTimeIsOverOrItsGatewayGone(t *testing.T) {
	c := &clock{}
	o := openOrphanage(t, ownServer(t), c)
	o.defineIdle(t, time.Hour)
	w := register(t, o.Store)
	expires, rest := newSession(), newSession()
	rec := w.record()
	rec.ExpireTime = timestamppb.New(c.now().Add(time.Minute))
	if _, err := o.Claim(testContext(t), expires, rec); err != nil {
		t.Fatal(err)
	}
	w.claim(t, o.Store, rest)
	o.turn(t, w)
	w.kill(t, o.Store)
	o.turn(t)
	o.pass(t, 59*time.Second)
	o.wantWished(t, "before it expires", expires, notWished)
	o.pass(t, time.Second)
	o.wantWished(t, "when it expires", expires, expired)
	o.wantWished(t, "it does not expire", rest, notWished)
	if _, err := o.DeleteGateway(testContext(t), "test", ""); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return o.seen.last().Gateways.Entries["test"] == nil })
	o.turn(t)
	o.wantWished(t, "its gateway is gone", rest, noGateway)
}

// The next keeper goes on where the one before stopped.
func TestOrphansTimeSurvivesTheirKeeper(t *testing.T) {
	server, c := ownServer(t), &clock{}
	one, two := openOrphanage(t, server, c), openOrphanage(t, server, c)
	one.defineIdle(t, time.Minute)
	waitFor(t, func() bool { return two.seen.last().Gateways.Entries["test"] != nil })
	w, key := register(t, one.Store), newSession()
	w.claim(t, one.Store, key)
	one.turn(t, w)
	w.kill(t, one.Store)
	one.turn(t)
	two.pass(t, 30*time.Second)
	if two.keeper.office.lease != 0 {
		t.Fatal("two keepers at a time")
	}
	one.keeper.office.leave(t.Context())
	two.keeper.office.asked = time.Time{}
	two.pass(t, 29*time.Second)
	if two.keeper.office.lease == 0 {
		t.Fatal("nobody keeps orphans")
	}
	two.wantWished(t, "before its idle time is over", key, notWished)
	two.pass(t, time.Second)
	two.wantWished(t, "its idle time since the first keeper saw its owner die", key, wasIdle)
}

func TestAnotherReplicaKeepsOrphansSoonAfterTheKeeperIsGone(t *testing.T) {
	server := ownServer(t)
	one := openOrphanage(t, server, &clock{})
	two := openOrphanage(t, server, &clock{})
	one.turn(t)
	if one.keeper.office.lease == 0 {
		t.Fatal("nobody keeps orphans")
	}
	one.Close() // it has no time to say so
	began := time.Now()
	waitFor(t, func() bool {
		mine, err := two.keeper.office.hold(testContext(t))
		return err == nil && mine
	})
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("another replica took over after %s, want at most 15 s", took)
	}
}

// claimMany claims n sessions.
func claimMany(t testing.TB, s *Store, w alive, n int) []session.Key {
	t.Helper()
	keys := make([]session.Key, n)
	errs := make(chan error, n)
	for i := range keys {
		keys[i] = newSession()
		go func() {
			_, err := s.Claim(testContext(t), keys[i], w.record())
			errs <- err
		}()
	}
	for range keys {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	return keys
}

func countEndings(t testing.TB, s *Store) int {
	t.Helper()
	resp, err := s.client.Get(testContext(t), endingsPrefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		t.Fatal(err)
	}
	return int(resp.Count)
}

func TestOrphansAreEndedAtABoundedRateAndLeaveRoom(t *testing.T) {
	o := openOrphanage(t, ownServer(t), &clock{})
	o.defineIdle(t, time.Minute)
	w := register(t, o.Store)
	claimMany(t, o.Store, w, 1200)
	o.turn(t, w)
	w.kill(t, o.Store)
	o.turn(t)
	o.pass(t, time.Minute)
	if got := countEndings(t, o.Store); got != orphansPerTurn {
		t.Errorf("%d were wished to end in one turn, want %d", got, orphansPerTurn)
	}
	for n := 0; n < maxOrphanEndings-orphansPerTurn-200; n += 100 {
		var puts []clientv3.Op
		for range 100 {
			puts = append(puts, clientv3.OpPut(endingKey(newSession()), ""))
		}
		if _, err := o.client.Txn(testContext(t)).Then(puts...).Commit(); err != nil {
			t.Fatal(err)
		}
	}
	o.pass(t, time.Second)
	o.pass(t, time.Second)
	if got := countEndings(t, o.Store); got != maxOrphanEndings || got > store.MaxEndings/2 {
		t.Errorf("%d wishes wait, want %d: operators need the rest of the room", got, maxOrphanEndings)
	}
	if _, err := o.client.Delete(testContext(t), endingsPrefix, clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	o.pass(t, time.Second)
	if got := countEndings(t, o.Store); got != 500 {
		t.Errorf("with room again %d were wished to end, want the remaining 500", got)
	}
}

// More orphans than the keeper remembers are ended all the same.
func TestKeeperReadsAgainWhatItDidNotRemember(t *testing.T) {
	o := openOrphanage(t, ownServer(t), &clock{})
	o.keeper.most = 10
	o.defineIdle(t, time.Minute)
	w := register(t, o.Store)
	claimMany(t, o.Store, w, 35)
	o.turn(t, w)
	w.kill(t, o.Store)
	o.turn(t)
	o.clock.advance(time.Minute)
	waitFor(t, func() bool {
		o.pass(t, time.Second)
		return countEndings(t, o.Store) == 35
	})
}

// What the keeper knows may be old; the store decides.
func TestWishForAnOrphanIsGuarded(t *testing.T) {
	tests := []struct {
		name   string
		before func(t *testing.T, s *Store, w alive, key session.Key)
		unsure bool
	}{
		{"owner is back", func(t *testing.T, s *Store, w alive, _ session.Key) {
			if _, err := s.Readopt(testContext(t), w.id, w.incarnation, someInfo); err != nil {
				t.Fatal(err)
			}
		}, true},
		{"owner lives, whatever is said of its death", func(t *testing.T, s *Store, w alive, _ session.Key) {
			if _, err := s.client.Put(testContext(t), memberKey(w.id, w.incarnation), "{}"); err != nil {
				t.Fatal(err)
			}
		}, false},
		{"owner was back", func(t *testing.T, s *Store, w alive, _ session.Key) {
			lease, err := s.Readopt(testContext(t), w.id, w.incarnation, someInfo)
			if err != nil {
				t.Fatal(err)
			}
			w.lease = lease.ID
			w.kill(t, s)
		}, true},
		{"somebody took it", func(t *testing.T, s *Store, _ alive, key session.Key) {
			if _, _, err := s.Reclaim(testContext(t), key, register(t, s).taker(resolve(t, s, key))); err != nil {
				t.Fatal(err)
			}
		}, false},
		{"an operator wishes it already", func(t *testing.T, s *Store, _ alive, key session.Key) {
			if _, err := s.WishEnd(testContext(t), key, leaseholdv1.EndReason_END_REASON_TERMINATED); err != nil {
				t.Fatal(err)
			}
		}, false},
		{"nothing happened", func(*testing.T, *Store, alive, session.Key) {}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := openOrphanage(t, ownServer(t), &clock{})
			o.defineIdle(t, time.Minute)
			w, key := register(t, o.Store), newSession()
			w.claim(t, o.Store, key)
			w.kill(t, o.Store)
			o.turn(t)
			o.clock.advance(time.Hour)
			due := o.keeper.orphans.Due(o.clock.now(), 9)
			if len(due) != 1 {
				t.Fatalf("%d are due, want 1", len(due))
			}
			tt.before(t, o.Store, w, key)
			before := o.wished(t, key)
			unsure, err := o.wishOrphans(testContext(t), due, o.keeper.marks)
			if err != nil || unsure != tt.unsure {
				t.Errorf("unsure %v, %v; want %v", unsure, err, tt.unsure)
			}
			if tt.name == "nothing happened" {
				before = wasIdle
			}
			o.wantWished(t, tt.name, key, before)
		})
	}
}

func TestWhenAnOwnerDiedIsWrittenDownOnce(t *testing.T) {
	s := newStore(t)
	w := register(t, s)
	if m, err := s.markDead(testContext(t), w.key(), time.Unix(1, 0)); err != nil || m.revision != 0 {
		t.Errorf("marked one that lives: %v, %v", m, err)
	}
	w.kill(t, s)
	first, err := s.markDead(testContext(t), w.key(), time.Unix(2, 0))
	if err != nil || !first.died.Equal(time.Unix(2, 0)) {
		t.Fatalf("mark %v, %v; want 2 s", first, err)
	}
	again, err := s.markDead(testContext(t), w.key(), time.Unix(3, 0))
	if err != nil || again.revision != first.revision || !again.died.Equal(first.died) {
		t.Errorf("marked again: %v, %v; want %v as before", again, err, first)
	}
}

// An incarnation that died is collected when it has no session left, and cannot
// come back then.
func TestCollectIncarnationsThatDied(t *testing.T) {
	s := openStore(t, ownServer(t), nil)
	idle, owner := register(t, s), register(t, s)
	key := newSession()
	owner.claim(t, s, key)
	idle.kill(t, s)
	owner.kill(t, s)
	collect := func(after time.Duration) {
		t.Helper()
		if err := s.Collect(testContext(t), time.Now().Add(after)); err != nil {
			t.Fatal(err)
		}
	}
	check := func(when string, w alive, want bool) {
		t.Helper()
		for _, name := range []string{incarnationKey(w.id), deadKey(w.id, w.incarnation)} {
			if got := exists(t, s, name); got != want {
				t.Errorf("%s %s is there: %v, want %v", when, name, got, want)
			}
		}
	}
	collect(0)
	collect(incarnationGrace - time.Minute)
	check("before its time is over", idle, true)
	collect(incarnationGrace + time.Minute)
	check("after its time", idle, false)
	check("with a session", owner, true)
	if _, err := s.Readopt(testContext(t), idle.id, idle.incarnation, someInfo); !errors.Is(err, session.ErrCondemned) {
		t.Errorf("re-adopt after collection: %v, want ErrCondemned", err)
	}
	taker := register(t, s)
	if _, _, err := s.Reclaim(testContext(t), key, taker.taker(resolve(t, s, key))); err != nil {
		t.Fatal(err)
	}
	mustEnd(t, s, taker, key)
	collect(incarnationGrace + 2*readOwnersEvery)
	check("with no session any more", owner, false)
	if exists(t, s, condemnedKey(owner.id, owner.incarnation)) {
		t.Errorf("%s is left", condemnedKey(owner.id, owner.incarnation))
	}
}
