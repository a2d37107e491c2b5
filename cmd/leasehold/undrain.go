package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/leasehold/leasehold/cmd/internal/operator"
	"github.com/leasehold/leasehold/cmd/internal/usage"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func newUndrain() *cobra.Command {
	var to client
	cmd := &cobra.Command{
		Use:     "undrain",
		Short:   "Make a worker take sessions again",
		Example: "  leasehold undrain worker 4f1c2d3e",
		Args:    cobra.ArbitraryArgs,
		RunE:    usage.Group,
	}
	to.flags(cmd)
	worker := &cobra.Command{
		Use:     "worker NAME",
		Aliases: []string{"workers", "wk"},
		Short:   "Make a worker that drains take sessions again",
		Long: "Makes a worker that drains take sessions again. What it has handed over stays\n" +
			"where it is. Undraining a worker that does not drain succeeds.",
		Example:           "  leasehold undrain worker 4f1c2d3e",
		Args:              usage.Args(1, 1, "the name of a worker"),
		ValidArgsFunction: completeWorkers(&to, leaseholdv1.WorkerState_WORKER_STATE_DRAINING).only(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := to.findWorker(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			ctx, conn, closeAll, err := to.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer closeAll()
			_, err = leaseholdv1.NewWorkerServiceClient(conn).UndrainWorker(ctx, &leaseholdv1.UndrainWorkerRequest{Name: name})
			if err != nil {
				return fmt.Errorf("%s: %w", name, operator.Explain(err))
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s undrained\n", name)
			return err
		},
	}
	cmd.AddCommand(worker)
	return cmd
}
