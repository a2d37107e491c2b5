package model

// reachable reports whether any replica answers.
func (m *machine) reachable(s *state) bool {
	_, ok := m.serving(s)
	return ok
}

// serving reports whether any replica answers, and whether all that do hold.
func (m *machine) serving(s *state) (held, ok bool) {
	if m.limits.replicas == 0 {
		return false, true
	}
	held = true
	for r := range m.limits.replicas {
		if x := &s.replicas[r]; x.cutOff == 0 {
			ok = true
			held = held && x.hold > 0
		}
	}
	return held, ok
}

// replicasChange is what happens to replicas.
func (m *machine) replicasChange(s *state) {
	for r := range m.limits.replicas {
		x := &s.replicas[r]
		switch {
		case x.cutOff == 0 && x.back == 0 && (m.can.outage || m.can.blip):
			n := m.fork(s, etcdLost, r, none)
			n.replicas[r].cutOff, n.replicas[r].lost = 1, 0
		case x.cutOff == 1 && (m.can.blip || x.lost > m.ttl):
			y := &m.fork(s, etcdBack, r, none).replicas[r]
			y.cutOff, y.lost, y.back = 0, 0, 1
			if x.lost > m.ttl {
				y.hold = m.holdOf(s, r)
			}
		}
		if m.can.reboot {
			m.fork(s, booted, r, none).replicas[r] = replica{hold: m.holdOf(s, r)}
		}
	}
}

// holdOf is for how long a replica holds that is there again.
func (m *machine) holdOf(s *state, r int) uint8 {
	if m.weak.noHold {
		return 0
	}
	for o := range m.limits.replicas {
		if m.weak.otherReplicaVouches && o != r && s.replicas[o].hold == 0 {
			return 0
		}
	}
	return m.h
}
