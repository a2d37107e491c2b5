package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/leasehold/leasehold/cmd/internal/table"
	"github.com/leasehold/leasehold/cmd/internal/usage"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func newGetWorkers(to *client, output *usage.Choice) *cobra.Command {
	return &cobra.Command{
		Use:     "workers [NAME]",
		Aliases: []string{"worker", "wk"},
		Short:   "Show the workers that are alive",
		Example: "  leasehold get workers\n  leasehold get worker 4f1c2d3e4f506172 -o yaml",
		Args:    usage.Args(0, 1, "the name of a worker"),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := ""
			if len(args) == 1 {
				var err error
				if name, err = workerName(args[0]); err != nil {
					return err
				}
			}
			ctx, conn, closeAll, err := to.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer closeAll()
			return workers.print(ctx, conn, name, output, cmd.OutOrStdout())
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
	columns: []table.Column{
		{Title: "WORKER"}, {Title: "LISTEN", Least: 15}, {Title: "ZONE", Least: 6}, {Title: "VERSION", Least: 7},
		{Title: "INCARNATION", Least: 11}, {Title: "CONFIG", Least: 8},
	},
	row: func(worker *leaseholdv1.Worker) []string {
		return []string{
			strings.TrimPrefix(worker.GetName(), "workers/"), worker.GetListenAddress(), worker.GetZone(), worker.GetVersion(),
			fmt.Sprint(worker.GetIncarnation()), fmt.Sprint(worker.GetAppliedRevision()),
		}
	},
}
