package merge

import (
	"io"
	"sync"
)

// maxQueued is how many bytes of events wait on a stream before the parts have to wait
// too. An event of any size has room on an empty stream.
const maxQueued = 256 << 10

// queue is an answer's body that several goroutines write events to. It implements
// io.ReadCloser.
type queue struct {
	// left is called when the reader closes it; once.
	left func()

	mu      sync.Mutex // guards what follows
	changed sync.Cond  // on mu
	events  [][]byte
	size    int
	rest    []byte
	err     error // what follows the events; nil while more may come
	closed  bool
}

func newQueue(left func()) *queue {
	q := &queue{left: left}
	q.changed.L = &q.mu
	return q
}

// push adds an event, which the queue keeps, and waits while there is no room. make is
// called when there is some, with the queue locked, so that what it returns is in the
// order of the events. False: nobody will read it.
func (q *queue) push(make func() []byte) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.size >= maxQueued && q.err == nil {
		q.changed.Wait()
	}
	return q.addLocked(make)
}

// add adds an event without waiting.
func (q *queue) add(make func() []byte) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.addLocked(make)
}

func (q *queue) addLocked(make func() []byte) bool {
	if q.err != nil {
		return false
	}
	event := make()
	q.events = append(q.events, event)
	q.size += len(event)
	q.changed.Broadcast()
	return true
}

// end makes err follow what is in the queue.
func (q *queue) end(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err == nil {
		q.err = err
	}
	q.changed.Broadcast()
}

// Read implements io.Reader.
func (q *queue) Read(p []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.rest) == 0 {
		switch {
		case len(q.events) > 0:
			q.rest = q.events[0]
			q.events[0] = nil
			q.events = q.events[1:]
			q.size -= len(q.rest)
			q.changed.Broadcast()
		case q.err != nil:
			return 0, q.err
		default:
			q.changed.Wait()
		}
	}
	n := copy(p, q.rest)
	q.rest = q.rest[n:]
	return n, nil
}

// Buffered returns how many bytes can be read without waiting.
func (q *queue) Buffered() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.rest) + q.size
}

// Close implements io.Closer.
func (q *queue) Close() error {
	q.mu.Lock()
	first := !q.closed
	q.closed = true
	if q.err == nil {
		q.err = io.ErrClosedPipe
	}
	q.events, q.rest, q.size = nil, nil, 0
	q.changed.Broadcast()
	q.mu.Unlock()
	if first {
		q.left()
	}
	return nil
}
