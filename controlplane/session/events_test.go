package session_test

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/leasehold/leasehold/controlplane/session"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func event(what leaseholdv1.SessionEventType, at int64, worker string, epoch uint64) *leaseholdv1.SessionEvent {
	return &leaseholdv1.SessionEvent{Type: what, Time: timestamppb.New(time.Unix(at, 0)), Worker: "workers/" + worker, Epoch: epoch}
}

// The events are the control plane's: what a worker says of them neither counts
// nor is stored.
func TestEventsOfARecordAreWhatTheControlPlaneSaw(t *testing.T) {
	sent := owned(mine, 1, 1)
	sent.Events = []*leaseholdv1.SessionEvent{event(leaseholdv1.SessionEventType_SESSION_EVENT_TYPE_ENDED, 1, theirs, 9)}
	opened := session.Opened(sent, time.Unix(5, 0))
	first := event(leaseholdv1.SessionEventType_SESSION_EVENT_TYPE_OPENED, 5, mine, 1)
	if len(opened.Events) != 1 || !proto.Equal(opened.Events[0], first) || len(sent.Events) != 1 || sent.Events[0].Epoch != 9 {
		t.Errorf("opened with %v, want the one event %v and the argument untouched", opened.Events, first)
	}
	if err := session.Claimed(opened, sent); err != nil {
		t.Errorf("claim repeated: %v, want it granted", err)
	}
	if saved, err := session.Save(opened, false, sent); !saved || err != nil {
		t.Errorf("save of what is stored: %v, %v; want it saved before", saved, err)
	}
	if saved := session.Saved(opened, sent); len(saved.Events) != 1 || !proto.Equal(saved.Events[0], first) {
		t.Errorf("saved with %v, want %v", saved.Events, first)
	}
	rec := opened
	for i := range 9 {
		rec, _, _ = session.Reclaim(rec, theirs, int64(10+i), time.Unix(int64(10+i), 0))
	}
	tomb, err := session.End{Worker: theirs, Incarnation: 18, Time: time.Unix(99, 0)}.Tombstone(rec)
	if err != nil {
		t.Fatal(err)
	}
	events := session.Session(session.Key{}, tomb).Events
	last := event(leaseholdv1.SessionEventType_SESSION_EVENT_TYPE_ENDED, 99, theirs, 10)
	if len(events) != 8 || !proto.Equal(events[7], last) || !proto.Equal(events[0], event(leaseholdv1.SessionEventType_SESSION_EVENT_TYPE_RECLAIMED, 12, theirs, 4)) {
		t.Errorf("events %v, want the last 8, ending with %v", events, last)
	}
}
