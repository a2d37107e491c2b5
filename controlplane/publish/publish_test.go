package publish

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/leasehold/leasehold/controlplane/store"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newHub() *Hub {
	return NewHub(func(sealed []byte) (*leaseholdv1.KeyRing, error) {
		if string(sealed) == "bad" {
			return nil, errors.New("bad")
		}
		return &leaseholdv1.KeyRing{Keys: []*leaseholdv1.Key{{Id: sealed}}}, nil
	}, hclog.NewNullLogger())
}

func tableOf[K comparable, V any](entries map[K]V) *store.Table[K, V] {
	return &store.Table[K, V]{Entries: entries}
}

func gatewayAt(id string, revision int64) *leaseholdv1.Gateway {
	return &leaseholdv1.Gateway{Name: "gateways/" + id, Status: &leaseholdv1.GatewayStatus{Revision: revision}}
}

func memberOf(worker string, incarnation, applied int64) store.Member {
	return store.Member{MemberKey: store.MemberKey{Worker: worker, Incarnation: incarnation}, Info: &leaseholdv1.WorkerInfo{}, AppliedRevision: applied}
}

func membersOf(members ...store.Member) *store.Table[store.MemberKey, store.Member] {
	entries := map[store.MemberKey]store.Member{}
	for _, m := range members {
		entries[m.MemberKey] = m
	}
	return tableOf(entries)
}

func snapshotAt(revision int64) *store.Snapshot {
	return &store.Snapshot{
		Revision: revision,
		Gateways: tableOf(map[string]*leaseholdv1.Gateway{"a": gatewayAt("a", 1), "b": gatewayAt("b", 2)}),
		Members:  membersOf(memberOf("1", 5, 0), memberOf("1", 9, 0), memberOf("0", 3, 0)),
		Endings:  tableOf(map[store.EndingKey]*leaseholdv1.Ending{}),
		Ring:     &store.SealedRing{Revision: 1, Sealed: []byte("ring")},
	}
}

// states runs the hub's building of one state after another.
func states(h *Hub, snaps ...*store.Snapshot) []*state {
	var list []*state
	var last *state
	for _, snap := range snaps {
		last = h.build(last, snap)
		list = append(list, last)
	}
	return list
}

func TestFirstStateIsCompleteAndLaterOnesAreDifferences(t *testing.T) {
	first := snapshotAt(10)
	second := *first
	second.Revision = 11
	second.Gateways = tableOf(map[string]*leaseholdv1.Gateway{"a": gatewayAt("a", 11), "c": gatewayAt("c", 10)})
	third := second
	third.Revision = 12
	third.Members = membersOf(memberOf("1", 9, 12), memberOf("0", 3, 12))
	fourth := third
	fourth.Revision = 13
	fourth.Endings = tableOf(map[store.EndingKey]*leaseholdv1.Ending{{Gateway: "a", Session: "s"}: {Gateway: "a", Session: "s"}})
	s := states(newHub(), first, &second, &third, &fourth)

	complete := parts(nil, s[0])
	if len(complete) != 1 || !complete[0].Complete || complete[0].More || complete[0].Revision != 10 || len(complete[0].Gateways) != 2 {
		t.Errorf("first state is %v", complete)
	}
	if m := complete[0].Members.GetMembers(); len(m) != 2 || m[0].Worker != "0" || m[1].Incarnation != 9 {
		t.Errorf("members %v, want the newest incarnation of each, ordered", m)
	}
	if complete[0].KeyRing == nil || complete[0].Endings == nil {
		t.Errorf("first state has no ring or endings: %v", complete[0])
	}
	diff := parts(s[0], s[1])
	want := &leaseholdv1.WatchResponse{
		Revision:        11,
		Gateways:        []*leaseholdv1.Gateway{gatewayAt("a", 11), gatewayAt("c", 10)},
		RemovedGateways: []string{"gateways/b"},
	}
	if len(diff) != 1 || !proto.Equal(diff[0], want) {
		t.Errorf("difference is %v, want %v", diff, want)
	}
	if acks := parts(s[1], s[2]); len(acks) != 0 {
		t.Errorf("acknowledgements were pushed as %v", acks)
	}
	if ends := parts(s[2], s[3]); len(ends) != 1 || len(ends[0].Endings.GetEndings()) != 1 || ends[0].Members != nil {
		t.Errorf("ending is pushed as %v", ends)
	}
	if skipped := parts(s[0], s[3]); len(skipped) != 1 || skipped[0].Revision != 13 || len(skipped[0].Gateways) != 2 || skipped[0].Endings == nil {
		t.Errorf("several steps at once are %v", skipped)
	}
	if empty := parts(nil, states(newHub(), &store.Snapshot{Revision: 1, Gateways: tableOf(map[string]*leaseholdv1.Gateway{}), Members: membersOf(), Endings: tableOf(map[store.EndingKey]*leaseholdv1.Ending{})})[0]); len(empty) != 1 || !empty[0].Complete {
		t.Errorf("an empty state is %v, want one complete message", empty)
	}
}

func TestMessagesAreAtMostOneMebibyte(t *testing.T) {
	snap := snapshotAt(10)
	for i := range 300 {
		id := fmt.Sprintf("g%d", i)
		g := gatewayAt(id, 1)
		g.Description = strings.Repeat("x", 20_000)
		snap.Gateways.Entries[id] = g
	}
	for i := range store.MaxEndings {
		key := store.EndingKey{Gateway: strings.Repeat("g", 63), Session: fmt.Sprintf("%032x", i)}
		snap.Endings.Entries[key] = &leaseholdv1.Ending{Gateway: key.Gateway, Session: key.Session, Reason: 4}
	}
	messages := parts(nil, states(newHub(), snap)[0])
	got := 0
	for i, msg := range messages {
		if size := proto.Size(msg); size > 1<<20 {
			t.Errorf("message %d has %d bytes", i, size)
		}
		if msg.More != (i < len(messages)-1) || !msg.Complete || msg.Revision != 10 {
			t.Errorf("message %d: more %v, complete %v, revision %d", i, msg.More, msg.Complete, msg.Revision)
		}
		got += len(msg.Gateways)
	}
	if got != 302 || len(messages) < 6 {
		t.Errorf("%d gateways in %d messages, want 302 in several", got, len(messages))
	}
}

func TestTenThousandGatewaysComeInPartsOfAtMostOneMebibyte(t *testing.T) {
	snap := snapshotAt(10)
	snap.Gateways.Entries = map[string]*leaseholdv1.Gateway{}
	for i := range 10_000 {
		id := fmt.Sprintf("g%d", i)
		g := gatewayAt(id, int64(i+1))
		g.Upstreams = []*leaseholdv1.Upstream{{Name: "u", Url: "http://127.0.0.1:9000/" + strings.Repeat("x", 200+i%300)}}
		snap.Gateways.Entries[id] = g
	}
	first := states(newHub(), snap)[0]
	messages, seen := parts(nil, first), map[string]bool{}
	for i, msg := range messages {
		if size := proto.Size(msg); size > 1<<20 {
			t.Errorf("message %d has %d bytes", i, size)
		}
		for _, g := range msg.Gateways {
			seen[g.Name] = true
		}
	}
	if len(seen) != 10_000 || len(messages) < 3 || len(messages) > 10 {
		t.Errorf("%d gateways in %d messages", len(seen), len(messages))
	}
	next := *snap
	next.Revision, next.Gateways = 20_000, tableOf(maps.Clone(snap.Gateways.Entries))
	next.Gateways.Entries["g7"] = gatewayAt("g7", 20_000)
	second := &state{snap: &next, members: first.members, endings: first.endings, ring: first.ring}
	if diff := parts(first, second); len(diff) != 1 || len(diff[0].Gateways) != 1 {
		t.Errorf("one change of 10,000 is told in %d messages", len(diff))
	}
}

func TestRingThatDoesNotOpenLeavesTheLastOne(t *testing.T) {
	first := snapshotAt(1)
	second := *first
	second.Revision, second.Ring = 2, &store.SealedRing{Revision: 2, Sealed: []byte("bad")}
	s := states(newHub(), first, &second)
	if s[1].ring != s[0].ring || s[0].ring == nil {
		t.Errorf("ring is %v, want %v", s[1].ring, s[0].ring)
	}
}

// A stream that is slow gets what is newest when it is ready again, and nothing
// of what was in between.
func TestSlowStreamIsBroughtUpToTheNewest(t *testing.T) {
	h := newHub()
	h.Publish(snapshotAt(1))
	sending, resume := make(chan *leaseholdv1.WatchResponse), make(chan struct{})
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan error)
	go func() {
		done <- h.Stream(ctx, func(msg *leaseholdv1.WatchResponse) error {
			sending <- msg
			<-resume
			return nil
		})
	}()
	<-sending
	for revision := int64(2); revision <= 50; revision++ {
		snap := snapshotAt(revision)
		snap.Gateways.Entries["a"] = gatewayAt("a", revision)
		h.Publish(snap)
	}
	resume <- struct{}{}
	if msg := <-sending; msg.Revision != 50 || msg.Complete || len(msg.Gateways) != 1 {
		t.Errorf("got %v, want the difference to 50", msg)
	}
	resume <- struct{}{}
	cause := errors.New("gone")
	cancel(cause)
	if err := <-done; !errors.Is(err, cause) {
		t.Errorf("stream ended with %v, want %v", err, cause)
	}
}

func TestStopEndsStreamsAndWaits(t *testing.T) {
	h := newHub()
	done := make(chan error, 2)
	go func() { done <- h.Stream(t.Context(), nil) }()
	go func() { done <- h.Await(t.Context(), func(*store.Snapshot) bool { return false }) }()
	h.Stop()
	for range 2 {
		if err := <-done; !errors.Is(err, ErrStopped) {
			t.Errorf("ended with %v, want ErrStopped", err)
		}
	}
}

func TestStreamsEndWhenTheirReplicaHasLostEtcdForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub()
		h.Publish(snapshotAt(1))
		stream := func() <-chan error {
			done := make(chan error, 1)
			go func() { done <- h.Stream(t.Context(), func(*leaseholdv1.WatchResponse) error { return nil }) }()
			synctest.Wait()
			return done
		}
		first := stream()
		h.Lost()
		time.Sleep(behindAfter - 1)
		h.Publish(snapshotAt(2)) // a hiccup
		time.Sleep(behindAfter)
		h.Lost()
		h.Lost()
		time.Sleep(behindAfter - 1)
		synctest.Wait()
		select {
		case err := <-first:
			t.Fatalf("ended with %v before it was long", err)
		default:
		}
		time.Sleep(time.Nanosecond)
		if err := <-first; !errors.Is(err, ErrBehind) {
			t.Errorf("ended with %v, want ErrBehind", err)
		}
		if err := <-stream(); !errors.Is(err, ErrBehind) {
			t.Errorf("a new one ended with %v, want ErrBehind", err)
		}
		h.Publish(snapshotAt(3))
		last := stream()
		h.Stop()
		if err := <-last; !errors.Is(err, ErrStopped) {
			t.Errorf("after etcd was back: ended with %v, want it to go on until the stop", err)
		}
	})
}

// recorded tells each acknowledgement that is written, and waits.
type recorded struct {
	written chan int64
	resume  chan error
}

func (r *recorded) Applied(ctx context.Context, _ store.MemberKey, ack store.Ack) error {
	r.written <- ack.Revision
	return <-r.resume
}

func runAcks(t *testing.T) (*Acks, *recorded) {
	r := &recorded{written: make(chan int64), resume: make(chan error)}
	a := NewAcks(r, hclog.NewNullLogger())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return a, r
}

func TestAcknowledgementsAreCoalesced(t *testing.T) {
	a, r := runAcks(t)
	key := store.MemberKey{Worker: "w", Incarnation: 1}
	closeStream := a.Open(key)
	a.Ack(key, store.Ack{Revision: 1})
	if got := <-r.written; got != 1 {
		t.Errorf("wrote %d, want 1", got)
	}
	for _, revision := range []int64{2, 9, 5} {
		a.Ack(key, store.Ack{Revision: revision})
	}
	r.resume <- nil
	if got := <-r.written; got != 9 {
		t.Errorf("wrote %d, want 9", got)
	}
	r.resume <- nil
	closeStream()
	a.Ack(key, store.Ack{Revision: 20}) // nobody's stream any more
	if len(a.take()) != 0 || len(a.workers) != 0 {
		t.Error("a closed stream's acknowledgement is kept")
	}
}

func TestLostAcknowledgementIsRecordedAgain(t *testing.T) {
	a, r := runAcks(t)
	key := store.MemberKey{Worker: "w", Incarnation: 1}
	defer a.Open(key)()
	a.Ack(key, store.Ack{Revision: 7})
	<-r.written
	r.resume <- nil
	a.Check(&store.Snapshot{Members: membersOf(memberOf("w", 1, 0))}) // it re-adopted: the key is new
	select {
	case got := <-r.written:
		if got != 7 {
			t.Errorf("wrote %d, want 7", got)
		}
		r.resume <- nil
	case <-time.After(10 * time.Second):
		t.Fatal("it was not recorded again")
	}
	a.Check(&store.Snapshot{Members: membersOf(memberOf("w", 1, 7))})
	if len(a.take()) != 0 {
		t.Error("what is recorded is recorded again")
	}
}

// A gateway that a replica cannot use is there all the same: workers that come from
// another replica keep it, until they are told of it or it is gone.
func TestGatewaysThatCannotBeUsedAreKeptByWorkers(t *testing.T) {
	without := snapshotAt(10)
	without.Unusable = tableOf(map[string]string{"locked": "wrapped under another root key", "odd": "not a message"})
	usable, gone := snapshotAt(11), snapshotAt(12)
	usable.Unusable = tableOf(map[string]string{"odd": "not a message"})
	usable.Gateways.Entries["locked"] = gatewayAt("locked", 3)
	gone.Gateways, gone.Unusable = usable.Gateways, tableOf(map[string]string{})
	all := states(newHub(), without, usable, gone)

	first := parts(nil, all[0])
	if len(first) != 1 || strings.Join(first[0].KeptGateways, " ") != "gateways/locked gateways/odd" || len(first[0].RemovedGateways) != 0 {
		t.Errorf("complete state: %v, want two kept and none removed", first)
	}
	second := parts(all[0], all[1])
	if len(second) != 1 || len(second[0].Gateways) != 1 || len(second[0].KeptGateways)+len(second[0].RemovedGateways) != 0 {
		t.Errorf("when one can be used: %v, want its definition and nothing else", second)
	}
	third := parts(all[1], all[2])
	if len(third) != 1 || strings.Join(third[0].RemovedGateways, " ") != "gateways/odd" || len(third[0].Gateways)+len(third[0].KeptGateways) != 0 {
		t.Errorf("when the other is gone: %v, want it removed and nothing else", third)
	}
}

// A replica gets the root key of a new ring after the ring: it tries again then.
func TestRingIsOpenedOnceItsRootKeyIsThere(t *testing.T) {
	open, tried := false, 0
	hub := NewHub(func(sealed []byte) (*leaseholdv1.KeyRing, error) {
		if tried++; !open {
			return nil, errors.New("wrapped under another root key")
		}
		return &leaseholdv1.KeyRing{Keys: []*leaseholdv1.Key{{Id: sealed}}}, nil
	}, hclog.NewNullLogger())
	snap := snapshotAt(10)
	publish := func() *state {
		hub.Publish(snap)
		now, _ := hub.newest()
		return now
	}
	if now := publish(); now.ring != nil {
		t.Errorf("ring %v, want none yet", now.ring)
	}
	open = true
	if now := publish(); string(now.ring.GetKeys()[0].GetId()) != "ring" {
		t.Errorf("ring %v, want it once its root key is there", now.ring)
	}
	if publish(); tried != 2 {
		t.Errorf("opened %d times, want no more than until it was open", tried)
	}
}
