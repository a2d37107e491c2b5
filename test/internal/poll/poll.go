// Package poll waits for a condition that only the outside world can bring
// about: another process, a file, a port. It is the one place in the tests that
// looks, pauses and looks again.
package poll

import (
	"context"
	"fmt"
	"time"
)

// interval is the pause between two looks.
const interval = 10 * time.Millisecond

// Until calls check until it returns nil, and then returns how long that took.
// When limit has passed it returns the last error of check.
func Until(ctx context.Context, limit time.Duration, check func(context.Context) error) (time.Duration, error) {
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	var last error
	for {
		err := check(ctx)
		if err == nil {
			return time.Since(start), nil
		}
		if last == nil || ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return time.Since(start), fmt.Errorf("not within %v: %w", limit, last)
		case <-ticker.C:
		}
	}
}
