package rpc

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Bounds of what is shown of the items of several upstreams.
const (
	maxConflicts = 100
	maxDropped   = 100
)

// listed tells items of an upstream or of a name, of one kind, from others.
type listed struct {
	kind leaseholdv1.ItemKind
	name string
}

// showConflicts puts into a status what workers, by their ids, know of items that clients
// are not offered. Where they differ, the one counts that knows of more.
func showConflicts(status *leaseholdv1.GatewayStatus, said map[string]*leaseholdv1.ObserveUpstreamsResponse) {
	conflicts, dropped := map[listed]*leaseholdv1.ItemConflict{}, map[listed]*leaseholdv1.DroppedItems{}
	for _, worker := range slices.Sorted(maps.Keys(said)) {
		status.ConflictsTotal = max(status.ConflictsTotal, said[worker].GetConflictsTotal())
		for _, c := range said[worker].GetConflicts() {
			if key := (listed{c.GetKind(), c.GetName()}); len(c.GetHidden()) > len(conflicts[key].GetHidden()) {
				conflicts[key] = c
			}
		}
		for _, d := range said[worker].GetDropped() {
			if key := (listed{d.GetKind(), d.GetUpstream()}); d.GetCount() > dropped[key].GetCount() {
				dropped[key] = d
			}
		}
	}
	status.Conflicts = ordered(conflicts, maxConflicts)
	status.Dropped = ordered(dropped, maxDropped)
}

// ordered returns at most so many by kind and name.
func ordered[V any](all map[listed]V, most int) (values []V) {
	keys := slices.SortedFunc(maps.Keys(all), func(a, b listed) int {
		return cmp.Or(cmp.Compare(a.kind, b.kind), strings.Compare(a.name, b.name))
	})
	for _, key := range keys[:min(len(keys), most)] {
		values = append(values, all[key])
	}
	return values
}
