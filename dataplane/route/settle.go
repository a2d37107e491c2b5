package route

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/session"
	"github.com/leasehold/leasehold/dataplane/sessionid"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

const (
	// grace is how long after a lease's TTL a request still waits for a new owner:
	// for its turn, if all sessions of a worker are asked for at once.
	grace = 5 * time.Second
	// look is how often a waiting request asks again without a change that
	// concerns it.
	look = time.Second
	// watch is how often it does while its owner is a member still, the end of
	// which is told to every worker; when many wait, it is how long after a lease's
	// time at most they begin to.
	watch = 3 * look
	// refusals is how many times one request may be refused by workers as not theirs.
	// More means that its session moves faster than anybody can follow.
	refusals = 8
	// follow is how much longer each time to wait before the next worker is asked.
	follow = 10 * time.Millisecond
)

// settle finds the owner by asking, waiting as long as an owner's death may need
// to show. The request has not been dispatched when it is called, or may be
// dispatched again; hint is the session's first owner, refused is how many workers
// said that it is not theirs, and missed the worker that was believed to be the owner
// and could not be reached.
func (rt *Router) settle(ctx context.Context, w http.ResponseWriter, r *session.Request, hint sessionid.Hint, refused int, missed Target) {
	p := place{of: &rt.waiting, session: r.Digest}
	defer p.release()
	bounded, cancel := context.WithTimeout(ctx, rt.limit())
	defer cancel()
	s := search{rt: rt, bounded: bounded, ctx: ctx, w: w, r: r, hint: hint, place: &p, missed: missed}
	for s.hold() {
		done, err := s.attempt()
		if done {
			return
		}
		if mismatch(err) {
			if refused++; refused < refusals && s.follow(refused) {
				continue
			}
			mcp.WriteUnavailable(w, r.ID(), "the session is changing its owner")
			return
		}
		rt.cfg.Logger.Debug("waiting for an owner", "gateway", r.Gateway, "session", r.Digest, "reason", err)
		if !s.hold() {
			return
		}
		if !s.wait() {
			mcp.WriteUnavailable(w, r.ID(), "the session has no reachable owner now; it is not lost")
			return
		}
	}
}

// follow waits for a moment, longer each time, for a session that is changing its owner.
// It reports false when the request has waited long enough.
func (s *search) follow(times int) bool {
	timer := time.NewTimer(follow * time.Duration(times))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-s.bounded.Done():
		return false
	}
}

// hold takes the request's place among those that wait, which an attempt gives
// back before it forwards. It reports false when the request was answered that
// there is none.
func (s *search) hold() bool {
	err := s.place.take()
	if err != nil {
		mcp.WriteUnavailable(s.w, s.r.ID(), err.Error())
	}
	return err == nil
}

// limit is how long a request waits for an owner, and a session to be taken over:
// in the order in which they were asked for, and none in vain, as it would be if
// those that wait for their turn were given up and asked for again.
func (rt *Router) limit() time.Duration { return rt.cfg.TTL() + grace }

// wait waits until it is worth asking again. It reports false when the request
// has waited long enough.
func (s *search) wait() bool {
	timer := time.NewTimer(look/2 + rand.N(look))
	defer timer.Stop()
	overdue := time.Now().Add(watch/2 + rand.N(watch))
	if s.rt.waiting.many() {
		overdue = time.Now().Add(s.rt.cfg.TTL() + rand.N(watch))
	}
	for {
		changed := s.rt.cfg.World.Changed()
		if s.missed.Worker != "" && !s.rt.alive(s.missed) {
			return s.bounded.Err() == nil
		}
		select {
		case <-s.bounded.Done():
			return false
		case now := <-timer.C:
			if s.missed.Worker == "" || now.After(overdue) || s.rt.missed.doubtful(s.missed.Worker, s.rt.cfg.TTL()) {
				return true
			}
			timer.Reset(look/2 + rand.N(look))
		case <-changed:
			if s.missed.Worker == "" {
				return true
			}
		}
	}
}

// alive reports whether a worker is a member, as far as this one knows.
func (rt *Router) alive(t Target) bool {
	member, ok := rt.cfg.World.Load().Members[t.Worker]
	return ok && member.Incarnation == t.Incarnation
}

// mismatch reports whether a worker refused a request as not its own.
func mismatch(err error) bool {
	var refusal Refusal
	return errors.As(err, &refusal) && (refusal == NotOwner || refusal == StaleEpoch || refusal == StaleIncarnation)
}

// search is a request on its way to its session's owner.
type search struct {
	rt      *Router
	bounded context.Context // ends when the request has waited long enough
	ctx     context.Context // the client's
	w       http.ResponseWriter
	r       *session.Request
	hint    sessionid.Hint
	place   *place
	missed  Target // the owner that could not be reached, if that was what went wrong last
	again   bool   // it was tried once more
}

// attempt finds the owner once and serves the request there. It reports whether
// the request was answered; if not, it may be sent again.
func (s *search) attempt() (done bool, err error) {
	if s.rt.cfg.Away() {
		return s.located()
	}
	if s.missed.Worker != "" && !s.rt.alive(s.missed) {
		// Whoever takes the session over asks who owned it; so this worker need not.
		s.missed = Target{}
		if done, _ = s.atWinner(); done {
			return true, nil
		}
	}
	if s.missed.Worker != "" {
		if s.rt.missed.cutOff(s.missed.Worker) {
			writeCutOff(s.w, s.r)
			return true, nil
		}
		if !s.again && s.rt.waiting.many() {
			// While it is a member nobody else is the owner, if this worker's view of
			// the members is up to date: thousands need not ask whether it is.
			s.again = true
			if done, err := s.at(s.missed); done || s.missed.Worker != "" {
				return done, err
			}
		}
	}
	resolved, err := s.rt.resolve(s.bounded, s.r, s.hint, s.missed.Worker != "" && s.rt.missed.long(s.missed.Worker, s.rt.cfg.TTL()))
	switch {
	case errors.Is(err, session.ErrNoRecord), err == nil && resolved.GetRecord().GetEnd() != nil:
		mcp.WriteSessionNotFound(s.w, s.r.ID())
		return true, nil
	case err != nil && s.rt.cfg.Away():
		return s.located()
	case err != nil:
		return false, err
	case resolved.GetOwnerAlive():
		return s.atOwner(resolved)
	}
	return s.atWinner()
}

// atWinner serves the request at the worker that is to take the session over, or
// here if that does not.
func (s *search) atWinner() (bool, error) {
	if winner, ok := s.rt.cfg.World.Load().Winner(s.r.Digest); ok && winner.Worker != s.rt.cfg.Worker {
		deadline, _ := s.bounded.Deadline()
		// A winner that is dead as well is noticed before that, and this worker takes
		// the session. One that is not may have thousands to take up first.
		target := Target{Worker: winner.Worker, Incarnation: winner.Incarnation, Address: winner.PeerAddress,
			Patience: time.Until(deadline) - look}
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
	if record == nil { // of a session that its first owner has not recorded yet
		record = &leaseholdv1.SessionRecord{Worker: resolved.GetOwner().GetWorker(), Incarnation: resolved.GetOwner().GetIncarnation(), Epoch: 1}
	}
	if record.GetWorker() == s.rt.cfg.Worker {
		return s.here()
	}
	target := Target{
		Worker: record.GetWorker(), Incarnation: record.GetIncarnation(), Epoch: record.GetEpoch(),
		Address: resolved.GetOwner().GetInfo().GetPeerAddress(), Patience: patience,
	}
	cutOff := s.rt.missed.cutOff(target.Worker)
	if silence := resolved.GetOwnerSilence(); silence != nil && s.missed.Worker == target.Worker {
		cutOff = cutOff || s.rt.missed.lasting(target.Worker, silence.AsDuration(), s.rt.cfg.TTL())
	}
	if cutOff {
		writeCutOff(s.w, s.r)
		return true, nil
	}
	return s.at(target)
}

// at serves the request at the worker that is believed to be the owner.
func (s *search) at(target Target) (bool, error) {
	s.place.release()
	done, err := s.rt.forward(s.ctx, s.w, s.r, target)
	if later, ok := s.rt.owners.Peek(s.r.Digest); done && (!ok || later.Epoch <= target.Epoch) { // target may have named the next
		s.rt.owners.Add(s.r.Digest, target)
	}
	if s.missed = (Target{}); errors.Is(err, ErrNotSent) {
		s.missed = target
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
	}
	if err == nil {
		s.place.release()
		err = owned.Serve(s.ctx, s.w, s.r)
	}
	if next, ok := s.rt.next(err); ok {
		return s.at(next)
	}
	return err == nil, err
}

func writeCutOff(w http.ResponseWriter, r *session.Request) {
	mcp.WriteUnavailable(w, r.ID(), "the session's owner is alive, but cannot be reached from this worker")
}
