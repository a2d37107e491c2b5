package route

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/session"
	"github.com/leasehold/leasehold/dataplane/sessionid"
)

// hearOf is how long a message waits for this worker to hear of the one that has its
// client's connection, if that has only just registered.
const hearOf = time.Second

// Message answers for one message of a client whose connection is at the worker that
// hint names. The connection is the session: without that worker there is none, and
// nobody takes it over.
func (rt *Router) Message(ctx context.Context, w http.ResponseWriter, r *session.Request, hint sessionid.Hint) {
	r.Method = session.MethodMessage
	if hint.Worker == rt.cfg.Worker {
		rt.messageHere(ctx, w, r)
		return
	}
	target, known := rt.connectedAt(ctx, hint)
	switch {
	case !known:
		mcp.WriteUnavailable(w, r.ID(), "this worker does not know now which workers there are")
	case target.Address == "":
		mcp.WriteSessionNotFound(w, r.ID())
	case rt.missed.cutOff(target.Worker):
		writeCutOff(w, r)
	default:
		rt.messageAt(ctx, w, r, target)
	}
}

func (rt *Router) messageHere(ctx context.Context, w http.ResponseWriter, r *session.Request) {
	c, ok := rt.cfg.Table.Connection(r.Digest)
	if !ok {
		mcp.WriteSessionNotFound(w, r.ID())
		return
	}
	switch err := c.Serve(ctx, w, r); {
	case errors.Is(err, session.ErrFenced):
		writeFenced(w, r)
	case err != nil:
		mcp.WriteSessionNotFound(w, r.ID())
	}
}

// messageAt forwards a message to the worker that has the connection.
func (rt *Router) messageAt(ctx context.Context, w http.ResponseWriter, r *session.Request, target Target) {
	err := rt.cfg.Forwarder.Forward(ctx, w, target, r)
	if err == nil || errors.Is(err, ErrRefused) {
		rt.missed.forget(target.Worker)
	}
	var refusal Refusal
	switch {
	case err == nil || ctx.Err() != nil: // otherwise the client is gone
	case errors.Is(err, ErrNotSent):
		rt.missed.note(target.Worker)
		mcp.WriteUnavailable(w, r.ID(), "the worker that has the client's connection cannot be reached from this one now")
	case errors.As(err, &refusal) && refusal == Fenced:
		writeFenced(w, r)
	case errors.Is(err, ErrRefused):
		mcp.WriteSessionNotFound(w, r.ID())
	default:
		rt.cfg.Logger.Warn("owner broke off", "owner", target.Worker, "error", err)
		rt.cfg.Table.CountUnknown()
		mcp.WriteError(w, http.StatusBadGateway, &mcp.Error{Code: mcp.CodeOutcomeUnknown, ID: r.ID(),
			Message: "outcome unknown: the worker that has the client's connection went away; it may have got the message"})
	}
}

// connectedAt returns the worker that hint names, without an address if it is gone.
// It reports false if this worker cannot tell now.
func (rt *Router) connectedAt(ctx context.Context, hint sessionid.Hint) (Target, bool) {
	timer := time.NewTimer(hearOf)
	defer timer.Stop()
	for {
		changed := rt.cfg.World.Changed()
		world := rt.cfg.World.Load()
		if member, alive := world.Members[hint.Worker]; alive && member.Incarnation == hint.Incarnation {
			return Target{Worker: hint.Worker, Incarnation: hint.Incarnation, Epoch: 1, Address: member.PeerAddress, Patience: patience}, true
		}
		// A list without this worker itself is of a moment when the leases had run out.
		if _, self := world.Members[rt.cfg.Worker]; self && world.Revision > hint.Incarnation {
			return Target{}, true
		}
		select {
		case <-changed:
		case <-timer.C:
			return Target{}, false
		case <-ctx.Done():
			return Target{}, false
		}
	}
}

// admitMessage is Admit for a message.
func (rt *Router) admitMessage(r *session.Request) (Admitted, error) {
	if c, ok := rt.cfg.Table.Connection(r.Digest); ok {
		return c, nil
	}
	return nil, NotOwner
}

func writeFenced(w http.ResponseWriter, r *session.Request) {
	mcp.WriteUnavailable(w, r.ID(), "the lease of the worker that has the client's connection is uncertain; the session may go on shortly")
}
