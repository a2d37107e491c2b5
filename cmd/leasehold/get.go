package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/leasehold/leasehold/cmd/internal/manifest"
	"github.com/leasehold/leasehold/cmd/internal/operator"
	"github.com/leasehold/leasehold/cmd/internal/table"
	"github.com/leasehold/leasehold/cmd/internal/usage"
)

// pageSize is how many resources are asked for at a time.
const pageSize = 1000

func newGet() *cobra.Command {
	var to client
	output := usage.NewChoice("table", "table", "yaml", "json")
	cmd := &cobra.Command{
		Use:     "get",
		Short:   "Show gateways, sessions or workers",
		Example: "  leasehold get gateways\n  leasehold get sessions --gateway counter -o json",
		Args:    cobra.ArbitraryArgs,
		RunE:    usage.Group,
	}
	to.flags(cmd)
	cmd.PersistentFlags().VarP(output, "output", "o", "how to print them")
	// It cannot fail: the flag was just made.
	_ = cmd.RegisterFlagCompletionFunc("output", output.Complete)
	cmd.AddCommand(newGetGateways(&to, output), newGetSessions(&to, output), newGetWorkers(&to, output))
	return cmd
}

// resource is how one kind of resource is fetched and printed. M is the
// resource, L the message that holds several of them.
type resource[M, L proto.Message] struct {
	// one fetches the resource of that name, page a page and the next one's token.
	one  func(ctx context.Context, conn *grpc.ClientConn, name string) (M, error)
	page func(ctx context.Context, conn *grpc.ClientConn, token string) ([]M, string, error)
	// list makes one message of all of them, in which JSON is printed.
	list    func([]M) L
	columns []table.Column
	row     func(M) []string
}

// print fetches the resource of that name, or all when it is empty, and prints.
func (r *resource[M, L]) print(ctx context.Context, conn *grpc.ClientConn, name string, output *usage.Choice, stdout io.Writer) error {
	if name != "" {
		found, err := r.one(ctx, conn, name)
		if err != nil {
			return fmt.Errorf("%s: %w", name, operator.Explain(err))
		}
		if output.String() == "json" {
			return manifest.WriteJSON(stdout, found)
		}
		return r.write(stdout, output, []M{found})
	}
	var all []M
	for token, more := "", true; more; more = token != "" {
		found, next, err := r.page(ctx, conn, token)
		if err != nil {
			return operator.Explain(err)
		}
		all, token = append(all, found...), next
	}
	return r.write(stdout, output, all)
}

func (r *resource[M, L]) write(stdout io.Writer, output *usage.Choice, all []M) error {
	switch output.String() {
	case "json":
		return manifest.WriteJSON(stdout, r.list(all))
	case "yaml":
		return manifest.WriteYAML(stdout, all...)
	}
	rows := make([][]string, len(all))
	for i, one := range all {
		rows[i] = r.row(one)
	}
	return table.Write(stdout, r.columns, rows)
}
