package route

import (
	"context"
	"errors"
	"time"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/session"
	"github.com/leasehold/leasehold/dataplane/sessionid"
)

// locateTime bounds the question to all workers.
const locateTime = time.Second

// errNowhere says that no worker that answers owns the session. It is not lost for
// that: some do not answer perhaps, and the control plane would know more.
var errNowhere = errors.New("the control plane is away, and no worker that answers has the session")

// located serves the request at the worker that says that it owns the session, while
// nobody else can be asked.
func (s *search) located() (bool, error) {
	target, ok := s.rt.locate(s.bounded, s.r.Digest)
	if !ok {
		return false, errNowhere
	}
	return s.at(target)
}

// locate asks all other workers whether they own a session.
func (rt *Router) locate(ctx context.Context, d sessionid.Digest) (Target, bool) {
	ctx, cancel := context.WithTimeout(ctx, locateTime)
	defer cancel()
	members := rt.cfg.World.Load().Members
	answers := make(chan *session.Moved, len(members)) // has room for all: nobody waits for the late ones
	asked := 0
	for _, member := range members {
		if member.Worker != rt.cfg.Worker {
			asked++
			go func() { answers <- rt.ask(ctx, member, d) }()
		}
	}
	for range asked {
		select {
		case owner := <-answers:
			if owner == nil {
				continue
			}
			return rt.reach(Target{Worker: owner.Worker, Incarnation: owner.Incarnation, Epoch: owner.Epoch})
		case <-ctx.Done():
			return Target{}, false
		}
	}
	return Target{}, false
}

// ask returns the owner if that is member, and nil otherwise.
func (rt *Router) ask(ctx context.Context, member config.Member, d sessionid.Digest) *session.Moved {
	owner, err := rt.cfg.Locator.Locate(ctx, member.PeerAddress, d)
	if err != nil {
		rt.cfg.Logger.Debug("worker not asked for a session", "worker", member.Worker, "error", err)
		return nil
	}
	if owner != nil {
		owner.Worker = member.Worker
	}
	return owner
}
