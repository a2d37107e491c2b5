// Package balance decides how many sessions a worker gives away, and to whom. It
// knows nothing but numbers.
package balance

const (
	// Skew is how many times its share of the sessions a worker may own before it
	// gives some away.
	Skew = 1.15
	// Slack is how many sessions more than its share it may own in any case.
	Slack = 8
	// abroad is how much fuller a worker of another zone counts as it is. It is less
	// than Skew: otherwise workers of one zone would own more than their share for that
	// reason alone, and give it to each other for ever.
	abroad = 1.1
)

// Worker is a worker that takes sessions.
type Worker struct {
	ID          string
	Incarnation int64
	Address     string
	Zone        string
	Sessions    int
	Capacity    int
}

// fill is how full the worker is with more sessions than it has, for one of a zone.
func (w Worker) fill(more int, zone string) float64 {
	f := float64(w.Sessions+more) / float64(max(1, w.Capacity))
	if w.Zone != zone {
		f *= abroad
	}
	return f
}

// Spread hands out receivers for sessions of one worker, so that all become equally
// full in proportion to their capacity; those of the worker's own zone come somewhat
// fuller than others. It is not safe for concurrent use.
type Spread struct {
	zone    string
	workers []Worker
}

// NewSpread returns a spread over workers for sessions of one in zone.
func NewSpread(zone string, workers []Worker) *Spread {
	return &Spread{zone: zone, workers: append([]Worker(nil), workers...)}
}

// Next returns who takes the next session, and counts it there. False: nobody has
// room.
func (s *Spread) Next() (Worker, bool) {
	best := -1
	for i, w := range s.workers {
		if w.Sessions >= w.Capacity {
			continue
		}
		if best < 0 || w.fill(1, s.zone) < s.workers[best].fill(1, s.zone) {
			best = i
		}
	}
	if best < 0 {
		return Worker{}, false
	}
	s.workers[best].Sessions++
	return s.workers[best], true
}

// Refuse takes a worker out that does not take sessions after all.
func (s *Spread) Refuse(id string) {
	for i, w := range s.workers {
		if w.ID == id {
			s.workers = append(s.workers[:i], s.workers[i+1:]...)
			return
		}
	}
}

// Excess returns how many sessions self gives away: those beyond its share of all
// sessions in proportion to the capacities, if they are more than Skew and Slack
// allow; otherwise 0.
func Excess(self Worker, others []Worker) int {
	sessions, capacity := self.Sessions, self.Capacity
	for _, w := range others {
		sessions += w.Sessions
		capacity += w.Capacity
	}
	if len(others) == 0 || capacity == 0 {
		return 0
	}
	share := float64(sessions) * float64(self.Capacity) / float64(capacity)
	if float64(self.Sessions) <= share*Skew || float64(self.Sessions) <= share+Slack {
		return 0
	}
	return self.Sessions - int(share+0.5)
}
