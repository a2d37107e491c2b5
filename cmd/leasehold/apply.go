package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/leasehold/leasehold/cmd/internal/operator"
	"github.com/leasehold/leasehold/cmd/internal/usage"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// applyTimeout is how long a write, and what waits for the workers to apply it, may take.
const applyTimeout = 30 * time.Second

func newApply() *cobra.Command {
	a := &application{to: client{timeout: applyTimeout}}
	cmd := &cobra.Command{
		Use:   "apply -f FILE",
		Short: "Create or update gateways from files",
		Long: "Creates the gateways of the files, or updates them. A file is YAML, also of\n" +
			"several documents, or JSON: a gateway, a list of gateways, or an object that has\n" +
			"them as gateways. What `leasehold get gateways -o yaml` printed can be applied\n" +
			"again; an etag in it guards against overwriting what others changed meanwhile. No\n" +
			"gateway may be there twice.\n\n" +
			"All gateways are written first, in their order, and each that can be is. Then\n" +
			"apply waits for all of them together, until every living worker has applied them,\n" +
			"and prints a line for each worker that has. What was written stays when a worker\n" +
			"rejects it or does not answer in time (--timeout): the same command waits again.\n\n" +
			"With --prune, gateways that match --selector and are in no file are deleted at the\n" +
			"end, if nothing failed before. Every gateway of the files must match too. It asks\n" +
			"on a terminal, before anything is written; anywhere else it needs --yes.\n\n" +
			"The exit code is 1 when a gateway could not be written, or is not applied by every\n" +
			"worker.",
		Example: "  leasehold apply -f gateways.yaml\n  leasehold apply -f gateways.yaml --dry-run\n" +
			"  leasehold apply -f team.yaml --prune --selector 'labels.team = search'\n" +
			"  leasehold get gateways -o yaml | leasehold apply -f -",
		Args: usage.Args(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			a.stdin, a.stdout, a.stderr = cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()
			if err := a.check(); err != nil {
				return err
			}
			return a.run(cmd.Context())
		},
	}
	a.to.flags(cmd)
	fileFlag(cmd, &a.files)
	cmd.Flags().BoolVar(&a.wait, "wait", true, "wait until every living worker has applied them; without, only have them stored")
	cmd.Flags().BoolVar(&a.dryRun, "dry-run", false, "say what would be done, as the control plane checks it, and write nothing")
	cmd.Flags().BoolVar(&a.prune, "prune", false, "delete gateways that match --selector and are in no file")
	cmd.Flags().StringVar(&a.selector.text, "selector", "", "what --prune deletes among: `labels.KEY = VALUE` or `labels.KEY:*`, several joined with AND")
	_ = cmd.RegisterFlagCompletionFunc("selector", cobra.NoFileCompletions)
	cmd.Flags().BoolVar(&a.yes, "yes", false, "do not ask before --prune deletes")
	return cmd
}

// application is one run of apply.
type application struct {
	to       client
	files    []string
	wait     bool
	dryRun   bool
	prune    bool
	selector selector
	yes      bool

	stdin          io.Reader
	stdout, stderr io.Writer
	report         report
}

func (a *application) check() error {
	if len(a.files) == 0 {
		return errNoFile
	}
	if err := a.to.check(); err != nil {
		return err
	}
	if !a.prune {
		if a.selector.text != "" {
			return usage.Errorf("--selector is for --prune: it says what may be deleted")
		}
		return nil
	}
	if err := a.selector.parse(); err != nil {
		return err
	}
	if !a.yes && !a.dryRun && !terminal(a.stdin) {
		return usage.Errorf("standard input is not a terminal to ask at: add --yes to delete what --prune finds, or --dry-run to see it")
	}
	return nil
}

func (a *application) run(ctx context.Context) error {
	documents, unread := readFiles(a.stdin, a.stderr, a.files)
	a.report.failed += unread
	if err := distinct(documents); err != nil {
		return err
	}
	var extra []*leaseholdv1.Gateway
	if a.prune {
		var err error
		if extra, err = a.toPrune(ctx, documents); err != nil {
			return err
		}
	}
	if len(documents) > 0 {
		if err := a.apply(ctx, documents, extra); err != nil {
			return err
		}
	}
	a.report.print(a.stderr, a.dryRun)
	if a.report.failed > 0 || a.report.unapplied > 0 {
		return errReported
	}
	return nil
}

// apply writes all gateways, waits for the workers, and deletes those that are extra.
func (a *application) apply(ctx context.Context, documents []document, extra []*leaseholdv1.Gateway) error {
	ctx, cancel := context.WithTimeoutCause(ctx, a.to.timeout, errSlow)
	defer cancel()
	calls, conn, closeAll, err := a.to.connect(ctx)
	if err != nil {
		return err
	}
	defer closeAll()
	w, err := a.writer(calls, conn)
	if err != nil {
		return err
	}
	written, err := a.writeAll(calls, w, documents)
	if err != nil {
		return err
	}
	if a.wait && !a.dryRun {
		a.await(ctx, written)
	}
	return a.pruneAll(calls, w, extra)
}

func (a *application) writer(ctx context.Context, conn *grpc.ClientConn) (writer, error) {
	if a.dryRun {
		return newValidator(ctx, conn)
	}
	return writer{api: leaseholdv1.NewGatewayServiceClient(conn)}, nil
}

// writeAll tries to write all gateways, and returns those that it could.
func (a *application) writeAll(ctx context.Context, w writer, documents []document) ([]*rollout, error) {
	var written []*rollout
	for _, d := range documents {
		done, err := w.write(ctx, d.gateway)
		if err != nil {
			a.report.failed++
			a.failed(d.gateway.GetName(), operator.Explain(err))
			continue
		}
		a.report.count(done.verb)
		if err := a.say(d.gateway.GetName(), done.verb); err != nil {
			return nil, err
		}
		written = append(written, newRollout(done))
	}
	return written, nil
}

// await waits until every worker has applied what was written.
func (a *application) await(ctx context.Context, written []*rollout) {
	follow := newFollower(&a.to, a.stderr)
	defer follow.caller.Close()
	follow.wait(ctx, written)
	for _, r := range written {
		if r.err != nil {
			a.report.unapplied++
			a.failed(r.gateway.GetName(), r.err)
		}
	}
	if a.report.unapplied > 0 {
		fmt.Fprintln(a.stderr, "note: what was written stays; the same command waits again, and `leasehold describe gateway NAME` shows how far it is")
	}
}

func (a *application) say(name, verb string) error {
	if a.dryRun {
		verb += " (dry run)"
	}
	_, err := fmt.Fprintf(a.stdout, "%s %s\n", name, verb)
	return err
}

func (a *application) failed(name string, err error) {
	fmt.Fprintf(a.stderr, "error: %s: %s\n", name, indent(err.Error()))
}

// report counts what became of the gateways of one run.
type report struct {
	created, updated, unchanged, pruned, failed int
	unapplied                                   int // of those that were written
}

func (r *report) count(verb string) {
	switch verb {
	case created:
		r.created++
	case updated:
		r.updated++
	case unchanged:
		r.unchanged++
	case pruned:
		r.pruned++
	}
}

// print prints the report, unless there was one gateway, of which all is said.
func (r *report) print(stderr io.Writer, dryRun bool) {
	if r.created+r.updated+r.unchanged+r.pruned+r.failed < 2 {
		return
	}
	text := fmt.Sprintf("%d created, %d updated, %d unchanged, %d pruned, %d failed", r.created, r.updated, r.unchanged, r.pruned, r.failed)
	if r.unapplied > 0 {
		text += fmt.Sprintf("; %d not applied by every worker", r.unapplied)
	}
	if dryRun {
		text += " (dry run)"
	}
	fmt.Fprintln(stderr, text)
}
