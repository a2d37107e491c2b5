package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/leasehold/leasehold/cmd/internal/usage"
	"github.com/leasehold/leasehold/controlplane"
)

// maxOutage is the flag of the commands that run a control plane.
type maxOutage struct{ outage time.Duration }

func (m *maxOutage) flag(cmd *cobra.Command) {
	cmd.Flags().DurationVar(&m.outage, "max-outage", controlplane.DefaultMaxOutage,
		"how long workers serve on while the control plane is away, and others leave their sessions alone; 0: not at all; the same at every replica")
}

func (m *maxOutage) check() error {
	if m.outage < 0 || m.outage > controlplane.LongestMaxOutage {
		return usage.Errorf("--max-outage: %s is not between 0 and %s", m.outage, controlplane.LongestMaxOutage)
	}
	return nil
}
