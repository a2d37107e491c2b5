package route

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/session"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

const (
	// grace is how long after a lease's TTL a request still waits for a new owner.
	grace = 2 * time.Second
	// look is how often a waiting request asks again without a change of members.
	look = time.Second
	// refusals is how many workers may refuse one request as not theirs. More
	// means that its session moves faster than anybody can follow.
	refusals = 2
)

// settle finds the owner by asking, waiting as long as an owner's death may need
// to show. The request has not been dispatched when it is called, or may be
// dispatched again; refused is how many workers said that it is not theirs.
func (rt *Router) settle(ctx context.Context, w http.ResponseWriter, r *session.Request, refused int) {
	p := place{of: &rt.waiting, session: r.Digest}
	defer p.release()
	bounded, cancel := context.WithTimeout(ctx, rt.cfg.TTL()+grace)
	defer cancel()
	for attempts := 0; ; attempts++ {
		if err := p.take(); err != nil {
			mcp.WriteUnavailable(w, r.ID(), err.Error())
			return
		}
		changed := rt.cfg.World.Changed()
		search := search{rt: rt, bounded: bounded, ctx: ctx, w: w, r: r, place: &p, again: attempts > 0}
		done, err := search.attempt()
		if done {
			return
		}
		if mismatch(err) {
			refused++
		}
		if refused >= refusals {
			mcp.WriteUnavailable(w, r.ID(), "the session is changing its owner")
			return
		}
		rt.cfg.Logger.Debug("waiting for an owner", "gateway", r.Gateway, "session", r.Digest, "reason", err)
		if !wait(bounded, changed) {
			mcp.WriteUnavailable(w, r.ID(), "the session has no reachable owner now; it is not lost")
			return
		}
	}
}

// wait waits for a change of members, but not for long. It reports false when
// ctx has ended.
func wait(ctx context.Context, changed <-chan struct{}) bool {
	timer := time.NewTimer(look)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-changed:
	case <-timer.C:
	}
	return ctx.Err() == nil
}

// mismatch reports whether a worker refused a request as not its own.
func mismatch(err error) bool {
	var refusal Refusal
	return errors.As(err, &refusal) && (refusal == NotOwner || refusal == StaleEpoch || refusal == StaleIncarnation)
}

// search is one attempt to serve a request at its session's owner.
type search struct {
	rt      *Router
	bounded context.Context // ends when the request has waited long enough
	ctx     context.Context // the client's
	w       http.ResponseWriter
	r       *session.Request
	place   *place
	again   bool // an attempt failed before
}

// attempt resolves the owner once and serves the request there. It reports
// whether the request was answered; if not, it may be sent again.
func (s *search) attempt() (done bool, err error) {
	resolved, err := s.rt.cfg.Records.Resolve(s.bounded, s.r.Gateway, s.r.Digest.String(), s.again || s.rt.missed.any())
	switch {
	case errors.Is(err, session.ErrNoRecord), err == nil && resolved.GetRecord().GetEnd() != nil:
		mcp.WriteSessionNotFound(s.w, s.r.ID())
		return true, nil
	case err != nil:
		return false, err
	}
	if resolved.GetOwnerAlive() {
		return s.atOwner(resolved)
	}
	if winner, ok := s.rt.cfg.World.Load().Winner(s.r.Digest); ok && winner.Worker != s.rt.cfg.Worker {
		deadline, _ := s.bounded.Deadline()
		target := Target{Worker: winner.Worker, Incarnation: winner.Incarnation, Address: winner.PeerAddress,
			Patience: time.Until(deadline) / 2} // the winner may be dead as well: then this worker takes the session
		s.place.release()
		done, err := s.rt.forward(s.ctx, s.w, s.r, target)
		if done {
			return true, nil
		}
		s.rt.cfg.Logger.Debug("winner did not take the session", "session", s.r.Digest, "winner", winner.Worker, "error", err)
	}
	return s.here()
}

// atOwner serves the request at the living owner that was resolved.
func (s *search) atOwner(resolved *leaseholdv1.ResolveResponse) (bool, error) {
	record := resolved.GetRecord()
	if record.GetWorker() == s.rt.cfg.Worker {
		return s.here()
	}
	if silence := resolved.GetOwnerSilence(); silence != nil && s.rt.missed.lasting(record.GetWorker(), silence.AsDuration(), s.rt.cfg.TTL()) {
		writeCutOff(s.w, s.r)
		return true, nil
	}
	target := Target{
		Worker: record.GetWorker(), Incarnation: record.GetIncarnation(), Epoch: record.GetEpoch(),
		Address: resolved.GetOwner().GetInfo().GetPeerAddress(), Patience: patience,
	}
	s.place.release()
	done, err := s.rt.forward(s.ctx, s.w, s.r, target)
	if done {
		s.rt.owners.Add(s.r.Digest, target)
	}
	return done, err
}

// here serves the request at this worker, which takes the session over or has
// done so already.
func (s *search) here() (bool, error) {
	owned, err := s.rt.take(s.bounded, s.r.Gateway, s.r.Digest)
	switch {
	case errors.Is(err, session.ErrOver):
		mcp.WriteSessionNotFound(s.w, s.r.ID())
		return true, nil
	case errors.Is(err, session.ErrFull):
		mcp.WriteUnavailable(s.w, s.r.ID(), "no worker has room for the session now")
		return true, nil
	case err != nil:
		return false, err
	}
	s.place.release()
	if err := owned.Serve(s.ctx, s.w, s.r); err != nil {
		return false, err
	}
	return true, nil
}

func writeCutOff(w http.ResponseWriter, r *session.Request) {
	mcp.WriteUnavailable(w, r.ID(), "the session's owner is alive, but cannot be reached from this worker")
}
