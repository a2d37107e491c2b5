package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/leasehold/leasehold/cmd/internal/operator"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// rolloutPause is how long it takes until a gateway is looked at again.
const rolloutPause = 200 * time.Millisecond

// rollout is a definition on its way to the workers.
type rollout struct {
	gateway *leaseholdv1.Gateway // as it was stored
	said    map[string]string    // what was said last of each worker
	// settled is what is taken for said of a worker of which nothing was: that one has
	// applied what was there before is no news.
	settled string
	status  *leaseholdv1.GatewayStatus // as it was seen last; nil before
	err     error                      // why not every worker will have applied it
}

func newRollout(done change) *rollout {
	r := &rollout{gateway: done.after, said: map[string]string{}, settled: applyWord(leaseholdv1.ApplyState_APPLY_STATE_PENDING)}
	if done.verb == unchanged {
		r.settled = applyWord(leaseholdv1.ApplyState_APPLY_STATE_APPLIED)
	}
	return r
}

// follower follows rollouts, whatever becomes of the replica of the control plane
// that it asks.
type follower struct {
	to     *client
	caller *operator.Caller
	stderr io.Writer
	alone  bool // it was said that no worker is alive
}

func newFollower(to *client, stderr io.Writer) *follower {
	note := func(text string) { fmt.Fprintln(stderr, "note:", text) }
	return &follower{to: to, caller: operator.NewCaller(to.control, to.credentials, note), stderr: stderr}
}

// wait returns when every living worker has applied every rollout that has no error
// then. Those that a worker rejects are not waited for any longer, and none when ctx
// ends.
func (f *follower) wait(ctx context.Context, all []*rollout) {
	open := slices.Clone(all)
	for {
		open = slices.DeleteFunc(open, func(r *rollout) bool { return f.look(ctx, r) })
		if len(open) == 0 {
			return
		}
		select {
		case <-ctx.Done():
			for _, r := range open {
				r.err = r.unfinished(context.Cause(ctx), f.to.timeout)
			}
			return
		case <-time.After(rolloutPause):
		}
	}
}

// look asks how far a rollout is, says what has changed, and reports whether there is
// nothing more to wait for.
func (f *follower) look(ctx context.Context, r *rollout) (over bool) {
	var now *leaseholdv1.Gateway
	err := f.caller.Call(ctx, func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		now, err = gateways("").one(ctx, conn, r.gateway.GetName())
		return err
	})
	switch {
	case err != nil && ctx.Err() != nil:
		return false // which is what is told then
	case operator.Code(err) == codes.NotFound:
		r.err = errors.New("somebody deleted it before every worker had applied it")
		return true
	case err != nil:
		r.err = err
		return true
	case !sameDefinition(now, r.gateway):
		r.err = errors.New("somebody changed it before every worker had applied it")
		return true
	}
	r.status = now.GetStatus()
	f.say(r)
	r.err = rejected(r.status)
	return r.err != nil || applied(r.status)
}

// say prints a line for each worker that is at another point than what was said last.
func (f *follower) say(r *rollout) {
	if r.status.GetWorkersTotal() == 0 && !f.alone {
		f.alone = true
		fmt.Fprintln(f.stderr, "note: no worker is alive to apply it")
	}
	for _, worker := range r.status.GetWorkers() {
		text := progress(worker)
		last, ok := r.said[worker.GetWorker()]
		if !ok {
			last = r.settled
		}
		if text != last {
			fmt.Fprintf(f.stderr, "%s: %s %s\n", r.gateway.GetName(), worker.GetWorker(), text)
		}
		r.said[worker.GetWorker()] = text
	}
}

// unfinished is the error of a wait that ended too early.
func (r *rollout) unfinished(cause error, timeout time.Duration) error {
	if errors.Is(cause, errSlow) {
		cause = fmt.Errorf("not applied by every worker after %s (--timeout)", timeout)
	}
	return fmt.Errorf("%w: %s", cause, missing(r.status))
}
