package model

// handOver gives the session to another living worker. The giver stops dispatching
// before it sends.
func (m *machine) handOver(s *state, w int, x *worker) {
	if !m.can.handover || x.epoch == 0 || x.under != x.e || x.unrecorded == 1 {
		return
	}
	if s.believedRightly(w) && x.handover == none && s.epoch < m.limits.epochs {
		for p := range m.limits.workers {
			to := idOf(p, s.workers[p].e)
			if p == w || s.workers[p].process != running || !s.alive(to) {
				continue
			}
			y := &m.fork(s, handoverSent, w, to).workers[w]
			y.handover = to
			if !m.weak.serveWhileMoving {
				y.moving = 1
			}
		}
	}
	if m.reachable(s) {
		m.decide(s, w, x)
	}
}

// decide is how the giver learns what became of a hand-over: that it was granted,
// or was refused since somebody else is the owner; or it saves the session, which
// refuses the hand-over if it is still under way. The store saves for the living.
func (m *machine) decide(s *state, w int, x *worker) {
	if m.weak.saveBlindly && x.moving == 1 && s.phase == owned {
		n := m.fork(s, handoverSaved, w, none)
		n.workers[w].moving = 0
		m.put(n, idOf(w, x.e), x.epoch)
	}
	switch {
	case !s.believedRightly(w):
		if x.moving == 1 || m.weak.serveWhileMoving {
			n := m.fork(s, handoverLearnt, w, s.owner)
			n.workers[w].drop()
			n.kept = max(n.kept, s.epoch)
		}
	case x.moving == 0:
	case m.weak.resumeByReading:
		m.fork(s, handoverSaved, w, none).workers[w].moving = 0
	case s.alive(s.owner):
		n := m.fork(s, handoverSaved, w, none)
		n.workers[w].moving = 0
		m.recordChanged(n)
	}
}

func (m *machine) handoverArrives(s *state, w int, x *worker) {
	to := x.handover
	if to == none || s.phase != owned || s.epoch >= m.limits.epochs || !s.alive(s.owner) || !s.alive(to) {
		return
	}
	n := m.fork(s, handoverArrived, w, to)
	n.workers[w].handover = none
	m.put(n, to, s.epoch+1)
	if y := &n.workers[to.worker()]; y.e == to.e() {
		y.grants |= 1 << n.epoch
	}
}

// learnGranted makes the receiver the owner, as the giver grants it or as it reads
// it in the record: once, and not after it has seen a later epoch. It needs no
// power: the giver has stopped.
func (m *machine) learnGranted(s *state, w int, x *worker) {
	for epoch := uint8(1); epoch <= m.limits.epochs; epoch++ {
		if x.grants>>epoch&1 == 1 && x.epoch == 0 && (epoch > x.seen || m.weak.believeGrants) {
			n := m.fork(s, granted, w, none)
			m.steps[len(m.steps)-1].n = epoch
			n.workers[w].own(epoch)
			n.kept = max(n.kept, epoch)
		}
	}
}
