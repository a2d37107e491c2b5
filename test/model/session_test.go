package model

// opener is the worker that has opened the session, as its id says.
var opener = idOf(0, 1)

// endSession ends the session: the owner drops it, and then has a tombstone put.
func (m *machine) endSession(s *state, w int, x *worker) {
	if !m.can.end || x.ending == 1 || !m.entitled(x) {
		return
	}
	if x.unrecorded == 1 && s.phase == absent || x.unrecorded == 0 && s.believedRightly(w) {
		y := &m.fork(s, endSent, w, none).workers[w]
		y.drop()
		y.ending = 1
	}
}

func (m *machine) endArrives(s *state, w int, x *worker) {
	if x.ending == 0 {
		return
	}
	n := m.fork(s, endArrived, w, none)
	m.bringToEnd(n)
	if m.weak.endDeletes {
		n.phase = absent
	}
}

// bringToEnd puts a tombstone.
func (m *machine) bringToEnd(n *state) {
	n.phase, n.owner, n.epoch, n.over = ended, none, 0, 1
	m.recordChanged(n)
}

// claimSession records a session that was opened without the control plane.
func (m *machine) claimSession(s *state, w int, x *worker) {
	if !m.can.claim || x.epoch == 0 || x.unrecorded == 0 {
		return
	}
	if x.claim != x.e {
		y := &m.fork(s, claimSent, w, none).workers[w]
		y.claim, y.claimed = x.e, 1
	}
	switch {
	case x.claimed == 0 || s.phase == absent || !m.reachable(s):
	case s.owns(idOf(w, x.e)) && s.epoch == 1:
		n := m.fork(s, claimGranted, w, none)
		n.workers[w].own(1)
		n.kept = max(n.kept, 1)
	default:
		m.fork(s, claimRefused, w, none).workers[w].drop()
	}
}

// claimArrives puts a claim that arrives, also more than once.
func (m *machine) claimArrives(s *state, w int, x *worker) {
	if i := idOf(w, x.claim); s.phase == absent && s.alive(i) {
		m.put(m.fork(s, claimArrived, w, i), i, 1)
	}
}

// answerNotFound answers a front that asks for a session without a record: 404,
// when the worker that opened it does not serve it any more, which a tombstone sees
// to.
func (m *machine) answerNotFound(s *state) {
	if !m.can.notFound || s.phase != absent || s.over == 1 || !m.reachable(s) {
		return
	}
	x := &s.incarnations[opener]
	switch {
	case m.weak.noTombstone:
		if !s.alive(opener) {
			m.fork(s, notFound, 0, opener).over = 1
		}
	case x.superseded() || x.condemned == 1 || x.deadFor > m.patience():
		m.bringToEnd(m.fork(s, notFound, 0, opener))
	}
}
