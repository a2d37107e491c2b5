package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// openLoop makes n calls, one each interval, by clients that share them. A call
// that has to wait because all clients wait for answers is late, and the wait
// counts: the latency of each call is taken from the time at which it was to be
// made, so that a path that stalls cannot leave out the calls it stalled.
func openLoop(clients []func() error, interval time.Duration, n int) ([]time.Duration, error) {
	due := make(chan time.Time, n) // as many as there are, so that nothing slows the schedule
	latencies, errs := make([][]time.Duration, len(clients)), make([]error, len(clients)+1)
	var group sync.WaitGroup
	for i, call := range clients {
		group.Go(func() {
			for at := range due {
				if errs[i] = call(); errs[i] != nil {
					return
				}
				latencies[i] = append(latencies[i], time.Since(at))
			}
		})
	}
	errs[len(clients)] = pace(interval, n, due)
	close(due)
	group.Wait()
	var all []time.Duration
	for _, l := range latencies {
		all = append(all, l...)
	}
	return all, errors.Join(errs...)
}

// pace hands out n times, one each interval, each when it has come. It waits by
// a timer of the kernel: the runtime's own are late by up to a millisecond in a
// process that has little to do.
func pace(interval time.Duration, n int, due chan<- time.Time) error {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("pace: %w", err)
	}
	timer := os.NewFile(uintptr(fd), "timer")
	defer timer.Close()
	every := unix.NsecToTimespec(int64(interval))
	next := time.Now().Add(interval)
	if err := unix.TimerfdSettime(fd, 0, &unix.ItimerSpec{Interval: every, Value: every}, nil); err != nil {
		return fmt.Errorf("pace: %w", err)
	}
	var fired [8]byte
	for n > 0 {
		if _, err := io.ReadFull(timer, fired[:]); err != nil {
			return fmt.Errorf("pace: %w", err)
		}
		for range min(binary.NativeEndian.Uint64(fired[:]), uint64(n)) {
			due <- next
			next = next.Add(interval)
			n--
		}
	}
	return nil
}

// openClients is how many connections share the calls of the open loop.
const openClients = 64

// openShare is the part of the owner's calls/s in the closed loop that the open
// loop asks for, when no rate is given. All paths get the same, and those that
// reach half of the owner's have to have room at it too.
const openShare = 1.0 / 3

// openLoopSection measures the open loop.
func (b *bench) openLoopSection(ctx context.Context) error {
	rate, err := b.openRate(ctx)
	if err != nil {
		return err
	}
	b.result.OpenLoopRate = rate
	interval := time.Duration(float64(time.Second) / rate)
	return b.rounds(ctx, sectionOpenLoop, b.paths(allPaths...), []int{openClients}, func(ctx context.Context, path string, n int) (values, error) {
		callers := b.callers(path, n, toolEcho)
		if err := connectAll(callers); err != nil {
			return nil, err
		}
		defer disconnectAll(callers)
		if _, err := drive(callers, b.warmup); err != nil {
			return nil, err
		}
		calls := make([]func() error, n)
		for i, c := range callers {
			c.limit(time.Now().Add(b.shorter() + answerLimit))
			calls[i] = c.call
		}
		return b.meter(sectionOpenLoop, path, n, func() ([]time.Duration, time.Duration, error) {
			start := time.Now()
			latencies, err := openLoop(calls, interval, int(b.shorter()/interval))
			return latencies, time.Since(start), err
		})
	})
}

// openRate is the rate of the open loop: what the command line says, or a part
// of the owner's calls/s, which are measured now if they have not been.
func (b *bench) openRate(ctx context.Context) (float64, error) {
	if b.rate > 0 {
		return b.rate, nil
	}
	if r := b.result.find(sectionCalls, pathOwner, goalClients); r != nil {
		return openShare * r.Median[figureRate], nil
	}
	v, err := b.closedCalls(ctx, sectionOpenLoop, pathOwner, goalClients, toolEcho, b.shorter())
	return openShare * v[figureRate], err
}
