package main

import (
	"github.com/spf13/cobra"

	"github.com/leasehold/leasehold/cmd/internal/usage"
)

func newKeys() *cobra.Command {
	to := &client{timeout: rotateTimeout}
	cmd := &cobra.Command{
		Use:     "keys",
		Short:   "Show and rotate keys",
		Example: "  leasehold keys session\n  leasehold keys rotate session",
		Args:    cobra.ArbitraryArgs,
		RunE:    usage.Group,
	}
	to.flags(cmd)
	rotate := &cobra.Command{
		Use:     "rotate",
		Short:   "Make a new key that is used from now on",
		Example: "  leasehold keys rotate session",
		Args:    cobra.ArbitraryArgs,
		RunE:    usage.Group,
	}
	rotate.AddCommand(newRotateSession(to))
	cmd.AddCommand(newKeysSession(to), rotate)
	return cmd
}
