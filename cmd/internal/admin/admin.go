// Package admin serves what the one who runs a process asks of it: is it alive,
// is it ready, what does it measure.
package admin

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// errStarting is the reason before a process said anything about itself.
var errStarting = errors.New("starting")

// Health is what a process says about its parts. It is ready when all of them
// are. Safe for concurrent use.
type Health struct {
	mu     sync.Mutex
	parts  []string         // guarded by mu; in the order they were added
	why    map[string]error // guarded by mu; nil: the part is ready
	alarms map[string]error // guarded by mu; nil: all is well
}

// Alarm says that somebody has to do something about a part though the process is
// ready; nil says that it is well again.
func (h *Health) Alarm(part string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.alarms == nil {
		h.alarms = map[string]error{}
	}
	h.alarms[part] = err
}

// alarmed returns a line for each alarm, in order.
func (h *Health) alarmed() (lines string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, part := range slices.Sorted(maps.Keys(h.alarms)) {
		if err := h.alarms[part]; err != nil {
			lines += fmt.Sprintf("\nalarm: %s: %v", part, err)
		}
	}
	return lines
}

// Part adds a part, which is not ready yet, and returns the function that says
// whether it is: nil, or why not.
func (h *Health) Part(name string) func(error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.why == nil {
		h.why = map[string]error{}
	}
	h.parts = append(h.parts, name)
	h.why[name] = errStarting
	return func(err error) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.why[name] = err
	}
}

// Err returns why the process is not ready, all reasons at once, or nil.
func (h *Health) Err() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var errs []error
	for _, part := range h.parts {
		if err := h.why[part]; err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", part, err))
		}
	}
	return errors.Join(errs...)
}

// NewRegistry returns a registry that has the Go runtime and the process in it.
func NewRegistry() *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return registry
}

// Handler serves /livez, /readyz and /metrics.
func Handler(health *Health, metrics prometheus.Gatherer) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { text(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := health.Err(); err != nil {
			text(w, http.StatusServiceUnavailable, "not ready: "+err.Error()+health.alarmed())
			return
		}
		text(w, http.StatusOK, "ok"+health.alarmed())
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	return mux
}

// Serve serves Handler on listener until ctx ends, and closes it.
func Serve(ctx context.Context, listener net.Listener, health *Health, metrics prometheus.Gatherer, logger hclog.Logger) error {
	server := &http.Server{
		Handler:           Handler(health, metrics),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          logger.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		_ = server.Close() // nobody waits for a last answer of this listener
	})
	err := server.Serve(listener)
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve admin listener: %w", err)
}

func text(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	fmt.Fprintln(w, body)
}
