package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"text/tabwriter"

	"github.com/leasehold/leasehold/test/internal/cluster"
)

// measurement is what one path did in one round.
type measurement struct {
	// Calls is how many calls were made.
	Calls int `json:"calls"`
	// CallsPerSecond is how many of them a second.
	CallsPerSecond float64 `json:"calls_per_second"`
	// P50 and P99 are latencies in milliseconds.
	P50 float64 `json:"p50_ms"`
	P99 float64 `json:"p99_ms"`
	// CPUPer1000 is the CPU time, in milliseconds, that the processes between
	// client and upstream used for 1,000 calls.
	CPUPer1000 float64 `json:"gateway_cpu_ms_per_1000_calls"`
}

// cell is a path with a number of clients.
type cell struct {
	// Path is the path.
	Path string `json:"path"`
	// Clients is how many clients called at a time.
	Clients int `json:"clients"`
	// Median has the median of each figure.
	Median measurement `json:"median"`
	// ToProxy is the median calls/s as a multiple of the bare proxy's; 0 if that
	// was not measured.
	ToProxy float64 `json:"to_proxy,omitempty"`
	// ToOwner is the median calls/s as a multiple of the owner's; 0 if that was
	// not measured.
	ToOwner float64 `json:"to_owner,omitempty"`
	// Rounds are the figures of each round.
	Rounds []measurement `json:"rounds"`
}

// result is what a run found.
type result struct {
	// CPUs is how many CPUs the machine has.
	CPUs int `json:"cpus"`
	// Seconds is how long each measurement took.
	Seconds float64 `json:"seconds"`
	// Cells are the paths with their figures.
	Cells []*cell `json:"cells"`
	// Counters are the requests to etcd and the control plane during the run.
	Counters cluster.Metrics `json:"counters"`
}

// newResult returns a result without figures.
func newResult(s settings) *result {
	r := &result{CPUs: runtime.NumCPU(), Seconds: s.duration.Seconds()}
	for _, n := range s.clients {
		for _, path := range s.paths {
			r.Cells = append(r.Cells, &cell{Path: path, Clients: n})
		}
	}
	return r
}

// find returns a cell, or nil.
func (r *result) find(path string, clients int) *cell {
	for _, c := range r.Cells {
		if c.Path == path && c.Clients == clients {
			return c
		}
	}
	return nil
}

// add adds the figures of a round.
func (r *result) add(path string, clients int, m measurement) {
	c := r.find(path, clients)
	c.Rounds = append(c.Rounds, m)
}

// finish computes medians and ratios.
func (r *result) finish() {
	for _, c := range r.Cells {
		median := func(of func(measurement) float64) float64 {
			var values []float64
			for _, m := range c.Rounds {
				values = append(values, of(m))
			}
			slices.Sort(values)
			return values[len(values)/2]
		}
		c.Median = measurement{
			Calls:          int(median(func(m measurement) float64 { return float64(m.Calls) })),
			CallsPerSecond: median(func(m measurement) float64 { return m.CallsPerSecond }),
			P50:            median(func(m measurement) float64 { return m.P50 }),
			P99:            median(func(m measurement) float64 { return m.P99 }),
			CPUPer1000:     median(func(m measurement) float64 { return m.CPUPer1000 }),
		}
	}
	for _, c := range r.Cells {
		c.ToProxy, c.ToOwner = r.ratio(c, pathProxy), r.ratio(c, pathOwner)
	}
}

// ratio is a cell's calls/s as a multiple of another path's.
func (r *result) ratio(c *cell, to string) float64 {
	other := r.find(to, c.Clients)
	if other == nil {
		return 0
	}
	return c.Median.CallsPerSecond / other.Median.CallsPerSecond
}

// What is to be reached at goalClients clients.
const (
	goalClients = 16
	goalOwner   = 1.1 // times the bare proxy's calls/s
	goalForward = 0.5 // times the owner's
)

// report prints the result, writes it to the file, and says whether it is good.
func (r *result) report(s settings) error {
	r.finish()
	r.print()
	if s.jsonFile != "" {
		data, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(s.jsonFile, append(data, '\n'), 0o644); err != nil {
			return fmt.Errorf("write result: %w", err)
		}
	}
	if err := r.checkCounters(); err != nil {
		return err
	}
	if s.check {
		return r.checkGoals()
	}
	return nil
}

// print prints the table.
func (r *result) print() {
	fmt.Printf("\n%d CPUs, medians of %d rounds of %.1f s each\n\n", r.CPUs, len(r.Cells[0].Rounds), r.Seconds)
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(out, "clients\tpath\tcalls/s\tp50 ms\tp99 ms\tgateway CPU ms/1000\t× proxy\t× owner\t")
	for i, c := range r.Cells {
		if i > 0 && c.Clients != r.Cells[i-1].Clients {
			fmt.Fprintln(out, "\t\t\t\t\t\t\t\t")
		}
		m := c.Median
		fmt.Fprintf(out, "%d\t%s\t%.0f\t%.3f\t%.3f\t%s\t%s\t%s\t\n", c.Clients, c.Path, m.CallsPerSecond, m.P50, m.P99,
			orDash(m.CPUPer1000, "%.0f"), orDash(c.ToProxy, "%.2f"), orDash(c.ToOwner, "%.2f"))
	}
	out.Flush()
}

// orDash prints a number that may not be there.
func orDash(value float64, format string) string {
	if value == 0 {
		return "-"
	}
	return fmt.Sprintf(format, value)
}

// checkCounters prints what was asked of etcd and the control plane meanwhile.
// Nothing but what goes on in the background may have been.
func (r *result) checkCounters() error {
	total := 0
	for _, c := range r.Cells {
		if c.Path == pathOwner || c.Path == pathForward {
			for _, m := range c.Rounds {
				total += m.Calls
			}
		}
	}
	fmt.Printf("\n%d measured calls on live sessions; meanwhile these were asked of etcd and the control plane:\n", total)
	for _, sample := range slices.Sorted(maps.Keys(r.Counters)) {
		fmt.Printf("  %s %.0f\n", sample, r.Counters[sample])
	}
	if caused := r.Counters.Foreground(); len(caused) > 0 {
		return fmt.Errorf("calls on live sessions made requests: %v", caused)
	}
	return nil
}

// checkGoals says whether the goals are reached.
func (r *result) checkGoals() error {
	for _, goal := range []struct {
		path  string
		ratio func(*cell) float64
		least float64
		to    string
	}{
		{pathOwner, func(c *cell) float64 { return c.ToProxy }, goalOwner, pathProxy},
		{pathForward, func(c *cell) float64 { return c.ToOwner }, goalForward, pathOwner},
	} {
		c := r.find(goal.path, goalClients)
		if c == nil {
			return fmt.Errorf("%s was not measured with %d clients", goal.path, goalClients)
		}
		if got := goal.ratio(c); got < goal.least {
			return fmt.Errorf("%s has %.2f × the calls/s of %s at %d clients, want %.2f", goal.path, got, goal.to, goalClients, goal.least)
		}
	}
	return nil
}
