package main

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/leasehold/leasehold/cmd/internal/operator"
	"github.com/leasehold/leasehold/cmd/internal/table"
	"github.com/leasehold/leasehold/cmd/internal/usage"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func newGetGateways(g *get) *cobra.Command {
	var filter string
	cmd := &cobra.Command{
		Use:               "gateways [NAME]",
		Aliases:           []string{"gateway", "gw"},
		Short:             "Show gateways: where they lead, and how many workers have applied them",
		Example:           "  leasehold get gateways\n  leasehold get gateway counter -o yaml\n  leasehold get gateways --filter 'labels.team = search' --watch",
		Args:              usage.Args(0, 1, "the name of a gateway"),
		ValidArgsFunction: completeGateways(&g.client).only(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := ""
			if len(args) == 1 {
				if filter != "" {
					return usage.Errorf("--filter selects among all gateways; leave it out, or the name")
				}
				var err error
				if name, err = gatewayName(args[0]); err != nil {
					return err
				}
			}
			return gateways(filter).run(cmd.Context(), g, name, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	cmd.Flags().StringVar(&filter, "filter", "", "only those with labels: `labels.KEY = VALUE` or `labels.KEY:*`, several joined with AND")
	_ = cmd.RegisterFlagCompletionFunc("filter", cobra.NoFileCompletions)
	return cmd
}

func gateways(filter string) *resource[*leaseholdv1.Gateway, *leaseholdv1.ListGatewaysResponse] {
	return &resource[*leaseholdv1.Gateway, *leaseholdv1.ListGatewaysResponse]{
		one: func(ctx context.Context, conn *grpc.ClientConn, name string) (*leaseholdv1.Gateway, error) {
			response, err := leaseholdv1.NewGatewayServiceClient(conn).GetGateway(ctx, &leaseholdv1.GetGatewayRequest{Name: name})
			return response.GetGateway(), err
		},
		page: func(ctx context.Context, conn *grpc.ClientConn, token string) ([]*leaseholdv1.Gateway, string, error) {
			response, err := leaseholdv1.NewGatewayServiceClient(conn).ListGateways(ctx, &leaseholdv1.ListGatewaysRequest{
				PageSize: pageSize, PageToken: token, Filter: filter,
			})
			return response.GetGateways(), response.GetNextPageToken(), err
		},
		list: func(all []*leaseholdv1.Gateway) *leaseholdv1.ListGatewaysResponse {
			return &leaseholdv1.ListGatewaysResponse{Gateways: all}
		},
		open: func(ctx context.Context, conn *grpc.ClientConn, revision int64) (func() (operator.Change[*leaseholdv1.Gateway], error), error) {
			stream, err := leaseholdv1.NewGatewayServiceClient(conn).WatchGateways(ctx, &leaseholdv1.WatchGatewaysRequest{Revision: revision, Filter: filter})
			if err != nil {
				return nil, err
			}
			return received(stream, (*leaseholdv1.WatchGatewaysResponse).GetGateway), nil
		},
		event: func(change operator.Change[*leaseholdv1.Gateway]) proto.Message {
			return &leaseholdv1.WatchGatewaysResponse{Type: change.Type, Gateway: change.Resource, Revision: change.Revision}
		},
		columns: []table.Column{{Title: "NAME", Least: 20}, {Title: "APPLIED"}, {Title: "SESSIONS"}, {Title: "AGE"}, {Title: "UPSTREAM", Least: 12}},
		rows: func(all []*leaseholdv1.Gateway) [][]string {
			now := time.Now()
			rows := make([][]string, len(all))
			for i, gateway := range all {
				rows[i] = gatewayRow(gateway, now)
			}
			return rows
		},
		notes: rejectedGateways,
		gone: func(gateway *leaseholdv1.Gateway) []string {
			return []string{strings.TrimPrefix(gateway.GetName(), "gateways/"), "-", "-", "-", "removed"}
		},
	}
}

// rejectedGateways says of each gateway by whom its newest definition is rejected.
func rejectedGateways(all []*leaseholdv1.Gateway) []string {
	var notes []string
	for _, gateway := range all {
		for _, text := range rejections(gateway.GetStatus()) {
			notes = append(notes, gateway.GetName()+" is "+text)
		}
	}
	return notes
}

func gatewayRow(gateway *leaseholdv1.Gateway, now time.Time) []string {
	status := gateway.GetStatus()
	return []string{
		strings.TrimPrefix(gateway.GetName(), "gateways/"),
		fmt.Sprintf("%d/%d", status.GetWorkersApplied(), status.GetWorkersTotal()),
		fmt.Sprint(status.GetSessions()),
		since(gateway.GetCreateTime(), now),
		where(gateway.GetUpstreams()),
	}
}

// namesShown is how many upstreams of a gateway are named in a table.
const namesShown = 3

// where says where a gateway leads: to a URL or a program, or, of several, to which.
func where(upstreams []*leaseholdv1.Upstream) string {
	if len(upstreams) == 1 {
		return cmp.Or(upstreams[0].GetUrl(), program(upstreams[0]))
	}
	var names []string
	for _, upstream := range upstreams[:min(len(upstreams), namesShown)] {
		names = append(names, upstream.GetName())
	}
	text := strings.Join(names, ", ")
	if more := len(upstreams) - namesShown; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}
