// Package replay keeps the events of streams for a while, so that a client whose
// connection broke can be sent what it missed. It is for streams to which the
// upstream gave no event ids: of others, the upstream keeps the events itself.
package replay

import (
	"errors"
	"io"
	"sync"
	"time"
)

// Bounds of what is kept.
const (
	// MaxEvents bounds the events of one stream, and MaxBytes their size. Beyond
	// either the oldest go, but the newest one is kept however large it is.
	MaxEvents = 256
	MaxBytes  = 1 << 20
	// MaxTotal bounds the size of all events in a store. Beyond it the oldest
	// streams go whole, first of those that have ended.
	MaxTotal = 64 << 20
	// Keep is how long the events of a stream are kept after its end.
	Keep = 5 * time.Minute
)

// ErrGone says that some of the events that are asked for are no longer kept.
var ErrGone = errors.New("events are no longer kept")

// Store keeps the events of many streams. Safe for concurrent use.
type Store struct {
	now func() time.Time

	mu    sync.Mutex // guards what follows, and all logs
	open  Log        // list head; the oldest first
	ended Log        // list head; those that ended first come first
	bytes int
}

// NewStore returns an empty store.
func NewStore(now func() time.Time) *Store {
	s := &Store{now: now}
	for _, head := range [...]*Log{&s.open, &s.ended} {
		head.prev, head.next = head, head
	}
	return s
}

// Log is the events of one stream, numbered from 1. One goroutine appends; any may
// read.
type Log struct {
	store      *Store
	prev, next *Log // nil once dropped
	first      uint64
	events     [][]byte
	bytes      int
	ended      time.Time     // zero while more may come
	more       chan struct{} // closed when there is more to read; nil if nobody waits
}

// New returns an empty log.
func (s *Store) New() *Log { return s.NewFrom(1) }

// NewFrom returns a log whose first event has number first: what came before is no
// longer kept.
func (s *Store) NewFrom(first uint64) *Log {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := &Log{store: s, first: first}
	l.append(&s.open)
	return l
}

// append makes l the last one of a list.
func (l *Log) append(head *Log) {
	l.prev, l.next = head.prev, head
	l.prev.next, l.next.prev = l, l
}

// Next returns the number that the next event will have.
func (l *Log) Next() uint64 {
	l.store.mu.Lock()
	defer l.store.mu.Unlock()
	return l.first + uint64(len(l.events))
}

// Append keeps a copy of an event. It does nothing once the log was dropped.
func (l *Log) Append(event []byte) {
	s := l.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.next == nil {
		return
	}
	l.events = append(l.events, append([]byte(nil), event...))
	l.bytes += len(event)
	s.bytes += len(event)
	for len(l.events) > MaxEvents || l.bytes > MaxBytes && len(l.events) > 1 {
		l.forgetFirst()
	}
	for s.bytes > MaxTotal {
		oldest := s.ended.next
		if oldest == &s.ended {
			oldest = s.open.next
		}
		oldest.drop()
	}
	l.wake()
}

// forgetFirst forgets the oldest event.
func (l *Log) forgetFirst() {
	size := len(l.events[0])
	l.events[0] = nil
	l.events, l.bytes, l.store.bytes = l.events[1:], l.bytes-size, l.store.bytes-size
	l.first++
}

// End says that no more events come. From now on the log is kept for a while.
func (l *Log) End() {
	l.store.mu.Lock()
	defer l.store.mu.Unlock()
	if l.ended.IsZero() {
		l.ended = l.store.now()
		if l.next != nil {
			l.prev.next, l.next.prev = l.next, l.prev
			l.append(&l.store.ended)
		}
	}
	l.wake()
}

// Full reports whether an event of a size would make the log forget one that
// follows number n.
func (l *Log) Full(n uint64, size int) bool {
	l.store.mu.Lock()
	defer l.store.mu.Unlock()
	var unread [][]byte
	switch {
	case n < l.first:
		unread = l.events
	case n-l.first+1 < uint64(len(l.events)):
		unread = l.events[n-l.first+1:]
	}
	if len(unread) >= MaxEvents {
		return true
	}
	for _, event := range unread {
		size += len(event)
	}
	return len(unread) > 0 && size > MaxBytes
}

// Ended reports whether no more events come, or the log was dropped.
func (l *Log) Ended() bool {
	l.store.mu.Lock()
	defer l.store.mu.Unlock()
	return l.next == nil || !l.ended.IsZero()
}

// Drop forgets the log.
func (l *Log) Drop() {
	l.store.mu.Lock()
	defer l.store.mu.Unlock()
	l.drop()
}

func (l *Log) drop() {
	if l.next == nil {
		return
	}
	l.prev.next, l.next.prev = l.next, l.prev
	l.prev, l.next = nil, nil
	l.store.bytes -= l.bytes
	l.events, l.bytes = nil, 0
	l.wake()
}

func (l *Log) wake() {
	if l.more != nil {
		close(l.more)
		l.more = nil
	}
}

// After returns the events that follow number n; they must not be changed. If
// there are none yet, it returns a channel that is closed when there may be. The
// error is io.EOF if no more will come, or ErrGone.
func (l *Log) After(n uint64) (events [][]byte, more <-chan struct{}, err error) {
	l.store.mu.Lock()
	defer l.store.mu.Unlock()
	last := l.first + uint64(len(l.events)) - 1
	switch {
	case l.next == nil || n+1 < l.first || n > last:
		return nil, nil, ErrGone
	case n < last:
		return append([][]byte(nil), l.events[n+1-l.first:]...), nil, nil
	case !l.ended.IsZero():
		return nil, nil, io.EOF
	}
	if l.more == nil {
		l.more = make(chan struct{})
	}
	return nil, l.more, nil
}

// All returns the events that are kept and the number of the first of them; they must
// not be changed.
func (l *Log) All() (first uint64, events [][]byte) {
	l.store.mu.Lock()
	defer l.store.mu.Unlock()
	return l.first, append([][]byte(nil), l.events...)
}

// Sweep drops the logs whose time is over. It returns when to sweep next, or
// false if nothing is kept that would be due.
func (s *Store) Sweep() (next time.Duration, due bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	for l := s.ended.next; l != &s.ended; l = s.ended.next {
		if left := l.ended.Add(Keep).Sub(now); left > 0 {
			return left, true
		}
		l.drop()
	}
	return 0, false
}

// Bytes returns the size of all events.
func (s *Store) Bytes() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bytes
}
