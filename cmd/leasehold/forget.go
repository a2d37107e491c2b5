package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/leasehold/leasehold/cmd/internal/operator"
	"github.com/leasehold/leasehold/cmd/internal/table"
	"github.com/leasehold/leasehold/cmd/internal/usage"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func newForget() *cobra.Command {
	var to client
	cmd := &cobra.Command{
		Use:     "forget",
		Short:   "Say that a dead worker is gone for good",
		Example: "  leasehold forget worker 4f1c2d3e",
		Args:    cobra.ArbitraryArgs,
		RunE:    usage.Group,
	}
	to.flags(cmd)
	var yes bool
	worker := &cobra.Command{
		Use:     "worker NAME",
		Aliases: []string{"workers", "wk"},
		Short:   "Say that a dead worker's process is gone for good",
		Long: "Says that the process of a dead worker is gone for good, so that every other\n" +
			"worker may take its sessions over at once. Otherwise they may have to wait, as a\n" +
			"worker that lost the control plane may serve on; `leasehold describe worker` says\n" +
			"what they wait for. If the process still runs, two workers act for the same\n" +
			"sessions: be certain. A worker that is alive cannot be forgotten.\n\n" +
			"Asks on a terminal; anywhere else it needs --yes.",
		Example:           "  leasehold forget worker 4f1c2d3e\n  leasehold forget worker 4f1c2d3e --yes",
		Args:              usage.Args(1, 1, "the name of a worker"),
		ValidArgsFunction: completeWorkers(&to, leaseholdv1.WorkerState_WORKER_STATE_DEAD).only(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := workerName(args[0]); err != nil {
				return err
			}
			if !yes && !terminal(cmd.InOrStdin()) {
				return usage.Errorf("standard input is not a terminal to ask at: add --yes if you are certain that the worker's process is gone for good")
			}
			name, err := to.findWorker(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			worker, err := deadWorker(cmd, &to, name)
			if err != nil {
				return err
			}
			if !yes && worker.GetState() != leaseholdv1.WorkerState_WORKER_STATE_LEFT {
				if err := confirm(cmd.InOrStdin(), cmd.ErrOrStderr(), forgetQuestion(worker)); err != nil {
					return fmt.Errorf("%s is not forgotten: %w", name, err)
				}
			}
			return forget(cmd, &to, worker)
		},
	}
	worker.Flags().BoolVar(&yes, "yes", false, "do not ask: its process is gone for good")
	cmd.AddCommand(worker)
	return cmd
}

// deadWorker fetches a worker that may be forgotten.
func deadWorker(cmd *cobra.Command, to *client, name string) (*leaseholdv1.Worker, error) {
	ctx, conn, closeAll, err := to.connect(cmd.Context())
	if err != nil {
		return nil, err
	}
	defer closeAll()
	worker, err := (&workerList{}).resource().one(ctx, conn, name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, operator.Explain(err))
	}
	if alive(worker) {
		id := strings.TrimPrefix(name, "workers/")
		return nil, fmt.Errorf("%s is alive, it holds its lease; only a dead worker can be forgotten: stop it, or `leasehold drain worker %s`", name, id)
	}
	return worker, nil
}

// forgetQuestion says what forgetting a worker means.
func forgetQuestion(worker *leaseholdv1.Worker) string {
	return fmt.Sprintf("%s is dead: its lease is gone. Sessions recorded: %d.\n\n", worker.GetName(), worker.GetSessions()) +
		table.Wrap("", table.Printable(fmt.Sprintf("If you forget it, every other worker may take them over at once. That is safe only if its process is gone for good. "+
			"If it still runs, merely cut off from the control plane, it may serve on, and two workers then act for the same sessions at once: "+
			"calls may run twice and sessions break. It listened at %s and %s.", worker.GetListenAddress(), worker.GetPeerAddress()))) +
		"\nIs its process certainly gone?"
}

// forget has the worker forgotten and says what follows.
func forget(cmd *cobra.Command, to *client, worker *leaseholdv1.Worker) error {
	ctx, conn, closeAll, err := to.connect(cmd.Context())
	if err != nil {
		return err
	}
	defer closeAll()
	name := worker.GetName()
	if _, err := leaseholdv1.NewWorkerServiceClient(conn).ForgetWorker(ctx, &leaseholdv1.ForgetWorkerRequest{Name: name}); err != nil {
		return fmt.Errorf("%s: %w", name, operator.Explain(err))
	}
	if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s forgotten\n", name); err != nil {
		return err
	}
	follows := "it had no sessions recorded"
	if n := worker.GetSessions(); n > 0 {
		follows = fmt.Sprintf("sessions of it to take over: %d; each goes on at another worker with its next request (pinned ones end);\n"+
			"  `leasehold get sessions --owner %s` shows those that have not yet", n, strings.TrimPrefix(name, "workers/"))
	}
	_, err = fmt.Fprintln(cmd.ErrOrStderr(), "note:", follows)
	return err
}
