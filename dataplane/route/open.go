package route

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"slices"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/session"
)

const (
	// elsewhere is at how many workers an initialize is tried that is not for this one.
	elsewhere = 3
)

// Open serves an initialize: here, or, while this worker takes no more sessions, at
// another one, so that a client whose balancer has not noticed yet loses nothing.
func (rt *Router) Open(ctx context.Context, w http.ResponseWriter, r *session.Request, message mcp.Message) {
	if !rt.cfg.Draining() {
		rt.cfg.Table.Open(ctx, w, r, message)
		return
	}
	r.Method = session.MethodOpen
	for _, member := range rt.openers() {
		err := rt.cfg.Forwarder.Forward(ctx, w, Target{Worker: member.Worker, Incarnation: member.Incarnation, Address: member.PeerAddress, Patience: patience}, r)
		switch {
		case err == nil || ctx.Err() != nil:
			return
		case errors.Is(err, ErrNotSent), errors.Is(err, ErrRefused):
			rt.cfg.Logger.Debug("session not opened at another worker", "worker", member.Worker, "error", err)
			continue
		}
		rt.cfg.Logger.Warn("worker that was to open a session broke off", "worker", member.Worker, "error", err)
		mcp.WriteError(w, http.StatusBadGateway, &mcp.Error{Code: mcp.CodeUpstream, ID: message.ID,
			Message: "the worker that was to open the session went away; begin again"})
		return
	}
	mcp.WriteUnavailable(w, message.ID, "this worker takes no more sessions, and no other one takes this one now")
}

// openers are the workers that may take a session, in random order.
func (rt *Router) openers() []config.Member {
	var all []config.Member
	for _, member := range rt.cfg.World.Load().Members {
		if member.Worker != rt.cfg.Worker && !member.Draining {
			all = append(all, member)
		}
	}
	slices.SortFunc(all, func(a, b config.Member) int { return cmp.Compare(a.Worker, b.Worker) })
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all[:min(len(all), elsewhere)]
}

// Connect serves the stream of a client of the HTTP+SSE transport, which is the session.
func (rt *Router) Connect(ctx context.Context, w http.ResponseWriter, r *session.Request) {
	if rt.cfg.Draining() {
		mcp.WriteUnavailable(w, nil, "this worker takes no more sessions")
		return
	}
	rt.cfg.Table.Connect(ctx, w, r)
}

// admitOpen is Admit for an initialize.
func (rt *Router) admitOpen() (Admitted, error) {
	if rt.cfg.Draining() {
		return nil, Closing
	}
	return opener{rt.cfg.Table}, nil
}

// opener serves an initialize that another worker passed on.
type opener struct{ table *session.Table }

// Serve implements Admitted.
func (o opener) Serve(ctx context.Context, w http.ResponseWriter, r *session.Request) error {
	e, err := mcp.Parse(r.Body, mcp.Limits{})
	if err != nil || e.Batch || e.First().Method != mcp.MethodInitialize {
		return NotOwner
	}
	r.Method = http.MethodPost
	o.table.Open(ctx, w, r, *e.First())
	return nil
}
