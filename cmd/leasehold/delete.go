package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/leasehold/leasehold/cmd/internal/operator"
	"github.com/leasehold/leasehold/cmd/internal/usage"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func newDelete() *cobra.Command {
	var to client
	cmd := &cobra.Command{
		Use:     "delete",
		Short:   "Delete a gateway",
		Example: "  leasehold delete gateway counter",
		Args:    cobra.ArbitraryArgs,
		RunE:    usage.Group,
	}
	to.flags(cmd)
	var etag string
	gateway := &cobra.Command{
		Use:               "gateway NAME",
		Aliases:           []string{"gateways", "gw"},
		Short:             "Delete a gateway and end its sessions",
		Long:              "Deletes a gateway. Its sessions end on every worker: calls in flight get up to\n5 s, then the upstream sessions are ended too.",
		Example:           "  leasehold delete gateway counter",
		Args:              usage.Args(1, 1, "the name of a gateway"),
		ValidArgsFunction: completeGateways(&to).only(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := gatewayName(args[0])
			if err != nil {
				return err
			}
			ctx, conn, closeAll, err := to.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer closeAll()
			_, err = leaseholdv1.NewGatewayServiceClient(conn).DeleteGateway(ctx, &leaseholdv1.DeleteGatewayRequest{Name: name, Etag: etag})
			if err != nil {
				return fmt.Errorf("%s: %w", name, operator.Explain(err))
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s deleted\n", name)
			return err
		},
	}
	gateway.Flags().StringVar(&etag, "etag", "", "delete it only if this is still its etag")
	cmd.AddCommand(gateway)
	return cmd
}
