package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/leasehold/leasehold/cmd/internal/operator"
	"github.com/leasehold/leasehold/cmd/internal/table"
	"github.com/leasehold/leasehold/cmd/internal/usage"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// statePrefix is what the states of workers begin with in the API.
const statePrefix = "WORKER_STATE_"

func newGetWorkers(g *get) *cobra.Command {
	list := &workerList{}
	cmd := &cobra.Command{
		Use:     "workers [NAME]",
		Aliases: []string{"worker", "wk"},
		Short:   "Show workers, whether they serve, and how many sessions they own",
		Long: "Shows the workers that are alive, and with --show-dead also those that are dead\n" +
			"or have left and are known still: each is until its last session has another\n" +
			"owner or has ended, and for a while after.",
		Example:           "  leasehold get workers --watch\n  leasehold get workers --show-dead\n  leasehold get worker 4f1c2d3e -o yaml",
		Args:              usage.Args(0, 1, "the name of a worker"),
		ValidArgsFunction: completeWorkers(&g.client).only(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if g.watch && list.dead {
				return usage.Errorf("--watch and --show-dead exclude each other: a worker that dies is shown, and then over")
			}
			name := ""
			if len(args) == 1 {
				var err error
				if name, err = g.findWorker(cmd.Context(), args[0]); err != nil {
					return err
				}
			}
			list.watched = g.watch
			return list.resource().run(cmd.Context(), g, name, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	cmd.Flags().BoolVar(&list.dead, "show-dead", false, "also workers that are dead or have left and are known still")
	return cmd
}

// workerList is which workers are fetched and what of them is shown.
type workerList struct{ dead, watched bool }

func (l *workerList) resource() *resource[*leaseholdv1.Worker, *leaseholdv1.ListWorkersResponse] {
	r := &resource[*leaseholdv1.Worker, *leaseholdv1.ListWorkersResponse]{
		one: func(ctx context.Context, conn *grpc.ClientConn, name string) (*leaseholdv1.Worker, error) {
			response, err := leaseholdv1.NewWorkerServiceClient(conn).GetWorker(ctx, &leaseholdv1.GetWorkerRequest{Name: name})
			return response.GetWorker(), err
		},
		page: func(ctx context.Context, conn *grpc.ClientConn, token string) ([]*leaseholdv1.Worker, string, error) {
			response, err := leaseholdv1.NewWorkerServiceClient(conn).ListWorkers(ctx, &leaseholdv1.ListWorkersRequest{
				PageSize: pageSize, PageToken: token, ShowDead: l.dead,
			})
			return response.GetWorkers(), response.GetNextPageToken(), err
		},
		list: func(all []*leaseholdv1.Worker) *leaseholdv1.ListWorkersResponse {
			return &leaseholdv1.ListWorkersResponse{Workers: all}
		},
		open: func(ctx context.Context, conn *grpc.ClientConn, revision int64) (func() (operator.Change[*leaseholdv1.Worker], error), error) {
			stream, err := leaseholdv1.NewWorkerServiceClient(conn).WatchWorkers(ctx, &leaseholdv1.WatchWorkersRequest{Revision: revision})
			if err != nil {
				return nil, err
			}
			return received(stream, (*leaseholdv1.WatchWorkersResponse).GetWorker), nil
		},
		event: func(change operator.Change[*leaseholdv1.Worker]) proto.Message {
			return &leaseholdv1.WatchWorkersResponse{Type: change.Type, Worker: change.Resource, Revision: change.Revision}
		},
		columns: []table.Column{
			{Title: "WORKER"}, {Title: "STATE"}, {Title: "LISTEN", Least: 12}, {Title: "ZONE", Least: 4}, {Title: "VERSION", Least: 6},
			{Title: "CONFIG", Least: 6}, {Title: "AGE"},
		},
		rows: func(all []*leaseholdv1.Worker) [][]string {
			now := time.Now()
			rows := make([][]string, len(all))
			for i, worker := range all {
				rows[i] = workerRow(worker, !l.watched, now)
			}
			return rows
		},
		gone: func(worker *leaseholdv1.Worker) []string {
			return []string{strings.TrimPrefix(worker.GetName(), "workers/"), "removed", "-", "-", "-", "-", "-"}
		},
	}
	if l.watched { // sessions are not; workers that drain will come
		r.columns[1].Room = len("draining")
		return r
	}
	r.columns = slices.Insert(r.columns, 2, table.Column{Title: "SESSIONS"})
	return r
}

func workerRow(worker *leaseholdv1.Worker, sessions bool, now time.Time) []string {
	row := []string{
		strings.TrimPrefix(worker.GetName(), "workers/"), short(worker.GetState().String(), statePrefix), worker.GetListenAddress(), worker.GetZone(),
		worker.GetVersion(), fmt.Sprint(worker.GetAppliedRevision()), since(worker.GetRegisterTime(), now),
	}
	if sessions {
		row = slices.Insert(row, 2, fmt.Sprint(worker.GetSessions()))
	}
	return row
}
