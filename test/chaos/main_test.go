// Package chaos breaks a running Leasehold on purpose: real processes that are
// killed, stopped and cut off from each other while many clients count. Each
// test takes a world of its own, does one kind of harm, and then says what the
// clients were promised for it. What the promises have in common is checked after
// every one of them: the clients' own record of their calls is compared with the
// upstream's (see book).
//
// What a test does at random follows from a seed, which it prints: run it again
// with -seed, or with LEASEHOLD_CHAOS_SEED in the environment. A test that failed
// leaves the logs of all processes behind and says where.
//
// A request has failed if its answer is any but the expected one; 503 is a
// failure, and so is a kept-alive connection that breaks. A client sends a request
// again only when its connection was refused, and then to another worker.
//
// The tests need Linux: they map connections to processes by /proc.
package chaos

import (
	"flag"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/leasehold/leasehold/test/internal/cluster"
)

// seedVariable is the environment's way to set the seed.
const seedVariable = "LEASEHOLD_CHAOS_SEED"

var (
	seed = flag.Uint64("seed", 0, "seed of what happens at random; 0 takes $"+seedVariable+", or the clock")
	// With 10,000 the last is served some 2.5 s after the lease's end on a machine
	// with two cores, if nothing else runs there.
	herd   = flag.Int("herd", 3000, "how many sessions lose their owner at once in the test of herds")
	outage = flag.Duration("outage", time.Minute, "for how long all control planes and etcd members are away in the test of outages")
	soak   = flag.Duration("soak", time.Second, "how long the soak test does harm")
)

func TestMain(m *testing.M) {
	flag.Parse()
	if err := chooseSeed(); err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(2)
	}
	code := m.Run()
	cluster.RemoveBinaries()
	os.Exit(code)
}

// chooseSeed makes sure that there is a seed.
func chooseSeed() error {
	if text := os.Getenv(seedVariable); *seed == 0 && text != "" {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return fmt.Errorf("%s: %w", seedVariable, err)
		}
		*seed = n
	}
	if *seed == 0 {
		*seed = uint64(time.Now().UnixNano())
	}
	return nil
}

// chance returns what is random in one part of one test.
func chance(t *testing.T, part string) *rand.Rand {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s/%s", t.Name(), part)
	return rand.New(rand.NewPCG(*seed, h.Sum64()))
}
