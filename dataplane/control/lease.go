package control

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// firstAttempt bounds an attempt before the worker knows its lease's TTL.
const firstAttempt = 2 * time.Second

// recallAfter is how long a worker waits for the control plane before it serves what
// it can without.
const recallAfter = 3 * time.Second

// Run registers the worker, keeps its lease and follows the world until ctx
// ends. First it leaves on behalf of the worker that used the data directory
// before, if that one has died. It does not give the lease back: call Leave once
// nothing dispatches.
func (c *Client) Run(ctx context.Context) error {
	var group sync.WaitGroup
	defer group.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	registered, recalled := make(chan struct{}), make(chan struct{})
	group.Go(func() {
		defer close(recalled)
		c.recall(ctx, registered)
	})
	group.Go(func() { c.serveOn(ctx) })
	succeeded := c.succeed(ctx)
	defer func() { <-succeeded }()
	await(ctx, succeeded, headStart)
	for first := true; ctx.Err() == nil; first = false {
		c.peers.begin()
		held, err := c.register(ctx)
		if err != nil {
			return nil // ctx ended
		}
		if first {
			close(registered)
			<-recalled
		}
		c.follows(ctx, held)
	}
	return nil
}

// follows keeps a lease and does what a registered worker does, until the incarnation
// is over.
func (c *Client) follows(ctx context.Context, held lease) {
	var group sync.WaitGroup
	defer group.Wait()
	registered, stop := context.WithCancel(ctx)
	defer stop()
	if applied := c.applied.Load(); held.incarnation < applied {
		// A registration is newer than everything that there was in its store.
		c.cfg.Logger.Warn("the control plane has another store than the one that the configuration here is from", "revision", applied, "incarnation", held.incarnation)
		c.applied.Store(0)
	}
	c.cfg.Registered(held.incarnation, held.ttl)
	group.Go(func() { c.watch(registered, held.incarnation) })
	group.Go(func() { c.keepPeers(registered, held.incarnation) })
	c.keep(ctx, held)
}

// recall lets a state from elsewhere be taken if the worker is not registered in time.
func (c *Client) recall(ctx context.Context, registered <-chan struct{}) {
	if c.cfg.Recall == nil || !await(ctx, registered, recallAfter) {
		return
	}
	c.cfg.Logger.Warn("the control plane is not reached", "for", recallAfter)
	c.applied.Store(c.cfg.Recall())
}

// await returns when done is closed, most has passed or ctx has ended, and reports
// whether it was in vain.
func await(ctx context.Context, done <-chan struct{}, most time.Duration) (vain bool) {
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		return true
	case <-ctx.Done():
	}
	return false
}

// lease is what the worker holds of its registration.
type lease struct {
	incarnation int64
	id          int64
	terms
}

// granter is a reply that grants or extends a lease.
type granter interface {
	GetTtl() *durationpb.Duration
	GetMaxOutage() *durationpb.Duration
}

func termsOf(g granter) terms {
	return terms{g.GetTtl().AsDuration(), max(0, g.GetMaxOutage().AsDuration())}
}

// register repeats until the worker is a member or ctx ends. The attempt keeps a request
// that comes late from ending an incarnation that this worker got by another one.
func (c *Client) register(ctx context.Context) (lease, error) {
	var resp *leaseholdv1.RegisterResponse
	attempt, previous := 1+rand.Int64N(math.MaxInt64), c.previous
	sent, err := c.insist(ctx, firstAttempt, func(ctx context.Context, api leaseholdv1.ControlServiceClient) (err error) {
		c.calls.WithLabelValues("Register").Inc()
		resp, err = api.Register(ctx, &leaseholdv1.RegisterRequest{Worker: c.cfg.Worker, Info: c.info(), Attempt: attempt, Previous: previous})
		return err
	})
	if err != nil {
		return lease{}, err
	}
	held := lease{resp.GetIncarnation(), resp.GetLease(), termsOf(resp)}
	c.previous = held.incarnation
	c.record(held) // before it can own a session
	c.hold(held, sent)
	c.cfg.Logger.Info("registered", "incarnation", held.incarnation, "ttl", held.ttl)
	return held, nil
}

func (c *Client) hold(held lease, sent time.Duration) {
	c.lease.Store(held.id)
	c.authority.extend(held.incarnation, sent, held.terms)
}

// info is what the worker says of itself now.
func (c *Client) info() *leaseholdv1.WorkerInfo {
	info := proto.CloneOf(c.cfg.Info)
	info.Draining, info.Protocol = c.draining.Load(), Protocol
	return info
}

// keep renews until the incarnation is over, which it reports to Lost, or ctx
// ends. A worker never gives up renewing, as long as it serves: until somebody
// took its sessions it is still their owner.
func (c *Client) keep(ctx context.Context, held lease) {
	ticker := time.NewTicker(held.ttl / 6)
	defer ticker.Stop()
	serving := true
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-c.doubts:
		}
		err := c.renew(ctx, &held)
		if errors.Is(err, errLeaseLost) {
			c.cfg.Logger.Warn("lease lost, re-adopting", "incarnation", held.incarnation)
			c.authority.suspend()
			err = c.readopt(ctx, &held)
		}
		if now := !errors.Is(err, errNotServing); now != serving {
			serving = now
			c.tellServing(held, err)
		}
		if errors.Is(err, errCondemned) {
			c.cfg.Logger.Warn("incarnation is over, dropping its sessions", "incarnation", held.incarnation)
			c.authority.revoke()
			c.cfg.Lost()
			return
		}
	}
}

// Doubt makes the worker ask at once whether it still has its lease. A lease can be
// gone before its time: a member of etcd that stood still for longer than the
// lease's time and believes for a moment that it still leads revokes every lease.
func (c *Client) Doubt() {
	select {
	case c.doubts <- struct{}{}:
	default: // it is about to ask
	}
}

// tellServing logs that the lease is not kept any more, and why, or is again.
func (c *Client) tellServing(held lease, err error) {
	if errors.Is(err, errNotServing) {
		c.cfg.Logger.Error("the lease is left to run out", "incarnation", held.incarnation, "error", err)
		return
	}
	c.cfg.Logger.Warn("serving again, the lease is kept", "incarnation", held.incarnation)
}

func (c *Client) renew(ctx context.Context, held *lease) error {
	request := &leaseholdv1.RenewRequest{Worker: c.cfg.Worker, Incarnation: held.incarnation, Lease: held.id}
	var resp *leaseholdv1.RenewResponse
	sent, err := c.insist(ctx, held.ttl*12/100, func(ctx context.Context, api leaseholdv1.ControlServiceClient) (err error) {
		if err := c.serving(); err != nil {
			return err
		}
		c.calls.WithLabelValues("Renew").Inc()
		resp, err = api.Renew(ctx, request)
		return err
	})
	if err != nil {
		return err
	}
	held.terms = termsOf(resp)
	c.hold(*held, sent)
	return nil
}

func (c *Client) readopt(ctx context.Context, held *lease) error {
	var resp *leaseholdv1.ReadoptResponse
	sent, err := c.insist(ctx, firstAttempt, func(ctx context.Context, api leaseholdv1.ControlServiceClient) (err error) {
		if err := c.serving(); err != nil {
			return err
		}
		c.calls.WithLabelValues("Readopt").Inc()
		resp, err = api.Readopt(ctx, &leaseholdv1.ReadoptRequest{Worker: c.cfg.Worker, Incarnation: held.incarnation, Info: c.info()})
		return err
	})
	if err != nil {
		return err
	}
	held.id, held.terms = resp.GetLease(), termsOf(resp)
	c.hold(*held, sent)
	c.cfg.Logger.Info("re-adopted", "incarnation", held.incarnation)
	return nil
}

// serving returns errNotServing if the lease is not to be kept now.
func (c *Client) serving() error {
	if c.cfg.Serving == nil {
		return nil
	}
	if err := c.cfg.Serving(); err != nil {
		return fmt.Errorf("%w: %w", errNotServing, err)
	}
	return nil
}

// insist repeats an attempt, each with its own timeout and at the next replica,
// until there is a verdict, the worker does not serve or ctx ends. It returns
// when the attempt that succeeded was sent.
func (c *Client) insist(ctx context.Context, timeout time.Duration,
	do func(context.Context, leaseholdv1.ControlServiceClient) error) (time.Duration, error) {
	for attempt := 0; ; attempt++ {
		r := c.pick()
		sent := c.cfg.now()
		attemptCtx, cancel := context.WithTimeout(ctx, timeout)
		err := do(attemptCtx, r.api)
		cancel()
		if err == nil {
			c.hear()
			return sent, nil
		}
		if verdict := verdictOf(err); errors.Is(verdict, errLeaseLost) || errors.Is(verdict, errCondemned) {
			c.hear()
			return sent, verdict
		}
		if errors.Is(err, errNotServing) {
			return sent, err
		}
		c.next(r)
		if attempt == 0 || attempt%20 == 0 {
			c.cfg.Logger.Warn(unanswered(err), "endpoint", r.address, "error", err)
		}
		if err := pause(ctx, attempt); err != nil {
			return sent, err
		}
	}
}

// Leave gives the lease back, so that other workers take the sessions at once.
// The caller has stopped dispatching: Leave revokes the authority first.
func (c *Client) Leave(ctx context.Context) error {
	incarnation := c.authority.Incarnation()
	c.authority.revoke()
	if incarnation == 0 {
		return nil
	}
	_, err := call(ctx, c, "Leave", &leaseholdv1.LeaveRequest{
		Worker: c.cfg.Worker, Incarnation: incarnation, Lease: c.lease.Load(),
	}, leaseholdv1.ControlServiceClient.Leave)
	if err != nil {
		return err
	}
	if err := c.succession.forget(); err != nil {
		c.cfg.Logger.Warn("registration not removed; the next worker on the data directory will leave once more", "error", err)
	}
	return nil
}
