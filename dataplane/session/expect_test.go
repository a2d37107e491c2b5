package session

import (
	"errors"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/sessionid"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// receiver returns a table of worker w, incarnation 1, with room for one session.
func receiver(t *testing.T) (*Table, *wavering) {
	t.Helper()
	authority := &wavering{}
	authority.holds.Store(true)
	gateway := &config.Gateway{ID: "g", Upstream: &config.Upstream{Name: "up"}, IdleTimeout: config.DefaultIdleTimeout}
	world := &config.Snapshot{Revision: 1, Gateways: map[string]*config.Gateway{"g": gateway}}
	table, err := NewTable(Config{Worker: "w", Max: 1, Logger: hclog.NewNullLogger(), Authority: authority, Records: &ledger{}, Upstream: mute{},
		World: func() *config.Snapshot { return world }})
	if err != nil {
		t.Fatal(err)
	}
	return table, authority
}

// granted is a record that names worker w, incarnation 1.
func granted(epoch uint64) *leaseholdv1.SessionRecord {
	var none [16]byte
	return &leaseholdv1.SessionRecord{
		Worker: "w", Incarnation: 1, Epoch: epoch, Class: leaseholdv1.Class_CLASS_REBUILDABLE, PrincipalDigest: make([]byte, 32), ProtocolVersion: "2025-11-25",
		Upstreams: []*leaseholdv1.UpstreamRecord{{Upstream: "up", ConnectionFingerprint: none[:]}},
		Events:    []*leaseholdv1.SessionEvent{{Type: leaseholdv1.SessionEventType_SESSION_EVENT_TYPE_HANDED_OVER, Epoch: epoch}},
	}
}

var moved = sessionid.Digest{1}

func expect(t *testing.T, table *Table, epoch uint64) *Expected {
	t.Helper()
	e, err := table.Expect(1, "g", moved, epoch)
	if err != nil {
		t.Fatal(err)
	}
	e.Complete(&leaseholdv1.HandOverState{})
	return e
}

func TestAGrantThatComesTwiceChangesNothing(t *testing.T) {
	table, _ := receiver(t)
	e := expect(t, table, 2)
	for range 2 {
		if err := e.Granted(granted(2), 10); err != nil {
			t.Fatal(err)
		}
	}
	if s, ok := table.Find(moved); !ok || s.Epoch() != 2 || table.Len() != 1 {
		t.Errorf("the table has %d sessions, this one: %v; want it under epoch 2", table.Len(), ok)
	}
}

// TestAGrantThatComesLateIsRefused has the session come, go on to another worker, and
// the first grant once more.
func TestAGrantThatComesLateIsRefused(t *testing.T) {
	table, _ := receiver(t)
	late := expect(t, table, 2)
	if err := late.Granted(granted(2), 10); err != nil {
		t.Fatal(err)
	}
	s, _ := table.Find(moved)
	table.give(s, &Moved{Worker: "x", Incarnation: 7, Epoch: 3})
	if err := late.Granted(granted(2), 10); !errors.Is(err, ErrStale) {
		t.Errorf("the same push again: got %v, want that it is stale", err)
	}
	again := expect(t, table, 2)
	if err := again.Granted(granted(2), 10); !errors.Is(err, ErrStale) {
		t.Errorf("another push of the same grant: got %v, want that it is stale", err)
	}
	again.Withdraw()
	back := expect(t, table, 4)
	if err := back.Granted(granted(4), 12); err != nil {
		t.Errorf("the session comes back: %v", err)
	}
}

func TestAGrantForAnotherIncarnationIsRefused(t *testing.T) {
	table, _ := receiver(t)
	e := expect(t, table, 2)
	record := granted(2)
	record.Incarnation = 2
	if err := e.Granted(record, 10); !errors.Is(err, ErrStale) || table.Len() != 0 {
		t.Errorf("got %v and %d sessions, want that it is stale and none", err, table.Len())
	}
}

func TestAPlaceForASessionThatIsToComeIsKeptOnceAndGivenBack(t *testing.T) {
	table, authority := receiver(t)
	e := expect(t, table, 2)
	if _, err := table.Expect(1, "g", moved, 2); !errors.Is(err, ErrExpected) {
		t.Errorf("a second offer: got %v, want that it is expected already", err)
	}
	if _, err := table.Expect(1, "g", sessionid.Digest{2}, 2); !errors.Is(err, ErrFull) {
		t.Errorf("an offer of a second session: got %v, want that there is no room", err)
	}
	e.Withdraw()
	e.Withdraw()
	e = expect(t, table, 2)
	if err := table.Reserve(sessionid.Digest{2}); !errors.Is(err, ErrFull) {
		t.Errorf("another session: got %v, want that the place is taken", err)
	}
	// A request may come before the grant, and find the record.
	if err := table.Reserve(moved); err != nil {
		t.Errorf("the session itself: got %v, want that its place is there", err)
	}
	table.Release()
	e.Withdraw()
	if _, err := table.Expect(2, "g", moved, 2); !errors.Is(err, ErrLost) {
		t.Errorf("an offer to another incarnation: got %v, want that it is lost", err)
	}
	authority.holds.Store(false)
	if _, err := table.Expect(1, "g", moved, 2); !errors.Is(err, ErrFenced) {
		t.Errorf("an offer to a fenced worker: got %v, want that it is fenced", err)
	}
}

func TestWhatASessionBringsAlongIsBounded(t *testing.T) {
	table, _ := receiver(t)
	e := expect(t, table, 2)
	part := &leaseholdv1.HandOverReplay{Epoch: 1, Number: 1, First: 1, Events: [][]byte{make([]byte, 1<<20)}}
	var err error
	parts := 0
	for ; err == nil && parts <= maxEntries; parts++ {
		err = e.Add(part)
	}
	if err == nil || parts != maxEntries+1 {
		t.Errorf("%d MiB were taken: %v; want an error beyond %d", parts, err, maxEntries)
	}
}

// TestARequestThatIsQuickerThanAGrantLosesNothing has a request look the session up while
// the grant takes it up.
func TestARequestThatIsQuickerThanAGrantLosesNothing(t *testing.T) {
	table, _ := receiver(t)
	e, err := table.Expect(1, "g", moved, 2)
	if err != nil {
		t.Fatal(err)
	}
	e.Complete(&leaseholdv1.HandOverState{Asked: [][]byte{[]byte("7")}})
	adopt := func() (*Session, error) {
		if err := table.Reserve(moved); err != nil {
			t.Fatal(err)
		}
		return table.Adopt("g", moved, granted(2), 10)
	}
	grant, _, err := table.fromRecord("g", moved, granted(2))
	if err != nil {
		t.Fatal(err)
	}
	took, ok := table.takeExpected(grant)
	if !ok || took == nil {
		t.Fatal("nothing came for the session")
	}
	if s, err := adopt(); err == nil {
		t.Fatalf("the session is here with %d requests of its upstream, want 1", len(s.asked))
	}
	table.tookUp(took)
	if _, err := adopt(); err != nil || table.opening != 0 {
		t.Errorf("afterwards: got %v, and %d places are taken; want the session, and none", err, table.opening)
	}
}
