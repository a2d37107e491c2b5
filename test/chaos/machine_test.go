package chaos

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// lateTick is how often the machine is asked to be on time.
const lateTick = 10 * time.Millisecond

// watchMachine returns how late this process was woken at most since then. A
// machine that has too much to do makes everything late that a test looks at,
// and a promise is about Leasehold: what the machine itself was late by is added
// to every limit.
func watchMachine(t *testing.T) (late func() time.Duration) {
	var most atomic.Int64
	done := make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() {
		ticker := time.NewTicker(lateTick)
		defer ticker.Stop()
		last := time.Now()
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
			}
			now := time.Now()
			if by := int64(now.Sub(last) - lateTick); by > most.Load() {
				most.Store(by)
			}
			last = now
		}
	})
	t.Cleanup(func() {
		close(done)
		group.Wait()
	})
	return func() time.Duration { return time.Duration(most.Load()) }
}
