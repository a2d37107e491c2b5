package model

// live is how processes begin and end.
func (m *machine) live(s *state, w int, x *worker) {
	switch x.process {
	case running:
		m.die(s, w, x)
	case leaving:
		if m.reachable(s) {
			n := m.fork(s, left, w, idOf(w, x.e))
			m.leave(n, idOf(w, x.e))
			n.workers[w].end(x)
		}
	default:
		if m.can.restart && m.following(s, w) != none {
			n := m.fork(s, started, w, none)
			n.workers[w].end(x)
			n.workers[w].process = running
		}
	}
	m.bury(s, w, x)
}

// die ends a process: at once, or after it has stopped dispatching.
func (m *machine) die(s *state, w int, x *worker) {
	if m.limits.isPunctual(w) {
		return
	}
	if m.can.crash {
		m.fork(s, crashed, w, none).workers[w].end(x)
	}
	if m.can.leave && x.e != 0 {
		n := m.fork(s, stopped, w, none)
		if m.weak.revokeWhileServing {
			m.leave(n, idOf(w, x.e))
			return
		}
		n.workers[w].process = leaving
	}
}

// end leaves nothing of a process but its messages.
func (x *worker) end(old *worker) {
	x.quiet()
	x.outlive(old)
	x.process = dead
}

// leave deletes the member key and marks the incarnation as left.
func (m *machine) leave(n *state, i id) {
	n.incarnations[i].lease = 0
	if n.incarnations[i].over == 0 {
		n.supersede(i)
	}
}

// bury has incarnations leave whose process is dead: by the operator's word once
// the lease is over, or by a successor on the same data directory.
func (m *machine) bury(s *state, w int, x *worker) {
	for e := uint8(1); e <= m.limits.incarnations; e++ {
		i := idOf(w, e)
		if y := &s.incarnations[i]; y.begun == 0 || y.superseded() || x.lives(e) && !m.weak.forgetTheRunning {
			continue
		}
		if m.can.forget && !s.alive(i) {
			m.leave(m.fork(s, forgotten, w, i), i)
		}
		if m.can.succeed {
			m.leave(m.fork(s, succeeded, w, i), i)
		}
	}
}

// lives reports whether the process runs that an incarnation of the worker is of.
func (x *worker) lives(e uint8) bool {
	return (x.process == running || x.process == leaving) && x.born != 0 && e >= x.born
}

// collect deletes what is left of incarnations that died long ago and own no
// session: that they are condemned and that they exist, in one transaction.
func (m *machine) collect(s *state) {
	if !m.can.collect {
		return
	}
	for i := range s.incarnations {
		x := &s.incarnations[i]
		if x.begun == 0 || x.lease > 0 || x.collected == 1 || s.owns(id(i)) || x.deadFor <= m.patience() && !m.weak.collectSoon {
			continue
		}
		if m.weak.collectInTwo {
			n := m.fork(s, collectedHalf, 0, id(i))
			n.incarnations[i].condemned = 0
			continue
		}
		n := m.fork(s, collected, 0, id(i))
		n.incarnations[i].condemned, n.incarnations[i].collected = 0, 1
		n.incarnationChanged(id(i))
	}
}
