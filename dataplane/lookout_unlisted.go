package dataplane

import (
	"slices"
	"strings"

	"github.com/leasehold/leasehold/dataplane/catalogue"
	"github.com/leasehold/leasehold/dataplane/config"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Bounds of what is told of items that clients are not offered.
const (
	maxConflictsTold = 100
	maxDroppedTold   = 100
	maxNameTold      = 256
)

var itemKinds = [catalogue.Kinds]leaseholdv1.ItemKind{
	catalogue.Tools:     leaseholdv1.ItemKind_ITEM_KIND_TOOL,
	catalogue.Prompts:   leaseholdv1.ItemKind_ITEM_KIND_PROMPT,
	catalogue.Resources: leaseholdv1.ItemKind_ITEM_KIND_RESOURCE,
	catalogue.Templates: leaseholdv1.ItemKind_ITEM_KIND_RESOURCE_TEMPLATE,
}

// unlisted says which items of several upstreams clients are not offered.
func (l *lookout) unlisted(resp *leaseholdv1.ObserveUpstreamsResponse, m *config.Merged) {
	conflicts, dropped := l.upstreams.several.Unlisted(m)
	resp.Conflicts, resp.ConflictsTotal = conflictsTold(m, conflicts.First), int32(min(conflicts.Total, 1<<30))
	for _, d := range dropped[:min(len(dropped), maxDroppedTold)] {
		resp.Dropped = append(resp.Dropped, &leaseholdv1.DroppedItems{
			Upstream: d.Upstream, Kind: itemKinds[d.Kind], Count: int32(min(d.Count, 1<<30)), Reason: complaint(d.Reason)})
	}
}

// conflictsTold returns one entry for each name.
func conflictsTold(m *config.Merged, all []catalogue.Conflict) (told []*leaseholdv1.ItemConflict) {
	type name struct {
		kind catalogue.Kind
		name string
	}
	of := make(map[name]*leaseholdv1.ItemConflict)
	for _, c := range all {
		one := of[name{c.Kind, c.Name}]
		if one == nil {
			if len(told) == maxConflictsTold {
				continue
			}
			one = &leaseholdv1.ItemConflict{Kind: itemKinds[c.Kind], LeadsTo: m.Parts[c.Listed.Upstream].Name,
				Name: strings.ToValidUTF8(c.Name[:min(len(c.Name), maxNameTold)], "")}
			of[name{c.Kind, c.Name}], told = one, append(told, one)
		}
		if hidden := m.Parts[c.Hidden.Upstream].Name; !slices.Contains(one.Hidden, hidden) {
			one.Hidden = append(one.Hidden, hidden)
		}
	}
	return told
}
