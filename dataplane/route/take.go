package route

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/semaphore"

	"github.com/leasehold/leasehold/dataplane/session"
	"github.com/leasehold/leasehold/dataplane/sessionid"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

var (
	errOwnerAlive = errors.New("the session has a living owner")
	// errPowerless says that this worker may not take a session over yet: its contact
	// with the control plane was gained, or regained, a moment ago, and it may have
	// told the owner meanwhile that it does not take anything over.
	errPowerless = errors.New("this worker may not take sessions over yet")
)

// take makes this worker the owner of a session whose owner is dead. However
// many ask at the same time, it happens once; that one of them gives up does not
// stop it for the others.
func (rt *Router) take(ctx context.Context, gateway string, d sessionid.Digest) (*session.Session, error) {
	return rt.takeAt(ctx, gateway, d, rt.pace)
}

// takeAt is take at the pace that pace sets.
func (rt *Router) takeAt(ctx context.Context, gateway string, d sessionid.Digest, pace func(ctx context.Context, gateway string) error) (*session.Session, error) {
	result := rt.taking.DoChan(string(d[:]), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rt.limit())
		defer cancel()
		s, err := rt.takeOnce(ctx, gateway, d, pace)
		rt.strays.note(d, gateway, err)
		return s, err
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

func (rt *Router) takeOnce(ctx context.Context, gateway string, d sessionid.Digest, pace func(ctx context.Context, gateway string) error) (*session.Session, error) {
	if s, ok := rt.cfg.Table.Find(d); ok {
		return s, nil
	}
	if rt.cfg.Away() {
		return nil, session.ErrUnavailable
	}
	resolved, err := inTurn(ctx, rt, rt.asking, func(ctx context.Context) (*leaseholdv1.ResolveResponse, error) {
		return untilAway(ctx, rt, func(ctx context.Context) (*leaseholdv1.ResolveResponse, error) {
			return rt.cfg.Records.Resolve(ctx, gateway, d.String(), nil, false)
		})
	})
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
		return nil, fmt.Errorf("%w: %w", errOwnerAlive, ownerOf(record))
	case mine && !handedOver(record) && !rt.cfg.Authority.Power(incarnation):
		return nil, fmt.Errorf("%w: %w", errStray, errPowerless)
	case !mine && !rt.mayTake(resolved, incarnation):
		return nil, errPowerless
	}
	if !mine {
		if err := rt.mourned.wait(ctx, owner{record.GetWorker(), record.GetIncarnation()}); err != nil {
			return nil, err
		}
		if err := pace(ctx, gateway); err != nil {
			return nil, err
		}
	}
	if err := rt.cfg.Table.Reserve(d); err != nil {
		return nil, err
	}
	if mine {
		// A reclaim of this worker's, or a hand-over to it, was granted, and the answer
		// was lost.
		return rt.adopt(gateway, d, record, resolved.GetRevision())
	}
	reclaimed, err := inTurn(ctx, rt, rt.reclaiming, func(ctx context.Context) (*leaseholdv1.ReclaimResponse, error) {
		if !rt.mayTake(resolved, incarnation) {
			return nil, errPowerless
		}
		return rt.cfg.Records.Reclaim(ctx, gateway, d.String(), incarnation, resolved)
	})
	if err != nil {
		rt.cfg.Table.Release()
		if errors.Is(err, session.ErrUnavailable) {
			err = fmt.Errorf("%w: %w", errStray, err)
		}
		return nil, err
	}
	if !rt.mayTake(resolved, incarnation) {
		rt.cfg.Table.Release()
		return nil, fmt.Errorf("%w: %w", errStray, errPowerless)
	}
	s, err := rt.adopt(gateway, d, reclaimed.GetRecord(), reclaimed.GetRevision())
	if err != nil {
		return nil, err
	}
	rt.cfg.Logger.Debug("session reclaimed", "gateway", gateway, "session", d, "epoch", s.Epoch(), "from", resolved.GetRecord().GetWorker())
	return s, nil
}

// ownerOf returns who owns a session as its record says.
func ownerOf(record *leaseholdv1.SessionRecord) *session.Moved {
	return &session.Moved{Worker: record.GetWorker(), Incarnation: record.GetIncarnation(), Epoch: record.GetEpoch()}
}

// mayTake reports whether this worker may take a session from the dead owner that
// resolved names: both when it asks for it and when it goes by the answer. That owner
// may serve on without the control plane as long as no other worker has power, unless
// it is superseded. A reclaim is answered within a lease's TTL or given up, in which
// power that was lost does not come back.
func (rt *Router) mayTake(resolved *leaseholdv1.ResolveResponse, incarnation int64) bool {
	return resolved.GetOwnerSuperseded() || rt.cfg.Authority.Power(incarnation)
}

// handedOver reports whether the owner before gave the session to the one in the
// record, and so has stopped.
func handedOver(record *leaseholdv1.SessionRecord) bool {
	events := record.GetEvents()
	if len(events) == 0 {
		return false
	}
	last := events[len(events)-1]
	return last.GetType() == leaseholdv1.SessionEventType_SESSION_EVENT_TYPE_HANDED_OVER && last.GetEpoch() == record.GetEpoch()
}

// inTurn asks the control plane when it is this question's turn. The answer is
// given up after a lease: whoever waits for it can then ask anew what is true.
func inTurn[T any](ctx context.Context, rt *Router, turns *semaphore.Weighted, ask func(context.Context) (T, error)) (answer T, err error) {
	if err := turns.Acquire(ctx, 1); err != nil {
		return answer, err
	}
	defer turns.Release(1)
	ctx, cancel := context.WithTimeout(ctx, rt.cfg.TTL())
	defer cancel()
	return ask(ctx)
}

// adopt continues a session that is recorded as this worker's.
func (rt *Router) adopt(gateway string, d sessionid.Digest, record *leaseholdv1.SessionRecord, revision int64) (*session.Session, error) {
	s, err := rt.cfg.Table.Adopt(gateway, d, record, revision)
	if err != nil && !errors.Is(err, session.ErrOver) {
		err = fmt.Errorf("%w: %w", errStray, err)
	}
	return s, err
}

// pace waits until another orphan may come back to the gateway's upstream, so that
// an upstream is not overrun by all sessions of a dead worker at once.
func (rt *Router) pace(ctx context.Context, gateway string) error {
	definition := rt.cfg.World.Load().Gateways[gateway]
	if definition == nil {
		return nil // the session ends, and nobody is told
	}
	return definition.Upstream.Reconnects.Wait(ctx)
}

// EndOrphan takes over a session that an operator wants ended and whose owner is
// dead, if this worker is the one to do it, so that its upstream is told.
func (rt *Router) EndOrphan(ctx context.Context, gateway string, d sessionid.Digest, reason leaseholdv1.EndReason) error {
	if winner, ok := rt.cfg.World.Load().Winner(d); !ok || winner.Worker != rt.cfg.Worker {
		return nil
	}
	_, err := rt.takeAt(ctx, gateway, d, func(context.Context, string) error { return nil })
	if errors.Is(err, errOwnerAlive) || errors.Is(err, session.ErrOver) {
		return nil
	}
	rt.cfg.Table.End(d, reason)
	return err
}
