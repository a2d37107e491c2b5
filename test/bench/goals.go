package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/leasehold/leasehold/test/internal/cluster"
)

// goalClients is the number of clients at which calls are to be fast.
const goalClients = 16

// goal is something to be reached.
type goal struct {
	section, path string
	clients       int // 0 means whatever number there is
	// what says what is to be reached.
	what string
	of   func(*row) float64
	// least or most bounds it.
	least, most float64
}

// goals are all goals.
var goals = []goal{
	{section: sectionCalls, path: pathOwner, clients: goalClients, what: "× the bare proxy's calls/s", of: toProxy, least: 1.1},
	{section: sectionCalls, path: pathForward, clients: goalClients, what: "× the owner's calls/s", of: toOwner, least: 0.5},
	{section: sectionLarge, path: pathOwner, clients: goalClients, what: "× the bare proxy's calls/s with 1 MiB", of: toProxy, least: 0.8},
	{section: sectionStream, path: pathForward, clients: goalClients, what: "ms to the first event, p99", of: figureOf(figureP99), most: 5},
	{section: sectionMixed, path: pathForward, clients: longCalls, what: "ms for a short call beside long ones, p99", of: figureOf(figureP99), most: 50},
	{section: sectionChurn, path: pathOwner, clients: 64, what: "sessions/s", of: figureOf(figureRate), least: 1500},
	{section: sectionIdle, path: pathOwner, what: "bytes of heap and stack per idle session", of: figureOf(figureHeap), most: 8 << 10},
	// A pool of connections may be larger after many sessions than before.
	{section: sectionIdle, path: pathOwner, what: "descriptors per idle session", of: figureOf(figureFDs), most: 0.01},
	{section: sectionConfig, path: pathWorker, what: "ms until a worker serves by a change, p99", of: figureOf(figureP99), most: 1000},
	{section: sectionConfig, path: pathStreams, what: "ms until 20 streams have a change, p99", of: figureOf(figureP99), most: 1000},
	{section: sectionConfig, path: pathWorker, what: "bytes of heap and stack per gateway", of: figureOf(figureHeap), most: 4 << 10},
	{section: sectionMerged, path: pathTen, clients: goalClients, what: "× the CPU of a call with one upstream", of: figureOf(figureTimes), most: 1.15},
	{section: sectionMerged, path: pathList, clients: goalClients, what: "lists of 1,000 tools/s", of: figureOf(figureRate), least: 2000},
	{section: sectionMerged, path: pathFive, what: "bytes of heap and stack per idle session with five upstreams", of: figureOf(figureHeap), most: 24 << 10},
}

func toProxy(r *row) float64 { return r.ToProxy }
func toOwner(r *row) float64 { return r.ToOwner }

// figureOf returns what takes the median of a figure.
func figureOf(name string) func(*row) float64 {
	return func(r *row) float64 { return r.Median[name] }
}

// goalOutcome is how near a goal is.
type goalOutcome struct {
	// Goal says what was to be reached.
	Goal string `json:"goal"`
	// Value is what was measured.
	Value float64 `json:"value"`
	// Bound is what was to be reached, at least or at most.
	Bound float64 `json:"bound"`
	// Reached says whether it was.
	Reached bool `json:"reached"`
}

// evaluate says how near the goals of sections are.
func (r *result) evaluate(ran []section) ([]goalOutcome, error) {
	var outcomes []goalOutcome
	for _, g := range goals {
		if !slices.ContainsFunc(ran, func(s section) bool { return s.name == g.section }) {
			continue
		}
		row := r.goalRow(g)
		if row == nil {
			return nil, fmt.Errorf("%s: %s was not measured with %d clients", g.section, g.path, g.clients)
		}
		o := goalOutcome{Goal: fmt.Sprintf("%s, %s: %s", g.section, g.path, g.what), Value: g.of(row), Bound: g.most}
		o.Reached = o.Value <= g.most
		if g.least > 0 {
			o.Bound, o.Reached = g.least, o.Value >= g.least
		}
		outcomes = append(outcomes, o)
	}
	return outcomes, nil
}

// goalRow is the row that a goal is about, or nil.
func (r *result) goalRow(g goal) *row {
	if g.clients > 0 {
		return r.find(g.section, g.path, g.clients)
	}
	rows := slices.DeleteFunc(r.of(g.section), func(row *row) bool { return row.Path != g.path })
	if len(rows) != 1 {
		return nil
	}
	return rows[0]
}

// checkGoals prints the outcomes and returns an error that has all that were
// missed.
func (r *result) checkGoals(out io.Writer) error {
	fmt.Fprintln(out)
	var errs []error
	for _, o := range r.Goals {
		word := "reached"
		if !o.Reached {
			word = "MISSED "
			errs = append(errs, fmt.Errorf("%s is %.4g, the goal is %.4g", o.Goal, o.Value, o.Bound))
		}
		fmt.Fprintf(out, "%s  %.4g (goal %.4g)  %s\n", word, o.Value, o.Bound, o.Goal)
	}
	return errors.Join(errs...)
}

// checkCounters prints what was asked of etcd and the control plane in each
// section. In those that make calls on live sessions, nothing but what goes on
// in the background may have been.
func (r *result) checkCounters(out io.Writer, ran []section) error {
	var errs []error
	for _, s := range ran {
		var done float64
		for _, row := range r.of(s.name) {
			if row.Path == pathOwner || row.Path == pathForward {
				for _, round := range row.Rounds {
					done += round[figureCount]
				}
			}
		}
		counters := r.Counters[s.name]
		fmt.Fprintf(out, "\n%s: %.0f measured by way of workers; meanwhile these were asked of etcd and the control plane:\n", s.name, done)
		printCounters(out, counters)
		if caused := counters.Foreground(); s.live && len(caused) > 0 {
			errs = append(errs, fmt.Errorf("%s: calls on live sessions made requests: %v", s.name, caused))
		}
	}
	return errors.Join(errs...)
}

// printCounters prints counters in order.
func printCounters(out io.Writer, counters cluster.Metrics) {
	for _, sample := range slices.Sorted(maps.Keys(counters)) {
		fmt.Fprintf(out, "  %s %.0f\n", sample, counters[sample])
	}
}
