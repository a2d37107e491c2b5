package route

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	// verdictTime is how long requests are refused without trying once a worker
	// is known to be cut off from this one.
	verdictTime = time.Second
	// askAgain is how often one of those who wait for a worker asks how it is.
	askAgain = 100 * time.Millisecond
	// missTime is how long a worker that could not be reached is remembered
	// without another attempt.
	missTime  = time.Minute
	maxMissed = 1024
)

// missed are the workers that could not be reached lately. A worker that renews
// its lease and cannot be reached is cut off from this one: nobody may take its
// sessions over, so that waiting for that is of no use. Safe for concurrent use.
type missed struct {
	now   func() time.Time // nil means time.Now
	count atomic.Int32     // of entries

	mu sync.Mutex // guards of
	of map[string]miss
}

// miss is one worker that could not be reached.
type miss struct {
	since, last time.Time
	asked       time.Time // when doubtful said last that it is to be asked
	until       time.Time // the verdict that it is cut off holds
}

func (m *missed) clock() time.Time {
	if m.now != nil {
		return m.now()
	}
	return time.Now()
}

// any reports whether there is any such worker.
func (m *missed) any() bool { return m.count.Load() > 0 }

// note notes that a worker could not be reached.
func (m *missed) note(worker string) {
	now := m.clock()
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, old := range m.of {
		if now.Sub(old.last) > missTime || len(m.of) > maxMissed {
			delete(m.of, id)
		}
	}
	entry, ok := m.of[worker]
	if !ok || now.Sub(entry.last) > 2*watch {
		entry.since = now // nobody has tried meanwhile, though one who waits would have
	}
	entry.last = now
	m.of[worker] = entry
	m.count.Store(int32(len(m.of)))
}

// forget notes that a worker was reached.
func (m *missed) forget(worker string) {
	if !m.any() {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.of, worker)
	m.count.Store(int32(len(m.of)))
}

// long reports whether a worker has not been reached for so long that it is worth
// asking for how long it has not renewed its lease.
func (m *missed) long(worker string, ttl time.Duration) bool {
	if !m.any() {
		return false
	}
	now := m.clock()
	m.mu.Lock()
	defer m.mu.Unlock()
	entry, ok := m.of[worker]
	return ok && now.Sub(entry.since) >= renewed(ttl)+time.Second
}

// doubtful reports whether the caller is to ask how a worker is that cannot be
// reached, or need not since the verdict that it is cut off is there. Of all that
// wait for the worker one is enough.
func (m *missed) doubtful(worker string, ttl time.Duration) bool {
	if m.cutOff(worker) {
		return true
	}
	if !m.long(worker, ttl) {
		return false
	}
	now := m.clock()
	m.mu.Lock()
	defer m.mu.Unlock()
	entry, ok := m.of[worker]
	if !ok || now.Sub(entry.asked) < askAgain {
		return false
	}
	entry.asked = now
	m.of[worker] = entry
	return true
}

// renewed is how long a living worker seems not to have renewed at most: that is
// told in whole seconds, rounded up.
func renewed(ttl time.Duration) time.Duration {
	return (ttl/6 + time.Second - 1).Truncate(time.Second) + time.Second
}

// lasting reports whether a worker that has not renewed its lease for silence is
// alive and cut off: it has not been reached for longer than a worker that had
// stopped then could seem to renew. The verdict holds for a moment.
func (m *missed) lasting(worker string, silence, ttl time.Duration) bool {
	if !m.any() {
		return false
	}
	renews, now := renewed(ttl), m.clock()
	m.mu.Lock()
	defer m.mu.Unlock()
	entry, ok := m.of[worker]
	if !ok || silence > renews || now.Sub(entry.since) < renews+time.Second {
		return false
	}
	entry.until = now.Add(verdictTime)
	m.of[worker] = entry
	return true
}

// cutOff reports whether the verdict that a worker is cut off still holds.
func (m *missed) cutOff(worker string) bool {
	if !m.any() {
		return false
	}
	now := m.clock()
	m.mu.Lock()
	defer m.mu.Unlock()
	return now.Before(m.of[worker].until)
}
