package model

// fairly is what goes on when nothing goes wrong any more, the most urgent first.
// Everybody is heard, and everybody asks for the session.
var fairly = []kind{
	started, etcdBack, renewalAnswered, renewalArrived, renewalSent, renewed, left, refused, registered,
	claimGranted, claimRefused, claimArrived, claimSent, endArrived,
	handoverLearnt, handoverSaved, granted, takeAnswered, readOwner, took, takeArrived, takeSent, takeResolved,
	peersAnswered, peersArrived, heardOf, livingRecorded, livingSent, peersRecorded, peersSent,
}

// recovers reports l1 if the session does not get one living owner, once nothing has
// gone wrong for long.
func (m *machine) recovers(s *state) property {
	fair := &machine{times: m.times, weak: m.weak, can: m.can, limits: m.limits}
	fair.can.take, fair.can.peers, fair.can.handover, fair.can.restart, fair.can.blip = true, true, true, true, true
	fair.limits.incarnations, fair.limits.epochs, fair.limits.punctual, fair.limits.only = maxIncarnations, 7, 0, fine
	at := *s
	for range fair.patience() + 2*(fair.h+fair.ttl) {
		fair.allDo(&at)
		at = fair.next(&at)[0].to
		if at.violated != fine {
			return at.violated
		}
	}
	fair.allDo(&at)
	owners, alive := 0, 0
	for w := range fair.limits.workers {
		x := &at.workers[w]
		if x.process == running && x.e != 0 {
			alive++
		}
		if fair.entitled(x) && at.believedRightly(w) {
			owners++
		}
	}
	if at.phase == owned && owners != 1 && alive > 0 {
		return l1
	}
	return fine
}

// allDo takes what goes on until there is nothing to do.
func (m *machine) allDo(s *state) {
	const enough = 20 // steps of a worker in a tick
	for w := range m.limits.workers {
		for range enough {
			if !m.does(s, w) {
				break
			}
		}
	}
}

// does takes the most urgent step of w that changes anything, if there is one.
func (m *machine) does(s *state, w int) bool {
	next := m.next(s)
	for _, k := range fairly {
		for i := range next {
			if st := &next[i]; st.kind == k && int(st.w) == w && st.to != *s && !m.waits(s, k, w) {
				*s = st.to
				return true
			}
		}
	}
	return false
}

// waits reports whether there is no reason for a step.
func (m *machine) waits(s *state, k kind, w int) bool {
	x := &s.workers[w]
	switch k {
	case started:
		return m.anybodyRuns(s)
	case renewed, renewalSent, renewalArrived:
		return x.ack == 0 && x.held != not || x.renewed == 1
	case livingSent, livingRecorded, peersSent, peersRecorded:
		return x.recording == sent || x.list == s.incarnations[idOf(w, x.e)].list && x.list&^s.living() == 0
	}
	return false
}

func (m *machine) anybodyRuns(s *state) bool {
	for w := range m.limits.workers {
		if s.workers[w].process == running {
			return true
		}
	}
	return false
}
