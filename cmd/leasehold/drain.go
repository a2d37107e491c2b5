package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/leasehold/leasehold/cmd/internal/operator"
	"github.com/leasehold/leasehold/cmd/internal/usage"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

const (
	drainTimeout = 2 * time.Minute
	// drainPause is how long it takes until a worker is looked at again.
	drainPause = 500 * time.Millisecond
)

func newDrain() *cobra.Command {
	to := client{timeout: drainTimeout}
	cmd := &cobra.Command{
		Use:     "drain",
		Short:   "Make a worker hand its sessions over",
		Example: "  leasehold drain worker 4f1c2d3e",
		Args:    cobra.ArbitraryArgs,
		RunE:    usage.Group,
	}
	to.flags(cmd)
	var wait bool
	worker := &cobra.Command{
		Use:     "worker NAME",
		Aliases: []string{"workers", "wk"},
		Short:   "Make a worker hand its sessions over and take no more",
		Long: "Makes a worker hand its sessions over to the others and take no more; clients\n" +
			"notice nothing. Then waits until it owns none, and prints a line whenever that\n" +
			"changes. Sessions that are pinned to it end when its drain timeout has passed.\n\n" +
			"The worker goes on draining when this command ends, also after --timeout, which\n" +
			"is a failure; `leasehold undrain worker` makes it take sessions again. The wait\n" +
			"goes on when a replica of the control plane dies: name several in --control.",
		Example:           "  leasehold drain worker 4f1c2d3e\n  leasehold drain worker 4f1c2d3e --timeout 10m\n  leasehold drain worker 4f1c2d3e --wait=false",
		Args:              usage.Args(1, 1, "the name of a worker"),
		ValidArgsFunction: completeWorkers(&to, leaseholdv1.WorkerState_WORKER_STATE_SERVING).only(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := to.check(); err != nil {
				return err
			}
			ctx, cancel := context.WithTimeoutCause(cmd.Context(), to.timeout, errSlow)
			defer cancel()
			name, err := to.findWorker(ctx, args[0])
			if err != nil {
				return err
			}
			d := newDraining(name, &to, cmd.ErrOrStderr())
			defer d.caller.Close()
			if err := d.begin(ctx); err != nil {
				return err
			}
			if !wait {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s drains\n", name)
				return err
			}
			if err := d.wait(ctx); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s drained\n", name)
			return err
		},
	}
	worker.Flags().BoolVar(&wait, "wait", true, "wait until it owns no session; without, only have it begin")
	cmd.AddCommand(worker)
	return cmd
}

// draining is a worker's draining as it is followed.
type draining struct {
	name   string
	to     *client
	caller *operator.Caller
	stderr io.Writer
	left   string // what was said last of what is left
	dead   bool   // the worker's lease was gone then
}

func newDraining(name string, to *client, stderr io.Writer) *draining {
	note := func(text string) { fmt.Fprintln(stderr, "note:", text) }
	return &draining{name: name, to: to, caller: operator.NewCaller(to.control, note), stderr: stderr}
}

// begin has the worker drain.
func (d *draining) begin(ctx context.Context) error {
	err := d.caller.Call(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := leaseholdv1.NewWorkerServiceClient(conn).DrainWorker(ctx, &leaseholdv1.DrainWorkerRequest{Name: d.name})
		return err
	})
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("%s: whether it drains is not known: %w", d.name, err)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", d.name, err)
	}
	return nil
}

// wait returns when the worker owns no session any more.
func (d *draining) wait(ctx context.Context) error {
	for {
		drained, err := d.look(ctx)
		if err != nil && ctx.Err() != nil {
			return d.unfinished(context.Cause(ctx))
		}
		if err != nil || drained {
			return err
		}
		select {
		case <-ctx.Done():
			return d.unfinished(context.Cause(ctx))
		case <-time.After(drainPause):
		}
	}
}

// look asks how far the worker is, says what has changed, and reports whether it has
// drained. One that has left has. One that is dead has not while sessions are
// recorded as its: it may come back with them.
func (d *draining) look(ctx context.Context) (drained bool, err error) {
	var worker *leaseholdv1.Worker
	err = d.caller.Call(ctx, func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		worker, err = (&workerList{}).resource().one(ctx, conn, d.name)
		return err
	})
	if operator.Code(err) == codes.NotFound {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("%s: %w", d.name, err)
	}
	left := remaining(worker)
	switch worker.GetState() {
	case leaseholdv1.WorkerState_WORKER_STATE_LEFT:
		return true, nil
	case leaseholdv1.WorkerState_WORKER_STATE_SERVING:
		return false, fmt.Errorf("%s does not drain any more: somebody made it take sessions again; %s", d.name, left)
	}
	if owned(worker) == 0 {
		held, err := d.recorded(ctx, worker)
		if err != nil || !held {
			return err == nil, err
		}
		left = "sessions left; it does not say how many"
	}
	if left != d.left {
		fmt.Fprintln(d.stderr, d.name, left)
	}
	d.left, d.dead = left, !alive(worker)
	return false, nil
}

// owned is how many sessions a worker owns, recorded or not.
func owned(worker *leaseholdv1.Worker) int32 {
	return worker.GetSessions() + worker.GetUndurableSessions()
}

// recorded reports whether a session is recorded as this worker's, under its present
// incarnation. A worker that does not answer in time has no count, which looks as if
// it owned none.
func (d *draining) recorded(ctx context.Context, worker *leaseholdv1.Worker) (bool, error) {
	list := (&sessionList{filter: "owner = " + worker.GetName()}).resource()
	for token, more := "", true; more; more = token != "" {
		var found []*leaseholdv1.Session
		err := d.caller.Call(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
			page, next, err := list.page(ctx, conn, token)
			if err == nil {
				found, token = page, next
			}
			return err
		})
		if err != nil {
			return false, fmt.Errorf("look for sessions of %s: %w", d.name, err)
		}
		for _, session := range found {
			if session.GetIncarnation() == worker.GetIncarnation() {
				return true, nil
			}
		}
	}
	return false, nil
}

// remaining says how many sessions a worker has left, and what becomes of them.
func remaining(worker *leaseholdv1.Worker) string {
	all, pinned, unrecorded := owned(worker), worker.GetPinnedSessions(), worker.GetUndurableSessions()
	text := fmt.Sprintf("%d sessions left", all)
	if all == 1 {
		text = "1 session left"
	}
	switch {
	case !alive(worker):
		return text + " (it is dead)"
	case pinned > 0 && pinned == all:
		return text + " (pinned: they end when its drain timeout has passed)"
	case pinned > 0 && unrecorded > 0:
		return fmt.Sprintf("%s (%d pinned, %d not recorded yet)", text, pinned, unrecorded)
	case pinned > 0:
		return fmt.Sprintf("%s (%d pinned)", text, pinned)
	case unrecorded > 0:
		return fmt.Sprintf("%s (%d not recorded yet)", text, unrecorded)
	}
	return text
}

// unfinished is the error of a wait that ended before the worker had drained.
func (d *draining) unfinished(cause error) error {
	left, id := d.left, strings.TrimPrefix(d.name, "workers/")
	if left == "" {
		left = "how many sessions are left is not known"
	}
	if errors.Is(cause, errSlow) {
		cause = fmt.Errorf("not drained after %s (--timeout)", d.to.timeout)
	}
	if d.dead {
		return fmt.Errorf("%s: %w: %s\n`leasehold describe worker %s` says what they wait for", d.name, cause, left, id)
	}
	return fmt.Errorf("%s: %w: %s\n"+
		"it goes on draining: the same command waits again, `leasehold describe worker %s` shows\n"+
		"how far it is, and `leasehold undrain worker %s` makes it take sessions again", d.name, cause, left, id, id)
}
