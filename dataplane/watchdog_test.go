package dataplane_test

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/leasehold/leasehold/dataplane"
)

// hanging is a listener that can be made to accept nothing. The kernel still
// takes connections for it, as it does for a process that is stuck.
type hanging struct {
	net.Listener
	mu   sync.Mutex // guards gate
	gate chan struct{}
}

// Accept implements net.Listener.
func (h *hanging) Accept() (net.Conn, error) {
	conn, err := h.Listener.Accept()
	h.mu.Lock()
	gate := h.gate
	h.mu.Unlock()
	if gate != nil {
		<-gate
	}
	return conn, err
}

func (h *hanging) hang() (release func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	gate := make(chan struct{})
	h.gate = gate
	return sync.OnceFunc(func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.gate = nil
		close(gate)
	})
}

// watched is a worker whose readiness and metrics are known.
type watched struct {
	*worker
	metrics *prometheus.Registry
	mu      sync.Mutex // guards health
	health  string     // empty for ready
}

func (w *watched) says() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.health
}

func (w *watched) config(cfg *dataplane.Config) {
	told := cfg.Health
	cfg.Metrics = w.metrics
	cfg.Health = func(err error) {
		w.mu.Lock()
		if w.health = ""; err != nil {
			w.health = err.Error()
		}
		w.mu.Unlock()
		told(err)
	}
}

// losesItsLease checks that the worker stops renewing while it is stuck, and
// goes on when it is not any more.
func (w *watched) losesItsLease(t *testing.T, p *plane, hang func() (release func())) {
	t.Helper()
	eventually(t, "the worker renews", func() bool { return p.count("Renew") > 2 })
	release := hang()
	defer release()
	eventually(t, "readiness says that the worker is stuck", func() bool { return strings.HasPrefix(w.says(), "stuck: ") })
	eventually(t, "no renewal for as long as a lease lasts", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return time.Since(p.renewed) > testTTL
	})
	if n := probeFailures(t, w.metrics); n < 2 {
		t.Errorf("failed probes: got %v, want at least 2", n)
	}
	n := p.count("Renew")
	release()
	eventually(t, "the worker renews again", func() bool { return p.count("Renew") > n+1 })
	eventually(t, "the worker is ready again", func() bool { return w.says() == "" })
}

func probeFailures(t *testing.T, metrics *prometheus.Registry) float64 {
	t.Helper()
	families, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "leasehold_worker_probe_failures_total" {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	return 0
}

func TestWorkerThatAcceptsNoConnectionsLosesItsLease(t *testing.T) {
	t.Parallel()
	for _, which := range []string{"workers", "clients"} {
		t.Run(which, func(t *testing.T) {
			t.Parallel()
			p := startPlane(t)
			w, l := &watched{metrics: prometheus.NewRegistry()}, &hanging{}
			w.worker = startWorkerWith(t, p, func(cfg *dataplane.Config) {
				of := &cfg.PeerListener
				if which == "clients" {
					of = &cfg.Listener
				}
				l.Listener = *of
				*of = l
				w.config(cfg)
			})
			w.losesItsLease(t, p, l.hang)
		})
	}
}

func TestWorkerWhoseLoopIsStuckLosesItsLease(t *testing.T) {
	t.Parallel()
	p := startPlane(t)
	w := &watched{metrics: prometheus.NewRegistry()}
	var mu sync.Mutex
	stuck := false
	set := func(to bool) {
		mu.Lock()
		defer mu.Unlock()
		stuck = to
	}
	w.worker = startWorkerAs(t, p, w.config, func(ctx context.Context, cfg dataplane.Config) error {
		return dataplane.RunWithTurn(ctx, cfg, func(ctx context.Context, loop func(context.Context) error) error {
			mu.Lock()
			hangs := stuck
			mu.Unlock()
			if hangs {
				<-ctx.Done()
				return ctx.Err()
			}
			return loop(ctx)
		})
	})
	w.losesItsLease(t, p, func() func() {
		set(true)
		return func() { set(false) }
	})
}

func TestWorkerOnAllAddressesFindsItsOwnListeners(t *testing.T) {
	t.Parallel()
	for _, all := range []string{"0.0.0.0:0", "[::]:0"} {
		p, w := startPlane(t), &watched{metrics: prometheus.NewRegistry()}
		w.worker = startWorkerWith(t, p, func(cfg *dataplane.Config) {
			for _, of := range []*net.Listener{&cfg.Listener, &cfg.PeerListener} {
				(*of).Close()
				l, err := net.Listen("tcp", all)
				if err != nil {
					t.Fatal(err)
				}
				*of = l
			}
			cfg.PeerAdvertise = "192.0.2.1:7" // nobody answers there
			w.config(cfg)
		})
		eventually(t, "the worker renews", func() bool { return p.count("Renew") > 3 })
		if n := probeFailures(t, w.metrics); n != 0 {
			t.Errorf("%s: got %v failed probes, want 0", all, n)
		}
	}
}
