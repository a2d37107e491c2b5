package main

import (
	"context"
)

// The sections.
const (
	sectionCalls    = "calls"
	sectionLarge    = "large"
	sectionStream   = "stream"
	sectionOpenLoop = "openloop"
	sectionMixed    = "mixed"
	sectionChurn    = "churn"
	sectionIdle     = "idle"
	sectionRolling  = "rolling"
	sectionConfig   = "config"
	sectionMerged   = "merged"
)

// section is one thing that is measured.
type section struct {
	// name selects it.
	name string
	// title is printed above its table.
	title string
	// columns are the figures that are printed.
	columns []column
	// ratios is whether the ratios to other paths are printed.
	ratios bool
	// live is whether it makes calls on live sessions only.
	live bool
	// run measures.
	run func(*bench, context.Context) error
}

// column is a figure as it is printed and compared.
type column struct {
	figure, head, format string
	// more is whether more is better.
	more bool
}

// The columns that several sections have.
var (
	columnP50 = column{figure: figureP50, head: "p50 ms", format: "%.3f"}
	columnP99 = column{figure: figureP99, head: "p99 ms", format: "%.3f"}
	columnCPU = column{figure: figureCPU, head: "gateway CPU ms/1000", format: "%.0f"}
)

// rateColumn is the column of a rate.
func rateColumn(head string) column {
	return column{figure: figureRate, head: head, format: "%.0f", more: true}
}

// sections are all sections in the order in which they run. Those whose calls
// must not cause requests to etcd come before those that cause them.
var sections = []section{
	{
		name: sectionCalls, title: "small calls, closed loop", ratios: true, live: true, run: (*bench).callsSection,
		columns: []column{rateColumn("calls/s"), columnP50, columnP99, columnCPU},
	},
	{
		name: sectionLarge, title: "results of 1 MiB, closed loop", ratios: true, live: true, run: (*bench).largeSection,
		columns: []column{rateColumn("calls/s"), columnP50, columnP99, columnCPU},
	},
	{
		name: sectionStream, title: "streamed answers: from the upstream's writing the first event to its arrival", live: true, run: (*bench).streamSection,
		columns: []column{rateColumn("streams/s"), columnP50, columnP99, columnCPU},
	},
	{
		name: sectionOpenLoop, title: "small calls, open loop, latency from the scheduled time", live: true, run: (*bench).openLoopSection,
		columns: []column{rateColumn("calls/s"), columnP50, columnP99, {figure: figureP999, head: "p99.9 ms", format: "%.3f"}, columnCPU},
	},
	{
		name: sectionMixed, title: "short calls, 500/s in an open loop, forwarded to the owner of long ones that report progress", live: true, run: (*bench).mixedSection,
		columns: []column{rateColumn("calls/s"), columnP50, columnP99, {figure: figureTimes, head: "p99 × alone", format: "%.2f"}, columnCPU},
	},
	{
		name: sectionChurn, title: "whole sessions: initialize, one call, DELETE (CPU with the control plane and its etcd)", ratios: true, run: (*bench).churnSection,
		columns: []column{rateColumn("sessions/s"), columnP50, columnP99, columnCPU},
	},
	{
		name: sectionIdle, title: "idle sessions: what each adds to its owner", run: (*bench).idleSection,
		columns: []column{
			{figure: figureHeap, head: "heap+stack B", format: "%.0f"},
			{figure: figureRSS, head: "RSS B", format: "%.0f"},
			{figure: figureFDs, head: "descriptors", format: "%.4f"},
			{figure: figureRoutines, head: "goroutines", format: "%.3f"},
			{figure: figureControlRSS, head: "control plane RSS B", format: "%.0f"},
			{figure: figureRate, head: "opened/s", format: "%.0f", more: true},
		},
	},
	{
		name: sectionRolling, title: "small calls, 300/s in an open loop, while that many of three workers are replaced one after the other", run: (*bench).rollingSection,
		columns: []column{rateColumn("calls/s"), columnP50, columnP99, {figure: figureP999, head: "p99.9 ms", format: "%.3f"},
			{figure: figureMost, head: "most ms", format: "%.1f"}, {figure: figureTimes, head: "p99 × steady", format: "%.2f"}},
	},
	{
		name: sectionConfig, title: "a change among many gateways: from the request until a worker serves by it, and 20 streams have it; per gateway", run: (*bench).configSection,
		columns: []column{columnP50, columnP99, {figure: figureMost, head: "most ms", format: "%.1f"},
			{figure: figureFresh, head: "fresh ms", format: "%.0f"},
			{figure: figureHeap, head: "heap+stack B", format: "%.0f"},
			{figure: figureRSS, head: "RSS B", format: "%.0f"},
			{figure: figureControlRSS, head: "control plane RSS B", format: "%.0f"}},
	},
	{
		name: sectionMerged, title: "several upstreams as one: small calls with one and with ten, lists of the 1,000 tools of ten; what an idle session with five adds to its owner", run: (*bench).mergedSection,
		columns: []column{rateColumn("per second"), columnP50, columnP99, columnCPU, {figure: figureTimes, head: "CPU × one", format: "%.2f"},
			{figure: figureHeap, head: "heap+stack B", format: "%.0f"},
			{figure: figureRSS, head: "RSS B", format: "%.0f"}},
	},
}

// sectionNames are the names of all sections.
func sectionNames() []string {
	var names []string
	for _, s := range sections {
		names = append(names, s.name)
	}
	return names
}
