package rpc

import (
	"fmt"
	"slices"
	"testing"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func TestOfManyWorkersThoseAreShownThatComplain(t *testing.T) {
	var all []*leaseholdv1.UpstreamWorker
	for i := range 3 * maxUpstreamWorkers {
		w := &leaseholdv1.UpstreamWorker{Worker: fmt.Sprintf("workers/%03d", i), State: leaseholdv1.UpstreamState_UPSTREAM_STATE_HEALTHY}
		switch i {
		case 297:
			w.State = leaseholdv1.UpstreamState_UPSTREAM_STATE_EJECTED
		case 298:
			w.LastError = "x"
		case 299:
			w.Circuits = []*leaseholdv1.UpstreamCircuit{{}}
		}
		all = append([]*leaseholdv1.UpstreamWorker{w}, all...)
	}
	got := shownWorkers(all)
	var names []string
	for _, w := range got {
		names = append(names, w.GetWorker())
	}
	if len(names) != maxUpstreamWorkers || !slices.IsSorted(names) || names[0] != "workers/000" || names[97] != "workers/297" || names[99] != "workers/299" {
		t.Errorf("got %v, want %d by name, with the last three", names, maxUpstreamWorkers)
	}
}
