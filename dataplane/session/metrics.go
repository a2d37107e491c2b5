package session

import (
	"errors"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

type metrics struct {
	opened  *prometheus.CounterVec
	ended   *prometheus.CounterVec
	unknown prometheus.Counter
	handed  prometheus.Histogram
}

func (m *metrics) register(t *Table, to prometheus.Registerer) error {
	m.opened = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "leasehold_sessions_opened_total",
		Help: "Sessions this worker became the owner of, by how: initialize, reclaim or hand-over.",
	}, []string{"how"})
	m.ended = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "leasehold_sessions_ended_total",
		Help: "Sessions this worker ended, by reason.",
	}, []string{"reason"})
	m.unknown = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "leasehold_outcomes_unknown_total",
		Help: "Requests that this worker answered with an unknown outcome.",
	})
	m.handed = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "leasehold_session_hand_over_seconds",
		Help:    "For how long requests of a session waited while this worker handed it over.",
		Buckets: []float64{.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5},
	})
	if to == nil {
		return nil
	}
	owned := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "leasehold_sessions_owned",
		Help: "Sessions this worker owns now.",
	}, func() float64 { return float64(t.Len()) })
	undurable := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "leasehold_sessions_undurable",
		Help: "Sessions this worker owns that are not recorded yet, and are lost if it dies.",
	}, func() float64 { return float64(t.Load().Undurable) })
	return errors.Join(to.Register(m.opened), to.Register(m.ended), to.Register(m.unknown), to.Register(owned),
		to.Register(undurable), to.Register(m.handed))
}

// CountUnknown counts a request that was answered with an unknown outcome.
func (t *Table) CountUnknown() { t.metrics.unknown.Inc() }

// reasonLabel is an end reason as a metric label and in the log.
func reasonLabel(r leaseholdv1.EndReason) string {
	return strings.ToLower(strings.TrimPrefix(r.String(), "END_REASON_"))
}
