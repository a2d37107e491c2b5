package session_test

import (
	"errors"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/leasehold/leasehold/controlplane/session"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

const (
	mine   = "00000000000000aa"
	theirs = "00000000000000bb"
)

func owned(worker string, incarnation int64, epoch uint64) *session.Record {
	return &session.Record{
		Worker: worker, Incarnation: incarnation, Epoch: epoch,
		PrincipalDigest:    []byte("p"),
		ClientCapabilities: []byte("{}"),
		SealedWishes:       []byte("w"),
		Upstreams:          []*leaseholdv1.UpstreamRecord{{Upstream: "u", SealedSessionId: []byte("s"), Address: "h:1"}},
		ExpireTime:         timestamppb.New(time.Unix(5000, 0)),
	}
}

func tombstone() *session.Record {
	r := owned(mine, 1, 3)
	r.End = &leaseholdv1.SessionEnd{}
	return r
}

func TestClaimed(t *testing.T) {
	want := owned(mine, 1, 1)
	tests := []struct {
		name   string
		stored *session.Record
		err    error
	}{
		{"nothing there", nil, session.ErrNotAlive},
		{"granted before", owned(mine, 1, 1), nil},
		{"another owner", owned(theirs, 1, 1), session.ErrHeld},
		{"own earlier incarnation", owned(mine, 0, 1), session.ErrHeld},
		{"tombstone", tombstone(), session.ErrEnded},
	}
	for _, tt := range tests {
		if err := session.Claimed(tt.stored, want); !errors.Is(err, tt.err) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.err)
		}
	}
}

func TestReclaimRaisesTheEpochByOneAndKeepsTheRest(t *testing.T) {
	stored := owned(theirs, 7, 4)
	before := proto.CloneOf(stored)
	next, granted, err := session.Reclaim(stored, mine, 9, time.Unix(77, 0))
	if err != nil || granted {
		t.Fatalf("reclaim: %v, %v", granted, err)
	}
	want := owned(mine, 9, 5)
	want.Events = []*leaseholdv1.SessionEvent{event(leaseholdv1.SessionEventType_SESSION_EVENT_TYPE_RECLAIMED, 77, mine, 5)}
	if !proto.Equal(next, want) {
		t.Errorf("got %v, want %v", next, want)
	}
	if !proto.Equal(stored, before) {
		t.Error("Reclaim changed its argument")
	}
	if again, granted, err := session.Reclaim(next, mine, 9, time.Unix(88, 0)); err != nil || !granted || again.Epoch != 5 {
		t.Errorf("again: %v, %v, %v; want it granted before", again, granted, err)
	}
	if _, _, err := session.Reclaim(tombstone(), mine, 1, time.Time{}); !errors.Is(err, session.ErrEnded) {
		t.Errorf("tombstone: %v, want ErrEnded", err)
	}
	if _, _, err := session.Reclaim(nil, mine, 1, time.Time{}); !errors.Is(err, session.ErrNotFound) {
		t.Errorf("nothing: %v, want ErrNotFound", err)
	}
}

func TestRefusal(t *testing.T) {
	tests := []struct {
		facts session.ReclaimFacts
		want  error
	}{
		{session.ReclaimFacts{Unchanged: false, OwnerAlive: true, TakerAlive: false}, session.ErrStale},
		{session.ReclaimFacts{Unchanged: true, OwnerAlive: true, TakerAlive: false}, session.ErrNotAlive},
		{session.ReclaimFacts{Unchanged: true, OwnerAlive: true, TakerAlive: true}, session.ErrOwnerAlive},
		{session.ReclaimFacts{Unchanged: true, OwnerAlive: false, TakerAlive: true}, session.ErrStale},
	}
	for _, tt := range tests {
		if err := tt.facts.Refusal(); !errors.Is(err, tt.want) {
			t.Errorf("%+v: %v, want %v", tt.facts, err, tt.want)
		}
	}
}

func TestTombstone(t *testing.T) {
	now := time.Unix(1000, 0)
	end := session.End{Worker: mine, Incarnation: 1, Reason: leaseholdv1.EndReason_END_REASON_IDLE, Time: now, Expire: time.Unix(9000, 0)}

	tomb, err := end.Tombstone(owned(mine, 1, 3))
	if err != nil || tomb.End.Reason != end.Reason || !tomb.End.Time.AsTime().Equal(now) || tomb.Epoch != 3 || tomb.ExpireTime.Seconds != 5000 {
		t.Errorf("in place: %v, %v", tomb, err)
	}
	if tomb.PrincipalDigest != nil || tomb.ClientCapabilities != nil || tomb.SealedWishes != nil || tomb.Upstreams[0].SealedSessionId != nil || tomb.Upstreams[0].Address != "h:1" {
		t.Errorf("tombstone keeps the wrong things: %v", tomb)
	}
	if tomb, err = end.Tombstone(nil); err != nil || tomb.ExpireTime.Seconds != 9000 || !session.Ended(tomb) {
		t.Errorf("of nothing: %v, %v", tomb, err)
	}
	if tomb, err = end.Tombstone(tombstone()); tomb != nil || err != nil {
		t.Errorf("of a tombstone: %v, %v; want nothing to do", tomb, err)
	}
	for _, other := range []*session.Record{owned(theirs, 1, 1), owned(mine, 2, 1)} {
		if _, err := end.Tombstone(other); !errors.Is(err, session.ErrStale) {
			t.Errorf("of another's: %v, want ErrStale", err)
		}
	}
	end.Expire = time.Time{}
	if tomb, _ = end.Tombstone(nil); !tomb.ExpireTime.AsTime().Equal(now.Add(30 * 24 * time.Hour)) {
		t.Errorf("expires %v, want after the longest life", tomb.ExpireTime.AsTime())
	}
	end.Expire = now.Add(1000 * 24 * time.Hour)
	if tomb, _ = end.Tombstone(nil); !tomb.ExpireTime.AsTime().Equal(now.Add(30 * 24 * time.Hour)) {
		t.Errorf("expires %v, want no later than the longest life", tomb.ExpireTime.AsTime())
	}
}

func TestSave(t *testing.T) {
	next := owned(mine, 1, 2)
	next.ProtocolVersion = "x"
	tests := []struct {
		name   string
		stored *session.Record
		seen   bool
		saved  bool
		err    error
	}{
		{"granted", owned(mine, 1, 2), true, false, nil},
		{"saved before", proto.CloneOf(next), false, true, nil},
		{"the same as it is", proto.CloneOf(next), true, false, nil},
		{"changed", owned(mine, 1, 2), false, false, session.ErrStale},
		{"another owner", owned(theirs, 1, 2), true, false, session.ErrStale},
		{"another epoch", owned(mine, 1, 1), true, false, session.ErrStale},
		{"nothing", nil, false, false, session.ErrStale},
		{"ended", tombstone(), true, false, session.ErrEnded},
	}
	for _, tt := range tests {
		if saved, err := session.Save(tt.stored, tt.seen, next); saved != tt.saved || !errors.Is(err, tt.err) {
			t.Errorf("%s: %v, %v; want %v, %v", tt.name, saved, err, tt.saved, tt.err)
		}
	}
}

// A session that is pinned to a dead worker is taken like any other, by whoever
// ends it, and everybody sees what it was.
func TestPinnedSessionIsTakenAndShown(t *testing.T) {
	key := session.Key{Gateway: "g", Digest: "00000000000000000000000000000001"}
	stored := owned(theirs, 1, 1)
	stored.Class, stored.Upstreams[0].Class = leaseholdv1.Class_CLASS_PINNED, leaseholdv1.Class_CLASS_PINNED
	next, granted, err := session.Reclaim(stored, mine, 2, time.Unix(1, 0))
	if err != nil || granted || next.Class != leaseholdv1.Class_CLASS_PINNED || next.Epoch != 2 {
		t.Fatalf("reclaim: %v, %v, %v; want it pinned, with epoch 2", next, granted, err)
	}
	end := session.End{Worker: mine, Incarnation: 2, Reason: leaseholdv1.EndReason_END_REASON_OWNER_LOST, Time: time.Unix(2, 0)}
	tomb, err := end.Tombstone(next)
	if err != nil {
		t.Fatal(err)
	}
	filter, violations := session.ParseFilter("class = pinned")
	if violations.Err() != nil || !filter.Matches(key, tomb) {
		t.Errorf("class = pinned does not match its tombstone: %v", violations)
	}
	shown := session.Session(key, tomb)
	if shown.Class != leaseholdv1.Class_CLASS_PINNED || shown.Upstreams[0].Class != leaseholdv1.Class_CLASS_PINNED || shown.End.Reason != end.Reason {
		t.Errorf("shown as %v, want it pinned and its owner lost", shown)
	}
}

func TestSessionShowsNoSecrets(t *testing.T) {
	key := session.Key{Gateway: "g", Digest: "00000000000000000000000000000001"}
	s := session.Session(key, owned(mine, 7, 3))
	if s.Name != "gateways/g/sessions/"+key.Digest || s.Owner != "workers/"+mine || s.Epoch != 3 || s.Incarnation != 7 || s.Upstreams[0].Address != "h:1" || !s.Durable {
		t.Errorf("got %v", s)
	}
}

func FuzzParseName(f *testing.F) {
	f.Add("gateways/g/sessions/00000000000000000000000000000001")
	f.Add("gateways//sessions/")
	f.Fuzz(func(t *testing.T, name string) {
		if key, ok := session.ParseName(name); ok && key.Name() != name {
			t.Errorf("%q parses as %v, whose name is %q", name, key, key.Name())
		}
		if id, ok := session.ParseWorkerName(name); ok && session.WorkerName(id) != name {
			t.Errorf("%q parses as worker %q", name, id)
		}
	})
}

func TestASessionWithSeveralUpstreamsOutlivesThoseThatArePinned(t *testing.T) {
	for _, tt := range []struct {
		class             leaseholdv1.Class
		merged, connected bool
		want              bool
	}{
		{leaseholdv1.Class_CLASS_PINNED, true, false, true},
		{leaseholdv1.Class_CLASS_PINNED, true, true, false},
		{leaseholdv1.Class_CLASS_PINNED, false, false, false},
		{leaseholdv1.Class_CLASS_RESUMABLE, true, false, false},
	} {
		r := &session.Record{Class: tt.class, Merged: tt.merged, Connected: tt.connected}
		if got := session.Session(session.Key{}, r).GetOutlivesPinned(); got != tt.want {
			t.Errorf("%+v: got %v", tt, got)
		}
	}
}
