package model

// tick lets a tick pass. Each clock may go wrong by one now and then: a worker's
// loses or gains a tick against all others.
func (m *machine) tick(s *state) {
	const nobody = -1
	m.pass(m.fork(s, ticked, 0, none), nobody, 1)
	if s.drift == 0 || s.calm > 0 {
		return
	}
	for w := range m.limits.workers {
		if s.workers[w].process == running {
			m.wrong(m.fork(s, tickLost, w, none), w, 0)
			m.wrong(m.fork(s, tickGained, w, none), w, 2)
		}
	}
}

func (m *machine) wrong(n *state, w, ticks int) {
	n.drift--
	n.calm = m.calm
	m.pass(n, w, ticks)
}

// pass lets a tick pass for everybody, and as many as given for one worker.
func (m *machine) pass(n *state, special, ticks int) {
	for w := range m.limits.workers {
		x := &n.workers[w]
		passed := 1
		if w == special {
			passed = ticks
		}
		for range passed {
			m.age(x)
		}
		if m.limits.replicas > 0 && m.reachable(n) {
			m.neglect(x)
		}
	}
	for i := range n.incarnations {
		m.ageStored(&n.incarnations[i])
	}
	for r := range m.limits.replicas {
		x := &n.replicas[r]
		if x.cutOff == 1 {
			up(&x.lost, m.ttl+1)
		}
		down(&x.hold)
		x.back = 0
	}
	down(&n.calm)
	for w := range m.limits.workers {
		m.renewPunctually(n, w)
	}
}

func up(x *uint8, most uint8) {
	if *x < most {
		*x++
	}
}

func down(x *uint8) { *x -= min(*x, 1) }

// upUnless counts an age that does not count any more once it is past most.
func upUnless(x *uint8, most uint8) {
	if *x == not {
		return
	}
	if *x++; *x > most {
		*x = not
	}
}

// age lets a tick pass on a worker's clock.
func (m *machine) age(x *worker) {
	if x.process != running && x.process != leaving {
		return
	}
	up(&x.ack, m.longest())
	up(&x.power, m.smax+1)
	switch {
	case x.held == not:
	case !m.contact(x):
		x.held = not
	default:
		up(&x.held, m.h)
	}
	if m.hasPower(x) {
		x.power = 0
	}
	down(&x.permit)
	upUnless(&x.clean, m.v+1)
	if upUnless(&x.asked, m.v); x.asked == not {
		x.forgetQuestion()
	}
	if upUnless(&x.renewal, m.latest()); x.renewal == not {
		x.renewed = 0
	}
}

// ageStored lets a tick pass on the clock of the store and its replicas.
func (m *machine) ageStored(x *incarnation) {
	switch {
	case x.lease > 0:
		x.lease--
	case x.begun == 1:
		up(&x.deadFor, m.patience()+1)
	}
	if x.over > 0 {
		up(&x.over, m.outlived()+1)
	}
}
