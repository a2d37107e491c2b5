package control

import (
	"context"
	"fmt"
	"maps"

	"github.com/leasehold/leasehold/dataplane/config"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// watch follows the world, from one replica after the other, until ctx ends.
func (c *Client) watch(ctx context.Context, incarnation int64) {
	for attempt := 0; ; attempt++ {
		r := c.pick()
		progressed, err := c.follow(ctx, r, incarnation)
		if ctx.Err() != nil {
			return
		}
		c.cfg.Logger.Warn("watch ended", "endpoint", r.address, "error", err)
		c.next(r)
		if progressed {
			attempt = 0
		}
		if pause(ctx, attempt) != nil {
			return
		}
	}
}

// follow reads one stream to its end. progressed says that a state was applied.
func (c *Client) follow(ctx context.Context, r replica, incarnation int64) (progressed bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.calls.WithLabelValues("Watch").Inc()
	stream, err := r.api.Watch(ctx)
	if err != nil {
		return false, err
	}
	if err := stream.Send(&leaseholdv1.WatchRequest{Worker: c.cfg.Worker, Incarnation: incarnation}); err != nil {
		return false, err
	}
	c.peers.watching()
	var w world
	for {
		resp, err := stream.Recv()
		if err != nil {
			return progressed, err
		}
		state := w.add(resp)
		if state == nil {
			continue
		}
		if applied := c.applied.Load(); state.Revision < applied {
			// What is new to this worker does not exist for that replica: gateways
			// and members would vanish, with the sessions of the one and the
			// connections to the other.
			return progressed, fmt.Errorf("the replica is behind: it knows revision %d, this worker %d", state.Revision, applied)
		}
		terms := c.authority.state.Load().terms
		state.TTL, state.MaxOutage = terms.ttl, terms.outage
		c.peers.see(state.Members)
		rejections, err := c.cfg.Apply(state)
		if err != nil {
			c.cfg.Logger.Error("config not applied, serving on with the last good one", "revision", state.Revision, "error", err)
			continue
		}
		c.applied.Store(state.Revision)
		progressed = true
		if err := stream.Send(c.acknowledgement(incarnation, state.Revision, rejections)); err != nil {
			return progressed, fmt.Errorf("acknowledge revision %d: %w", state.Revision, err)
		}
	}
}

// world assembles states from the parts in which they arrive.
type world struct {
	gateways map[string]*leaseholdv1.Gateway
	kept     []string // said in the parts of this state
	members  []*leaseholdv1.Member
	keys     *leaseholdv1.KeyRing
	endings  []*leaseholdv1.Ending
	inside   bool // in the middle of a state that has more parts
}

// add takes one part in, and returns the state once it is whole.
func (w *world) add(part *leaseholdv1.WatchResponse) *config.State {
	if !w.inside {
		// What was handed out is never changed: the next state gets its own map.
		if part.GetComplete() {
			*w = world{gateways: make(map[string]*leaseholdv1.Gateway)}
		} else {
			w.gateways, w.kept = maps.Clone(w.gateways), nil
		}
	}
	w.kept = append(w.kept, part.GetKeptGateways()...)
	for _, g := range part.GetGateways() {
		w.gateways[g.GetName()] = g
	}
	for _, name := range part.GetRemovedGateways() {
		delete(w.gateways, name)
	}
	if part.Members != nil {
		w.members = part.GetMembers().GetMembers()
	}
	if part.KeyRing != nil {
		w.keys = part.GetKeyRing()
	}
	if part.Endings != nil {
		w.endings = part.GetEndings().GetEndings()
	}
	if w.inside = part.GetMore(); w.inside {
		return nil
	}
	return &config.State{Revision: part.GetRevision(), Gateways: w.gateways, Kept: w.kept, Members: w.members, KeyRing: w.keys, Endings: w.endings}
}
