package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/leasehold/leasehold/cmd/internal/operator"
	"github.com/leasehold/leasehold/cmd/internal/table"
	"github.com/leasehold/leasehold/cmd/internal/usage"
)

func newDescribe() *cobra.Command {
	var to client
	cmd := &cobra.Command{
		Use:     "describe",
		Short:   "Show all about one gateway, session or worker",
		Example: "  leasehold describe gateway counter\n  leasehold describe session 4f1c2d3e",
		Args:    cobra.ArbitraryArgs,
		RunE:    usage.Group,
	}
	to.flags(cmd)
	cmd.AddCommand(newDescribeGateway(&to), newDescribeSession(&to), newDescribeWorker(&to))
	return cmd
}

// describe fetches one resource and prints it.
func describe[M operator.Resource](cmd *cobra.Command, to *client, name string, fetch func(context.Context, *grpc.ClientConn, string) (M, error), print func(*page, M)) error {
	ctx, conn, closeAll, err := to.connect(cmd.Context())
	if err != nil {
		return err
	}
	defer closeAll()
	found, err := fetch(ctx, conn, name)
	if err != nil {
		return fmt.Errorf("%s: %w", name, operator.Explain(err))
	}
	p := &page{now: time.Now()}
	print(p, found)
	_, err = io.WriteString(cmd.OutOrStdout(), p.text.String())
	return err
}

// labelWidth is where values begin.
const labelWidth = 20

// page is a description of one resource.
type page struct {
	text strings.Builder
	now  time.Time
}

// section begins a part of its own.
func (p *page) section(title string) { fmt.Fprintf(&p.text, "\n%s\n", title) }

// sentence says something in words.
func (p *page) sentence(text string) { p.text.WriteString(table.Wrap("  ", table.Printable(text))) }

// line says one thing. A value that is empty is shown as none.
func (p *page) line(label, format string, args ...any) {
	value := table.Printable(fmt.Sprintf(format, args...))
	if value == "" {
		value = "-"
	}
	fmt.Fprintf(&p.text, "%-*s%s\n", labelWidth, label, value)
}

// time says when something was.
func (p *page) time(label string, then *timestamppb.Timestamp) {
	if then == nil {
		p.line(label, "-")
		return
	}
	p.line(label, "%s (%s)", stamp(then), p.distance(then))
}

// distance says how far from now a time is.
func (p *page) distance(then *timestamppb.Timestamp) string {
	if d := then.AsTime().Sub(p.now); d > 0 {
		return "in " + brief(d)
	}
	return since(then, p.now) + " ago"
}

// table prints rows below a section's title.
func (p *page) table(columns []table.Column, rows [][]string) {
	// It cannot fail: a builder takes everything.
	_ = table.New(&p.text, "  ", columns).Append(rows)
}

func stamp(then *timestamppb.Timestamp) string {
	return then.AsTime().UTC().Format("2006-01-02 15:04:05Z")
}
