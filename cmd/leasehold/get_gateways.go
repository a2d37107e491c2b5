package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/leasehold/leasehold/cmd/internal/table"
	"github.com/leasehold/leasehold/cmd/internal/usage"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func newGetGateways(to *client, output *usage.Choice) *cobra.Command {
	return &cobra.Command{
		Use:     "gateways [NAME]",
		Aliases: []string{"gateway", "gw"},
		Short:   "Show gateways: where they lead, and how many workers have them",
		Example: "  leasehold get gateways\n  leasehold get gateway counter -o yaml",
		Args:    usage.Args(0, 1, "the name of a gateway"),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := ""
			if len(args) == 1 {
				var err error
				if name, err = gatewayName(args[0]); err != nil {
					return err
				}
			}
			ctx, conn, closeAll, err := to.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer closeAll()
			return gateways.print(ctx, conn, name, output, cmd.OutOrStdout())
		},
	}
}

var gateways = &resource[*leaseholdv1.Gateway, *leaseholdv1.ListGatewaysResponse]{
	one: func(ctx context.Context, conn *grpc.ClientConn, name string) (*leaseholdv1.Gateway, error) {
		response, err := leaseholdv1.NewGatewayServiceClient(conn).GetGateway(ctx, &leaseholdv1.GetGatewayRequest{Name: name})
		return response.GetGateway(), err
	},
	page: func(ctx context.Context, conn *grpc.ClientConn, token string) ([]*leaseholdv1.Gateway, string, error) {
		response, err := leaseholdv1.NewGatewayServiceClient(conn).ListGateways(ctx, &leaseholdv1.ListGatewaysRequest{PageSize: pageSize, PageToken: token})
		return response.GetGateways(), response.GetNextPageToken(), err
	},
	list: func(all []*leaseholdv1.Gateway) *leaseholdv1.ListGatewaysResponse {
		return &leaseholdv1.ListGatewaysResponse{Gateways: all}
	},
	columns: []table.Column{{Title: "NAME", Least: 20}, {Title: "WORKERS"}, {Title: "SESSIONS"}, {Title: "UPSTREAM", Least: 12}},
	row: func(gateway *leaseholdv1.Gateway) []string {
		status := gateway.GetStatus()
		var urls []string
		for _, upstream := range gateway.GetUpstreams() {
			urls = append(urls, upstream.GetUrl())
		}
		return []string{
			strings.TrimPrefix(gateway.GetName(), "gateways/"),
			fmt.Sprintf("%d/%d", status.GetWorkersApplied(), status.GetWorkersTotal()),
			fmt.Sprint(status.GetSessions()),
			strings.Join(urls, " "),
		}
	},
}
