// Package checkup asks upstreams whether they work: those whose definitions say so,
// each by one probe at a time, with a session of its own. One that fails several
// times in a row is ejected, and admitted again after several successes: a single
// answer changes nothing.
package checkup

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/session"
)

const (
	// look is how often it is looked which probes are due.
	look = 250 * time.Millisecond
	// maxProbes bounds the probes that go on at the same time. What is due beyond
	// waits, and comes in turn.
	maxProbes = 64
	// firstWithin is within which time a new upstream is asked, if not sooner.
	firstWithin = 5 * time.Second
)

// Config says what a Checker works with. All fields are required.
type Config struct {
	// World has the upstreams and how each is to be asked.
	World *config.Holder
	// Upstream makes requests, to ejected upstreams too.
	Upstream session.Upstream
	Logger   hclog.Logger
}

// Checker knows which upstreams work. It is safe for concurrent use.
type Checker struct {
	cfg   Config
	group sync.WaitGroup // of the probes

	mu       sync.Mutex // guards what follows
	patients map[key]*patient
	probes   int // that go on
}

// key names an upstream.
type key struct{ gateway, upstream string }

func keyOf(u *config.Upstream) key { return key{u.Gateway, u.Name} }

// patient is an upstream that is asked.
//
//	          UnhealthyAfter failures in a row
//	admitted ─────────────────────────────────▶ ejected
//	    ▲                                          │
//	    └───────── HealthyAfter successes ─────────┘
//	                      in a row
type patient struct {
	fingerprint [16]byte
	due         time.Time // when the next probe is
	probing     bool
	asked       bool // a probe is over
	ejected     bool
	since       time.Time // it is ejected, or admitted
	contrary    int       // results in a row that speak against what it is
	last        error     // of the last probe
}

// State is what is known of one upstream.
type State struct {
	// Gateway is the gateway's id, Upstream the upstream's name.
	Gateway, Upstream string
	// Asked says that a probe is over, without which nothing is known.
	Asked bool
	// Ejected says that requests for the upstream fail at once.
	Ejected bool
	// Since is from when on that is so, or is not.
	Since time.Time
	// LastError is what the last probe failed by; nil if it did not.
	LastError error
}

// Ejected is why a request was not sent.
type Ejected struct {
	// After is how many probes in a row failed before.
	After int
	// Since is how long ago that was.
	Since time.Duration
}

// Error returns it in words.
func (e *Ejected) Error() string {
	return fmt.Sprintf("%d health checks in a row failed, %v ago, and it has not recovered yet", e.After, e.Since.Round(time.Second))
}

// ForClient returns the same.
func (e *Ejected) ForClient() string { return e.Error() }

// New returns a Checker that knows nothing yet.
func New(cfg Config) *Checker { return &Checker{cfg: cfg, patients: make(map[key]*patient)} }

// Check returns nil if requests for u may be sent, and an *Ejected otherwise. u is
// as the newest definition has it.
func (c *Checker) Check(u *config.Upstream) error {
	if u.Health == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.patients[keyOf(u)]
	if p == nil || !p.ejected || p.fingerprint != u.Fingerprint {
		return nil
	}
	return &Ejected{After: u.Health.UnhealthyAfter, Since: time.Since(p.since)}
}

// State returns what is known of u, which is as the newest definition has it; false if
// it is not asked.
func (c *Checker) State(u *config.Upstream) (State, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := keyOf(u)
	p := c.patients[k]
	if u.Health == nil || p == nil || p.fingerprint != u.Fingerprint {
		return State{}, false
	}
	return p.state(k), true
}

func (p *patient) state(k key) State {
	return State{k.gateway, k.upstream, p.asked, p.ejected, p.since, p.last}
}

// States returns what is known of every upstream that is asked, ordered by gateway
// and name.
func (c *Checker) States() []State {
	c.mu.Lock()
	states := make([]State, 0, len(c.patients))
	for k, p := range c.patients {
		states = append(states, p.state(k))
	}
	c.mu.Unlock()
	slices.SortFunc(states, func(a, b State) int {
		return cmp.Or(cmp.Compare(a.Gateway, b.Gateway), cmp.Compare(a.Upstream, b.Upstream))
	})
	return states
}

// Run asks until ctx ends; the probes that go on then are given up, and their
// sessions ended.
func (c *Checker) Run(ctx context.Context) error {
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	defer c.group.Wait()
	for {
		c.begin(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// visitor is a probe that is due.
type visitor struct {
	upstream *config.Upstream
	patient  *patient
}

// patientLocked returns what is known of an upstream.
func (c *Checker) patientLocked(u *config.Upstream, now time.Time) *patient {
	p := c.patients[keyOf(u)]
	if p == nil || p.fingerprint != u.Fingerprint {
		p = &patient{fingerprint: u.Fingerprint, since: now, due: now.Add(rand.N(min(u.Health.Interval, firstWithin)))}
		c.patients[keyOf(u)] = p
	}
	return p
}

// begin begins the probes that are due, and forgets what is not to be asked any more.
func (c *Checker) begin(ctx context.Context) {
	now := time.Now()
	asked := make(map[key]bool)
	var due []visitor
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, gateway := range c.cfg.World.Load().Gateways {
		for _, u := range gateway.Real() {
			if u.Health == nil {
				continue
			}
			asked[keyOf(u)] = true
			if p := c.patientLocked(u, now); !p.probing && !now.Before(p.due) {
				due = append(due, visitor{u, p})
			}
		}
	}
	slices.SortFunc(due, func(a, b visitor) int { return a.patient.due.Compare(b.patient.due) })
	for _, v := range due[:min(len(due), maxProbes-c.probes)] {
		v.patient.probing = true
		c.probes++
		c.group.Go(func() { c.note(ctx, v.upstream, v.patient, c.probe(ctx, v.upstream)) })
	}
	for k := range c.patients {
		if !asked[k] {
			delete(c.patients, k)
		}
	}
}

// note takes down what a probe came to.
func (c *Checker) note(ctx context.Context, u *config.Upstream, p *patient, err error) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.probes--
	p.probing = false
	// Workers shall not all ask at once.
	p.due = now.Add(u.Health.Interval*9/10 + rand.N(u.Health.Interval/5))
	if ctx.Err() != nil {
		return // which is why it failed
	}
	p.asked, p.last = true, err
	if (err != nil) == p.ejected {
		p.contrary = 0
		return
	}
	p.contrary++
	logger := c.cfg.Logger.With("gateway", u.Gateway, "upstream", u.Name)
	switch {
	case !p.ejected && p.contrary >= u.Health.UnhealthyAfter:
		p.ejected, p.since, p.contrary = true, now, 0
		logger.Warn("upstream ejected", "failures", u.Health.UnhealthyAfter, "error", err)
	case p.ejected && p.contrary >= u.Health.HealthyAfter:
		logger.Info("upstream admitted again", "successes", u.Health.HealthyAfter, "ejected_for", now.Sub(p.since).Round(time.Second))
		p.ejected, p.since, p.contrary = false, now, 0
	}
}
