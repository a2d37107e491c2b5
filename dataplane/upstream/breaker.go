package upstream

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
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

// breaker keeps requests from waiting, one after the other, for upstreams that
// cannot be connected to, and such upstreams from a flood of connections once
// they are back. It knows each upstream by its scheme and host, and counts only
// what failed before there was a connection: what an upstream answers is not its
// business. Safe for concurrent use.
//
//	        openAfter failures in a row            its time is over
//	closed ────────────────────────────▶ open ────────────────────────▶ half open
//	   ▲                                   ▲                               │  │
//	   │                                   └─────── failure: longer ───────┘  │
//	   └─────────────────────────── success ──────────────────────────────────┘
//
// A half-open circuit lets one request at a time try.
type breaker struct {
	now func() time.Time

	mu       sync.Mutex // guards circuits
	circuits map[string]*circuit
}

// circuit is an upstream that the last connection to failed.
type circuit struct {
	failures int
	last     error
	failed   time.Time     // when it failed last
	pause    time.Duration // for how long it was opened; 0 while it is closed
	until    time.Time     // when it is half open
	trying   bool          // a request tries, in a half-open circuit
}

func newBreaker(now func() time.Time) *breaker {
	return &breaker{now: now, circuits: make(map[string]*circuit)}
}

// enter asks for leave to connect, or says why not. The caller reports what came
// of it to succeeded, failed or gaveUp, with the same try.
func (b *breaker) enter(key string) (try bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.circuits[key]
	if c == nil || c.pause == 0 {
		return false, nil
	}
	if wait := c.until.Sub(b.now()); wait > 0 {
		return false, fmt.Errorf("%s; next try in %v", c.describe(key), wait.Round(time.Millisecond))
	}
	if c.trying {
		return false, fmt.Errorf("%s; another request tries now", c.describe(key))
	}
	c.trying = true
	return true, nil
}

// describe does not wrap what went wrong: that was another request's error.
func (c *circuit) describe(key string) string {
	return fmt.Sprintf("connecting to %s failed %d times in a row (%v)", key, c.failures, c.last)
}

// succeeded closes the circuit.
func (b *breaker) succeeded(key string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.circuits, key)
}

// failed counts a connection that failed. One that was begun before the circuit
// opened does not make it stay open longer.
func (b *breaker) failed(key string, try bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.circuits[key]
	if c == nil {
		b.makeRoom()
		c = &circuit{}
		b.circuits[key] = c
	}
	c.failures++
	c.last, c.failed = err, b.now()
	if try {
		c.trying = false
	}
	if try || c.pause == 0 && c.failures >= openAfter {
		c.pause = min(max(2*c.pause, firstPause), lastPause)
		c.until = c.failed.Add(c.pause - rand.N(c.pause/5)) // workers shall not all try at once
	}
}

// gaveUp is told that nobody waits for the connection any more, so that it says
// nothing of the upstream.
func (b *breaker) gaveUp(key string, try bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c := b.circuits[key]; c != nil && try {
		c.trying = false
	}
}

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
