package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// severalUpstreams is a gateway with several upstreams.
func severalUpstreams(names ...string) *leaseholdv1.Gateway {
	g := &leaseholdv1.Gateway{Name: "gateways/tools", Status: &leaseholdv1.GatewayStatus{WorkersApplied: 2, WorkersTotal: 2}}
	for _, name := range names {
		g.Upstreams = append(g.Upstreams, &leaseholdv1.Upstream{Name: name, Url: "https://" + name + ".example/mcp"})
	}
	return g
}

func TestDescribeGatewaySaysWhichItemsAreNotOffered(t *testing.T) {
	g := severalUpstreams("files", "search", "web")
	g.Status.ConflictsTotal = 3
	g.Status.Conflicts = []*leaseholdv1.ItemConflict{
		{Kind: leaseholdv1.ItemKind_ITEM_KIND_TOOL, Name: "find", LeadsTo: "files", Hidden: []string{"search", "web"}},
		{Kind: leaseholdv1.ItemKind_ITEM_KIND_PROMPT, Name: "ask\x1b[31m", LeadsTo: "search", Hidden: []string{"web"}},
	}
	g.Status.Dropped = []*leaseholdv1.DroppedItems{{Upstream: "web", Kind: leaseholdv1.ItemKind_ITEM_KIND_RESOURCE_TEMPLATE, Count: 2, Reason: "has no uriTemplate"}}
	p := &page{now: time.Now()}
	describeGateway(p, g)
	_, conflicts, _ := strings.Cut(p.text.String(), "Upstream web")
	golden(t, "conflicts.txt", conflicts)
}

func TestDescribeSessionShowsTheClassOfEachOfSeveralUpstreams(t *testing.T) {
	p := &page{now: time.Now()}
	describeSession(p, &leaseholdv1.Session{Name: "gateways/tools/sessions/" + digestA, Class: leaseholdv1.Class_CLASS_PINNED, OutlivesPinned: true, Upstreams: []*leaseholdv1.UpstreamSession{
		{Upstream: "files", Class: leaseholdv1.Class_CLASS_RESUMABLE, ProtocolVersion: "2025-11-25", Address: "192.0.2.1:443"},
		{Upstream: "search", Class: leaseholdv1.Class_CLASS_REBUILDABLE, ProtocolVersion: "2025-06-18"},
		{Upstream: "shell", Class: leaseholdv1.Class_CLASS_PINNED, ProtocolVersion: "2025-03-26"},
	}})
	if got := p.text.String(); !strings.Contains(got, "pinned: the session goes on,") || strings.Contains(got, "ends with its worker") {
		t.Errorf("class: got\n%s", got)
	}
	_, upstreams, _ := strings.Cut(p.text.String(), "Upstream sessions\n")
	upstreams, _, _ = strings.Cut(upstreams, "\nEvents")
	golden(t, "session_upstreams.txt", upstreams)
}

func TestGetGatewaysNamesWhereOneWithSeveralUpstreamsLeads(t *testing.T) {
	for n, want := range map[int]string{1: "https://u0.example/mcp", 2: "u0, u1", 3: "u0, u1, u2", 12: "u0, u1, u2 and 9 more"} {
		var names []string
		for i := range n {
			names = append(names, fmt.Sprintf("u%d", i))
		}
		row := gatewayRow(severalUpstreams(names...), time.Now())
		if got := row[len(row)-1]; got != want {
			t.Errorf("%d upstreams: got %q, want %q", n, got, want)
		}
	}
}
