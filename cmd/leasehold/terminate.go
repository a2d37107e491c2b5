package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/leasehold/leasehold/cmd/internal/operator"
	"github.com/leasehold/leasehold/cmd/internal/usage"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func newTerminate() *cobra.Command {
	var to client
	cmd := &cobra.Command{
		Use:     "terminate",
		Short:   "End a session",
		Example: "  leasehold terminate session counter/4f1c2d3e",
		Args:    cobra.ArbitraryArgs,
		RunE:    usage.Group,
	}
	to.flags(cmd)
	session := &cobra.Command{
		Use:     "session NAME",
		Aliases: []string{"sessions", "sess"},
		Short:   "End a client session and its upstream sessions",
		Long: "Ends a session: its owner refuses new requests at once, gives calls in flight up\n" +
			"to 5 s and ends the upstream session. Names are those that `leasehold get\n" +
			"sessions` shows. Ending a session that has ended succeeds.",
		Example:           "  leasehold terminate session counter/4f1c2d3e",
		Args:              usage.Args(1, 1, "the name of a session"),
		ValidArgsFunction: completeSessions(&to).only(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := to.findSession(cmd.Context(), args[0], "")
			if err != nil {
				return err
			}
			ctx, conn, closeAll, err := to.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer closeAll()
			_, err = leaseholdv1.NewSessionServiceClient(conn).TerminateSession(ctx, &leaseholdv1.TerminateSessionRequest{Name: name})
			if err != nil {
				return fmt.Errorf("%s: %w", name, operator.Explain(err))
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s terminated\n", name)
			return err
		},
	}
	cmd.AddCommand(session)
	return cmd
}
