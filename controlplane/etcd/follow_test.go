package etcd

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/leasehold/leasehold/controlplane/gateway"
	"github.com/leasehold/leasehold/controlplane/session"
	"github.com/leasehold/leasehold/controlplane/store"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// seen collects what a store publishes.
type seen struct {
	mu        sync.Mutex
	snapshots []*store.Snapshot
	lost      []error
}

func (f *seen) Publish(s *store.Snapshot) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.snapshots = append(f.snapshots, s)
}

func (f *seen) Lost(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lost = append(f.lost, err)
}

// lastLost is why the state could not be followed, nil if it always could.
func (f *seen) lastLost() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.lost) == 0 {
		return nil
	}
	return f.lost[len(f.lost)-1]
}

func (f *seen) last() *store.Snapshot {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.snapshots) == 0 {
		return nil
	}
	return f.snapshots[len(f.snapshots)-1]
}

// follow follows s until the test ends.
func follow(t testing.TB, s *Store) *seen {
	t.Helper()
	f := &seen{}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Follow(ctx, f)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	waitFor(t, func() bool { return f.last() != nil })
	return f
}

func define(t testing.TB, s *Store, id string) *leaseholdv1.Gateway {
	t.Helper()
	g := &leaseholdv1.Gateway{Name: gateway.Name(id), Upstreams: []*leaseholdv1.Upstream{{Name: "u", Url: "http://127.0.0.1:1/mcp"}}}
	gateway.Default(g)
	g, err := s.CreateGateway(testContext(t), g)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestFollowSeesEverythingButSessions(t *testing.T) {
	s := openStore(t, ownServer(t), nil)
	before := define(t, s, "before")
	f := follow(t, s)
	if g := f.last().Gateways.Entries["before"]; g.GetStatus().GetRevision() != before.Status.Revision {
		t.Errorf("first state has gateway %v, want it at %d", g, before.Status.Revision)
	}
	after := define(t, s, "after")
	w, key := register(t, s), newSession()
	w.claim(t, s, key)
	if _, err := s.WishEnd(testContext(t), key, leaseholdv1.EndReason_END_REASON_TERMINATED); err != nil {
		t.Fatal(err)
	}
	wish := store.EndingKey{Gateway: key.Gateway, Session: key.Digest}
	waitFor(t, func() bool {
		last := f.last()
		return last.Gateways.Entries["after"] != nil && last.Members.Entries[w.key()].Info != nil && last.Endings.Entries[wish] != nil
	})
	if f.last().Revision < after.Status.Revision {
		t.Errorf("state at %d has a gateway of %d", f.last().Revision, after.Status.Revision)
	}
	mustEnd(t, s, w, key)
	w.kill(t, s)
	if _, err := s.DeleteGateway(testContext(t), "before", ""); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool {
		last := f.last()
		return len(last.Gateways.Entries) == 1 && len(last.Members.Entries) == 0 && len(last.Endings.Entries) == 0
	})
	ended := f.last()
	register(t, s).claim(t, s, newSession())
	waitFor(t, func() bool { return len(f.last().Members.Entries) == 1 })
	if f.last().Gateways != ended.Gateways || f.last().Members == ended.Members {
		t.Error("a table is another exactly when it changed; it is not so")
	}
}

// A watch that is behind what etcd has kept misses changes; everything is read
// again then.
func TestWatchBehindCompactionReadsEverythingAgain(t *testing.T) {
	s := openStore(t, ownServer(t), nil)
	old, err := s.Snapshot(testContext(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	define(t, s, "missed")
	last := define(t, s, "last")
	if _, err := s.client.Compact(testContext(t), last.Status.Revision); err != nil {
		t.Fatal(err)
	}
	f := &seen{}
	if _, err := s.watch(testContext(t), old, f); !errors.Is(err, errGap) {
		t.Errorf("watch from before the compaction: %v, want errGap", err)
	}
	if f.last() != nil {
		t.Error("a state with a gap was published")
	}
	again, err := s.Snapshot(testContext(t), old)
	if err != nil || len(again.Gateways.Entries) != 2 {
		t.Errorf("read again: %v, %v; want 2 gateways", again, err)
	}
}

func TestInvalidDefinitionLeavesTheLastValidOne(t *testing.T) {
	s := openStore(t, ownServer(t), nil)
	good := define(t, s, "good")
	f := follow(t, s)
	for _, value := range []string{"\xff not a message", ""} {
		if _, err := s.client.Put(testContext(t), gatewayKey("good"), value); err != nil {
			t.Fatal(err)
		}
	}
	marker := define(t, s, "marker")
	waitFor(t, func() bool { return f.last().Revision >= marker.Status.Revision })
	if g := f.last().Gateways.Entries["good"]; g.GetStatus().GetRevision() != good.Status.Revision {
		t.Errorf("got %v, want the valid definition of revision %d", g, good.Status.Revision)
	}
	again, err := s.Snapshot(testContext(t), f.last())
	if err != nil {
		t.Fatal(err)
	}
	if g := again.Gateways.Entries["good"]; g.GetStatus().GetRevision() != good.Status.Revision {
		t.Errorf("read again: got %v, want the valid definition", g)
	}
}

func TestUpdatesOfOneGatewayDoNotUndoEachOther(t *testing.T) {
	s := openStore(t, ownServer(t), nil)
	define(t, s, "both")
	describe := func(g *leaseholdv1.Gateway) (*leaseholdv1.Gateway, error) {
		g.Description = "described"
		return g, nil
	}
	calls := 0
	g, err := s.UpdateGateway(testContext(t), "both", "", func(g *leaseholdv1.Gateway) (*leaseholdv1.Gateway, error) {
		if calls++; calls == 1 {
			if _, err := s.UpdateGateway(testContext(t), "both", "", describe); err != nil {
				return nil, err
			}
		}
		g.Labels = map[string]string{"a": "b"}
		return g, nil
	})
	if err != nil || g.Description != "described" || g.Labels["a"] != "b" {
		t.Errorf("got %v, %v; want both changes", g, err)
	}
}

func TestFollowSaysThatEtcdIsAwayAndReturns(t *testing.T) {
	s, err := Open(ClientConfig{Endpoints: []string{"http://127.0.0.1:1"}, LeaseTTL: testTTL})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx, cancel := context.WithTimeout(testContext(t), 300*time.Millisecond)
	defer cancel()
	if _, err := s.Snapshot(ctx, nil); err == nil {
		t.Error("read a state from an etcd that is not there")
	}
	if _, _, err := s.Register(ctx, workerID(), someInfo); !errors.Is(err, store.ErrUnavailable) && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("register: %v, want unavailable", err)
	}
}

func TestOneReplicaMakesTheRing(t *testing.T) {
	server := ownServer(t)
	rings := make([]*store.SealedRing, 8)
	ctx := testContext(t)
	stores := []*Store{openStore(t, server, nil), openStore(t, server, nil)}
	var group sync.WaitGroup
	for i := range rings {
		group.Go(func() { rings[i], _ = stores[i%2].MakeRing(ctx, []byte{byte(i)}) })
	}
	group.Wait()
	for i, ring := range rings {
		if ring == nil || string(ring.Sealed) != string(rings[0].Sealed) || ring.Revision != rings[0].Revision {
			t.Errorf("replica %d has ring %v, want %v", i, ring, rings[0])
		}
	}
}

func TestListSessionsPagesPastTombstones(t *testing.T) {
	s := openStore(t, ownServer(t), nil)
	w := register(t, s)
	var live []string
	for i := range 30 {
		key := newSession()
		w.claim(t, s, key)
		if i%3 != 0 {
			mustEnd(t, s, w, key)
			continue
		}
		live = append(live, key.Name())
	}
	other := session.Key{Gateway: "test-two", Digest: newSession().Digest}
	w.claim(t, s, other)
	inTest := session.Filter{Gateway: "test"}
	list := func(q session.Query) (names []string) {
		for {
			page, last, more, err := s.ListSessions(testContext(t), q)
			if err != nil {
				t.Fatal(err)
			}
			if len(page) > q.Size {
				t.Fatalf("page of %d, want at most %d", len(page), q.Size)
			}
			for _, one := range page {
				names = append(names, one.Name)
			}
			if !more {
				return names
			}
			q.After = last
		}
	}
	for _, size := range []int{1, 4, 100} {
		if got := list(session.Query{Filter: inTest, Size: size}); len(got) != len(live) || got[0] != live[0] || got[len(got)-1] != live[len(live)-1] {
			t.Errorf("pages of %d: got %v, want %v", size, got, live)
		}
		if got := list(session.Query{Filter: inTest, Size: size, Ended: true}); len(got) != 30 {
			t.Errorf("pages of %d with ended: got %d, want 30", size, len(got))
		}
	}
	if got := list(session.Query{Size: 7}); len(got) != len(live)+1 {
		t.Errorf("all gateways: got %d, want %d", len(got), len(live)+1)
	}
}

func TestStatusCountsLiveSessionsOnly(t *testing.T) {
	s := openStore(t, ownServer(t), nil)
	define(t, s, "test")
	w := register(t, s)
	for i := range 10 {
		key := newSession()
		w.claim(t, s, key)
		if i < 4 {
			mustEnd(t, s, w, key)
		}
	}
	mustEnd(t, s, w, newSession()) // never claimed
	g, err := s.GetGateway(testContext(t), "test")
	if err != nil {
		t.Fatal(err)
	}
	if g.Status.Sessions != 6 || g.Status.WorkersTotal != 1 || g.Status.WorkersApplied != 0 {
		t.Errorf("status %v, want 6 sessions, 0 of 1 workers", g.Status)
	}
	if err := s.Applied(testContext(t), w.key(), store.Ack{Revision: g.Status.Revision}); err != nil {
		t.Fatal(err)
	}
	if g, err = s.GetGateway(testContext(t), "test"); err != nil || g.Status.WorkersApplied != 1 {
		t.Errorf("status %v, %v; want 1 of 1 workers", g.GetStatus(), err)
	}
}

func TestEveryRequestIsCounted(t *testing.T) {
	reg := prometheus.NewRegistry()
	server := ownServer(t)
	s := openStore(t, server, reg)
	openStore(t, server, reg) // a second one in the process is no clash
	w := register(t, s)
	if _, err := s.Renew(testContext(t), w.id, w.incarnation, w.lease); err != nil {
		t.Fatal(err)
	}
	if _, err := s.client.Put(testContext(t), "anything", ""); err != nil {
		t.Fatal(err)
	}
	for op, want := range map[string]int{"register": 5, "renew": 2, "Put": 1} {
		if got := requests(t, reg, op); got != want {
			t.Errorf("%s counted %d times, want %d", op, got, want)
		}
	}
}
