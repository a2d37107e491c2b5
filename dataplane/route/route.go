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
	// maxWaiting bounds the requests that wait for an owner, all sessions together.
	maxWaiting = 4096
	// settle is how long after a lease's TTL a request still waits for a new owner.
	settle = 2 * time.Second
	// look is how often a waiting request asks again without a change of members.
	look = time.Second
)

// Forwarder sends a request to another worker.
type Forwarder interface {
	// Forward returns ErrNotSent, ErrRefused or ErrOutcomeUnknown if nothing was
	// written.
	Forward(ctx context.Context, w http.ResponseWriter, target Target, r *session.Request) error
}

// Records resolves and reclaims sessions.
type Records interface {
	Resolve(ctx context.Context, gateway, session string) (*leaseholdv1.ResolveResponse, error)
	Reclaim(ctx context.Context, gateway, session string, incarnation int64, resolved *leaseholdv1.ResolveResponse) (*leaseholdv1.ReclaimResponse, error)
}

// Config is what a router needs; all fields are required.
type Config struct {
	Worker    string
	Table     *session.Table
	Forwarder Forwarder
	Records   Records
	Authority session.Authority
	World     *config.Holder
	TTL       func() time.Duration // the workers' lease
	Logger    hclog.Logger
}

// Router routes requests. Safe for concurrent use.
type Router struct {
	cfg     Config
	owners  *lru.Cache[sessionid.Digest, Target] // owners that differ from the id's hint
	taking  singleflight.Group
	waiting *semaphore.Weighted
}

// New returns a router.
func New(cfg Config) (*Router, error) {
	owners, err := lru.New[sessionid.Digest, Target](remembered)
	if err != nil {
		return nil, fmt.Errorf("owner cache: %w", err)
	}
	return &Router{cfg: cfg, owners: owners, waiting: semaphore.NewWeighted(maxWaiting)}, nil
}

// Serve answers a request for a session whose id names hint as its first owner.
func (rt *Router) Serve(ctx context.Context, w http.ResponseWriter, r *session.Request, hint sessionid.Hint) {
	if s, ok := rt.cfg.Table.Find(r.Digest); ok {
		s.Serve(ctx, w, r)
		return
	}
	if target, ok := rt.believed(r.Digest, hint); ok {
		err := rt.cfg.Forwarder.Forward(ctx, w, target, r)
		if err == nil {
			return
		}
		if errors.Is(err, ErrOutcomeUnknown) && !repeatable(r) {
			rt.answerUnknown(ctx, w, r, target, err)
			return
		}
		rt.owners.Remove(r.Digest)
	}
	rt.settle(ctx, w, r)
}

// believed returns the owner as far as it is known without asking.
func (rt *Router) believed(d sessionid.Digest, hint sessionid.Hint) (Target, bool) {
	target, ok := rt.owners.Get(d)
	if !ok {
		target = Target{Worker: hint.Worker, Incarnation: hint.Incarnation, Epoch: 1}
	}
	member, alive := rt.cfg.World.Load().Members[target.Worker]
	target.Address = member.PeerAddress
	return target, alive && member.Incarnation == target.Incarnation && target.Worker != rt.cfg.Worker
}

// repeatable reports whether a request may be sent again although nobody knows
// whether it was carried out: its method only asks.
func repeatable(r *session.Request) bool {
	if r.Method == http.MethodGet {
		return true
	}
	e, err := mcp.Parse(r.Body, mcp.Limits{})
	if err != nil || e.Batch {
		return false
	}
	switch e.First().Method {
	case mcp.MethodPing, mcp.MethodComplete, mcp.MethodToolsList, mcp.MethodPromptsList, mcp.MethodPromptsGet,
		mcp.MethodResourcesList, mcp.MethodResourcesTemplates:
		return true
	}
	return false
}

// settle finds the owner by asking, waiting as long as an owner's death may need
// to show. The request has not been dispatched when it is called, or may be
// dispatched again.
func (rt *Router) settle(ctx context.Context, w http.ResponseWriter, r *session.Request) {
	permit := permit{of: rt.waiting}
	defer permit.release()
	bounded, cancel := context.WithTimeout(ctx, rt.cfg.TTL()+settle)
	defer cancel()
	for {
		if !permit.acquire() {
			mcp.WriteUnavailable(w, r.ID(), fmt.Sprintf("%d requests wait for a session's owner, which is the bound", maxWaiting))
			return
		}
		changed := rt.cfg.World.Changed()
		done, err := rt.attempt(bounded, ctx, w, r, &permit)
		if done {
			return
		}
		rt.cfg.Logger.Debug("waiting for an owner", "gateway", r.Gateway, "session", r.Digest, "reason", err)
		timer := time.NewTimer(look)
		select {
		case <-bounded.Done():
		case <-changed:
		case <-timer.C:
		}
		timer.Stop()
		if bounded.Err() != nil {
			mcp.WriteUnavailable(w, r.ID(), "the session has no reachable owner now; it is not lost")
			return
		}
	}
}

// permit is a request's place among those that wait. It is given back before the
// request is served: a stream may be served for hours.
type permit struct {
	of   *semaphore.Weighted
	held bool
}

func (p *permit) acquire() bool {
	if !p.held {
		p.held = p.of.TryAcquire(1)
	}
	return p.held
}

func (p *permit) release() {
	if p.held {
		p.of.Release(1)
		p.held = false
	}
}

// attempt resolves the owner once and serves the request there. It reports
// whether the request was answered; if not, it may be sent again.
func (rt *Router) attempt(bounded, ctx context.Context, w http.ResponseWriter, r *session.Request, permit *permit) (done bool, err error) {
	resolved, err := rt.cfg.Records.Resolve(bounded, r.Gateway, r.Digest.String())
	switch {
	case errors.Is(err, session.ErrNoRecord), err == nil && resolved.GetRecord().GetEnd() != nil:
		mcp.WriteSessionNotFound(w, r.ID())
		return true, nil
	case err != nil:
		return false, err
	}
	if resolved.GetOwnerAlive() {
		return rt.serveAt(bounded, ctx, w, r, resolved, permit)
	}
	if winner, ok := rt.cfg.World.Load().Winner(r.Digest); ok && winner.Worker != rt.cfg.Worker {
		target := Target{Worker: winner.Worker, Incarnation: winner.Incarnation, Address: winner.PeerAddress}
		permit.release()
		done, err := rt.forward(ctx, w, r, target)
		if done {
			return true, nil
		}
		rt.cfg.Logger.Debug("winner did not take the session", "session", r.Digest, "winner", winner.Worker, "error", err)
	}
	return rt.serveHere(bounded, ctx, w, r, permit)
}

// serveAt serves the request at the living owner that was resolved.
func (rt *Router) serveAt(bounded, ctx context.Context, w http.ResponseWriter, r *session.Request, resolved *leaseholdv1.ResolveResponse, permit *permit) (bool, error) {
	record := resolved.GetRecord()
	if record.GetWorker() == rt.cfg.Worker {
		return rt.serveHere(bounded, ctx, w, r, permit)
	}
	target := Target{
		Worker: record.GetWorker(), Incarnation: record.GetIncarnation(), Epoch: record.GetEpoch(),
		Address: resolved.GetOwner().GetInfo().GetPeerAddress(),
	}
	permit.release()
	return rt.forward(ctx, w, r, target)
}

// serveHere serves the request at this worker, which takes the session over or
// has done so already.
func (rt *Router) serveHere(bounded, ctx context.Context, w http.ResponseWriter, r *session.Request, permit *permit) (bool, error) {
	s, err := rt.take(bounded, r.Gateway, r.Digest)
	switch {
	case errors.Is(err, session.ErrOver):
		mcp.WriteSessionNotFound(w, r.ID())
		return true, nil
	case errors.Is(err, session.ErrFull):
		mcp.WriteUnavailable(w, r.ID(), "no worker has room for the session now")
		return true, nil
	case err != nil:
		return false, err
	}
	permit.release()
	s.Serve(ctx, w, r)
	return true, nil
}

func (rt *Router) forward(ctx context.Context, w http.ResponseWriter, r *session.Request, target Target) (bool, error) {
	err := rt.cfg.Forwarder.Forward(ctx, w, target, r)
	switch {
	case err == nil:
		if target.Epoch > 0 {
			rt.owners.Add(r.Digest, target)
		}
		return true, nil
	case errors.Is(err, ErrOutcomeUnknown) && !repeatable(r):
		rt.answerUnknown(ctx, w, r, target, err)
		return true, nil
	}
	return false, err
}

// answerUnknown answers a request that may have reached the owner, which is
// never sent again.
func (rt *Router) answerUnknown(ctx context.Context, w http.ResponseWriter, r *session.Request, target Target, err error) {
	if ctx.Err() != nil {
		return // the client is gone
	}
	rt.cfg.Logger.Warn("owner broke off", "owner", target.Worker, "error", err)
	id, code := r.ID(), http.StatusOK
	if id == nil {
		code = http.StatusBadGateway // nothing in the body could carry the error
	}
	mcp.WriteError(w, code, &mcp.Error{Code: mcp.CodeOutcomeUnknown, ID: id,
		Message: "outcome unknown: the session's owner went away; the request may have been carried out",
		Data:    fmt.Appendf(nil, `{"executed":"unknown","epoch":%d}`, target.Epoch)})
}

// Admit finds the session for a request that was forwarded to this worker, if
// this worker is the owner that target names; otherwise it returns a Refusal.
// With epoch 0 it takes the session over if its owner is dead.
func (rt *Router) Admit(ctx context.Context, target Target, r *session.Request) (*session.Session, error) {
	s, ok := rt.cfg.Table.Find(r.Digest)
	switch {
	case target.Worker != rt.cfg.Worker:
		return nil, NotOwner
	case target.Incarnation != rt.cfg.Authority.Incarnation():
		return nil, StaleIncarnation
	case !rt.cfg.Authority.Holds(target.Incarnation):
		return nil, Fenced
	case !ok && target.Epoch == 0:
		ctx, cancel := context.WithTimeout(ctx, rt.cfg.TTL())
		defer cancel()
		taken, err := rt.take(ctx, r.Gateway, r.Digest)
		if err != nil {
			rt.cfg.Logger.Debug("session not taken over", "session", r.Digest, "error", err)
			return nil, NotOwner
		}
		return taken, nil
	case !ok:
		return nil, NotOwner
	case target.Epoch != 0 && target.Epoch != s.Epoch():
		return nil, StaleEpoch
	}
	return s, nil
}

// Find returns the session with this digest if this worker owns it.
func (rt *Router) Find(d sessionid.Digest) (*session.Session, bool) { return rt.cfg.Table.Find(d) }

var errOwnerAlive = errors.New("the session has a living owner")

// take makes this worker the owner of a session whose owner is dead. However
// many ask at the same time, it happens once; that one of them gives up does not
// stop it for the others.
func (rt *Router) take(ctx context.Context, gateway string, d sessionid.Digest) (*session.Session, error) {
	result := rt.taking.DoChan(string(d[:]), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rt.cfg.TTL())
		defer cancel()
		return rt.takeOnce(ctx, gateway, d)
	})
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case r := <-result:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(*session.Session), nil
	}
}

func (rt *Router) takeOnce(ctx context.Context, gateway string, d sessionid.Digest) (*session.Session, error) {
	if s, ok := rt.cfg.Table.Find(d); ok {
		return s, nil
	}
	resolved, err := rt.cfg.Records.Resolve(ctx, gateway, d.String())
	switch {
	case err != nil:
		return nil, err
	case resolved.GetRecord().GetEnd() != nil:
		return nil, session.ErrOver
	}
	incarnation := rt.cfg.Authority.Incarnation()
	record := resolved.GetRecord()
	mine := record.GetWorker() == rt.cfg.Worker && record.GetIncarnation() == incarnation
	switch {
	case !rt.cfg.Authority.Holds(incarnation):
		return nil, Fenced
	case resolved.GetOwnerAlive() && !mine:
		return nil, errOwnerAlive
	}
	if err := rt.cfg.Table.Reserve(); err != nil {
		return nil, err
	}
	if mine {
		// A reclaim of this worker's that was granted, and whose answer was lost.
		return rt.cfg.Table.Adopt(gateway, d, record)
	}
	reclaimed, err := rt.cfg.Records.Reclaim(ctx, gateway, d.String(), incarnation, resolved)
	if err != nil {
		rt.cfg.Table.Release()
		return nil, err
	}
	s, err := rt.cfg.Table.Adopt(gateway, d, reclaimed.GetRecord())
	if err != nil {
		return nil, err
	}
	rt.cfg.Logger.Info("session reclaimed", "gateway", gateway, "session", d, "epoch", s.Epoch(), "from", resolved.GetRecord().GetWorker())
	return s, nil
}

// EndOrphan takes over a session that an operator wants ended and whose owner is
// dead, if this worker is the one to do it, so that its upstream is told.
func (rt *Router) EndOrphan(ctx context.Context, gateway string, d sessionid.Digest, reason leaseholdv1.EndReason) error {
	if winner, ok := rt.cfg.World.Load().Winner(d); !ok || winner.Worker != rt.cfg.Worker {
		return nil
	}
	_, err := rt.take(ctx, gateway, d)
	if errors.Is(err, errOwnerAlive) || errors.Is(err, session.ErrOver) {
		return nil
	}
	rt.cfg.Table.End(d, reason)
	return err
}
