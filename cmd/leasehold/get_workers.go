package main

import (
	"context"
	"fmt"
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

func newGetWorkers(g *get) *cobra.Command {
	return &cobra.Command{
		Use:               "workers [NAME]",
		Aliases:           []string{"worker", "wk"},
		Short:             "Show the workers that are alive",
		Example:           "  leasehold get workers --watch\n  leasehold get worker 4f1c2d3e -o yaml",
		Args:              usage.Args(0, 1, "the name of a worker"),
		ValidArgsFunction: completeWorkers(&g.client).only(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := ""
			if len(args) == 1 {
				var err error
				if name, err = g.findWorker(cmd.Context(), args[0]); err != nil {
					return err
				}
			}
			return workers.run(cmd.Context(), g, name, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
}

var workers = &resource[*leaseholdv1.Worker, *leaseholdv1.ListWorkersResponse]{
	one: func(ctx context.Context, conn *grpc.ClientConn, name string) (*leaseholdv1.Worker, error) {
		response, err := leaseholdv1.NewWorkerServiceClient(conn).GetWorker(ctx, &leaseholdv1.GetWorkerRequest{Name: name})
		return response.GetWorker(), err
	},
	page: func(ctx context.Context, conn *grpc.ClientConn, token string) ([]*leaseholdv1.Worker, string, error) {
		response, err := leaseholdv1.NewWorkerServiceClient(conn).ListWorkers(ctx, &leaseholdv1.ListWorkersRequest{PageSize: pageSize, PageToken: token})
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
		{Title: "WORKER"}, {Title: "LISTEN", Least: 15}, {Title: "ZONE", Least: 6}, {Title: "VERSION", Least: 7},
		{Title: "INCARNATION", Least: 11}, {Title: "CONFIG", Least: 6}, {Title: "AGE"},
	},
	rows: func(all []*leaseholdv1.Worker) [][]string {
		now := time.Now()
		rows := make([][]string, len(all))
		for i, worker := range all {
			rows[i] = []string{
				strings.TrimPrefix(worker.GetName(), "workers/"), worker.GetListenAddress(), worker.GetZone(), worker.GetVersion(),
				fmt.Sprint(worker.GetIncarnation()), fmt.Sprint(worker.GetAppliedRevision()), since(worker.GetRegisterTime(), now),
			}
		}
		return rows
	},
	gone: func(worker *leaseholdv1.Worker) []string {
		return []string{strings.TrimPrefix(worker.GetName(), "workers/"), "removed", "-", "-", fmt.Sprint(worker.GetIncarnation()), "-", "-"}
	},
}
