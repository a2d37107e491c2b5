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
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// pageSize is how many resources are asked for at a time.
const pageSize = 1000

// get is the flags of all kinds of resources.
type get struct {
	client
	output *usage.Choice
	watch  bool
}

func newGet() *cobra.Command {
	g := &get{output: usage.NewChoice("table", "table", "yaml", "json", "name")}
	cmd := &cobra.Command{
		Use:   "get",
		Short: "Show gateways, sessions or workers",
		Long: "Shows gateways, sessions or workers, and with --watch also each change from then\n" +
			"on, until it is stopped. A watch goes on when the replica of the control plane\n" +
			"that it follows dies: name several in --control.",
		Example: "  leasehold get gateways --filter 'labels.team = search'\n  leasehold get sessions --gateway counter -o json\n  leasehold get workers --watch",
		Args:    cobra.ArbitraryArgs,
		RunE:    usage.Group,
	}
	g.client.flags(cmd)
	cmd.PersistentFlags().VarP(g.output, "output", "o", "how to print them; name prints names only")
	cmd.PersistentFlags().BoolVarP(&g.watch, "watch", "w", false, "then print a line for each change; --timeout bounds what comes before")
	// It cannot fail: the flag was just made.
	_ = cmd.RegisterFlagCompletionFunc("output", g.output.Complete)
	cmd.AddCommand(newGetGateways(g), newGetSessions(g), newGetWorkers(g))
	return cmd
}

// resource is how one kind of resource is fetched and printed. M is the
// resource, L the message that holds several of them.
type resource[M operator.Resource, L proto.Message] struct {
	// one fetches the resource of that name, page a page and the next one's token.
	one  func(ctx context.Context, conn *grpc.ClientConn, name string) (M, error)
	page func(ctx context.Context, conn *grpc.ClientConn, token string) ([]M, string, error)
	// list makes one message of all of them, in which JSON is printed.
	list func([]M) L
	// open opens a watch, event makes the message of a change that it tells.
	open  func(ctx context.Context, conn *grpc.ClientConn, revision int64) (func() (operator.Change[M], error), error)
	event func(operator.Change[M]) proto.Message
	// columns are those of a table, rows its rows.
	columns []table.Column
	rows    func([]M) [][]string
	// notes are what a table says below its rows; nil for nothing.
	notes func([]M) []string
	// gone is the row of a resource that is gone.
	gone func(M) []string
}

// run fetches the resource of that name, or all when it is empty, and prints;
// with --watch it goes on.
func (r *resource[M, L]) run(ctx context.Context, g *get, name string, stdout, stderr io.Writer) error {
	if g.watch {
		return r.follow(ctx, g, name, stdout, stderr)
	}
	ctx, conn, closeAll, err := g.connect(ctx)
	if err != nil {
		return err
	}
	defer closeAll()
	return r.print(ctx, conn, name, g.output, stdout)
}

// print fetches and prints once.
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
	all, err := r.all(ctx, conn)
	if err != nil {
		return operator.Explain(err)
	}
	return r.write(stdout, output, all)
}

// all fetches all pages.
func (r *resource[M, L]) all(ctx context.Context, conn *grpc.ClientConn) ([]M, error) {
	var all []M
	for token, more := "", true; more; more = token != "" {
		found, next, err := r.page(ctx, conn, token)
		if err != nil {
			return nil, err
		}
		all, token = append(all, found...), next
	}
	return all, nil
}

func (r *resource[M, L]) write(stdout io.Writer, output *usage.Choice, all []M) error {
	switch output.String() {
	case "json":
		return manifest.WriteJSON(stdout, r.list(all))
	case "yaml":
		return manifest.WriteYAML(stdout, all...)
	case "name":
		return writeNames(stdout, all)
	}
	return r.append(stdout, table.New(stdout, "", r.columns), all)
}

// append prints rows, and below them what is to be noted.
func (r *resource[M, L]) append(stdout io.Writer, to *table.Table, all []M) error {
	if err := to.Append(r.rows(all)); err != nil || r.notes == nil {
		return err
	}
	for _, note := range r.notes(all) {
		if _, err := io.WriteString(stdout, table.Wrap("  ", note)); err != nil {
			return err
		}
	}
	return nil
}

func writeNames[M operator.Resource](stdout io.Writer, all []M) error {
	for _, one := range all {
		if _, err := fmt.Fprintln(stdout, one.GetName()); err != nil {
			return err
		}
	}
	return nil
}

// received makes a Change of a stream's message.
func received[M operator.Resource, R interface {
	GetType() leaseholdv1.ChangeType
	GetRevision() int64
}](stream interface{ Recv() (R, error) }, resource func(R) M) func() (operator.Change[M], error) {
	return func() (operator.Change[M], error) {
		response, err := stream.Recv()
		if err != nil {
			return operator.Change[M]{}, err
		}
		return operator.Change[M]{Type: response.GetType(), Resource: resource(response), Revision: response.GetRevision()}, nil
	}
}
