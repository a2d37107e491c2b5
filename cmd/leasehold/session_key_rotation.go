package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/leasehold/leasehold/cmd/internal/usage"
	"github.com/leasehold/leasehold/controlplane"
)

// sessionKeyRotation is the flag of the commands that run a control plane.
type sessionKeyRotation struct{ rotation time.Duration }

func (r *sessionKeyRotation) flag(cmd *cobra.Command) {
	cmd.Flags().DurationVar(&r.rotation, "session-key-rotation", controlplane.DefaultSessionKeyRotation,
		"how old the key that seals session ids gets before another one does; the same at every replica")
}

func (r *sessionKeyRotation) check() error {
	if r.rotation < controlplane.ShortestSessionKeyRotation || r.rotation > controlplane.LongestSessionKeyRotation {
		return usage.Errorf("--session-key-rotation: %s is not between %s and %s", r.rotation, controlplane.ShortestSessionKeyRotation, controlplane.LongestSessionKeyRotation)
	}
	return nil
}
