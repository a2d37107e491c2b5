package main

import (
	"fmt"
	"strings"

	"github.com/leasehold/leasehold/cmd/internal/table"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// describeConflicts says which items of several upstreams clients are not offered.
func describeConflicts(p *page, status *leaseholdv1.GatewayStatus) {
	if len(status.GetConflicts()) > 0 {
		p.section("Name conflicts")
		rows := make([][]string, len(status.GetConflicts()))
		for i, c := range status.GetConflicts() {
			rows[i] = []string{itemKind(c.GetKind()), c.GetName(), c.GetLeadsTo(), strings.Join(c.GetHidden(), ", ")}
		}
		p.table([]table.Column{{Title: "KIND"}, {Title: "NAME", Least: 12}, {Title: "LEADS TO", Least: 8}, {Title: "NOT OFFERED OF", Least: 14}}, rows)
		fmt.Fprintln(&p.text)
		p.sentence(fmt.Sprintf("Items that are not offered since another one has the name: %d. Give them a name of their own with overrides, or hide or exclude them.",
			status.GetConflictsTotal()))
	}
	if len(status.GetDropped()) > 0 {
		p.section("Items that cannot be offered")
		rows := make([][]string, len(status.GetDropped()))
		for i, d := range status.GetDropped() {
			rows[i] = []string{d.GetUpstream(), itemKind(d.GetKind()), fmt.Sprint(d.GetCount()), d.GetReason()}
		}
		p.table([]table.Column{{Title: "UPSTREAM", Least: 8}, {Title: "KIND"}, {Title: "COUNT"}, {Title: "THE FIRST ONE", Least: 13}}, rows)
	}
}

func itemKind(kind leaseholdv1.ItemKind) string { return short(kind.String(), "ITEM_KIND_") }
