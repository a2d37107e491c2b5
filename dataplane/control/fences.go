package control

import (
	"errors"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// fences counts how often a worker's authority has lapsed. Nothing happens at
// the moment when it does, since it ends by the clock alone; so it is looked for
// before the deadline moves, and whenever somebody wants to know the count.
type fences struct {
	authority *Authority

	mu     sync.Mutex // guards what follows
	last   int64      // the deadline that was counted last
	lapses int
}

// look returns how often the authority has lapsed until now.
func (f *fences) look() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	deadline := f.authority.deadline.Load()
	if deadline != 0 && deadline != f.last && int64(f.authority.now()) >= deadline {
		f.last = deadline
		f.lapses++
	}
	return f.lapses
}

// fenced reports whether the worker is registered and without authority.
func (f *fences) fenced() bool {
	incarnation := f.authority.Incarnation()
	return incarnation != 0 && !f.authority.Holds(incarnation)
}

func (f *fences) register(to prometheus.Registerer) error {
	return errors.Join(
		to.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "leasehold_worker_fenced",
			Help: "1 while this worker is registered and its lease is uncertain, so that it dispatches nothing.",
		}, func() float64 {
			if f.fenced() {
				return 1
			}
			return 0
		})),
		to.Register(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "leasehold_worker_fences_total",
			Help: "How often this worker's lease became uncertain.",
		}, func() float64 { return float64(f.look()) })),
	)
}
