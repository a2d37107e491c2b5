package model

import "fmt"

// world is what there is, what can happen in it and how it begins.
type world struct {
	times
	can    abilities
	limits limits
	drift  uint8 // how often a clock may go wrong
	begin  func(*machine) state
	first  []event // what happens before the search begins
}

// short are the times of worlds whose clocks are right. A permit is as long as
// the lapse from which power comes back is short of it: the ratio of the real ones
// is four times as safe.
var short = times{ttl: 3, margin: 1, h: 4, v: 2, smax: 4}

// wrong are the times of worlds in which a clock may go wrong once.
var wrong = times{ttl: 3, margin: 1, h: 5, v: 3, smax: 4, drift: 1}

// machine returns what makes the steps of the world, and its first state.
func (w world) machine(weak weakness) (*machine, state) {
	m := &machine{times: w.times, can: w.can, limits: w.limits, weak: weak}
	patient := *m
	patient.limits.punctual = 0
	happened, s := patient.follow(w.begin(m), w.first)
	if len(happened) < len(w.first) {
		panic(fmt.Sprintf("not possible: %v", w.first[len(happened)]))
	}
	s.drift = w.drift
	m.first = happened
	return m, s
}

func nothing() (s state) {
	for w := range s.workers {
		s.workers[w].quiet()
	}
	return s
}

// joins makes w a member that has power and knows nobody.
func (m *machine) joins(s *state, w int) {
	x := &s.workers[w]
	x.process, x.e, x.born = running, 1, 1
	x.ack, x.held, x.power = 0, m.h, 0
	s.incarnations[idOf(w, 1)] = incarnation{begun: 1, lease: m.ttl}
}

// knows puts p on w's list.
func (s *state) knows(w, p int) {
	x := &s.workers[w]
	x.list |= setOf(idOf(p, 1))
	x.known = 1
	s.incarnations[idOf(w, 1)].list = x.list
}

// friends have had contact for long and know each other; A owns the session.
func (m *machine) friends(workers int) state {
	s := nothing()
	for w := range workers {
		m.joins(&s, w)
	}
	for w := range workers {
		for p := range workers {
			if w != p {
				s.knows(w, p)
			}
		}
	}
	m.put(&s, idOf(0, 1), 1)
	s.workers[0].own(1)
	s.kept = 1
	return s
}

func two(m *machine) state   { return m.friends(2) }
func three(m *machine) state { return m.friends(3) }

// stranger is two that know each other, and C, whom nobody knows.
func stranger(m *machine) state {
	s := m.friends(2)
	m.joins(&s, 2)
	return s
}

// strangerToA is the same, but that B knows C.
func strangerToA(m *machine) state {
	s := stranger(m)
	s.knows(1, 2)
	return s
}

// opened is two of whom A has opened the session while there was no control plane.
func opened(m *machine) state {
	s := m.friends(2)
	s.phase, s.owner, s.epoch, s.kept = absent, none, 0, 0
	s.workers[0].unrecorded = 1
	return s
}

// The numbers of workers.
const (
	workerA = iota
	workerB
	workerC
)

// by is what a worker does.
func by(w int, all ...kind) (events []event) {
	for _, k := range all {
		events = append(events, event{kind: k, w: uint8(w)})
	}
	return events
}

// rests is a time in which some workers renew and the leases of all others end.
func (t times) rests(but ...int) (events []event) {
	for range t.ttl {
		events = append(events, event{kind: ticked})
		for _, w := range but {
			events = append(events, by(w, renewed)...)
		}
	}
	return events
}

// join joins lists of events.
func join(all ...[]event) (events []event) {
	for _, l := range all {
		events = append(events, l...)
	}
	return events
}
