// Package keycheck tells session ids under a key that does not exist from those under
// one that this worker has not heard of yet. The first are over; the others will open
// once the newest key ring is here.
//
// No worker seals with a key before the stored ring has it. So an id whose key was not
// in the ring that was the newest at a moment after the id arrived is under a key that
// does not exist, or exists no more. Which ring that was, the control plane is asked: one
// question at a time and once a second at most, for all ids that came before it. Until it
// is answered, and the ring that it names is here, nothing is certain.
package keycheck

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/leasehold/leasehold/dataplane/config"
)

const (
	// askEvery is how often the control plane is asked at most.
	askEvery = time.Second
	// askTimeout bounds one question.
	askTimeout = 2 * time.Second
	// maxAsked bounds the keys of one question, and maxMissing those that are remembered to
	// be in no ring. Whoever forges ids can fill both: then ids under keys that are gone are
	// uncertain for longer.
	maxAsked   = 1024
	maxMissing = 4096
)

// Config says what a Checker works with. All fields are required.
type Config struct {
	// World has the ring that this worker knows.
	World *config.Holder
	// Newest asks the control plane for the revision of a ring that was the newest at
	// some moment after it was called.
	Newest func(context.Context) (revision int64, err error)
	Logger hclog.Logger
}

// Checker finds out which keys are missing. It is safe for concurrent use.
type Checker struct {
	cfg  Config
	wake chan struct{} // capacity 1

	mu       sync.Mutex // guards what follows
	asked    map[[4]byte]bool
	missing  map[[4]byte]bool
	revision int64 // of the ring that they are missing in, which was the newest
}

// New returns a Checker that asks once it runs.
func New(cfg Config) *Checker {
	return &Checker{cfg: cfg, wake: make(chan struct{}, 1), asked: map[[4]byte]bool{}, missing: map[[4]byte]bool{}}
}

// Missing reports whether a key that the snapshot's ring does not have is certainly in
// no ring. If that is not certain yet it is found out, and a later call tells. It does
// not wait.
func (c *Checker) Missing(world *config.Snapshot, key [4]byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.revision == world.RingRevision && c.missing[key] {
		return true
	}
	if len(c.asked) < maxAsked {
		c.asked[key] = true
	}
	select {
	case c.wake <- struct{}{}:
	default: // it will be asked
	}
	return false
}

// Run asks when there is something to ask, until ctx ends.
func (c *Checker) Run(ctx context.Context) error {
	pace := time.NewTimer(0)
	defer pace.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-pace.C:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-c.wake:
		}
		pace.Reset(askEvery)
		c.ask(ctx)
	}
}

func (c *Checker) ask(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	keys := c.take() // before the question is sent
	newest, err := c.cfg.Newest(ctx)
	if err != nil {
		c.cfg.Logger.Debug("whether keys of session ids exist is not known", "keys", len(keys), "error", err)
		return
	}
	if newest != c.cfg.World.Load().RingRevision {
		return // the ring is on its way; whoever comes again has it asked again
	}
	c.note(newest, keys)
}

// take returns the keys that are asked for, which then no longer are.
func (c *Checker) take() map[[4]byte]bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	keys := c.asked
	c.asked = map[[4]byte]bool{}
	return keys
}

// note remembers that keys are missing in a ring that was the newest, unless it has them.
func (c *Checker) note(revision int64, keys map[[4]byte]bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.revision != revision || len(c.missing)+len(keys) > maxMissing {
		c.revision, c.missing = revision, map[[4]byte]bool{}
	}
	for key := range keys {
		c.missing[key] = true
	}
}
