package main

import (
	"github.com/spf13/cobra"

	"github.com/leasehold/leasehold/cmd/internal/explain"
	"github.com/leasehold/leasehold/cmd/internal/usage"
)

func newExplain() *cobra.Command {
	var recursive bool
	cmd := &cobra.Command{
		Use:   "explain KIND[.FIELD…]",
		Short: "Say what the fields of gateways, sessions and workers mean",
		Long: "Says what a gateway, session or worker is made of: the type of a field, what it\n" +
			"means, and the fields below it. Nothing has to run for that.",
		Example: "  leasehold explain gateway\n  leasehold explain gateway.upstreams.url\n  leasehold explain session --recursive",
		Args:    usage.Args(1, 1, "what to explain, such as gateway or gateway.upstreams"),
		ValidArgsFunction: func(_ *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return explain.Complete(begun), cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if recursive {
				return explain.WriteTree(cmd.OutOrStdout(), args[0])
			}
			return explain.Write(cmd.OutOrStdout(), args[0])
		},
	}
	cmd.Flags().BoolVar(&recursive, "recursive", false, "only the names and types of all that is below it")
	return cmd
}
