package session

import (
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// maxEvents is how many events a record keeps.
const maxEvents = 8

// Opened returns the record to be claimed for want, which is not changed: its
// one event is that it was opened. Whatever a worker says of events is ignored.
func Opened(want *Record, now time.Time) *Record {
	rec := proto.CloneOf(want)
	rec.Events = nil
	happened(rec, leaseholdv1.SessionEventType_SESSION_EVENT_TYPE_OPENED, now)
	return rec
}

// Saved returns the record to be stored for next in the place of stored: the
// events are those that stored has.
func Saved(stored, next *Record) *Record {
	rec := proto.CloneOf(next)
	rec.Events = stored.GetEvents()
	return rec
}

// happened appends an event that leaves r as it is now, and forgets the oldest
// when there are too many.
func happened(r *Record, what leaseholdv1.SessionEventType, now time.Time) {
	r.Events = append(r.Events, &leaseholdv1.SessionEvent{
		Time:   timestamppb.New(now),
		Type:   what,
		Worker: WorkerName(r.Worker),
		Epoch:  r.Epoch,
	})
	r.Events = r.Events[max(0, len(r.Events)-maxEvents):]
}

// sameButEvents reports whether a and b say the same, events aside: those are
// the control plane's, and a worker that repeats itself does not know them.
func sameButEvents(a, b *Record) bool {
	return proto.Equal(Saved(nil, a), Saved(nil, b))
}
