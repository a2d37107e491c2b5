package model

// times are the times of the rules, in ticks.
type times struct {
	ttl    uint8 // of a lease
	margin uint8 // by which a worker's deadline is before the end of its lease
	h      uint8 // for how long contact has to last before there is power; also the hold
	v      uint8 // for how long a permit is valid
	smax   uint8 // for how long a worker may serve on
	drift  uint8 // what is allowed for a clock that goes wrong
	calm   uint8 // after how many ticks a clock may go wrong again; 0: never
}

// patience is after how long an owner that was seen dead all the time certainly
// does not serve on any more.
func (t times) patience() uint8 { return t.smax + t.drift + t.ttl }

// outlived is after how long a permit that was given before is certainly over.
func (t times) outlived() uint8 { return t.v + t.drift }

// longest is the age of an acknowledgement past which there are no permits.
func (t times) longest() uint8 { return t.ttl - t.margin + t.smax }

// latest is the age of a renewal past which its acknowledgement changes nothing.
func (m *machine) latest() uint8 {
	if m.weak.fenceFromReply {
		return m.ttl
	}
	return m.ttl - m.margin - 1
}

// contact reports whether the worker's lease is certainly not over.
func (m *machine) contact(x *worker) bool {
	return x.e != 0 && x.ack < m.ttl-m.margin
}

// hasPower reports whether the worker may take sessions over from an owner that may
// serve on.
func (m *machine) hasPower(x *worker) bool {
	if m.weak.takeWithoutPower {
		return m.contact(x)
	}
	return x.held != not && x.held >= m.h
}

// authority reports whether a worker may dispatch at all.
func (m *machine) authority(x *worker) bool {
	return x.process == running && x.e != 0 && (m.contact(x) || x.permit > 0 || m.weak.noFence)
}

// entitled reports whether a worker may dispatch for the session.
func (m *machine) entitled(x *worker) bool {
	return m.authority(x) && x.epoch > 0 && x.under == x.e && x.moving == 0
}

// answer is what a worker says to one that asks: how long ago it last had power
// under any incarnation of its process, and how long it takes until it can have it.
func (m *machine) answer(x *worker) (age, in uint8) {
	if x.held == not {
		return x.power, m.h
	}
	return x.power, m.h - min(x.held, m.h)
}

// confirms reports whether an answer says that its sender could not have taken a
// session from the asker since the asker's deadline: it has had no power since then,
// or none since it last said so. Where clocks may go wrong again and again, the first
// is only certain while the deadline is not long past.
func (m *machine) confirms(asker *worker, age uint8) bool {
	past := int(asker.ack) - int(m.ttl-m.margin)
	switch {
	case m.weak.ignoreAge:
		return true
	case m.calm == 0 || m.weak.ageOverOutage:
		return int(age) > past
	}
	wrong := (max(past, 0) + int(m.calm) - 1) / int(m.calm)
	return int(age) > past+wrong || asker.clean != not && age >= asker.clean+m.drift
}

// superseded reports whether an incarnation certainly never acts again. It is
// monotone.
func (x *incarnation) superseded() bool { return x.over > 0 || x.collected == 1 }

// continues reports whether an incarnation may be re-adopted.
func (m *machine) continues(x *incarnation) bool {
	return x.begun == 1 && !x.superseded() && (x.condemned == 0 || m.weak.readoptCondemned)
}

// recordable reports whether the store records a list of an incarnation.
func (m *machine) recordable(x *incarnation) bool {
	return x.begun == 1 && !x.superseded() && (x.condemned == 0 || m.weak.condemnedRecords)
}

// mayTake reports whether me may take a session over from o, which is dead, as
// far as it concerns what o may do without the control plane.
func (m *machine) mayTake(s *state, me, o id) bool {
	x := &s.incarnations[o]
	switch {
	case m.weak.anybodyTakes || x.superseded() || x.list.has(me):
		return true
	case m.weak.onlyListedTake:
		return false
	}
	return x.list == 0 || m.peerIsOver(s, x.list) || x.deadFor > m.patience() || x.deadFor > 0 && m.weak.impatient
}

// peerIsOver reports whether somebody on a list can certainly not give the answer
// that a permit needs, and no permit lives for which it gave it before.
func (m *machine) peerIsOver(s *state, list ids) bool {
	for i := range s.incarnations {
		x := &s.incarnations[i]
		switch {
		case !list.has(id(i)):
		case x.over > 0 && (x.over > m.outlived() || m.weak.peerIsOverAtOnce):
			return true
		case x.collected == 1 && m.weak.collectedIsOver:
			return true
		}
	}
	return false
}
