// Command bench measures what MCP sessions cost through Leasehold, next to what
// they cost without it, on the machine it runs on.
//
// It measures over these paths, interleaved in one run so that a noisy machine
// is noisy for all of them:
//
//	direct   to the upstream itself, a fast one in a process of its own
//	proxy    through a bare httputil.ReverseProxy with a tuned Transport
//	nginx    through nginx, if it is installed
//	owner    through the worker that owns the sessions
//	forward  through a worker that forwards to the owner
//
// The sections, of which -only selects some, are:
//
//	calls     small calls in a closed loop: a client makes its next call when
//	          it has the answer to the last one
//	large     the same with results of 1 MiB
//	stream    from the upstream's writing the first event of a call's answer to
//	          its arrival at the client
//	openloop  small calls at a fixed rate; the latency of a call counts from
//	          the time at which it was to be made
//	mixed     short calls at a fixed rate through a worker that forwards them,
//	          alone and beside 50 calls of a minute each at the owner
//	churn     whole sessions: initialize, one call, DELETE, with claims that
//	          are durable in etcd before the client has its session
//	rolling   small calls at a fixed rate while each of three workers is stopped
//	          in turn and another one takes its place, beside the same alone
//	config    a change among 10,000 gateways, from the request until a worker serves
//	          by it, and until 20 streams to one control plane have it; a new
//	          worker's start; memory per gateway
//	merged    small calls through a gateway of ten upstreams beside one of a single
//	          one, lists of the 1,000 tools of all ten, and the memory of idle
//	          sessions with five
//	idle      memory and descriptors of the owner per session that is idle: the
//	          heap with the stacks after garbage collection, and resident memory
//
// It prints the medians of several rounds, and checks by the counters of the
// processes that calls on live sessions made no request to etcd. With -json it
// writes all figures to a file; two such files are compared by
//
//	bench compare OLD NEW
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
	only     []string
	duration time.Duration
	warmup   time.Duration
	rounds   int
	clients  []int
	paths    []string
	rate     float64
	idle     int
	gateways int
	long     time.Duration
	jsonFile string
	profiles string
	check    bool
}

func main() {
	args := os.Args[1:]
	if len(args) > 0 && strings.HasPrefix(args[0], childPrefix) {
		fmt.Fprintln(os.Stderr, runChild(args))
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if len(args) > 0 && args[0] == "compare" {
		err = compareFiles(os.Stdout, args[1:])
	} else {
		err = run(ctx, args)
		cluster.RemoveBinaries()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// parse reads the command line.
func parse(args []string) (settings, error) {
	var s settings
	var clients string
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	only := flags.String("only", strings.Join(sectionNames(), ","), "which sections to run")
	flags.DurationVar(&s.duration, "duration", 2*time.Second, "how long each measurement of small calls takes; others take half of it")
	flags.DurationVar(&s.warmup, "warmup", 200*time.Millisecond, "how long each path runs before it is measured")
	flags.IntVar(&s.rounds, "rounds", 3, "how many rounds to take the medians of")
	flags.StringVar(&clients, "clients", "1,16,64", "how many clients make small calls at a time")
	paths := flags.String("paths", strings.Join(allPaths, ","), "which paths to measure")
	flags.Float64Var(&s.rate, "rate", 0, "calls per second of the open loop; 0 means a third of what the owner does in the closed loop")
	flags.IntVar(&s.idle, "idle", 10_000, "how many idle sessions to open")
	flags.IntVar(&s.gateways, "gateways", 10_000, "how many gateways to make")
	flags.DurationVar(&s.long, "long", time.Minute, "how long the long calls take")
	flags.StringVar(&s.jsonFile, "json", "", "write the figures to this file as JSON")
	flags.StringVar(&s.profiles, "profiles", "", "write a CPU profile of each gateway process, by perf, into this directory; the figures suffer")
	flags.BoolVar(&s.check, "check", false, "fail unless the sections that ran reach what they have to")
	if err := flags.Parse(args); err != nil {
		return s, err
	}
	if flags.NArg() > 0 {
		return s, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if s.rounds < 1 || s.idle < 1 || s.gateways < 1 || s.duration <= 0 || s.long <= 0 || s.rate < 0 {
		return s, fmt.Errorf("-rounds, -idle, -gateways, -duration and -long must be positive, -rate not negative")
	}
	var err error
	if s.only, err = choose("-only", *only, sectionNames()); err != nil {
		return s, err
	}
	if s.paths, err = choose("-paths", *paths, allPaths); err != nil {
		return s, err
	}
	for n := range strings.SplitSeq(clients, ",") {
		number, err := strconv.Atoi(n)
		if err != nil || number < 1 {
			return s, fmt.Errorf("-clients: %q is not a number of clients", n)
		}
		s.clients = append(s.clients, number)
	}
	return s, nil
}

// choose reads a list of names, each of which is one of some.
func choose(flag, list string, of []string) ([]string, error) {
	names := strings.Split(list, ",")
	for _, name := range names {
		if !slices.Contains(of, name) {
			return nil, fmt.Errorf("%s: %q is none of %v", flag, name, of)
		}
	}
	return names, nil
}

// run measures and reports.
func run(ctx context.Context, args []string) error {
	s, err := parse(args)
	if err != nil {
		return err
	}
	b := &bench{settings: s, result: newResult()}
	b.result.Environment, b.result.Seconds = readEnvironment(args), s.duration.Seconds()
	if b.world, err = build(ctx, max(slices.Max(s.clients), openClients)); err != nil {
		return err
	}
	defer b.world.close()
	var ran []section
	for _, section := range sections {
		if !slices.Contains(s.only, section.name) {
			continue
		}
		if err := b.runSection(ctx, section); err != nil {
			return err
		}
		ran = append(ran, section)
	}
	return b.report(ran)
}
