package model

// recordPeers keeps the list: what a worker hears of is in its own list first and
// is recorded then; what is dropped is dropped from the record first.
func (m *machine) recordPeers(s *state, w int, x *worker) {
	if !m.can.peers {
		return
	}
	for i := range s.incarnations {
		if s.alive(id(i)) && id(i).worker() != w && !x.list.has(id(i)) {
			m.hearOf(m.fork(s, heardOf, w, id(i)), w, id(i))
		}
	}
	if x.recording == answered {
		m.peersRecorded(&m.fork(s, peersAnswered, w, none).workers[w])
	}
	living := x.list & s.living()
	if !m.can.apartPeers {
		m.record(s, w, x.list, peersRecorded)
		if living != x.list {
			m.record(s, w, living, livingRecorded)
		}
		return
	}
	m.sendPeers(s, w, x.list, peersSent)
	if living != x.list {
		m.sendPeers(s, w, living, livingSent)
	}
}

// hearOf adds to the list. A permit that the newcomer was not asked for is over.
func (m *machine) hearOf(n *state, w int, i id) {
	x := &n.workers[w]
	if m.weak.recordedFirst {
		x.peers |= setOf(i)
		return
	}
	x.list |= setOf(i)
	x.clean = not
	if !m.weak.growthKeepsPermit {
		x.permit = 0
	}
	x.forgetQuestion()
	x.abandonPeers()
}

// abandonPeers stops waiting for an answer; the request may still arrive.
func (x *worker) abandonPeers() {
	if x.recording == sent {
		x.late, x.latePeers = 1, x.peers
	}
	x.recording, x.peers, x.recorded = idle, 0, 0
}

// record is RecordPeers whose messages take no time.
func (m *machine) record(s *state, w int, peers ids, what kind) {
	i := idOf(w, s.workers[w].e)
	if !m.reachable(s) || !m.recordable(&s.incarnations[i]) {
		return
	}
	n := m.fork(s, what, w, i)
	x := &n.workers[w]
	if m.weak.recordedFirst {
		peers |= x.peers
	}
	m.givePermitUp(x, peers)
	x.recorded = m.store(n, i, peers)
	m.peersRecorded(x)
}

func (m *machine) sendPeers(s *state, w int, peers ids, what kind) {
	if x := &s.workers[w]; x.recording == sent && x.peers == peers {
		return
	}
	n := m.fork(s, what, w, none)
	x := &n.workers[w]
	x.abandonPeers()
	m.givePermitUp(x, peers)
	x.recording, x.peers = sent, peers
	if m.weak.shrinkFirst {
		x.list = peers
	}
}

// givePermitUp is what comes before a call that may record an empty list.
func (m *machine) givePermitUp(x *worker, peers ids) {
	if peers == 0 && !m.weak.aloneKeepsPermit {
		x.permit, x.known = 0, 0
		x.forgetQuestion()
	}
}

// store records a list: those that are asked for, and of those before all that can
// come back. It returns it.
func (m *machine) store(n *state, i id, peers ids) ids {
	for p := range n.incarnations {
		x := &n.incarnations[p]
		if n.incarnations[i].list.has(id(p)) && x.condemned == 0 && !x.superseded() {
			peers |= setOf(id(p))
		}
	}
	n.incarnations[i].list = peers
	n.incarnationChanged(i)
	return peers
}

func (m *machine) peersArrive(s *state, w int, x *worker) {
	i := idOf(w, x.e)
	if i == none || !m.recordable(&s.incarnations[i]) {
		return
	}
	if x.recording == sent {
		n := m.fork(s, peersArrived, w, i)
		y := &n.workers[w]
		y.recorded = m.store(n, i, x.peers)
		y.recording = answered
		if !m.weak.lateLists {
			y.late, y.latePeers = 0, 0
		}
	}
	if x.late == 1 {
		n := m.fork(s, peersArrivedLate, w, i)
		m.store(n, i, x.latePeers)
		n.workers[w].late, n.workers[w].latePeers = 0, 0
	}
}

// peersRecorded is the arrival of the answer: who is no longer recorded leaves the
// list.
func (m *machine) peersRecorded(x *worker) {
	if m.weak.recordedFirst {
		x.list |= x.recorded
	}
	x.list &= x.recorded
	x.answers &= x.list
	x.known = 1
	if x.list == 0 {
		x.known = 0
	}
	x.recording, x.peers, x.recorded = idle, 0, 0
}

// condemn has a dead incarnation condemned, so that it leaves the lists.
func (m *machine) condemn(s *state, w int, x *worker) {
	if !m.can.condemn || x.gone != none || !m.hasPower(x) {
		return
	}
	for i := range s.incarnations {
		y := &s.incarnations[i]
		if y.begun == 0 || y.lease > 0 || y.condemned == 1 || y.superseded() || id(i).worker() == w {
			continue
		}
		if m.can.apartCondemn {
			m.fork(s, condemnSent, w, id(i)).workers[w].gone = id(i)
		} else if m.condemnable(s, w, id(i)) {
			m.condemnIn(m.fork(s, condemned, w, id(i)), id(i))
		}
	}
}

func (m *machine) condemnationArrives(s *state, w int, x *worker) {
	if x.gone != none && m.condemnable(s, w, x.gone) {
		n := m.fork(s, condemnArrived, w, x.gone)
		n.workers[w].gone = none
		m.condemnIn(n, x.gone)
	}
}

func (m *machine) condemnable(s *state, w int, i id) bool {
	me := idOf(w, s.workers[w].e)
	held, ok := m.serving(s)
	return ok && (!held || m.weak.heldCondemns) && s.alive(me) && !s.alive(i) && m.mayTake(s, me, i)
}

func (m *machine) condemnIn(n *state, i id) {
	m.moves(n, i)
	n.incarnations[i].condemned = 1
}
