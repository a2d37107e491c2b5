package session

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/mcp"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Serve answers one request of the session's client on w, which it may be called
// for concurrently. The end of ctx is the client's disconnect: a GET ends then, but
// a call goes on, and Serve returns when it is over. It panics with http.ErrAbortHandler when an answer breaks off after
// it began.
//
// ErrFenced, ErrLost or Moved: nothing was written, and the request was not dispatched or
// is Repeatable. Whoever owns the session once that is certain may serve it.
func (s *Session) Serve(ctx context.Context, w http.ResponseWriter, r *Request) error {
	if r.Method == http.MethodDelete {
		return s.serveDelete(ctx, w)
	}
	for {
		if err := s.serve(ctx, w, r); err != errHanding {
			return err
		}
	}
}

// serve is Serve. errHanding: nothing was written or dispatched, and the request waits
// for the outcome of a hand-over when it is served again.
func (s *Session) serve(ctx context.Context, w http.ResponseWriter, r *Request) error {
	x := &exchange{session: s, client: ctx, ids: r.IDs}
	if r.Method == http.MethodGet {
		x.kind = aStream
		ctx, x.cancel = context.WithCancelCause(ctx)
	} else {
		ctx, x.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	}
	defer x.cancel(nil)
	switch verdict := s.admit(x.client, x); verdict {
	case admitted:
	case refusedGiven:
		return s.movedTo()
	case refusedLost:
		return ErrLost
	case refusedEnded:
		if err := s.Pass(); err != nil {
			return err // whoever owns it by now knows whether it has ended
		}
		s.refuse(w, r, verdict)
		return nil
	default:
		s.refuse(w, r, verdict)
		return nil
	}
	defer s.finish(x)
	if err := s.Pass(); err != nil {
		return err
	}
	if !mcp.BatchAllowed(r.Body, s.version, r.Header) {
		mcp.WriteError(w, http.StatusBadRequest, &mcp.Error{Code: mcp.CodeInvalidRequest,
			Message: "batches are part of protocol version " + mcp.V20250326 + " only; this session speaks " + s.version})
		return nil
	}
	if x.kind == aStream {
		return s.serveGet(ctx, w, r, x)
	}
	if r.Lists != 0 && Lists(s.lists.Load())&r.Lists != r.Lists {
		s.lists.Or(uint32(r.Lists))
	}
	if len(r.IDs) == 0 {
		s.noted(r.Body)
	}
	stop := context.AfterFunc(x.client, func() { s.leave(x) })
	defer stop()
	return s.dispatch(ctx, w, r, x)
}

// dispatch sends the request to the upstream and relays the answer. If that is that
// the upstream has lost its session, and a new one was opened, the request is sent
// again only if it may be.
func (s *Session) dispatch(ctx context.Context, w http.ResponseWriter, r *Request, x *exchange) error {
	err := s.tryCurrent(ctx, w, r, x)
	if err != errRenewed {
		return err
	}
	if s.repeatable(r) {
		if err := s.tryCurrent(ctx, w, r, x); err != errRenewed {
			return err
		}
	}
	s.answerRenewed(w, r)
	return nil
}

// try is dispatch to the upstream session that there is. errRenewed: there is a new
// one, the request was not carried out, and nothing was written.
func (s *Session) try(ctx context.Context, w http.ResponseWriter, r *Request, x *exchange) error {
	up := s.up.Load()
	if up.over {
		return errOutdated
	}
	x.up = up
	up.name(r.Header)
	d := &Dispatch{Upstream: up.of, Method: r.Method, Header: r.Header, Body: r.Body, Address: up.address, Gate: x, Session: (*unasked)(s)}
	if len(r.IDs) > 0 {
		d.Silence = s.responseTimeout()
	}
	do := s.table.cfg.Upstream.Do
	if r.Method == http.MethodGet {
		do = s.openStream
	}
	answer, err := do(ctx, d)
	if err != nil {
		return s.answerFailure(ctx, w, r, up, err)
	}
	defer answer.Body.Close()
	return s.relay(ctx, w, r, x, up, answer)
}

// name puts the upstream session's id into a header.
func (up *upstreamSession) name(h http.Header) {
	delete(h, mcp.HeaderSessionID) // of one that was lost
	if up.id != "" {
		h[mcp.HeaderSessionID] = []string{up.id}
	}
}

// movedTo returns who a session was handed over to.
func (s *Session) movedTo() *Moved {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.given
}

func (s *Session) refuse(w http.ResponseWriter, r *Request, verdict refusal) {
	switch verdict {
	case refusedHeld:
		mcp.WriteUnavailable(w, r.ID(), "the session is changing its owner")
	case refusedEnded:
		mcp.WriteSessionNotFound(w, r.ID())
	case refusedDuplicate:
		mcp.WriteError(w, http.StatusBadRequest, &mcp.Error{Code: mcp.CodeInvalidRequest, ID: r.ID(),
			Message: "id: a request of this session with the same id is in flight"})
	case refusedCalls, refusedStreams:
		bound, what := MaxCalls, "requests in flight"
		if verdict == refusedStreams {
			bound, what = MaxStreams, "open GET streams"
		}
		w.Header().Set("Retry-After", "1")
		mcp.WriteError(w, http.StatusTooManyRequests, &mcp.Error{Code: mcp.CodeLimit, ID: r.ID(),
			Message: fmt.Sprintf("the session has %d %s, which is the bound", bound, what)})
	}
}

// moving returns ErrFenced or ErrLost if that is why a request failed.
func moving(ctx context.Context, err error) error {
	cause := context.Cause(ctx)
	for _, why := range [...]error{ErrLost, ErrFenced} {
		if errors.Is(err, why) || errors.Is(cause, why) {
			return why
		}
	}
	return nil
}

// answerFailure answers a request for which the upstream gave no answer, or
// returns why somebody else is to answer it.
func (s *Session) answerFailure(ctx context.Context, w http.ResponseWriter, r *Request, up *upstreamSession, err error) error {
	cause, moves := context.Cause(ctx), moving(ctx, err)
	switch {
	case errors.Is(err, errOutdated):
		return errOutdated // it was not dispatched
	case errors.Is(err, errHanding) || errors.Is(cause, errHanding):
		return errHanding // only what was not dispatched, and GETs, end with it
	case errors.Is(cause, errEnded):
		mcp.WriteSessionNotFound(w, r.ID())
	case errors.Is(err, ErrNotSent) && moves != nil:
		return moves
	case errors.Is(err, errClientGone) || moves == nil && (errors.Is(cause, context.Canceled) || r.Method == http.MethodGet && cause != nil):
		// Nobody reads an answer.
	case errors.Is(err, ErrReplicaGone):
		s.table.cfg.Logger.Warn("upstream replica gone", "gateway", s.gateway, "upstream", s.upstream().Name, "error", err)
		return s.lostUpstream(ctx, w, r, up)
	case errors.Is(err, ErrNotSent):
		s.table.cfg.Logger.Warn("upstream not reached", "gateway", s.gateway, "upstream", s.upstream().Name, "error", err)
		mcp.WriteError(w, http.StatusBadGateway, &mcp.Error{Code: mcp.CodeUpstream, ID: r.ID(),
			Message: fmt.Sprintf("upstream %q could not be reached%s; the request was not sent", s.upstream().Name, why(err))})
	case moves != nil:
		return s.unknown(w, r, moves)
	default:
		return s.unknown(w, r, err)
	}
	return nil
}

// unknown answers a request that reached the upstream, or may have, and whose
// answer did not come or is not ours to pass on any more. If that is since this
// worker may not own the session any more and the request is repeatable, it
// returns why, and writes nothing.
func (s *Session) unknown(w http.ResponseWriter, r *Request, err error) error {
	if moves := moving(context.Background(), err); moves != nil && s.repeatable(r) {
		clear(w.Header())
		return moves
	}
	s.table.cfg.Logger.Warn("outcome unknown", "gateway", s.gateway, "upstream", s.upstream().Name, "error", err)
	s.table.CountUnknown()
	s.giveUp(r, err)
	clear(w.Header())
	r.OutcomeUnknown(w, s.upstream().Name, s.epoch, s.whyUnknown(err))
	return nil
}

// repeatable asks the gateway as it is now: which tools are safe to call twice
// may have changed since the session was opened.
func (s *Session) repeatable(r *Request) bool {
	if gateway := s.definition(); gateway != nil {
		return r.Repeatable(gateway.Upstream)
	}
	return r.Repeatable(nil)
}

// definition returns the gateway as it is now, or nil if it is gone.
func (s *Session) definition() *config.Gateway { return s.table.cfg.World().Gateways[s.gateway] }

// responseTimeout is how long the upstream may be silent while a request waits.
func (s *Session) responseTimeout() time.Duration {
	if gateway := s.definition(); gateway != nil {
		return gateway.Upstream.ResponseTimeout
	}
	return s.upstream().ResponseTimeout
}

func (s *Session) whyUnknown(err error) string {
	if errors.Is(err, ErrFenced) || errors.Is(err, ErrLost) {
		return "the session's owner lost its lease"
	}
	if errors.Is(err, errSettings) {
		return "the gateway's connection settings changed, and the call did not end in time"
	}
	if errors.Is(err, ErrSilent) {
		return fmt.Sprintf("upstream %q was silent for %v", s.upstream().Name, s.responseTimeout())
	}
	return fmt.Sprintf("upstream %q did not answer", s.upstream().Name)
}

// giveUp tells the upstream that nobody waits for its answer any more, if it was
// silent for too long.
func (s *Session) giveUp(r *Request, err error) {
	if !errors.Is(err, ErrSilent) {
		return
	}
	ids := slices.Clone(r.IDs)
	_ = s.act(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, refusalTime)
		defer cancel()
		for _, id := range ids {
			body := append(append([]byte(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":`), id...), `,"reason":"no answer in time"}}`...)
			if s.tell(ctx, body) != nil {
				return
			}
		}
	})
}

// serveDelete ends the session for its client. The answer means that the
// upstream's session is over too, and that the end is recorded.
func (s *Session) serveDelete(ctx context.Context, w http.ResponseWriter) error {
	if err := s.Pass(); err != nil {
		return err
	}
	for !s.close(leaseholdv1.EndReason_END_REASON_CLIENT) {
		switch verdict := s.admitEnd(ctx); verdict {
		case admitted:
		case refusedGiven:
			return s.movedTo()
		case refusedLost:
			return ErrLost
		default:
			s.refuse(w, &Request{}, verdict)
			return nil
		}
	}
	if !s.table.complete(context.WithoutCancel(ctx), s) {
		mcp.WriteUnavailable(w, nil, "the session ends once this worker's lease is certain again")
		return nil
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
