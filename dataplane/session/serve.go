package session

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/leasehold/leasehold/dataplane/mcp"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Serve answers one request of the session's client on w, which it may be called
// for concurrently. The end of ctx is the client's disconnect, and reaches the
// upstream. It panics with http.ErrAbortHandler when an answer breaks off after
// it began.
func (s *Session) Serve(ctx context.Context, w http.ResponseWriter, r *Request) {
	if r.Method == http.MethodDelete {
		s.serveDelete(ctx, w, r)
		return
	}
	x := &exchange{stream: r.Method == http.MethodGet}
	ctx, x.cancel = context.WithCancelCause(ctx)
	defer x.cancel(nil)
	if verdict := s.begin(x); verdict != admitted {
		s.refuse(w, r, verdict)
		return
	}
	defer s.finish(x)
	if !s.table.cfg.Authority.Holds(s.incarnation) {
		mcp.WriteUnavailable(w, r.ID(), "this worker's lease is uncertain; the session continues shortly")
		return
	}
	if !mcp.BatchAllowed(r.Body, s.version, r.Header) {
		mcp.WriteError(w, http.StatusBadRequest, &mcp.Error{Code: mcp.CodeInvalidRequest,
			Message: "batches are part of protocol version " + mcp.V20250326 + " only; this session speaks " + s.version})
		return
	}
	if s.upstreamID != "" {
		r.Header[mcp.HeaderSessionID] = []string{s.upstreamID}
	}
	answer, err := s.table.cfg.Upstream.Do(ctx, s.upstream.URL, r.Method, r.Header, r.Body)
	if err != nil {
		s.answerFailure(ctx, w, r, err)
		return
	}
	defer answer.Body.Close()
	s.relay(ctx, w, r, answer)
}

func (s *Session) refuse(w http.ResponseWriter, r *Request, verdict refusal) {
	switch verdict {
	case refusedEnded:
		mcp.WriteSessionNotFound(w, r.ID())
	case refusedLost:
		mcp.WriteUnavailable(w, r.ID(), "the session moves to another worker")
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

// answerFailure answers a request for which the upstream gave no answer.
func (s *Session) answerFailure(ctx context.Context, w http.ResponseWriter, r *Request, err error) {
	id := r.ID()
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errEnded):
		mcp.WriteSessionNotFound(w, id)
	case errors.Is(err, ErrNotSent) && errors.Is(cause, ErrLost):
		mcp.WriteUnavailable(w, id, "the session moves to another worker")
	case cause != nil && !errors.Is(cause, ErrLost):
		// The client is gone; nobody reads an answer.
	case errors.Is(err, ErrNotSent):
		s.table.cfg.Logger.Warn("upstream not reached", "gateway", s.gateway, "upstream", s.upstream.Name, "error", err)
		mcp.WriteError(w, http.StatusBadGateway, &mcp.Error{Code: mcp.CodeUpstream, ID: id,
			Message: fmt.Sprintf("upstream %q could not be reached; the request was not sent", s.upstream.Name)})
	default:
		s.table.cfg.Logger.Warn("upstream broke off", "gateway", s.gateway, "upstream", s.upstream.Name, "error", err)
		e := s.outcomeUnknown(id)
		if id == nil {
			mcp.WriteError(w, http.StatusBadGateway, e)
			return
		}
		mcp.WriteError(w, http.StatusOK, e)
	}
}

// outcomeUnknown is the answer to a request that reached the upstream, or may
// have, without an answer coming back. It is never sent again.
func (s *Session) outcomeUnknown(id []byte) *mcp.Error {
	return &mcp.Error{Code: mcp.CodeOutcomeUnknown, ID: id,
		Message: fmt.Sprintf("outcome unknown: upstream %q did not answer; the request may have been carried out", s.upstream.Name),
		Data:    fmt.Appendf(nil, `{"executed":"unknown","upstream":%s,"epoch":%d}`, strconv.Quote(s.upstream.Name), s.epoch)}
}

// serveDelete ends the session for its client. The answer means that the
// upstream's session is over too.
func (s *Session) serveDelete(ctx context.Context, w http.ResponseWriter, r *Request) {
	if !s.table.cfg.Authority.Holds(s.incarnation) {
		mcp.WriteUnavailable(w, nil, "this worker's lease is uncertain; the session continues shortly")
		return
	}
	if !s.close(leaseholdv1.EndReason_END_REASON_CLIENT) {
		if s.isDropped() {
			s.refuse(w, r, refusedLost)
			return
		}
		mcp.WriteSessionNotFound(w, nil)
		return
	}
	s.table.complete(context.WithoutCancel(ctx), s)
	w.WriteHeader(http.StatusNoContent)
}
