package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/leasehold/leasehold/cmd/internal/operator"
	"github.com/leasehold/leasehold/cmd/internal/table"
	"github.com/leasehold/leasehold/cmd/internal/usage"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// TestRejectionsAreShown compares with testdata/rejected.txt what get and describe
// print of gateways that workers reject.
func TestRejectionsAreShown(t *testing.T) {
	now := time.Now()
	list := []*leaseholdv1.Gateway{
		{Name: "gateways/fine", Status: at(accepted, accepted).status},
		{Name: "gateways/half", Status: at(accepted, refused).status},
		{Name: "gateways/none", Status: at(refused, refused).status},
		{Name: "gateways/odd", Status: at(quarantined, refused).status},
	}
	for _, gateway := range list {
		gateway.CreateTime = timestamppb.New(now.Add(-time.Hour))
		gateway.Upstreams = []*leaseholdv1.Upstream{{Url: "https://example.com/mcp"}}
	}
	many := &leaseholdv1.GatewayStatus{}
	for range 12 {
		many.Workers = append(many.Workers, at(refused).status.GetWorkers()...)
	}
	list = append(list, &leaseholdv1.Gateway{Name: "gateways/many", Status: many})

	var out bytes.Buffer
	if err := gateways("").write(&out, usage.NewChoice("table", "table"), list); err != nil {
		t.Fatal(err)
	}
	for _, gateway := range list[1:4:4] {
		p := &page{now: now}
		describeWorkers(p, gateway.GetStatus())
		out.WriteString("\n" + gateway.GetName() + p.text.String())
	}
	golden(t, "rejected.txt", out.String())
}

func TestAWatchShowsRejectionsToo(t *testing.T) {
	var out bytes.Buffer
	watched := &leaseholdv1.Gateway{Name: "gateways/half", Status: at(accepted, refused).status}
	list := gateways("")
	c := &changes[*leaseholdv1.Gateway, *leaseholdv1.ListGatewaysResponse]{
		resource: list, stdout: &out, output: "table", table: table.New(&out, "", list.columns),
	}
	put := operator.Change[*leaseholdv1.Gateway]{Type: leaseholdv1.ChangeType_CHANGE_TYPE_PUT, Resource: watched}
	bookmark := operator.Change[*leaseholdv1.Gateway]{Type: leaseholdv1.ChangeType_CHANGE_TYPE_BOOKMARK}
	for _, change := range []operator.Change[*leaseholdv1.Gateway]{put, bookmark, put} {
		if err := c.tell(change); err != nil {
			t.Fatal(err)
		}
	}
	want := "  gateways/half is rejected by workers/" + workerB + ":\n  upstreams[0].tls.ca_file: no such file\n"
	if got := out.String(); strings.Count(got, want) != 2 {
		t.Errorf("got\n%s\nwant twice\n%s", got, want)
	}
}
