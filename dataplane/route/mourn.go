package route

import (
	"context"
	"sync"
	"time"
)

const (
	// mourning is how long an owner has been seen dead before its sessions are
	// taken. A lease can be gone though its worker lives: etcd revokes all of them
	// when a leader that stood still goes on and has not yet learned that it leads
	// no more. The worker hears of it by then, stops, and has its sessions back.
	mourning = 200 * time.Millisecond
	// mournedFor is how long that counts. An owner that came back may die again.
	mournedFor = time.Minute
	// mostMourned bounds the dead owners that are remembered.
	mostMourned = 1024
)

// mourned is when owners were first seen dead. Safe for concurrent use.
type mourned struct {
	mu sync.Mutex // guards of
	of map[owner]time.Time
}

// owner is one registration of a worker.
type owner struct {
	worker      string
	incarnation int64
}

// wait returns once o has been seen dead for long enough, or when ctx ends.
func (m *mourned) wait(ctx context.Context, o owner) error {
	timer := time.NewTimer(time.Until(m.note(o).Add(mourning)))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// note returns when o was first seen dead.
func (m *mourned) note(o owner) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	at, ok := m.of[o]
	if !ok || time.Since(at) > mournedFor {
		if m.of == nil || len(m.of) >= mostMourned {
			m.of = make(map[owner]time.Time)
		}
		at = time.Now()
		m.of[o] = at
	}
	return at
}
