package model

// renew sends a renewal, or a re-adoption if the lease turns out to be gone: both
// count from when they were sent.
func (m *machine) renew(s *state, w int, x *worker) {
	i := idOf(w, x.e)
	switch {
	case m.can.apartRenew:
		m.renewApart(s, w, x)
	case m.reachable(s) && m.renewable(&s.incarnations[i]):
		n := m.fork(s, renewed, w, i)
		m.extend(n, i)
		m.acknowledge(&n.workers[w], 0)
	}
	if m.reachable(s) && m.refuses(s, i, x) {
		n := m.fork(s, refused, w, i)
		m.moves(n, i)
		m.lose(n, w)
	}
}

func (m *machine) renewApart(s *state, w int, x *worker) {
	if x.renewal != 0 || x.renewed == 1 {
		n := m.fork(s, renewalSent, w, none)
		n.workers[w].renewal, n.workers[w].renewed = 0, 0
	}
	if x.renewed == 1 {
		n := m.fork(s, renewalAnswered, w, none)
		m.acknowledge(&n.workers[w], x.renewal)
		n.workers[w].renewal, n.workers[w].renewed = not, 0
	}
}

func (m *machine) renewalArrives(s *state, w int, x *worker) {
	i := idOf(w, x.e)
	if x.renewal != not && i != none && m.renewable(&s.incarnations[i]) {
		n := m.fork(s, renewalArrived, w, i)
		m.extend(n, i)
		n.workers[w].renewed = 1
	}
}

// renewable reports whether a renewal is acknowledged, or failing that a
// re-adoption.
func (m *machine) renewable(x *incarnation) bool { return x.lease > 0 || m.continues(x) }

// refuses reports whether a re-adoption is refused.
func (m *machine) refuses(s *state, i id, x *worker) bool {
	if s.alive(i) {
		return m.weak.readoptNeedsAbsence && !m.contact(x)
	}
	return !m.continues(&s.incarnations[i])
}

// extend lets the member key live for another TTL. A re-adoption also puts
// incarnations/w.
func (m *machine) extend(n *state, i id) {
	x := &n.incarnations[i]
	if x.lease == 0 && !m.weak.readoptLeavesRevision {
		n.incarnationChanged(i)
	}
	x.lease = m.ttl
	if !m.weak.countOverReturns {
		x.deadFor = 0
	}
	n.workers[i.worker()].missed = 0
}

// acknowledge is the arrival of an acknowledgement of what was sent that long ago.
func (m *machine) acknowledge(x *worker, age uint8) {
	if m.weak.fenceFromReply {
		age = 0
	}
	if age < x.ack {
		x.ack, x.clean = age, not
	}
	if x.held == not && m.contact(x) {
		x.held = 0
	}
	if m.hasPower(x) {
		x.power = 0
	}
}

// renewPunctually is the renewal of a worker that nothing ever happens to.
func (m *machine) renewPunctually(n *state, w int) {
	x := &n.workers[w]
	i := idOf(w, x.e)
	if m.limits.isPunctual(w) && x.process == running && n.alive(i) && m.reachable(n) {
		m.extend(n, i)
		m.acknowledge(x, 0)
	}
}

// register gives a worker that has none its next incarnation.
func (m *machine) register(s *state, w int, x *worker) {
	i := m.following(s, w)
	if i == none || !m.reachable(s) {
		return
	}
	n := m.fork(s, registered, w, i)
	y := &n.workers[w]
	if y.born == 0 {
		y.born = i.e()
	}
	m.begin(n, i)
	y.e, y.ack, y.held = i.e(), 0, 0
	if m.can.apartRegister {
		y.register = 1
	}
	if y.epoch > 0 {
		y.under = y.e
	}
}

// following is the incarnation that w gets next, none if the world has no more.
func (m *machine) following(s *state, w int) id {
	for e := uint8(1); e <= m.limits.incarnations; e++ {
		if i := idOf(w, e); s.incarnations[i].begun == 0 {
			return i
		}
	}
	return none
}

// begin puts incarnations/w with an incarnation, which supersedes those that the
// same process had before.
func (m *machine) begin(n *state, i id) {
	for e := n.workers[i.worker()].born; e < i.e(); e++ {
		n.supersede(idOf(i.worker(), e))
	}
	n.incarnations[i] = incarnation{begun: 1, lease: m.ttl}
}

func (n *state) supersede(i id) {
	n.incarnations[i].over = max(n.incarnations[i].over, 1)
	n.incarnationChanged(i)
}

// incarnationChanged is a new revision of incarnations/w: what was read of it
// before is refused from now on.
func (n *state) incarnationChanged(i id) {
	for w := range n.workers {
		x := &n.workers[w]
		if n.owner == i {
			x.refuseTake()
		}
		if x.gone == i {
			x.gone = none
		}
	}
}

// lateRegistrationArrives is a copy of a registration that arrives once more. It
// is refused, since incarnations/w no longer says what the worker knew when it
// sent it.
func (m *machine) lateRegistrationArrives(s *state, w int, x *worker) {
	i := m.following(s, w)
	if x.register == 0 || !m.weak.registerBlindly || i == none {
		return
	}
	n := m.fork(s, registeredLate, w, i)
	n.workers[w].register = 0
	m.begin(n, i)
}

// lose is what a worker does that learned that its incarnation is over: it drops
// all that it owned under it. A session that it opened and that has no record is
// kept for the next one.
func (m *machine) lose(n *state, w int) {
	x := &n.workers[w]
	old := *x
	x.quiet()
	x.outlive(&old)
	x.process, x.born, x.power, x.seen = old.process, old.born, old.power, old.seen
	x.missed = old.missed
	if old.unrecorded == 0 && !(m.weak.keepTheOthers && old.epoch > 0) {
		return
	}
	x.epoch, x.unrecorded, x.claimed, x.moving = old.epoch, old.unrecorded, old.claimed, 1
	if m.weak.keepTheOthers || m.weak.forgetClaims || m.weak.serveUnclaimed && old.claimed == 0 {
		x.moving = 0
	}
}

// outlive keeps the messages of old, which may still arrive at the store.
func (x *worker) outlive(old *worker) {
	if old.take == sent {
		x.take, x.takeE, x.takeOver = sent, old.takeE, old.takeOver
	}
	x.gone, x.handover, x.ending, x.claim = old.gone, old.handover, old.ending, old.claim
	x.register = old.register
}
