package model

import "math/bits"

// property is one of the promises, or a lemma.
type property uint8

const (
	fine property = iota
	s1
	s2
	s3
	s4
	s5
	p5
	l1
	listed
	spent
)

func (p property) String() string {
	return [...]string{
		fine:   "nothing",
		s1:     "S1 (two workers are entitled to dispatch)",
		s2:     "S2 (the epochs of dispatches go back)",
		s3:     "S3 (a living worker believes what the store does not say)",
		s4:     "S4 (what was acknowledged is lost)",
		s5:     "S5 (an end is not final)",
		p5:     "P5 (a session of a running, connected worker moves across an outage)",
		l1:     "L1 (no single living owner once nothing goes wrong)",
		listed: "a lemma (somebody is on the recorded list and not asked)",
		spent:  "a lemma (a worker is entitled under an incarnation that is condemned or over)",
	}[p]
}

// settle completes a step: what follows from it at once, and what it violates.
func (m *machine) settle(n *state) {
	for w := range m.limits.workers {
		x := &n.workers[w]
		if x.unrecorded == 1 && !m.authority(x) && !m.weak.serveUnclaimed && !m.weak.forgetClaims {
			x.moving = 1
		}
		x.power = min(x.power, m.smax+1)
	}
	if n.violated == fine {
		n.violated = m.check(n)
	}
	if m.limits.only != fine && n.violated != m.limits.only {
		n.violated = fine
	}
	for w := range m.limits.workers {
		if x := &n.workers[w]; m.entitled(x) {
			n.dispatched = max(n.dispatched, x.epoch)
		}
	}
}

// broken is a set of properties.
type broken uint16

func (b *broken) add(p property, is bool) {
	if is {
		*b |= 1 << p
	}
}

// check returns what a state violates: the first of what counts.
func (m *machine) check(n *state) property {
	b := m.violations(n)
	if m.limits.only != fine {
		b &= 1 << m.limits.only
	}
	if !m.limits.lemmas {
		b &= 1<<listed - 1
	}
	return property(bits.TrailingZeros16(uint16(b|1<<(spent+1)))) % (spent + 1)
}

// violations returns all that a state violates. P5 is seen to by moves, and L1 by
// recovers.
func (m *machine) violations(n *state) (b broken) {
	acting := 0
	for w := range m.limits.workers {
		x := &n.workers[w]
		if x.process != running || x.e == 0 {
			continue
		}
		i := &n.incarnations[idOf(w, x.e)]
		if m.entitled(x) {
			acting++
			b.add(s2, x.epoch < n.dispatched)
			b.add(s5, n.over == 1)
		}
		believes := x.epoch > 0 && x.under == x.e && x.moving == 0 && x.unrecorded == 0
		b.add(s3, i.lease > 0 && believes && !n.believedRightly(w))
		b.add(listed, m.recordable(i) && i.list&^x.list != 0)
		b.add(spent, m.authority(x) && (i.condemned == 1 || i.superseded()))
	}
	b.add(s1, acting > 1)
	b.add(s4, n.kept > 0 && (n.phase == absent || n.phase == owned && n.epoch < n.kept))
	b.add(s5, n.over == 1 && n.phase != ended && !m.weak.noTombstone)
	return b
}

// moves notes that the sessions of i move.
func (m *machine) moves(n *state, i id) {
	x := &n.workers[i.worker()]
	if m.limits.replicas > 0 && x.process == running && x.e == i.e() && x.missed != not && !n.incarnations[i].superseded() {
		n.violated = p5
	}
}

// neglect notes that a worker could have renewed in a tick and did not: if that
// happens more often than the slack, it is a fault of its own, and no outage.
func (m *machine) neglect(x *worker) {
	if x.process == running {
		upUnless(&x.missed, m.limits.slack)
	}
}
