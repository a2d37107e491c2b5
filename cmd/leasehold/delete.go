package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/leasehold/leasehold/cmd/internal/operator"
	"github.com/leasehold/leasehold/cmd/internal/usage"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// How long the control plane is asked to wait for the workers.
const (
	leastWait = 100 * time.Millisecond
	mostWait  = 5 * time.Minute
	// toAnswer is what is left of the time for its answer, which says which workers it
	// waited for.
	toAnswer = time.Second
)

func newDelete() *cobra.Command {
	to := client{timeout: applyTimeout}
	cmd := &cobra.Command{
		Use:     "delete",
		Short:   "Delete a gateway",
		Example: "  leasehold delete gateway counter",
		Args:    cobra.ArbitraryArgs,
		RunE:    usage.Group,
	}
	to.flags(cmd)
	var etag string
	var wait bool
	gateway := &cobra.Command{
		Use:     "gateway NAME",
		Aliases: []string{"gateways", "gw"},
		Short:   "Delete a gateway and end its sessions",
		Long: "Deletes a gateway, and waits until no living worker serves it any more. Its\n" +
			"sessions end on every worker: calls in flight get up to 5 s, then the upstream\n" +
			"sessions are ended too. It stays deleted when a worker does not answer in time\n" +
			"(--timeout), which is a failure.",
		Example:           "  leasehold delete gateway counter\n  leasehold delete gateway counter --wait=false",
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
			err = deleteGateway(ctx, leaseholdv1.NewGatewayServiceClient(conn), &leaseholdv1.DeleteGatewayRequest{Name: name, Etag: etag}, wait)
			status, deleted := operator.Unapplied(err)
			if err != nil && !deleted {
				return fmt.Errorf("%s: %w", name, operator.Explain(err))
			}
			if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s deleted\n", name); err != nil {
				return err
			}
			if deleted {
				return fmt.Errorf("%s: %w", name, undeleted(status))
			}
			return nil
		},
	}
	gateway.Flags().StringVar(&etag, "etag", "", "delete it only if this is still its etag")
	gateway.Flags().BoolVar(&wait, "wait", true, "wait until no living worker serves it; without, only have it deleted")
	cmd.AddCommand(gateway)
	return cmd
}

// deleteGateway deletes a gateway, and with wait returns only when no worker serves
// it any more, or when that takes almost as long as ctx lasts.
func deleteGateway(ctx context.Context, api leaseholdv1.GatewayServiceClient, request *leaseholdv1.DeleteGatewayRequest, wait bool) error {
	if wait {
		request.Wait, request.WaitTimeout = leaseholdv1.Wait_WAIT_APPLIED, durationpb.New(patience(ctx))
	}
	_, err := api.DeleteGateway(ctx, request)
	return err
}

// patience is how long the control plane may wait for workers so that its answer
// comes before ctx ends.
func patience(ctx context.Context) time.Duration {
	end, ok := ctx.Deadline()
	if !ok {
		return mostWait
	}
	return min(max(time.Until(end)-toAnswer, leastWait), mostWait)
}

// undeleted is the error of a delete that is done, and that some workers do not know
// of yet.
func undeleted(status *leaseholdv1.GatewayStatus) error {
	return fmt.Errorf("it is deleted, but not every worker has applied that in time (--timeout): %s", missing(status))
}
