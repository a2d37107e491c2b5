package session

import (
	"bytes"
	"context"
	"slices"

	"github.com/leasehold/leasehold/dataplane/replay"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// maxEntries bounds the streams of one session whose events are kept.
const maxEntries = 32

// journal is what clients of a session may be sent again: the events of streams to
// which the upstream gave no ids.
type journal struct {
	entries []*entry // the oldest first
	last    uint64   // number of the newest one
}

// entry is one stream of a journal.
type entry struct {
	epoch    uint64 // under which it began
	number   uint64
	log      *replay.Log
	isCall   bool      // and not the GET stream
	exchange *exchange // the call; nil if it was an earlier owner's
	request  []byte    // the JSON-RPC id of the call; nil for a batch

	// Guarded by session.mu, of the request that is sent the events of a call again:
	reader int           // counts them: the newest gets the events
	taken  uint64        // the number of the last one that it took
	caught chan struct{} // capacity 1: taken or the readers changed
}

// changed wakes who waits for the reader.
func (e *entry) changed() {
	select {
	case e.caught <- struct{}{}:
	default:
	}
}

// take notes that a reader has taken the events up to a number. It reports whether
// they are its own to pass on: another one may have come.
func (s *Session) take(e *entry, reader int, upto uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.reader != reader {
		return false
	}
	e.taken = upto
	e.changed()
	return true
}

// awaitReader waits until the reader of a call's events, if there is one, has taken
// enough of them for another one of a size: so the upstream waits for it, as it does
// for the call's own client.
func (s *Session) awaitReader(ctx context.Context, e *entry, size int) {
	for {
		s.mu.Lock()
		reads, taken := e.exchange.readers > 0, e.taken
		s.mu.Unlock()
		if !reads || !e.log.Full(taken, size) {
			return
		}
		select {
		case <-e.caught:
		case <-ctx.Done():
			return
		}
	}
}

// newEntry begins to keep the events of a stream; nil if the session is over, or
// its client could not ask for them.
func (s *Session) newEntry(x *exchange) *entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dropped || s.closing || s.connected {
		return nil
	}
	if s.journal == nil {
		s.journal = &journal{}
	}
	j := s.journal
	if len(j.entries) >= maxEntries {
		i := j.dispensable()
		j.entries[i].log.Drop()
		j.entries = slices.Delete(j.entries, i, i+1)
	}
	j.last++
	e := &entry{epoch: s.epoch, number: j.last, log: s.table.replays.New(), isCall: x != nil, exchange: x, caught: make(chan struct{}, 1)}
	if x != nil && len(x.ids) == 1 {
		e.request = bytes.Clone(x.ids[0]) // it is a part of the body, which goes with the call
	}
	j.entries = append(j.entries, e)
	s.table.poke() // so that it is swept in time
	return e
}

// dispensable returns which entry is the first to go: the oldest of a stream that
// has ended, otherwise the oldest of a call. The GET stream, which calls come and go
// beside, keeps its own.
func (j *journal) dispensable() int {
	if i := slices.IndexFunc(j.entries, func(e *entry) bool { return e.log.Ended() }); i >= 0 {
		return i
	}
	return max(0, slices.IndexFunc(j.entries, func(e *entry) bool { return e.isCall }))
}

// findEntry returns the entry that a cursor names, or nil.
func (s *Session) findEntry(c cursor) *entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.journal == nil {
		return nil
	}
	for _, e := range s.journal.entries {
		if e.number == c.log && e.epoch == c.epoch {
			return e
		}
	}
	return nil
}

func (s *Session) dropLogs() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropLogsLocked()
}

func (s *Session) dropLogsLocked() {
	if s.journal == nil {
		return
	}
	for _, e := range s.journal.entries {
		e.log.Drop()
	}
	s.journal = nil
}

// mostPart is about how much of a stream's events goes into one message.
const mostPart = 1 << 20

// parts returns what is kept, for the next owner of the session. A stream is left out
// that has not ended, and one with an event that is too long for a message.
func (j *journal) parts() []*leaseholdv1.HandOverReplay {
	if j == nil {
		return nil
	}
	var parts []*leaseholdv1.HandOverReplay
	for _, e := range j.entries {
		if e.log.Ended() {
			parts = append(parts, e.parts()...)
		}
	}
	return parts
}

func (e *entry) parts() (parts []*leaseholdv1.HandOverReplay) {
	first, events := e.log.All()
	size := mostPart
	for i, event := range events {
		if len(event) > mostPart {
			return nil
		}
		if size += len(event); size > mostPart {
			parts = append(parts, &leaseholdv1.HandOverReplay{Epoch: e.epoch, Number: e.number, Request: e.request, Call: e.isCall, First: first + uint64(i)})
			size = len(event)
		}
		last := parts[len(parts)-1]
		last.Events = append(last.Events, event)
	}
	return parts
}

// restore takes up what an earlier owner kept. It is called before the session can be
// found.
func (s *Session) restore(parts []*leaseholdv1.HandOverReplay) {
	var last *entry
	for _, part := range parts {
		if last == nil || last.number != part.GetNumber() || last.epoch != part.GetEpoch() {
			if s.journal == nil {
				s.journal = &journal{}
			}
			if len(s.journal.entries) >= maxEntries {
				break
			}
			last = &entry{epoch: part.GetEpoch(), number: part.GetNumber(), isCall: part.GetCall(), request: part.GetRequest(),
				log: s.table.replays.NewFrom(part.GetFirst()), caught: make(chan struct{}, 1)}
			s.journal.entries = append(s.journal.entries, last)
		}
		for _, event := range part.GetEvents() {
			last.log.Append(event)
		}
	}
	if s.journal != nil {
		for _, e := range s.journal.entries {
			e.log.End()
		}
	}
}
