// Package route decides where a request of a session is served: here, at the
// worker that owns the session, or, when the owner is dead, at the worker that
// takes the session over.
//
//	owned here ─▶ serve
//	hint's worker alive ─▶ forward ─┬─▶ answered
//	                                └─ refused or not reached ─▶ resolve
//	resolve ─┬─ no record, or a tombstone ─▶ 404
//	         ├─ owner alive ─▶ forward; not reached: wait for the members to change
//	         └─ owner dead ─▶ the rendezvous winner reclaims: here, or forward to it
//
// A request is sent on again only if it certainly was not dispatched, or may be
// carried out twice.
package route

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/hashicorp/go-hclog"
	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sync/singleflight"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/session"
	"github.com/leasehold/leasehold/dataplane/sessionid"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

const (
	// remembered is how many resolved owners are kept. Forgetting one costs a
	// look-up.
	remembered = 65_536
	// patience is how long an owner that is believed alive may take to admit a
	// request. It has nothing to do for that but look into its table.
	patience = 800 * time.Millisecond
	// follows is to how many workers in turn a request is sent on that say who has the
	// session instead of them.
	follows = 4
	// askTogether bounds the questions to the control plane under way, and the
	// reclaims, so that thousands of orphans do not keep leases from being renewed.
	askTogether = 64
)

// Forwarder sends a request to another worker.
type Forwarder interface {
	// Forward returns ErrNotSent, ErrRefused or ErrOutcomeUnknown if nothing was
	// written, and ErrBrokeOff if part of a stream was. ErrRefused comes with the
	// Refusal.
	Forward(ctx context.Context, w http.ResponseWriter, target Target, r *session.Request) error
}

// Locator asks another worker whether it owns a session.
type Locator interface {
	// Locate returns who owns the session if that is the worker at address.
	Locate(ctx context.Context, address string, d sessionid.Digest) (*session.Moved, error)
}

// Records resolves and reclaims sessions.
type Records interface {
	// Resolve says who owns a session; with measure also for how long the owner
	// has not renewed its lease. openedBy is the worker that opened it, or nil if that
	// is not known.
	Resolve(ctx context.Context, gateway, session string, openedBy *leaseholdv1.Peer, measure bool) (*leaseholdv1.ResolveResponse, error)
	Reclaim(ctx context.Context, gateway, session string, incarnation int64, resolved *leaseholdv1.ResolveResponse) (*leaseholdv1.ReclaimResponse, error)
}

// Authority says what this worker may do. It is safe for concurrent use.
type Authority interface {
	session.Authority
	// Power reports whether incarnation may take sessions over from a worker that may
	// serve on without the control plane.
	Power(incarnation int64) bool
}

// Config is what a router needs; all fields are required.
type Config struct {
	Worker    string
	Table     *session.Table
	Forwarder Forwarder
	Records   Records
	Authority Authority
	World     *config.Holder
	TTL       func() time.Duration // the workers' lease
	// Away reports whether the control plane is known to be away.
	Away    func() bool
	Locator Locator
	// Draining reports whether this worker takes no sessions, since it hands over its
	// own.
	Draining func() bool
	Logger   hclog.Logger
}

// Router routes requests. Safe for concurrent use.
type Router struct {
	cfg     Config
	owners  *lru.Cache[sessionid.Digest, Target] // owners that differ from the id's hint
	taking  singleflight.Group
	waiting waiting
	missed  missed
	strays  strays
	astray  chan struct{} // capacity 1: there is a stray session more
	mourned mourned
	asking  *semaphore.Weighted
	// reclaiming is apart, so that a reclaim does not wait behind the questions for
	// sessions that come after it.
	reclaiming *semaphore.Weighted
}

// New returns a router.
func New(cfg Config) (*Router, error) {
	owners, err := lru.New[sessionid.Digest, Target](remembered)
	if err != nil {
		return nil, fmt.Errorf("owner cache: %w", err)
	}
	return &Router{cfg: cfg, owners: owners, waiting: waiting{of: make(map[sessionid.Digest]int)}, missed: missed{of: make(map[string]miss)},
		asking: semaphore.NewWeighted(askTogether), reclaiming: semaphore.NewWeighted(askTogether),
		strays: strays{of: make(map[sessionid.Digest]string)}, astray: make(chan struct{}, 1)}, nil
}

// Serve answers a request for a session whose id names hint as its first owner.
func (rt *Router) Serve(ctx context.Context, w http.ResponseWriter, r *session.Request, hint sessionid.Hint) {
	refused, missed := 0, Target{}
	target, ok := rt.believed(r.Digest, hint)
	if s, owned := rt.cfg.Table.Find(r.Digest); owned {
		err := s.Serve(ctx, w, r)
		switch {
		case err == nil:
			return
		case errors.Is(err, session.ErrFenced):
			mcp.WriteUnavailable(w, r.ID(), "this worker's lease is uncertain; the session goes on shortly")
			return
		}
		target, ok = rt.next(err)
	}
	switch {
	case ok && rt.missed.cutOff(target.Worker):
		writeCutOff(w, r)
		return
	case ok:
		done, err := rt.forward(ctx, w, r, target)
		if done {
			return
		}
		if mismatch(err) {
			refused++
		}
		if errors.Is(err, ErrNotSent) {
			missed = target
		}
		rt.owners.Remove(r.Digest)
	case target.Worker != rt.cfg.Worker:
		missed = target // dead, as far as this worker knows
	}
	rt.settle(ctx, w, r, hint, refused, missed)
}

// next returns the living worker that an error says has the session now, if it says
// so and that is another one.
func (rt *Router) next(err error) (Target, bool) {
	moved := (*session.Moved)(nil)
	if !errors.As(err, &moved) {
		return Target{}, false
	}
	return rt.reach(Target{Worker: moved.Worker, Incarnation: moved.Incarnation, Epoch: moved.Epoch})
}

// reach completes a target that another worker is believed to be, and reports whether
// it is alive, as far as this worker knows.
func (rt *Router) reach(target Target) (Target, bool) {
	member, alive := rt.cfg.World.Load().Members[target.Worker]
	target.Address, target.Patience = member.PeerAddress, patience
	return target, alive && member.Incarnation == target.Incarnation && target.Worker != rt.cfg.Worker
}

// resolve asks who owns the request's session, whose id names hint.
func (rt *Router) resolve(ctx context.Context, r *session.Request, hint sessionid.Hint, measure bool) (*leaseholdv1.ResolveResponse, error) {
	if err := rt.asking.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer rt.asking.Release(1)
	opener := &leaseholdv1.Peer{Worker: hint.Worker, Incarnation: hint.Incarnation}
	return untilAway(ctx, rt, func(ctx context.Context) (*leaseholdv1.ResolveResponse, error) {
		return rt.cfg.Records.Resolve(ctx, r.Gateway, r.Digest.String(), opener, measure)
	})
}

// untilAway asks the control plane until it answers, or is known to be away: that shows
// within half a lease, and then other workers can be asked.
func untilAway[T any](ctx context.Context, rt *Router, ask func(context.Context) (T, error)) (answer T, err error) {
	for {
		attempt, cancel := context.WithTimeout(ctx, rt.cfg.TTL()/2)
		answer, err = ask(attempt)
		cancel()
		if !errors.Is(err, session.ErrUnavailable) || ctx.Err() != nil || rt.cfg.Away() {
			return answer, err
		}
	}
}

// believed returns the owner as far as it is known without asking.
func (rt *Router) believed(d sessionid.Digest, hint sessionid.Hint) (Target, bool) {
	target, ok := rt.owners.Get(d)
	if !ok {
		target = Target{Worker: hint.Worker, Incarnation: hint.Incarnation, Epoch: 1}
	}
	if moved, ok := rt.cfg.Table.Moved(d); ok && moved.Epoch > target.Epoch { // it may have gone on from there
		target = Target{Worker: moved.Worker, Incarnation: moved.Incarnation, Epoch: moved.Epoch}
	}
	return rt.reach(target)
}

// forward serves a request at another worker, or at the one that has the session from
// that one by now: from epoch to epoch, since what a worker remembers may be of an
// earlier move. It reports whether the request was answered; if not, it may be sent
// again.
func (rt *Router) forward(ctx context.Context, w http.ResponseWriter, r *session.Request, target Target) (done bool, err error) {
	for range follows {
		done, err = rt.forwardOnce(ctx, w, r, target)
		next, ok := rt.next(err)
		if done || !ok || next.Epoch <= target.Epoch {
			break
		}
		rt.owners.Add(r.Digest, next)
		target = next
	}
	return done, err
}

// forwardOnce is forward to this one worker.
func (rt *Router) forwardOnce(ctx context.Context, w http.ResponseWriter, r *session.Request, target Target) (done bool, err error) {
	target.Settings = rt.settings(r.Gateway)
	err = rt.cfg.Forwarder.Forward(ctx, w, target, r)
	if errors.Is(err, ErrNotSent) {
		if ctx.Err() == nil && target.Epoch > 0 { // one that takes a session over may take its time
			rt.missed.note(target.Worker)
		}
		return false, err
	}
	if err == nil || errors.Is(err, ErrRefused) { // otherwise it broke off, and may be out of reach by now
		rt.missed.forget(target.Worker)
	}
	switch {
	case err == nil:
		return true, nil
	case refusedAs(err, Behind):
		mcp.WriteUnavailable(w, r.ID(), "the session's owner has not heard yet of the gateway's newest connection settings")
		return true, nil
	case refusedAs(err, Over):
		mcp.WriteSessionNotFound(w, r.ID())
		return true, nil
	case errors.Is(err, ErrBrokeOff):
		rt.endUnknown(ctx, w, r, target, err)
		return true, nil
	case errors.Is(err, ErrOutcomeUnknown) && !rt.repeatable(r):
		rt.answerUnknown(ctx, w, r, target, err)
		return true, nil
	}
	return false, err
}

func refusedAs(err error, as Refusal) bool {
	var refusal Refusal
	return errors.As(err, &refusal) && refusal == as
}

// repeatable reports whether a request may be sent again although nobody knows
// whether it was carried out.
func (rt *Router) repeatable(r *session.Request) bool {
	if gateway := rt.cfg.World.Load().Gateways[r.Gateway]; gateway != nil {
		return r.Repeatable(gateway.Upstream)
	}
	return r.Repeatable(nil)
}

// answerUnknown answers a request that the owner may have dispatched, which is
// never sent again.
func (rt *Router) answerUnknown(ctx context.Context, w http.ResponseWriter, r *session.Request, target Target, err error) {
	if ctx.Err() != nil {
		return // the client is gone
	}
	rt.cfg.Logger.Warn("owner broke off", "owner", target.Worker, "error", err)
	rt.cfg.Table.CountUnknown()
	r.OutcomeUnknown(w, rt.upstreamOf(r), target.Epoch, ownerGone)
}

// ownerGone is why an outcome is unknown.
const ownerGone = "the session's owner went away"

func (rt *Router) upstreamOf(r *session.Request) string {
	if gateway := rt.cfg.World.Load().Gateways[r.Gateway]; gateway != nil {
		return gateway.Upstream.Name
	}
	return ""
}

// endUnknown ends a stream of events that broke off without the answer.
func (rt *Router) endUnknown(ctx context.Context, w http.ResponseWriter, r *session.Request, target Target, err error) {
	if ctx.Err() != nil {
		return
	}
	if r.Method != http.MethodPost || r.ID() == nil {
		panic(http.ErrAbortHandler) // so that the client sees that it did not end well
	}
	rt.cfg.Logger.Warn("owner broke off within a stream", "owner", target.Worker, "error", err)
	rt.cfg.Table.CountUnknown()
	w.Write(r.UnknownEvent(rt.upstreamOf(r), target.Epoch, ownerGone))
}

// Admitted is what serves a request that was forwarded: a session, or a connection.
type Admitted interface {
	Serve(ctx context.Context, w http.ResponseWriter, r *session.Request) error
}

// Admit finds the session for a request that was forwarded to this worker, if
// this worker is the owner that target names; otherwise it returns a Refusal.
// With epoch 0 it takes the session over if its owner is dead; a session that it
// has just taken over may not be in its table yet.
func (rt *Router) Admit(ctx context.Context, target Target, r *session.Request) (Admitted, error) {
	switch {
	case target.Worker != rt.cfg.Worker:
		return nil, NotOwner
	case target.Incarnation != rt.cfg.Authority.Incarnation():
		return nil, StaleIncarnation
	case !rt.cfg.Authority.Await(target.Incarnation):
		return nil, Fenced
	case !rt.heardOf(ctx, r.Gateway, target.Settings):
		return nil, Behind
	}
	if r.Method == session.MethodMessage {
		return rt.admitMessage(r)
	}
	if r.Method == session.MethodOpen {
		return rt.admitOpen()
	}
	s, ok := rt.cfg.Table.Find(r.Digest)
	if moved, gone := rt.cfg.Table.Moved(r.Digest); !ok && gone && moved.Epoch >= target.Epoch {
		if _, alive := rt.next(moved); alive {
			return nil, fmt.Errorf("%w: %w", NotOwner, moved)
		}
	}
	if !ok {
		p := place{of: &rt.waiting, session: r.Digest}
		defer p.release()
		ctx, cancel := context.WithTimeout(ctx, rt.limit())
		defer cancel()
		err := p.take()
		if err == nil {
			s, err = rt.take(ctx, r.Gateway, r.Digest)
		}
		moved := (*session.Moved)(nil)
		switch {
		case errors.As(err, &moved) && moved.Worker != rt.cfg.Worker:
			return nil, fmt.Errorf("%w: %w", NotOwner, moved)
		case errors.Is(err, session.ErrOver):
			return nil, Over
		case errors.Is(err, session.ErrNoRecord) && target.Epoch == 1:
			return nil, Over // it was opened here; one from elsewhere may not be recorded yet
		case err != nil:
			rt.cfg.Logger.Debug("session not taken over", "session", r.Digest, "error", err)
			return nil, NotOwner
		}
	}
	if target.Epoch != 0 && target.Epoch != s.Epoch() {
		return nil, StaleEpoch
	}
	return s, nil
}

// Find returns the session with this digest if this worker owns it.
func (rt *Router) Find(d sessionid.Digest) (*session.Session, bool) { return rt.cfg.Table.Find(d) }
