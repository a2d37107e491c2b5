package rpc

import (
	"fmt"
	"slices"
	"testing"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func TestConflictsAreThoseOfAllWorkersBoundedAndInOrder(t *testing.T) {
	const tool, prompt = leaseholdv1.ItemKind_ITEM_KIND_TOOL, leaseholdv1.ItemKind_ITEM_KIND_PROMPT
	said := map[string]*leaseholdv1.ObserveUpstreamsResponse{
		"a": {ConflictsTotal: 2, Conflicts: []*leaseholdv1.ItemConflict{
			{Kind: tool, Name: "search", LeadsTo: "x", Hidden: []string{"y"}}, {Kind: prompt, Name: "a", LeadsTo: "x", Hidden: []string{"y"}}}},
		"b": {ConflictsTotal: 3, Conflicts: []*leaseholdv1.ItemConflict{
			{Kind: tool, Name: "search", LeadsTo: "x", Hidden: []string{"y", "z"}}, {Kind: tool, Name: "other", LeadsTo: "y", Hidden: []string{"z"}}},
			Dropped: []*leaseholdv1.DroppedItems{{Upstream: "y", Kind: tool, Count: 2, Reason: "later"}}},
		"c": {Dropped: []*leaseholdv1.DroppedItems{{Upstream: "y", Kind: tool, Count: 2, Reason: "no name"}, {Upstream: "x", Kind: tool, Count: 1}}},
	}
	status := &leaseholdv1.GatewayStatus{}
	showConflicts(status, said)
	var got []string
	for _, c := range status.GetConflicts() {
		got = append(got, fmt.Sprint(c.GetKind(), " ", c.GetName(), " ", c.GetLeadsTo(), c.GetHidden()))
	}
	want := []string{"ITEM_KIND_TOOL other y[z]", "ITEM_KIND_TOOL search x[y z]", "ITEM_KIND_PROMPT a x[y]"}
	if !slices.Equal(got, want) || status.GetConflictsTotal() != 3 {
		t.Errorf("got %q and %d, want %q and 3", got, status.GetConflictsTotal(), want)
	}
	if d := status.GetDropped(); len(d) != 2 || d[0].GetUpstream() != "x" || d[1].GetReason() != "later" {
		t.Errorf("dropped: got %v", d)
	}
	for i := range 3 * maxConflicts {
		said["a"].Conflicts = append(said["a"].Conflicts, &leaseholdv1.ItemConflict{Kind: tool, Name: fmt.Sprintf("n%03d", i), Hidden: []string{"y"}})
	}
	showConflicts(status, said)
	if n := len(status.GetConflicts()); n != maxConflicts {
		t.Errorf("%d are shown, want %d", n, maxConflicts)
	}
}
