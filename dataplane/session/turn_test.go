package session

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
)

func TestTurnWaitsUntilTheLoopHasGoneRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table, err := NewTable(Config{Max: 1, Logger: hclog.NewNullLogger()})
		if err != nil {
			t.Fatal(err)
		}
		turn := func() error {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			return table.Turn(ctx)
		}
		if err := turn(); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("before Run: got %v, want the deadline", err)
		}
		ctx, stop := context.WithCancel(t.Context())
		var group sync.WaitGroup
		group.Go(func() { table.Run(ctx) })
		for range 3 {
			began := time.Now()
			if err := turn(); err != nil || time.Since(began) != 0 {
				t.Errorf("while Run runs: got %v after %v, want nil at once", err, time.Since(began))
			}
		}
		stuck := make(chan struct{})
		table.mu.Lock()
		table.now = func() time.Time { <-stuck; return time.Now() } // Run asks with the lock held
		table.mu.Unlock()
		for range 100 {
			group.Go(func() {
				if err := turn(); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("while Run is stuck: got %v, want the deadline", err)
				}
			})
		}
		time.Sleep(2 * time.Second)
		close(stuck)
		if err := turn(); err != nil {
			t.Errorf("after Run went on: %v", err)
		}
		stop()
		group.Wait()
		if err := turn(); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after Run: got %v, want the deadline", err)
		}
	})
}

func TestATurnIsAWholeRound(t *testing.T) {
	var rounds turns
	complete := rounds.begin()
	turned := rounds.wait() // in the middle of a round
	complete()
	select {
	case <-turned:
		t.Error("turned by the end of a round that had begun before")
	default:
	}
	rounds.begin()()
	select {
	case <-turned:
	default:
		t.Error("not turned after a whole round")
	}
}
