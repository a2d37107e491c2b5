package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/leasehold/leasehold/test/internal/client"
	"github.com/leasehold/leasehold/test/internal/cluster"
	"github.com/leasehold/leasehold/test/internal/poll"
)

const (
	// rollingWorkers is how many workers there are, each of which is replaced.
	rollingWorkers = 3
	// rollingClients is how many sessions share the calls.
	rollingClients = 200
	// rollingRate is how many calls are made each second.
	rollingRate = 300
	// pathNoStream is the row of the times in which a session of an upstream without
	// event ids has no GET stream there.
	pathNoStream = "no stream"
	// rollingPoll is how often the balancer asks workers whether they are ready.
	rollingPoll = 500 * time.Millisecond
)

// fleet is the workers behind a balancer that asks them whether they are ready.
type fleet struct {
	cluster *cluster.Cluster
	ready   atomic.Pointer[[]*cluster.Worker]
	next    atomic.Uint64
	refused atomic.Int64 // connections, each of which was tried at another worker
}

// balance keeps the list of the workers that are ready, until ctx ends.
func (f *fleet) balance(ctx context.Context) {
	ticker := time.NewTicker(rollingPoll)
	defer ticker.Stop()
	for {
		f.look(ctx)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (f *fleet) look(ctx context.Context) {
	var ready []*cluster.Worker
	for _, w := range f.cluster.Live() {
		if isReady(ctx, w) {
			ready = append(ready, w)
		}
	}
	if len(ready) > 0 {
		f.ready.Store(&ready)
	}
}

func isReady(ctx context.Context, w *cluster.Worker) bool {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+w.Admin+"/readyz", nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// pick returns the next worker in turn.
func (f *fleet) pick() *cluster.Worker {
	ready := *f.ready.Load()
	return ready[f.next.Add(1)%uint64(len(ready))]
}

// call makes one small call of a session at some worker.
func (f *fleet) call(ctx context.Context, s *client.Session) error {
	for {
		_, err := s.Call(ctx, f.pick().URL(gateway), toolEcho, "")
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return err
		}
		f.refused.Add(1)
	}
}

// rollingSection measures calls while nothing happens, and while each of three workers
// is stopped in turn and another one takes its place.
func (b *bench) rollingSection(ctx context.Context) error {
	if len(b.paths(pathForward)) == 0 {
		return nil
	}
	upstream := b.world.opens[pathDirect]
	dir := filepath.Join(b.world.dir, "rolling")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	c, err := cluster.Start(ctx, cluster.Config{Workers: rollingWorkers, Dir: dir, Rebalance: true, Plaintext: true})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.Apply(ctx, gateway, upstream, ""); err != nil {
		return err
	}
	if _, err := poll.Until(ctx, 10*time.Second, func(ctx context.Context) error { return c.Applied(ctx, gateway) }); err != nil {
		return err
	}
	f := &fleet{cluster: c}
	f.look(ctx)
	calls := make([]func() error, rollingClients)
	for i := range calls {
		s, err := client.Open(ctx, f.pick().URL(gateway))
		if err != nil {
			return err
		}
		calls[i] = func() error { return f.call(ctx, s) }
	}
	balancing, stop := context.WithCancel(ctx)
	var group sync.WaitGroup
	group.Go(func() { f.balance(balancing) })
	defer group.Wait()
	defer stop()
	g, hush, err := f.listenInGaps(ctx)
	if err != nil {
		return err
	}
	defer hush()
	steady, err := f.measure(calls, func() error { return sleep(ctx, min(aloneTime, b.long)) })
	if err != nil {
		return err
	}
	g.take()
	began := time.Now()
	rolling, err := f.measure(calls, func() error { return f.roll(ctx) })
	if err != nil {
		return fmt.Errorf("%w\n%s", err, c.Logs())
	}
	steady[figureTimes], rolling[figureTimes] = 1, rolling[figureP99]/steady[figureP99]
	for n, v := range []values{steady, rolling} {
		row := b.result.row(sectionRolling, pathForward, n*rollingWorkers)
		row.Rounds = append(row.Rounds, v)
	}
	if silent := g.take(); len(silent) > 0 {
		row := b.result.row(sectionRolling, pathNoStream, rollingWorkers)
		row.Rounds = append(row.Rounds, summary(silent, time.Since(began)))
	}
	fmt.Fprintf(os.Stderr, "%-8s %d connections were refused and tried elsewhere\n", sectionRolling, f.refused.Load())
	return nil
}

// roll replaces each worker.
func (f *fleet) roll(ctx context.Context) error {
	for _, old := range f.cluster.Live() {
		if err := f.cluster.StartWorkers(ctx, 1); err != nil {
			return err
		}
		if err := old.Signal(syscall.SIGTERM); err != nil {
			return err
		}
		if _, err := poll.Until(ctx, time.Minute, func(context.Context) error {
			if old.Running() {
				return fmt.Errorf("%s still runs", old.Name)
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// measure makes calls at a rate until work is done.
func (f *fleet) measure(calls []func() error, work func() error) (values, error) {
	var over atomic.Bool
	worked := make(chan error, 1)
	go func() {
		worked <- work()
		over.Store(true)
	}()
	start := time.Now()
	var all []time.Duration
	for !over.Load() {
		latencies, err := openLoop(calls, time.Second/rollingRate, rollingRate)
		if err != nil {
			return nil, errors.Join(err, <-worked)
		}
		all = append(all, latencies...)
	}
	return summary(all, time.Since(start)), <-worked
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
