package main

import (
	"fmt"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"

	"github.com/leasehold/leasehold/cmd/internal/operator"
	"github.com/leasehold/leasehold/cmd/internal/usage"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func newMove() *cobra.Command {
	var to client
	cmd := &cobra.Command{
		Use:     "move",
		Short:   "Hand a session over to another worker",
		Example: "  leasehold move session counter/4f1c2d3e --to 9a8b7c6d",
		Args:    cobra.ArbitraryArgs,
		RunE:    usage.Group,
	}
	to.flags(cmd)
	var receiver string
	session := &cobra.Command{
		Use:     "session NAME",
		Aliases: []string{"sessions", "sess"},
		Short:   "Hand a client session over to another worker",
		Long: "Hands a session over to another worker, between its requests: its client\n" +
			"notices nothing. Without --to its owner chooses the worker. A session that is\n" +
			"pinned to its worker cannot be moved, nor one that has calls in flight for 10 s.\n" +
			"Moving a session to the worker that owns it succeeds.",
		Example:           "  leasehold move session counter/4f1c2d3e\n  leasehold move session 4f1c2d3e --to 9a8b7c6d",
		Args:              usage.Args(1, 1, "the name of a session"),
		ValidArgsFunction: completeSessions(&to).only(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := to.findSession(cmd.Context(), args[0], "")
			if err != nil {
				return err
			}
			request := &leaseholdv1.MoveSessionRequest{Name: name}
			if receiver != "" {
				if request.Worker, err = to.findWorker(cmd.Context(), receiver); err != nil {
					return err
				}
			}
			ctx, conn, closeAll, err := to.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer closeAll()
			response, err := leaseholdv1.NewSessionServiceClient(conn).MoveSession(ctx, request)
			switch operator.Code(err) {
			case codes.OK:
			case codes.DeadlineExceeded, codes.Unavailable:
				return fmt.Errorf("%s: %w\nit may have moved: `leasehold describe session %s` says who owns it", name, operator.Explain(err), args[0])
			default:
				return fmt.Errorf("%s: %w", name, operator.Explain(err))
			}
			moved := response.GetSession()
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is at %s (epoch %d)\n", name, moved.GetOwner(), moved.GetEpoch())
			return err
		},
	}
	session.Flags().StringVar(&receiver, "to", "", "the worker that shall own it")
	_ = session.RegisterFlagCompletionFunc("to", completeWorkers(&to, leaseholdv1.WorkerState_WORKER_STATE_SERVING).flag)
	cmd.AddCommand(session)
	return cmd
}
