package main

import (
	"github.com/spf13/cobra"
)

// auditLog is the flag of the commands that run a control plane.
type auditLog struct{ auditFile string }

func (a *auditLog) flag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&a.auditFile, "audit-log", "",
		"file that gets a line for each call that changes something; -: standard error; default: audit.log in --data-dir, or standard error without one")
}
