package model

// machine makes the steps that a world can take.
type machine struct {
	times
	can    abilities
	limits limits
	weak   weakness
	first  []event // what happened before the search

	steps []step // scratch
}

// abilities are what may happen in a world. Renewing and re-adopting is always
// possible, and so is that a worker does not.
type abilities struct {
	take, permit, renounce, peers, condemn, handover, end, claim, notFound bool
	crash, restart, leave, forget, succeed, collect                        bool

	// outage is that replicas lose etcd for longer than TTL, blip for any time, reboot
	// that they start anew.
	outage, blip, reboot bool

	// apart lets the messages of these calls be under way for any time; without it
	// they take none. Those of hand-overs, ends and claims always do.
	apartRenew, apartTake, apartPeers, apartWitness, apartCondemn, apartRegister bool
}

// limits keep a world finite.
type limits struct {
	workers      int
	incarnations uint8 // of one worker
	epochs       uint8
	replicas     int // 0: one that is always there and never holds

	// punctual workers, a bit for each, renew with every tick and do not die.
	punctual uint8
	// slack is how often a worker may miss to renew and counts as connected.
	slack uint8
	// only is the property that counts; fine for all.
	only property
	// lemmas says that they count too.
	lemmas bool
}

func (l limits) isPunctual(w int) bool { return l.punctual>>w&1 == 1 }

// step is one thing that happened, and the world after it.
type step struct {
	event
	to state
}

// fork adds a step from s, and returns the state that it leads to, to be changed
// before the next fork.
func (m *machine) fork(s *state, what kind, w int, who id) *state {
	m.steps = append(m.steps, step{event{kind: what, w: uint8(w), who: who}, *s})
	return &m.steps[len(m.steps)-1].to
}

// unless takes the newest step back.
func (m *machine) unless(useful bool) {
	if !useful {
		m.steps = m.steps[:len(m.steps)-1]
	}
}

// next returns every step from s. The result is valid until the next call.
func (m *machine) next(s *state) []step {
	m.steps = m.steps[:0]
	m.tick(s)
	for w := range m.limits.workers {
		x := &s.workers[w]
		m.live(s, w, x)
		m.arrive(s, w, x)
		if x.process == running {
			m.work(s, w, x)
		}
	}
	m.collect(s)
	m.answerNotFound(s)
	m.replicasChange(s)
	for i := range m.steps {
		m.settle(&m.steps[i].to)
	}
	return m.steps
}

// arrive is messages under way that arrive at the store. They do so whatever
// became of their sender.
func (m *machine) arrive(s *state, w int, x *worker) {
	if !m.reachable(s) {
		return
	}
	m.renewalArrives(s, w, x)
	m.peersArrive(s, w, x)
	m.takeArrives(s, w, x)
	m.condemnationArrives(s, w, x)
	m.handoverArrives(s, w, x)
	m.endArrives(s, w, x)
	m.claimArrives(s, w, x)
	m.lateRegistrationArrives(s, w, x)
}

// work is what a running worker does, and what it is answered.
func (m *machine) work(s *state, w int, x *worker) {
	if x.e == 0 {
		m.register(s, w, x)
		return
	}
	m.renew(s, w, x)
	m.ask(s, w, x)
	m.renounce(s, w, x)
	m.recordPeers(s, w, x)
	m.takeOver(s, w, x)
	m.condemn(s, w, x)
	m.handOver(s, w, x)
	m.learnGranted(s, w, x)
	m.read(s, w, x)
	m.endSession(s, w, x)
	m.claimSession(s, w, x)
}
