package model

// ask asks all of the list for a permit to serve on, from half of the TTL after
// the last acknowledged renewal on. The permit counts from the question.
func (m *machine) ask(s *state, w int, x *worker) {
	if !m.can.permit || x.list == 0 || x.known == 0 && !m.weak.unrecordedListConfirms || x.ack < m.ttl/2 {
		return
	}
	if !m.can.apartWitness {
		n := m.fork(s, permitted, w, none)
		y := &n.workers[w]
		y.question(m.v)
		for p := range m.limits.workers {
			m.hear(n, w, p)
		}
		m.unless(y.permit > x.permit || y.clean != x.clean)
		return
	}
	if x.asked != 0 || x.answers != 0 {
		m.fork(s, asked, w, none).workers[w].question(m.v)
	}
	if x.asked == not {
		return
	}
	for p := range m.limits.workers {
		n := m.fork(s, confirmed, w, idOf(p, s.workers[p].e))
		m.unless(m.hear(n, w, p))
	}
}

func (x *worker) question(v uint8) { x.asked, x.earliest, x.answers = 0, v, 0 }

func (x *worker) forgetQuestion() { x.asked, x.earliest, x.answers = not, 0, 0 }

// hear gives w the answer of p, and reports whether it confirms.
func (m *machine) hear(n *state, w, p int) bool {
	asker, peer := &n.workers[w], &n.workers[p]
	i := m.answersFor(asker, p, peer)
	if p == w || i == none {
		return false
	}
	age, in := m.answer(peer)
	switch {
	case m.weak.unreachableConfirms:
	case peer.process == dead:
		return false
	case m.weak.contactNow:
		if m.contact(peer) {
			return false
		}
	case !m.confirms(asker, age):
		return false
	case !m.weak.ignoreEarliest:
		asker.earliest = min(asker.earliest, in)
	}
	asker.answers |= setOf(i)
	m.give(asker)
	return true
}

// answersFor returns the entry of the asker's list that an answer of p is for.
func (m *machine) answersFor(asker *worker, p int, peer *worker) id {
	for e := uint8(1); e <= maxIncarnations; e++ {
		i := idOf(p, e)
		if !asker.list.has(i) || asker.answers.has(i) {
			continue
		}
		if e == peer.e || m.weak.anyIncarnationConfirms || m.weak.unreachableConfirms {
			return i
		}
	}
	return none
}

// give gives the permit once all have confirmed.
func (m *machine) give(x *worker) {
	missing := x.list &^ x.answers
	if missing != 0 && !(m.weak.majorityConfirms && 2*(x.answers.count()+1) > x.list.count()+1) {
		return
	}
	left := int(x.earliest) - int(m.drift)
	if !m.weak.permitFromAnswer {
		left -= int(x.asked)
	}
	if !m.weak.serveForever {
		left = min(left, int(m.longest())-int(x.ack))
	}
	x.permit = max(x.permit, uint8(max(left, 0)))
	if missing == 0 {
		if m.calm > 0 {
			x.clean = x.asked
		}
		x.forgetQuestion()
	}
}

// renounce gives power up, as if contact had just lapsed.
func (m *machine) renounce(s *state, w int, x *worker) {
	if m.can.renounce && x.held != not {
		m.fork(s, renounced, w, none).workers[w].held = not
	}
}
