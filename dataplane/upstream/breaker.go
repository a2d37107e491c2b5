package upstream

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/leasehold/leasehold/dataplane/config"
)

// Bounds of a circuit.
const (
	// openAfter is how many connections in a row have to fail before requests
	// are refused without trying.
	openAfter = 5
	// firstPause is how long a circuit stays open at first. It doubles with each
	// try that fails, up to lastPause.
	firstPause = time.Second
	lastPause  = 10 * time.Second
	// maxCircuits bounds the upstreams that failures are remembered of. One more
	// makes the one whose last failure is the longest ago forgotten.
	maxCircuits = 1024
)

// errGaveUp reports that nobody waits for a connection any more, or that it may not
// be made, so that it says nothing of the upstream.
var errGaveUp = errors.New("given up")

// breaker keeps requests from waiting, one after the other, for upstreams that
// cannot be connected to, and such upstreams from a flood of connections once
// they are back. It knows each address of an upstream, and counts only what failed
// before there was a connection: what an upstream answers is not its business. Safe
// for concurrent use.
//
//	        openAfter failures in a row            its time is over
//	closed ────────────────────────────▶ open ────────────────────────▶ half open
//	   ▲                                   ▲                               │  │
//	   │                                   └─────── failure: longer ───────┘  │
//	   └─────────────────────────── success ──────────────────────────────────┘
//
// A half-open circuit lets one request at a time try. Package gobreaker decides all
// of this but for how long a circuit stays open, for which it knows one time only.
type breaker struct {
	now func() time.Time

	mu       sync.Mutex // guards circuits and what is in them
	circuits map[string]*circuit
}

// circuit is an address that is being connected to, or that the last connection to
// failed.
type circuit struct {
	place    place
	state    *gobreaker.TwoStepCircuitBreaker[struct{}]
	failures int // in a row
	last     error
	failed   time.Time     // when it failed last
	pause    time.Duration // for how long it was opened; 0 while it is closed
	until    time.Time     // when it is half open
}

func newBreaker(now func() time.Time) *breaker {
	return &breaker{now: now, circuits: make(map[string]*circuit)}
}

func (b *breaker) newCircuit(p place) *circuit {
	c := &circuit{place: p}
	c.state = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		Timeout:     time.Nanosecond, // until says it
		ReadyToTrip: func(counts gobreaker.Counts) bool { return counts.ConsecutiveFailures >= openAfter },
		IsExcluded:  func(err error) bool { return errors.Is(err, errGaveUp) },
		OnStateChange: func(_ string, _, to gobreaker.State) {
			if to == gobreaker.StateOpen {
				c.pause = min(max(2*c.pause, firstPause), lastPause)
				c.until = b.now().Add(c.pause - rand.N(c.pause/5)) // workers shall not all try at once
			}
		},
	})
	return c
}

// enter asks for leave to connect, or says why not. The caller reports what came of
// it: nil, errGaveUp, or why it failed.
func (b *breaker) enter(p place, key string) (report func(error), err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.circuits[key]
	if c == nil {
		b.makeRoom()
		c = b.newCircuit(p)
		b.circuits[key] = c
	}
	if wait := c.until.Sub(b.now()); wait > 0 {
		return nil, fmt.Errorf("%s; next try in %v", c.describe(key), wait.Round(time.Millisecond))
	}
	done, err := c.state.Allow()
	if err != nil {
		return nil, fmt.Errorf("%s; another request tries now", c.describe(key))
	}
	return func(err error) { b.leave(key, c, done, err) }, nil
}

// describe does not wrap what went wrong: that was another request's error.
func (c *circuit) describe(key string) string {
	return fmt.Sprintf("connecting to %s failed %d times in a row (%v)", key, c.failures, c.last)
}

// leave takes down what came of a connection. A success closes the circuit. A failure
// of one that was begun before the circuit opened does not make it stay open longer.
func (b *breaker) leave(key string, c *circuit, done func(error), err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err == nil {
		if b.circuits[key] == c {
			delete(b.circuits, key)
		}
		return
	}
	if !errors.Is(err, errGaveUp) {
		c.failures++
		c.last, c.failed = err, b.now()
	}
	done(err)
}

// Circuit is an address of an upstream to which the newest connection failed.
type Circuit struct {
	Address   string // host:port
	Failures  int    // in a row
	LastError error
	// Opened says that requests fail at once until Until, and then one at a time tries.
	Opened bool
	Until  time.Time
}

// Circuits returns what the client remembers of the addresses of an upstream, ordered by
// address.
func (c *Client) Circuits(u *config.Upstream) []Circuit {
	b := c.breaker
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []Circuit
	for _, one := range b.circuits {
		if one.failures > 0 && one.place.of(u) {
			all = append(all, Circuit{one.place.address, one.failures, one.last, one.pause > 0, one.until})
		}
	}
	slices.SortFunc(all, func(a, b Circuit) int { return strings.Compare(a.Address, b.Address) })
	return all
}

// makeRoom forgets a circuit if there are as many as may be.
func (b *breaker) makeRoom() {
	if len(b.circuits) < maxCircuits {
		return
	}
	oldest := ""
	for key, c := range b.circuits {
		if oldest == "" || c.failed.Before(b.circuits[oldest].failed) {
			oldest = key
		}
	}
	delete(b.circuits, oldest)
}
