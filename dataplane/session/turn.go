package session

import (
	"context"
	"fmt"
	"sync"
)

// turns is how others wait until a loop has gone round. However many wait, they
// share one channel.
type turns struct {
	mu   sync.Mutex // guards next
	next chan struct{}
}

// wait returns a channel that is closed when a round that begins from now on is
// complete.
func (t *turns) wait() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.next == nil {
		t.next = make(chan struct{})
	}
	return t.next
}

// begin is called when a round begins. The function that it returns is called
// when the round is complete.
func (t *turns) begin() (complete func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	waiting := t.next
	t.next = nil
	return func() {
		if waiting != nil {
			close(waiting)
		}
	}
}

// Turn returns nil once Run has gone round, for which it needs the lock that
// every request needs too; or an error when it has not until ctx ends. A table
// of which either hangs serves nobody. It takes no lock of the table itself, so
// that asking is safe then.
func (t *Table) Turn(ctx context.Context) error {
	turned := t.turns.wait()
	t.poke()
	select {
	case <-turned:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("session table: its loop does not turn: %w", context.Cause(ctx))
	}
}
