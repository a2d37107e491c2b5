package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/leasehold/leasehold/cmd/internal/usage"
)

func newKeys() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "keys",
		Short: "Show, make and rotate keys",
		Long: "Secrets of gateways are sealed before they reach etcd, those of each gateway under\n" +
			"a data key of its own. Data keys, and the ring of the keys that seal session ids,\n" +
			"are wrapped under a root key, which is not in etcd: every replica of the control\n" +
			"plane reads it from a file (--root-key, or root.key in its data directory). The\n" +
			"file has one key a line: the first one wraps, and all of them unwrap. It is read\n" +
			"each second.\n\n" +
			"To rotate the root key, with nothing stopped:\n\n" +
			"  1. On one machine: leasehold keys generate --prepend root.key\n" +
			"  2. Copy root.key to every other replica, within a minute or so: until a replica\n" +
			"     has it, its workers are not told of gateways that others write meanwhile.\n" +
			"  3. leasehold keys rotate root --control ALL,OF,THE,REPLICAS\n" +
			"  4. Remove the second line of root.key at every replica. Keep the old key for as\n" +
			"     long as you keep backups of etcd from before.",
		Example: "  leasehold keys session\n  leasehold keys root\n  leasehold keys generate --prepend root.key",
		Args:    cobra.ArbitraryArgs,
		RunE:    usage.Group,
	}
	rotate := &cobra.Command{
		Use:     "rotate",
		Short:   "Rotate keys while everything serves",
		Example: "  leasehold keys rotate session\n  leasehold keys rotate root\n  leasehold keys rotate data",
		Args:    cobra.ArbitraryArgs,
		RunE:    usage.Group,
	}
	rotate.AddCommand(calling(newRotateSession, rotateTimeout), calling(newRotateRoot, rekeyTimeout), calling(newRotateData, rekeyTimeout))
	cmd.AddCommand(calling(newKeysSession, 0), calling(newKeysRoot, 0), rotate, newKeysGenerate())
	return cmd
}

// calling returns a command that calls the control plane.
func calling(make func(to *client) *cobra.Command, timeout time.Duration) *cobra.Command {
	to := &client{timeout: timeout}
	cmd := make(to)
	to.flags(cmd)
	return cmd
}
