package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/leasehold/leasehold/test/internal/cluster"
)

// bench is a run.
type bench struct {
	settings
	world  *world
	result *result
}

// shorter is how long a measurement takes outside of the section of calls.
func (b *bench) shorter() time.Duration { return b.duration / 2 }

// paths are those of the candidates that are wanted and there.
func (b *bench) paths(candidates ...string) []string {
	return slices.DeleteFunc(slices.Clone(candidates), func(path string) bool {
		return !slices.Contains(b.settings.paths, path) || b.world.opens[path] == ""
	})
}

// callers are n clients of a path, set to call a tool.
func (b *bench) callers(path string, n int, tool string) []*caller {
	callers := b.world.callers[path][:n]
	for _, c := range callers {
		c.use(tool)
	}
	return callers
}

// rounds measures paths in all rounds. The order of the paths changes from
// round to round, so that none always follows the same one.
func (b *bench) rounds(ctx context.Context, section string, paths []string, clients []int,
	measure func(ctx context.Context, path string, n int) (values, error)) error {
	for _, n := range clients {
		for _, path := range paths {
			b.result.row(section, path, n)
		}
	}
	for round := range b.settings.rounds {
		for _, n := range clients {
			for i := range paths {
				path := paths[(i+round)%len(paths)]
				v, err := measure(ctx, path, n)
				if err == nil {
					err = ctx.Err()
				}
				if err != nil {
					return fmt.Errorf("%s: %s with %d clients: %w", section, path, n, err)
				}
				row := b.result.row(section, path, n)
				row.Rounds = append(row.Rounds, v)
				fmt.Fprintf(os.Stderr, "%-8s round %d, %2d clients, %-7s %8.0f/s, p99 %.3f ms\n",
					section, round+1, n, path, v[figureRate], v[figureP99])
			}
		}
	}
	return nil
}

// closed measures clients in a closed loop.
func closed[S stepper](b *bench, section, path string, clients []S, d time.Duration) (values, error) {
	if err := connectAll(clients); err != nil {
		return nil, err
	}
	defer disconnectAll(clients)
	if _, err := drive(clients, b.warmup); err != nil {
		return nil, err
	}
	return b.meter(section, path, len(clients), func() ([]time.Duration, time.Duration, error) {
		took, err := drive(clients, d)
		var all []time.Duration
		for _, c := range clients {
			all = append(all, c.took()...)
		}
		return all, took, err
	})
}

// meter runs work and says what it took: of the clients' time, and of the CPU
// time of the processes between client and upstream.
func (b *bench) meter(section, path string, n int, work func() ([]time.Duration, time.Duration, error)) (values, error) {
	processes := b.world.gateways[path]
	if section == sectionChurn && path == pathOwner {
		processes = append(slices.Clone(processes), b.world.cluster.Control[0].Process)
	}
	stop, err := b.profile(fmt.Sprintf("%s-%s-%d", section, path, n), processes)
	if err != nil {
		return nil, err
	}
	defer stop()
	before, err := cpuTime(processes)
	if err != nil {
		return nil, err
	}
	all, took, err := work()
	if err != nil {
		return nil, err
	}
	after, err := cpuTime(processes)
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, errors.New("nothing was done in the time")
	}
	v := summary(all, took)
	v[figureCPU] = milliseconds(after-before) / v[figureCount] * 1000
	return v, nil
}

// summary says how long things took that were done in a time.
func summary(all []time.Duration, took time.Duration) values {
	slices.Sort(all)
	done := float64(len(all))
	return values{
		figureCount: done,
		figureRate:  done / took.Seconds(),
		figureP50:   milliseconds(percentile(all, 0.5)),
		figureP99:   milliseconds(percentile(all, 0.99)),
		figureP999:  milliseconds(percentile(all, 0.999)),
		figureMost:  milliseconds(all[len(all)-1]),
	}
}

// closedCalls measures calls of a tool in a closed loop.
func (b *bench) closedCalls(ctx context.Context, section, path string, n int, tool string, d time.Duration) (values, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return closed(b, section, path, b.callers(path, n, tool), d)
}

// callsSection measures small calls.
func (b *bench) callsSection(ctx context.Context) error {
	return b.rounds(ctx, sectionCalls, b.paths(allPaths...), b.clients, func(ctx context.Context, path string, n int) (values, error) {
		return b.closedCalls(ctx, sectionCalls, path, n, toolEcho, b.duration)
	})
}

// largeSection measures large results.
func (b *bench) largeSection(ctx context.Context) error {
	return b.rounds(ctx, sectionLarge, b.paths(allPaths...), []int{goalClients}, func(ctx context.Context, path string, n int) (values, error) {
		return b.closedCalls(ctx, sectionLarge, path, n, toolLarge, b.shorter())
	})
}

// streamSection measures first events of streams.
func (b *bench) streamSection(ctx context.Context) error {
	return b.rounds(ctx, sectionStream, b.paths(allPaths...), []int{goalClients}, func(_ context.Context, path string, n int) (values, error) {
		var listeners []listener
		for _, c := range b.callers(path, n, toolStream) {
			listeners = append(listeners, listener{c})
		}
		return closed(b, sectionStream, path, listeners, b.shorter())
	})
}

// churnClients are the numbers of clients that open and end sessions.
var churnClients = []int{16, 64}

// churnSection measures whole sessions.
func (b *bench) churnSection(ctx context.Context) error {
	paths := b.paths(pathDirect, pathProxy, pathNginx, pathOwner)
	return b.rounds(ctx, sectionChurn, paths, churnClients, func(_ context.Context, path string, n int) (values, error) {
		var churners []*churner
		for range n {
			c, err := newChurner(b.world.opens[path])
			if err != nil {
				return nil, err
			}
			churners = append(churners, c)
		}
		return closed(b, sectionChurn, path, churners, b.shorter())
	})
}

// runSection runs one section and keeps what it asked of the control plane
// meanwhile.
func (b *bench) runSection(ctx context.Context, s section) error {
	load := loadAverage()
	before, err := b.world.cluster.Requests(ctx)
	if err != nil {
		return err
	}
	if err := s.run(b, ctx); err != nil {
		return fmt.Errorf("%w\n%s", err, b.world.logs())
	}
	after, err := b.world.cluster.Requests(ctx)
	if err != nil {
		return err
	}
	b.result.Counters[s.name] = cluster.Metrics(after).Since(before)
	b.result.Load[s.name] = [2]float64{load, loadAverage()}
	b.result.finish(s.name)
	return nil
}
