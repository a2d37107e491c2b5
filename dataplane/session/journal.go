package session

import (
	"github.com/leasehold/leasehold/dataplane/replay"
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
	number   uint64
	log      *replay.Log
	exchange *exchange // the call; nil for the GET stream
}

// request is the JSON-RPC id of the entry's call, or nil.
func (e *entry) request() []byte {
	if e.exchange == nil || len(e.exchange.ids) != 1 {
		return nil
	}
	return e.exchange.ids[0]
}

// newEntry begins to keep the events of a stream; nil if the session is over.
func (s *Session) newEntry(x *exchange) *entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dropped || s.closing {
		return nil
	}
	if s.journal == nil {
		s.journal = &journal{}
	}
	j := s.journal
	if len(j.entries) >= maxEntries {
		j.entries[0].log.Drop()
		j.entries = append(j.entries[:0], j.entries[1:]...)
	}
	j.last++
	e := &entry{number: j.last, log: s.table.replays.New(), exchange: x}
	j.entries = append(j.entries, e)
	s.table.poke() // so that it is swept in time
	return e
}

// forgetEntry drops an entry that nobody needs: the upstream gives ids after all.
func (s *Session) forgetEntry(e *entry) {
	e.log.Drop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, other := range s.journal.entries {
		if other == e {
			s.journal.entries = append(s.journal.entries[:i], s.journal.entries[i+1:]...)
			return
		}
	}
}

// findEntry returns the entry that a cursor names, or nil.
func (s *Session) findEntry(c cursor) *entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.journal == nil || c.epoch != s.epoch {
		return nil
	}
	for _, e := range s.journal.entries {
		if e.number == c.log {
			return e
		}
	}
	return nil
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
