package control

import (
	"sync"
	"time"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// peer is one registration of a worker.
type peer struct {
	worker      string
	incarnation int64
}

// peers is whom this worker asks before it serves on without the control plane. The
// control plane keeps the list too, and lets only those on it take over from this
// worker while it may still run; so what is recorded has to be listed here, always:
//
//	a worker appears ──▶ listed here, the permit forfeited ──▶ recorded
//	a worker is over ──▶ no longer recorded ──▶ no longer listed here
//	nobody is alive  ──▶ no permit ──▶ recorded, perhaps as knowing nobody
//
// A worker that is gone and may come back stays on the list. Safe for concurrent use.
type peers struct {
	authority *Authority
	told      chan struct{} // capacity 1: there is something new for who keeps the list

	mu       sync.Mutex            // guards what follows
	members  []*leaseholdv1.Member // who is alive, as this worker was told last
	sighted  time.Duration         // since when it is told without a break
	listed   map[peer]string       // with their addresses
	recorded bool                  // that somebody is listed
	growth   uint64                // how often somebody was added
}

func newPeers(a *Authority) *peers {
	return &peers{authority: a, told: make(chan struct{}, 1), listed: make(map[peer]string)}
}

// begin empties the list, before a registration, which is recorded to know nobody.
func (p *peers) begin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.members, p.recorded = nil, false
	p.listed = make(map[peer]string)
}

// watching notes that this worker is told from now on who is alive.
func (p *peers) watching() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sighted = p.authority.now()
}

// sightedSince returns since when this worker is told without a break who is alive.
func (p *peers) sightedSince() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sighted
}

// see notes who is alive.
func (p *peers) see(members []*leaseholdv1.Member) {
	p.mu.Lock()
	p.members = members
	p.mu.Unlock()
	select {
	case p.told <- struct{}{}:
	default: // it will look
	}
}

// living returns who is alive beside self, with addresses. It reports false if that
// is not known: a list without self is of a moment when its lease had run out, and
// perhaps everybody's.
func (p *peers) living(self peer) (others map[peer]string, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	others = make(map[peer]string, len(p.members))
	for _, m := range p.members {
		switch one := (peer{m.GetWorker(), m.GetIncarnation()}); {
		case one == self:
			known = true
		case one.worker != self.worker:
			others[one] = m.GetInfo().GetPeerAddress()
		}
	}
	return others, known
}

// grow adds workers to the list. Whoever is new on it was not asked for the permit
// that there may be, and can take over once it is recorded: so the permit is forfeited
// before that.
func (p *peers) grow(living map[peer]string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := len(p.listed)
	for one, address := range living {
		p.listed[one] = address
	}
	if len(p.listed) > before {
		p.growth++
		p.authority.forfeit()
	}
}

// alone forfeits the permit, and lets there be none until somebody is recorded: if
// this worker is recorded to know nobody, everybody may take over from it.
func (p *peers) alone() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.recorded = false
	p.authority.forfeit()
}

// settle makes what is recorded the list. Nobody may have been added since it was
// asked for.
func (p *peers) settle(recorded []peer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.listed
	p.listed = make(map[peer]string, len(recorded))
	for _, one := range recorded {
		p.listed[one] = before[one]
	}
	p.recorded = len(recorded) > 0
}

// list returns the list, which the caller does not change, and which growth it has.
// It reports false if nobody is known to be recorded.
func (p *peers) list() (listed map[peer]string, growth uint64, recorded bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	listed = make(map[peer]string, len(p.listed))
	for one, address := range p.listed {
		listed[one] = address
	}
	return listed, p.growth, p.recorded
}

// allow gives the worker a permit for which all of the list were asked when it had
// that growth, unless somebody was added since or nobody is recorded any more.
func (p *peers) allow(growth uint64, incarnation int64, deadline, until time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.recorded && p.growth == growth {
		p.authority.allow(incarnation, deadline, until)
	}
}
