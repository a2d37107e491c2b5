package pairs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/leasehold/leasehold/test/internal/poll"
)

// How long one step may take, and how long one that is known to fail, which many
// do by waiting.
const (
	stepLimit   = 20 * time.Second
	failureTime = 4 * time.Second
)

// run is one pair on its way through the steps.
type run struct {
	library
	counterpart
	directly bool
	to       target
	front    *front // nil if there is no connection that it could pass on
	session
	greeting greeting
}

// step is something that a client does with a server.
type step struct {
	name string
	do   func(r *run, ctx context.Context) error
}

// steps are all steps, in their order.
var steps = []step{
	{"initialize", (*run).initialize},
	{"tools", func(r *run, ctx context.Context) error { return r.lists(ctx, "tools", r.tool) }},
	{"prompts", func(r *run, ctx context.Context) error { return r.lists(ctx, "prompts", r.prompt) }},
	{"resources", func(r *run, ctx context.Context) error { return r.lists(ctx, "resources", r.resource) }},
	{"call", func(r *run, ctx context.Context) error { return r.calls(ctx, r.plain, nil) }},
	{"several calls", (*run).callsOften},
	{"progress", (*run).reports},
	{"sampling", func(r *run, ctx context.Context) error { return r.calls(ctx, r.counterpart.sampling, nil) }},
	{"elicitation", func(r *run, ctx context.Context) error { return r.calls(ctx, r.elicitation, nil) }},
	{"subscribe", (*run).hearsOfUpdates},
	{"cancel", (*run).cancels},
	{"resume a broken stream", func(r *run, ctx context.Context) error { return r.resumes(ctx, broken) }},
	{"resume an ended stream", func(r *run, ctx context.Context) error { return r.resumes(ctx, ended) }},
}

// all takes all steps and returns how each went.
func (r *run) all(ctx context.Context) map[string]error {
	went := map[string]error{}
	for _, step := range steps {
		if r.session == nil && step.name != "initialize" {
			went[step.name] = errors.New("there is no session")
			continue
		}
		if slices.Contains(r.without, step.name) {
			went[step.name] = errLacking
			continue
		}
		limited, cancel := context.WithTimeout(ctx, r.limit(step.name))
		went[step.name] = step.do(r, limited)
		cancel()
	}
	return went
}

// limit is how long a step may take.
func (r *run) limit(step string) time.Duration {
	fails, _ := expected(r.library.name, r.counterpart.name, step)
	if r.directly && fails.directly || !r.directly && fails.through {
		return failureTime
	}
	return stepLimit
}

// initialize opens the session.
func (r *run) initialize(ctx context.Context) (err error) {
	if r.session, r.greeting, err = r.connect(ctx, r.to); err != nil {
		r.session = nil
		return err
	}
	if r.greeting.Server != r.title {
		return fmt.Errorf("the server is called %q, want %q", r.greeting.Server, r.title)
	}
	return nil
}

// lists lists things, of which one has to be there.
func (r *run) lists(ctx context.Context, kind, want string) error {
	names, err := r.List(ctx, kind)
	if err == nil && !slices.Contains(names, want) {
		err = fmt.Errorf("%s are %v, want %s among them", kind, names, want)
	}
	return err
}

// calls calls a tool.
func (r *run) calls(ctx context.Context, c call, progress func()) error {
	args := c.args
	if args == nil {
		args = map[string]any{}
	}
	text, err := r.Call(ctx, c.tool, args, progress)
	if err == nil && !strings.Contains(text, c.want) {
		err = fmt.Errorf("%s says %.300q, want %q in it", c.tool, text, c.want)
	}
	return err
}

// callsOften makes several calls in one session, one after the other.
func (r *run) callsOften(ctx context.Context) error {
	const times = 6
	if s, ok := r.session.(*inspectorSession); ok {
		done, err := s.Many(ctx, r.plain.tool, r.plain.args, times)
		if err == nil && done != times {
			err = fmt.Errorf("%d of %d calls succeeded", done, times)
		}
		return err
	}
	for range times {
		if err := r.calls(ctx, r.plain, nil); err != nil {
			return err
		}
	}
	return nil
}

// reports calls a tool that reports progress. All reports have to arrive. How many
// of them the client passes on is its own affair: some drop those that come at the
// same time as the result, others pass them on after it.
func (r *run) reports(ctx context.Context) error {
	var reports atomic.Int64
	before := r.front.passed()
	if err := r.calls(ctx, r.progress, func() { reports.Add(1) }); err != nil {
		return err
	}
	_, err := poll.Until(ctx, 2*time.Second, func(context.Context) error {
		if got := r.front.passed() - before; r.front != nil && got != r.steps {
			return fmt.Errorf("%d reports arrived, want %d", got, r.steps)
		}
		if got := int(reports.Load()); got < 1 || got > r.steps {
			return fmt.Errorf("the client passed on %d reports, want 1 to %d", got, r.steps)
		}
		return nil
	})
	return err
}

// hearsOfUpdates subscribes to a resource and waits for it to be updated.
func (r *run) hearsOfUpdates(ctx context.Context) error {
	if err := r.Subscribe(ctx, r.uri); err != nil {
		return err
	}
	if err := r.calls(ctx, r.touch, nil); err != nil {
		return err
	}
	return r.hears(ctx)
}

// hears waits for an update.
func (r *run) hears(ctx context.Context) error {
	timer := time.NewTimer(10 * time.Second)
	defer timer.Stop()
	select {
	case uri := <-r.Updated():
		if uri != r.uri {
			return fmt.Errorf("%q was updated, want %q", uri, r.uri)
		}
		return nil
	case <-timer.C:
		return errors.New("heard of no update within 10 s")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// cancels cancels a call after its first report. The call has to end at once, the
// server has to know if it can, and the session has to go on.
func (r *run) cancels(ctx context.Context) error {
	calling, cancel := context.WithCancel(ctx)
	defer cancel()
	reported := false
	watch := time.AfterFunc(10*time.Second, cancel)
	defer watch.Stop()
	err := r.calls(calling, r.long, func() {
		reported = true
		cancel()
	})
	if err == nil || !reported {
		return fmt.Errorf("the call was to be cancelled after its first report (there was one: %v), and ended with %v", reported, err)
	}
	if r.cancelled.tool == "" {
		return r.calls(ctx, r.plain, nil)
	}
	_, err = poll.Until(ctx, 2*time.Second, func(ctx context.Context) error { return r.calls(ctx, r.cancelled, nil) })
	return err
}

// resumes makes a call whose stream is cut after the server's first message. The
// client has to come back for the rest.
func (r *run) resumes(ctx context.Context, how cut) error {
	if r.front == nil {
		return errors.New("there is no connection that could break")
	}
	r.front.cutNext(how)
	err := r.calls(ctx, r.slow, func() {})
	cuts := r.front.disarm()
	if err == nil && cuts != 1 {
		err = fmt.Errorf("the stream was cut %d times, want once", cuts)
	}
	return err
}

// finish ends the session.
func (r *run) finish(t *testing.T) {
	if r.session == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), stepLimit)
	defer cancel()
	if err := r.Close(ctx); err != nil {
		t.Logf("%s with %s: close: %v", r.library.name, r.counterpart.name, err)
	}
}
