package chaos

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/leasehold/leasehold/test/internal/cluster"
)

// asksEvery is how often a balancer asks a worker whether it is ready.
const asksEvery = 500 * time.Millisecond

// balancer sends a crew's requests to the workers that say that they are ready.
type balancer struct {
	crew *crew
	stop func()

	mu      sync.Mutex // guards workers
	workers []*cluster.Worker
}

// balance puts a balancer before the workers. Its stop ends that.
func (w *world) balance(c *crew) *balancer {
	ctx, cancel := context.WithCancel(w.t.Context())
	b := &balancer{crew: c, workers: slices.Clone(w.Workers)}
	var group sync.WaitGroup
	group.Go(func() { b.run(ctx) })
	b.stop = func() {
		cancel()
		group.Wait()
	}
	return b
}

// add adds workers.
func (b *balancer) add(workers ...*cluster.Worker) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.workers = append(b.workers, workers...)
}

func (b *balancer) run(ctx context.Context) {
	ticker := time.NewTicker(asksEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		b.mu.Lock()
		workers := slices.Clone(b.workers)
		b.mu.Unlock()
		var mu sync.Mutex // guards ready
		var ready []*cluster.Worker
		side(len(workers), len(workers), func(i int) error {
			err := isReady(ctx, workers[i])
			if err == nil {
				mu.Lock()
				defer mu.Unlock()
				ready = append(ready, workers[i])
			}
			return err
		})
		if ctx.Err() == nil && len(ready) > 0 {
			b.crew.target(ready...)
		}
	}
}

// errNotReady says that a worker answers that it is not ready.
var errNotReady = errors.New("not ready")

// isReady returns nil if a worker says that it is ready.
func isReady(ctx context.Context, w *cluster.Worker) error {
	ctx, cancel := context.WithTimeout(ctx, asksEvery)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+w.Admin+"/readyz", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("ask whether %s is ready: %w", w.Name, err)
	}
	resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
		return nil
	case http.StatusServiceUnavailable:
		return errNotReady
	}
	return fmt.Errorf("ask whether %s is ready: %s", w.Name, resp.Status)
}

// replace stops a worker as it is stopped in earnest, while another one starts, and
// returns once it has ended and the other one is there. It returns how long the worker
// took.
func (w *world) replace(old *cluster.Worker, b *balancer) time.Duration {
	w.t.Helper()
	began, first := time.Now(), len(w.Workers)
	if err := old.Signal(syscall.SIGTERM); err != nil {
		w.t.Fatal(err)
	}
	w.eventually(asksEvery, func(ctx context.Context) error {
		if err := isReady(ctx, old); err != errNotReady {
			return fmt.Errorf("%s, told to stop, says of being ready: %v; want that it is not", old.Name, err)
		}
		return nil
	})
	if err := w.StartWorkers(w.t.Context(), 1); err != nil {
		w.t.Fatal(err)
	}
	b.add(w.Workers[first:]...)
	if code, err := old.Wait(drainLimit); err != nil || code != 0 {
		w.t.Fatalf("%s, told to stop: exit code %d, %v", old.Name, code, err)
	}
	return time.Since(began)
}
