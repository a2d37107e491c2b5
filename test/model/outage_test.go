package model

import "testing"

// quarters are the real times, in quarters of a second, but for S_max.
var quarters = times{ttl: 24, margin: 6, h: 36, v: 8, smax: 100, drift: 1}

// gaps lets an outage begin and last until S_max, and returns how many ticks
// workers are without authority in before. acks are how old each one's last
// acknowledgement is when it begins. They ask from half of the TTL on, four times as
// often as permits end; who is asked and has heard nothing for a third of the TTL
// renounces its power if it renounces.
func gaps(acks []uint8, renounces bool) (without int) {
	m := &machine{times: quarters, limits: limits{workers: len(acks)}}
	s := m.friends(len(acks))
	for w, ack := range acks {
		s.workers[w].ack = ack
	}
	for tick := range int(m.smax) {
		for w := range acks {
			x := &s.workers[w]
			if x.ack < m.ttl/2 || tick%int(m.v/4) != 0 {
				continue
			}
			x.question(m.v)
			for p := range acks {
				if peer := &s.workers[p]; p != w && renounces && peer.ack > m.ttl/3 {
					peer.held = not
				}
				m.hear(&s, w, p)
			}
		}
		m.pass(&s, -1, 1)
		for w := range acks {
			if !m.authority(&s.workers[w]) {
				without++
			}
		}
	}
	return without
}

// A worker is served through if its last renewal is not much older than the others':
// by less than what lies between its deadline and the time when they renounce, and
// the time between two questions. One that is later is fenced: the others have had power
// since its deadline.
func TestAnOutageIsServedThroughWithoutAGap(t *testing.T) {
	apart := quarters.ttl - quarters.margin - quarters.ttl/3 - quarters.v/4
	worst := 0
	for x := range apart {
		for y := range apart {
			if got := gaps([]uint8{x, y, 0}, true); got != 0 {
				t.Errorf("last acknowledged %d, %d and 0 ticks before: %d ticks without authority, want none", x, y, got)
			}
			worst = max(worst, gaps([]uint8{x, y, 0}, false))
		}
	}
	if worst == 0 {
		t.Error("without renouncing there is no gap either, want one")
	}
	t.Logf("without renouncing up to %d ticks without authority", worst)
}
