package model

// takeOver is a worker's part of a reclaim: to resolve, to send with power, and to
// believe the answer with power.
func (m *machine) takeOver(s *state, w int, x *worker) {
	if !m.can.take {
		return
	}
	if x.take == answered {
		m.takeIsAnswered(s, w, x)
	}
	me := idOf(w, x.e)
	if s.phase != owned || s.owner == me || x.epoch != 0 || s.epoch >= m.limits.epochs || s.alive(s.owner) && !m.weak.aliveOwnersLose {
		return
	}
	over := s.incarnations[s.owner].superseded()
	switch {
	case !m.can.apartTake:
		if (over || m.hasPower(x)) && m.takeable(s, me) {
			n := m.fork(s, took, w, s.owner)
			m.reclaim(n, me)
			n.workers[w].own(n.epoch)
		}
	case x.take == idle || x.take == sent && x.takeE != x.e:
		y := &m.fork(s, takeResolved, w, s.owner).workers[w]
		y.take, y.takeE, y.takeOver, y.taken = resolved, x.e, 0, 0
		if over {
			y.takeOver = 1
		}
	case x.take == resolved && (x.takeOver == 1 || m.hasPower(x)):
		m.fork(s, takeSent, w, s.owner).workers[w].take = sent
	}
}

// takeIsAnswered is the arrival of the word that a reclaim was granted.
func (m *machine) takeIsAnswered(s *state, w int, x *worker) {
	y := &m.fork(s, takeAnswered, w, none).workers[w]
	y.forgetTake()
	sure := m.hasPower(x) || x.takeOver == 1 || m.weak.answerNeedsNoPower
	if sure && x.takeE == x.e && x.taken > x.seen && x.epoch == 0 {
		y.own(x.taken)
	}
}

func (x *worker) forgetTake() { x.take, x.takeE, x.takeOver, x.taken = idle, 0, 0, 0 }

// refuseTake drops a reclaim whose comparisons cannot be true any more.
func (x *worker) refuseTake() {
	if x.take == resolved || x.take == sent {
		x.forgetTake()
	}
}

// takeable reports whether the store makes me the owner in place of the one that is
// recorded, and as which it was read.
func (m *machine) takeable(s *state, me id) bool {
	if s.phase != owned || s.owner == me || s.epoch >= m.limits.epochs || !s.alive(me) {
		return false
	}
	held, ok := m.serving(s)
	return ok && (!s.alive(s.owner) || m.weak.aliveOwnersLose) &&
		(!held || s.incarnations[s.owner].superseded()) && m.mayTake(s, me, s.owner)
}

func (m *machine) takeArrives(s *state, w int, x *worker) {
	me := idOf(w, x.takeE)
	if x.take != sent || !m.takeable(s, me) {
		return
	}
	n := m.fork(s, takeArrived, w, s.owner)
	y := &n.workers[w]
	y.take = answered
	m.reclaim(n, me)
	y.taken = n.epoch
	if y.process != running {
		y.forgetTake()
	}
}

// reclaim makes me the owner and condemns the one before.
func (m *machine) reclaim(n *state, me id) {
	m.moves(n, n.owner)
	if !m.weak.condemnedLater {
		n.incarnations[n.owner].condemned = 1
	}
	m.put(n, me, n.epoch+1)
}

// put puts the session's record.
func (m *machine) put(n *state, owner id, epoch uint8) {
	n.phase, n.owner, n.epoch = owned, owner, epoch
	m.recordChanged(n)
}

// recordChanged is a new revision of the record: what compares an earlier one is
// refused from now on.
func (m *machine) recordChanged(n *state) {
	for w := range n.workers {
		x := &n.workers[w]
		x.refuseTake()
		x.ending = 0
		if !m.weak.noCompare {
			x.handover = none
		}
	}
}

// own makes a worker believe that it owns the session.
func (x *worker) own(epoch uint8) {
	x.epoch, x.under, x.moving, x.unrecorded, x.claimed = epoch, x.e, 0, 0, 0
	x.seen = max(x.seen, epoch)
}

// drop makes a worker forget that it owns the session, but for the epoch.
func (x *worker) drop() { x.epoch, x.under, x.moving, x.unrecorded, x.claimed = 0, 0, 0, 0, 0 }

// read makes a worker the owner of a session when it reads that it is. It has power
// then, as for the answer to a reclaim: that may be what it reads.
func (m *machine) read(s *state, w int, x *worker) {
	if !s.owns(idOf(w, x.e)) || x.epoch != 0 || x.ending == 1 || !m.reachable(s) || m.weak.neverReads {
		return
	}
	if m.hasPower(x) || m.weak.readNeedsNoPower {
		m.fork(s, readOwner, w, none).workers[w].own(s.epoch)
	}
}
