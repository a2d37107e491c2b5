// Command bench measures what a tools/call costs through Leasehold, next to
// what it costs without it, on the machine it runs on.
//
// The same closed loop, in which each client makes its next call when it has
// the answer to the last one, runs over four paths, interleaved in one run so
// that a noisy machine is noisy for all of them:
//
//	direct   to the upstream itself, a fast one in a process of its own
//	proxy    through a bare httputil.ReverseProxy with a tuned Transport
//	owner    through the worker that owns the sessions
//	forward  through a worker that forwards to the owner
//
// It prints the medians of several rounds, and checks by the counters of the
// processes that the calls made no request to etcd.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/leasehold/leasehold/test/internal/cluster"
)

// settings are what the command line says.
type settings struct {
	duration time.Duration
	warmup   time.Duration
	rounds   int
	clients  []int
	paths    []string
	jsonFile string
	profiles string
	check    bool
}

func main() {
	if len(os.Args) > 1 && strings.HasPrefix(os.Args[1], childPrefix) {
		fmt.Fprintln(os.Stderr, runChild(os.Args[1:]))
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:])
	cluster.RemoveBinaries()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// parse reads the command line.
func parse(args []string) (settings, error) {
	var s settings
	var clients, paths string
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.DurationVar(&s.duration, "duration", 3*time.Second, "how long each measurement takes")
	flags.DurationVar(&s.warmup, "warmup", 300*time.Millisecond, "how long each path runs before it is measured")
	flags.IntVar(&s.rounds, "rounds", 3, "how many rounds to take the medians of")
	flags.StringVar(&clients, "clients", "1,16,64", "how many clients call at a time")
	flags.StringVar(&paths, "paths", strings.Join(allPaths, ","), "which paths to measure")
	flags.StringVar(&s.jsonFile, "json", "", "write the figures to this file as JSON")
	flags.StringVar(&s.profiles, "profiles", "", "write a CPU profile of each gateway process, by perf, into this directory; the figures suffer")
	flags.BoolVar(&s.check, "check", false, "fail unless owner and forward reach what they have to at 16 clients")
	if err := flags.Parse(args); err != nil {
		return s, err
	}
	for n := range strings.SplitSeq(clients, ",") {
		number, err := strconv.Atoi(n)
		if err != nil || number < 1 {
			return s, fmt.Errorf("--clients: %q is not a number of clients", n)
		}
		s.clients = append(s.clients, number)
	}
	for p := range strings.SplitSeq(paths, ",") {
		if !slices.Contains(allPaths, p) {
			return s, fmt.Errorf("--paths: %q is none of %v", p, allPaths)
		}
		s.paths = append(s.paths, p)
	}
	return s, nil
}

// run measures and reports.
func run(ctx context.Context, args []string) error {
	s, err := parse(args)
	if err != nil {
		return err
	}
	world, err := build(ctx, slices.Max(s.clients))
	if err != nil {
		return err
	}
	defer world.close()
	before, err := world.cluster.Requests(ctx)
	if err != nil {
		return err
	}
	result, err := measureAll(ctx, s, world)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, world.cluster.Logs())
	}
	after, err := world.cluster.Requests(ctx)
	if err != nil {
		return err
	}
	result.Counters = after.Since(before)
	return result.report(s)
}

// measureAll runs all rounds. The order of the paths changes from round to
// round, so that none always follows the same one.
func measureAll(ctx context.Context, s settings, w *world) (*result, error) {
	result := newResult(s)
	for round := range s.rounds {
		for _, n := range s.clients {
			for i := range s.paths {
				path := s.paths[(i+round)%len(s.paths)]
				m, err := w.measure(ctx, s, path, n)
				if err != nil {
					return nil, fmt.Errorf("%s with %d clients: %w", path, n, err)
				}
				result.add(path, n, m)
				fmt.Fprintf(os.Stderr, "round %d, %2d clients, %-7s %8.0f calls/s\n", round+1, n, path, m.CallsPerSecond)
			}
		}
	}
	return result, nil
}
