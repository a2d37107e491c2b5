package merge

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are what an Upstream counts.
type metrics struct {
	opened *prometheus.CounterVec
}

func newMetrics() metrics {
	return metrics{prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "leasehold_parts_opened_total",
		Help: "Upstream sessions of gateways with several upstreams that this worker opened, or failed to open.",
	}, []string{"outcome"})}
}

// Register makes what is counted known to r, which may be nil.
func (u *Upstream) Register(r prometheus.Registerer) error {
	if r == nil {
		return nil
	}
	return errors.Join(r.Register(u.metrics.opened), r.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "leasehold_parts_missing",
		Help: "Upstream sessions of gateways with several upstreams that failed, or were lost, and are to be opened again.",
	}, func() float64 { return float64(u.missing()) })))
}

// missing returns how many parts are to be opened again.
func (u *Upstream) missing() (n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, r := range u.reopening {
		n += len(r.waiting)
	}
	return n
}
