package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/leasehold/leasehold/test/internal/cluster"
	"github.com/leasehold/leasehold/test/internal/poll"
)

// idleConnections is how many connections clients open idle sessions over.
const idleConnections = 64

// idleSection measures what a session without a client costs its owner.
func (b *bench) idleSection(ctx context.Context) error {
	v, err := b.idleSessions(ctx, idlers{gateway, toolEcho, b.idle, (*churner).openOnly})
	if err != nil {
		return err
	}
	row := b.result.row(sectionIdle, pathOwner, b.idle)
	row.Rounds = append(row.Rounds, v)
	return nil
}

// idlers are sessions that nobody uses any more.
type idlers struct {
	gateway string
	tool    string // of the gateway, for calls that make the collector run
	n       int
	open    func(*churner) error
}

// idleSessions measures what each session that nobody uses adds to its owner. The owner is
// a fresh worker, so that memory it once needed for something else does not hide what the
// sessions need.
func (b *bench) idleSessions(ctx context.Context, s idlers) (values, error) {
	c := b.world.cluster
	if err := c.StartWorkers(ctx, 1); err != nil {
		return nil, err
	}
	owner := c.Workers[len(c.Workers)-1]
	defer owner.Kill()
	if _, err := poll.Until(ctx, 10*time.Second, func(ctx context.Context) error { return c.Applied(ctx, s.gateway) }); err != nil {
		return nil, err
	}
	at := owner.URL(s.gateway)
	var busy []*caller
	for range goalClients {
		caller, err := newCaller(ctx, at, at)
		if err != nil {
			return nil, err
		}
		caller.use(s.tool)
		busy = append(busy, caller)
	}
	// The first sessions fill pools and make the buffers grow; they are not counted.
	if _, err := openIdle(at, 10*idleConnections, s.open); err != nil {
		return nil, err
	}
	before, err := b.standstill(ctx, owner, busy)
	if err != nil {
		return nil, err
	}
	took, err := openIdle(at, s.n, s.open)
	if err != nil {
		return nil, err
	}
	after, err := b.standstill(ctx, owner, busy)
	if err != nil {
		return nil, err
	}
	if got := after[sessionsOwned] - before[sessionsOwned]; got != float64(s.n) {
		return nil, fmt.Errorf("%s: the worker owns %.0f more sessions after %d were opened", sectionIdle, got, s.n)
	}
	v := values{figureCount: float64(s.n), figureRate: float64(s.n) / took.Seconds()}
	for _, name := range []string{figureHeap, figureRSS, figureFDs, figureRoutines, figureControlRSS} {
		v[name] = (after[name] - before[name]) / float64(s.n)
	}
	fmt.Fprintf(os.Stderr, "%-8s opened %d sessions, %.0f/s; before %v, after %v\n", sectionIdle, s.n, v[figureRate], before, after)
	return v, nil
}

// openIdle opens n sessions in some way over a few connections, closes those and returns
// how long it took.
func openIdle(at string, n int, open func(*churner) error) (time.Duration, error) {
	start := time.Now()
	var opened atomic.Int64
	errs := make([]error, idleConnections)
	var group sync.WaitGroup
	for i := range idleConnections {
		group.Go(func() {
			c, err := newChurner(at)
			if err == nil {
				err = c.connect()
			}
			if err != nil {
				errs[i] = err
				return
			}
			defer c.disconnect()
			c.limit(start.Add(2 * time.Minute))
			for opened.Add(1) <= int64(n) {
				if errs[i] = open(c); errs[i] != nil {
					return
				}
			}
		})
	}
	group.Wait()
	return time.Since(start), errors.Join(errs...)
}

// collections is how many garbage collections have to have ended before the
// heap counts as free of garbage: what the first leaves, by finalizers and
// pools, the second takes.
const collections = 3

// sessionsOwned is how many sessions a worker owns, as it counts them.
const sessionsOwned = "leasehold_sessions_owned"

// standstill brings a worker to rest and says what it holds: no client is
// connected, and the heap, with the stacks, is as the collector leaves it.
func (b *bench) standstill(ctx context.Context, w *cluster.Worker, busy []*caller) (values, error) {
	v := values{}
	var err error
	if v[figureHeap], err = collectedHeap(ctx, w, busy); err != nil {
		return nil, err
	}
	open, err := settledDescriptors(ctx, w.PID)
	if err != nil {
		return nil, err
	}
	v[figureFDs] = float64(open)
	m, err := cluster.Scrape(ctx, w.Admin)
	if err != nil {
		return nil, err
	}
	v[figureRoutines], v[sessionsOwned] = m["go_goroutines"], m.Sum(sessionsOwned)
	if v[figureRSS], err = residentBytes(w.PID); err != nil {
		return nil, err
	}
	v[figureControlRSS], err = residentBytes(b.world.cluster.Control[0].PID)
	return v, err
}

// collectedHeap is what a worker's heap and stacks hold after collections: the
// least that is seen while some callers' calls make the collector run.
// Whatever garbage they leave in a sample only adds to it.
func collectedHeap(ctx context.Context, w *cluster.Worker, busy []*caller) (float64, error) {
	if err := connectAll(busy); err != nil {
		return 0, err
	}
	defer disconnectAll(busy)
	least, last := 0.0, -1.0
	for {
		if _, err := drive(busy, 5*time.Millisecond); err != nil {
			return 0, err
		}
		m, err := cluster.Scrape(ctx, w.Admin)
		if err != nil {
			return 0, err
		}
		runs := m["go_gc_duration_seconds_count"]
		if last < 0 {
			last = runs + collections
		}
		heap := m["go_memstats_heap_alloc_bytes"] + m["go_memstats_stack_inuse_bytes"]
		if heap == 0 {
			return 0, fmt.Errorf("%s does not say what its heap holds", w.Name)
		}
		if least == 0 || heap < least {
			least = heap
		}
		if runs > last {
			return least, nil
		}
	}
}

// settledDescriptors is how many descriptors a process has open, when that does
// not change any more: closing takes it a moment.
func settledDescriptors(ctx context.Context, pid int) (int, error) {
	last, same := -1, 0
	_, err := poll.Until(ctx, 10*time.Second, func(context.Context) error {
		open, err := descriptors(pid)
		if err != nil {
			return err
		}
		if open != last {
			last, same = open, 0
		}
		if same++; same < 20 {
			return fmt.Errorf("%d descriptors, which changes", open)
		}
		return nil
	})
	return last, err
}
