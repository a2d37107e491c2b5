package session_test

import (
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/leasehold/leasehold/controlplane/session"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// However often a session changes hands: its epoch counts the owners, its last
// few events end with what happened last, a tombstone has no secrets, and no rule
// changes the record that it was given.
func TestRulesOverALifetime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Unix(1_800_000_000, 0)
		rec := session.Opened(owned(mine, 1, session.FirstEpoch), now)
		happened := []string{"OPENED"}
		epoch := uint64(session.FirstEpoch)
		for range rapid.IntRange(0, 20).Draw(t, "changes") {
			before := proto.CloneOf(rec)
			now = now.Add(time.Minute)
			next, what := change(t, rec, now)
			if !proto.Equal(rec, before) {
				t.Fatalf("%s changed its argument: got %v, want %v", what, rec, before)
			}
			if what != "" {
				happened = append(happened, what)
			}
			if what == "RECLAIMED" || what == "HANDED_OVER" {
				epoch++
			}
			if rec = next; rec.Epoch != epoch {
				t.Fatalf("epoch %d after %v, want %d", rec.Epoch, happened, epoch)
			}
			if session.Ended(rec) {
				break
			}
		}
		var kept []string
		for _, e := range rec.Events {
			kept = append(kept, e.Type.String()[len("SESSION_EVENT_TYPE_"):])
		}
		if want := happened[max(0, len(happened)-8):]; !slices.Equal(kept, want) {
			t.Fatalf("events %v, want %v", kept, want)
		}
	})
}

// change does what some owner might, and returns the event that it leaves.
func change(t *rapid.T, rec *session.Record, now time.Time) (next *session.Record, event string) {
	switch rapid.IntRange(0, 9).Draw(t, "change") {
	case 0:
		next, err := session.End{Worker: rec.Worker, Incarnation: rec.Incarnation, Reason: leaseholdv1.EndReason_END_REASON_CLIENT, Time: now}.Tombstone(rec)
		if err != nil || next.PrincipalDigest != nil || next.ClientCapabilities != nil || next.Upstreams[0].SealedSessionId != nil {
			t.Fatalf("end: %v, %v; want a tombstone without secrets", next, err)
		}
		return next, "ENDED"
	case 1, 2, 3:
		wish := proto.CloneOf(rec)
		wish.Events, wish.ProtocolVersion = nil, now.String()
		if saved, err := session.Save(rec, true, wish); saved || err != nil {
			t.Fatalf("save: %v, %v; want it to be stored", saved, err)
		}
		return session.Saved(rec, wish), ""
	}
	worker := rapid.SampledFrom([]string{mine, theirs}).Draw(t, "worker")
	if rapid.Bool().Draw(t, "by its owner") {
		ask := session.HandOver{From: session.Peer{Worker: rec.Worker, Incarnation: rec.Incarnation}, To: session.Peer{Worker: worker, Incarnation: rec.Incarnation + 1}}
		next, granted, err := ask.Next(rec, true, now)
		if granted || err != nil {
			t.Fatalf("hand over: %v, %v; want the next record", granted, err)
		}
		return next, "HANDED_OVER"
	}
	next, granted, err := session.Reclaim(rec, worker, rec.Incarnation+1, now)
	if granted || err != nil {
		t.Fatalf("reclaim: %v, %v; want the next record", granted, err)
	}
	return next, "RECLAIMED"
}
