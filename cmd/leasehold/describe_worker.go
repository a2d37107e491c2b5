package main

import (
	"github.com/spf13/cobra"

	"github.com/leasehold/leasehold/cmd/internal/usage"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func newDescribeWorker(to *client) *cobra.Command {
	return &cobra.Command{
		Use:               "worker NAME",
		Aliases:           []string{"workers", "wk"},
		Short:             "Show all about one worker",
		Example:           "  leasehold describe worker 4f1c2d3e",
		Args:              usage.Args(1, 1, "the name of a worker"),
		ValidArgsFunction: completeWorkers(to).only(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := to.findWorker(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return describe(cmd, to, name, workers.one, describeWorker)
		},
	}
}

func describeWorker(p *page, worker *leaseholdv1.Worker) {
	p.line("Name", "%s", worker.GetName())
	p.line("Incarnation", "%d", worker.GetIncarnation())
	p.line("Version", "%s", worker.GetVersion())
	p.line("Zone", "%s", worker.GetZone())
	p.line("Config", "revision %d", worker.GetAppliedRevision())
	p.time("Registered", worker.GetRegisterTime())
	p.section("Addresses")
	p.line("  Clients", "%s", worker.GetListenAddress())
	p.line("  Other workers", "%s", worker.GetPeerAddress())
	p.line("  Admin", "%s", worker.GetAdminAddress())
}
