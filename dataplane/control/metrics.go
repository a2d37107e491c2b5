package control

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// register adds what an authority says of itself to the worker's metrics.
func (a *Authority) register(to prometheus.Registerer) error {
	gauge := func(name, help string, value func() bool) error {
		return to.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			if value() {
				return 1
			}
			return 0
		}))
	}
	return errors.Join(
		gauge("leasehold_worker_fenced",
			"1 while this worker is registered and its lease is uncertain, so that it dispatches nothing.", a.fenced),
		gauge("leasehold_worker_power",
			"1 while this worker may take sessions over from one that may serve on without the control plane.",
			func() bool { return a.Power(a.Incarnation()) }),
		gauge("leasehold_worker_serving_on",
			"1 while this worker serves without the control plane, since no other can take over from it.", a.ServingOn),
		to.Register(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "leasehold_worker_fences_total",
			Help: "How often this worker's lease became uncertain.",
		}, func() float64 { return float64(a.Lapses()) })),
	)
}

// fenced reports whether the worker is registered and may not dispatch.
func (a *Authority) fenced() bool {
	incarnation := a.Incarnation()
	return incarnation != 0 && !a.Holds(incarnation)
}
