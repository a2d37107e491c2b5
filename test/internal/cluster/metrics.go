package cluster

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// Metrics are the samples of a process, by name and labels as the process
// prints them.
type Metrics map[string]float64

// Scrape reads the metrics of a process from its admin listener.
func Scrape(ctx context.Context, admin string) (Metrics, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("scrape: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("scrape: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("scrape: %s", resp.Status)
	}
	return parseMetrics(string(body)), nil
}

// parseMetrics reads the text format, as far as our processes use it.
func parseMetrics(text string) Metrics {
	m := Metrics{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		at := strings.LastIndexByte(line, ' ')
		if at < 0 || strings.HasPrefix(line, "#") {
			continue
		}
		if value, err := strconv.ParseFloat(line[at+1:], 64); err == nil {
			m[line[:at]] = value
		}
	}
	return m
}

// Sum adds up the samples of a metric, whatever their labels.
func (m Metrics) Sum(name string) float64 {
	var sum float64
	for _, value := range m.Of(name) {
		sum += value
	}
	return sum
}

// Of returns the samples of one metric.
func (m Metrics) Of(name string) Metrics {
	of := Metrics{}
	for sample, value := range m {
		if sample == name || strings.HasPrefix(sample, name+"{") {
			of[sample] = value
		}
	}
	return of
}

// Since returns how much the samples have grown since before, without those
// that have not.
func (m Metrics) Since(before Metrics) Metrics {
	grown := Metrics{}
	for sample, value := range m {
		if by := value - before[sample]; by != 0 {
			grown[sample] = by
		}
	}
	return grown
}

// The counters of requests: of control planes to etcd, by operation, and of
// workers to control planes, by method.
const (
	EtcdRequests    = "leasehold_etcd_requests_total"
	ControlRequests = "leasehold_control_requests_total"
)

// background are the labels of requests that go on whatever clients do: workers
// renew their leases, and a control plane reads its state anew every minute and
// collects what nobody needs any more.
var background = []string{`op="renew"`, `op="snapshot"`, `op="watch"`, `op="collect"`, `op="pulse"`, `op="space"`, `method="Renew"`}

// Foreground returns the samples of requests that are not made in the
// background.
func (m Metrics) Foreground() Metrics {
	rest := Metrics{}
	for sample, value := range m {
		if !slices.ContainsFunc(background, func(label string) bool { return strings.Contains(sample, label) }) {
			rest[sample] = value
		}
	}
	return rest
}

// Requests reads both counters from all processes that run.
func (c *Cluster) Requests(ctx context.Context) (Metrics, error) {
	sum := Metrics{}
	read := func(admin, name string) error {
		m, err := Scrape(ctx, admin)
		if err != nil {
			return err
		}
		samples := m.Of(name)
		if len(samples) == 0 {
			return fmt.Errorf("%s does not count %s", admin, name)
		}
		for sample, value := range samples {
			sum[sample] += value
		}
		return nil
	}
	for _, cp := range c.Control {
		if err := read(cp.Admin, EtcdRequests); err != nil {
			return nil, err
		}
	}
	for _, w := range c.Live() {
		if err := read(w.Admin, ControlRequests); err != nil {
			return nil, err
		}
	}
	return sum, nil
}
