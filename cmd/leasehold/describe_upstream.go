package main

import (
	"fmt"
	"strings"

	"github.com/leasehold/leasehold/cmd/internal/table"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// upstreamWorkers says how the workers that answered see an upstream.
func (p *page) upstreamWorkers(name string, status *leaseholdv1.GatewayStatus) {
	for _, upstream := range status.GetUpstreams() {
		if upstream.GetName() != name || len(upstream.GetWorkers()) == 0 {
			continue
		}
		var rows [][]string
		var complaints []string
		for _, worker := range upstream.GetWorkers() {
			id := strings.TrimPrefix(worker.GetWorker(), "workers/")
			rows = append(rows, []string{id, health(worker.GetState()), since(worker.GetSince(), p.now)})
			if worker.GetLastError() != "" {
				complaints = append(complaints, id+": health check: "+worker.GetLastError())
			}
			for _, circuit := range worker.GetCircuits() {
				complaints = append(complaints, id+": "+p.circuit(circuit))
			}
		}
		p.table([]table.Column{{Title: "WORKER"}, {Title: "HEALTH"}, {Title: "SINCE"}}, rows)
		p.sentences(complaints)
	}
}

func health(state leaseholdv1.UpstreamState) string {
	if state == leaseholdv1.UpstreamState_UPSTREAM_STATE_UNKNOWN {
		return "not asked"
	}
	return short(state.String(), "UPSTREAM_STATE_")
}

func (p *page) circuit(c *leaseholdv1.UpstreamCircuit) string {
	text := fmt.Sprintf("connecting to %s fails, %d in a row (%s)", c.GetAddress(), c.GetFailures(), c.GetLastError())
	switch c.GetState() {
	case leaseholdv1.CircuitState_CIRCUIT_STATE_OPEN:
		return text + "; requests fail at once until the next try " + p.distance(c.GetRetryTime())
	case leaseholdv1.CircuitState_CIRCUIT_STATE_HALF_OPEN:
		return text + "; the next request tries"
	}
	return text
}
