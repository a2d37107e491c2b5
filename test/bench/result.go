package main

import (
	"math"
	"slices"
	"time"

	"github.com/leasehold/leasehold/test/internal/cluster"
)

// values are what was measured, by the name of the figure.
type values map[string]float64

// The figures.
const (
	figureCount      = "count"             // how often it was done
	figureRate       = "per_second"        // how often a second
	figureP50        = "p50_ms"            // latency
	figureP99        = "p99_ms"            //
	figureP999       = "p99.9_ms"          //
	figureCPU        = "cpu_ms_1000"       // CPU time of what is between client and upstream for 1,000
	figureMost       = "most_ms"           // the latency of the slowest
	figureFresh      = "fresh_ms"          // from nothing to the complete state
	figureTimes      = "times_alone"       // p99, or CPU time, as a multiple of what it is alone
	figureHeap       = "heap_bytes"        // heap and stacks per session
	figureRSS        = "rss_bytes"         // resident memory per session
	figureFDs        = "descriptors"       // file descriptors per session
	figureRoutines   = "goroutines"        // goroutines per session
	figureControlRSS = "control_rss_bytes" // resident memory of the control plane per session
)

// row is what was measured of one path with a number of clients.
type row struct {
	// Section is what was measured.
	Section string `json:"section"`
	// Path is the path.
	Path string `json:"path"`
	// Clients is how many clients there were at a time.
	Clients int `json:"clients"`
	// Median has the median of each figure.
	Median values `json:"median"`
	// ToProxy is the median rate as a multiple of the bare proxy's; 0 if that
	// was not measured.
	ToProxy float64 `json:"to_proxy,omitempty"`
	// ToOwner is the same for the owner's.
	ToOwner float64 `json:"to_owner,omitempty"`
	// Rounds are the figures of each round.
	Rounds []values `json:"rounds"`
}

// result is what a run found.
type result struct {
	// Environment says where and how it was measured.
	Environment environment `json:"environment"`
	// Seconds is how long each measurement of calls took.
	Seconds float64 `json:"seconds"`
	// Load is the machine's load average over a minute, before and after each
	// section.
	Load map[string][2]float64 `json:"load"`
	// OpenLoopRate is how many calls a second the open loop asked for.
	OpenLoopRate float64 `json:"open_loop_rate,omitempty"`
	// Rows are the figures.
	Rows []*row `json:"rows"`
	// Counters are the requests to etcd and the control plane, by section.
	Counters map[string]cluster.Metrics `json:"counters"`
	// Goals are what was to be reached, if that was checked.
	Goals []goalOutcome `json:"goals,omitempty"`
}

// newResult returns a result without figures.
func newResult() *result {
	return &result{Load: map[string][2]float64{}, Counters: map[string]cluster.Metrics{}}
}

// row returns the row of a path, which it makes if it is not there.
func (r *result) row(section, path string, clients int) *row {
	if found := r.find(section, path, clients); found != nil {
		return found
	}
	made := &row{Section: section, Path: path, Clients: clients}
	r.Rows = append(r.Rows, made)
	return made
}

// find returns the row of a path, or nil.
func (r *result) find(section, path string, clients int) *row {
	for _, row := range r.Rows {
		if row.Section == section && row.Path == path && row.Clients == clients {
			return row
		}
	}
	return nil
}

// of returns the rows of a section.
func (r *result) of(section string) []*row {
	var rows []*row
	for _, row := range r.Rows {
		if row.Section == section {
			rows = append(rows, row)
		}
	}
	return rows
}

// finish computes the medians and ratios of a section.
func (r *result) finish(section string) {
	for _, row := range r.of(section) {
		row.Median = values{}
		for name := range row.Rounds[0] {
			row.Median[name] = median(row.figures(name))
		}
	}
	for _, row := range r.of(section) {
		row.ToProxy, row.ToOwner = r.ratio(row, pathProxy), r.ratio(row, pathOwner)
	}
}

// figures are the values of a figure in all rounds.
func (r *row) figures(name string) []float64 {
	var all []float64
	for _, round := range r.Rounds {
		all = append(all, round[name])
	}
	return all
}

// ratio is a row's rate as a multiple of another path's.
func (r *result) ratio(of *row, path string) float64 {
	to := r.find(of.Section, path, of.Clients)
	if to == nil || to.Median[figureRate] == 0 {
		return 0
	}
	return of.Median[figureRate] / to.Median[figureRate]
}

// median is the median, the upper one of two.
func median(all []float64) float64 {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}

// percentile is the smallest of sorted values that at least a part of them does
// not exceed.
func percentile(sorted []time.Duration, part float64) time.Duration {
	rank := int(math.Ceil(part * float64(len(sorted))))
	return sorted[max(rank, 1)-1]
}
