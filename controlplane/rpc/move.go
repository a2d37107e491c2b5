package rpc

import (
	"context"
	"errors"
	"slices"

	"github.com/leasehold/leasehold/controlplane/session"
	"github.com/leasehold/leasehold/controlplane/store"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// moveAttempts is how often the owner is asked when the session turns out to have moved.
const moveAttempts = 3

// MoveSession implements SessionService. The owner hands the session over; the control
// plane only asks it to.
func (s *sessions) MoveSession(ctx context.Context, req *leaseholdv1.MoveSessionRequest) (*leaseholdv1.MoveSessionResponse, error) {
	var c check
	var to string
	key := c.sessionName(req.GetName())
	if req.GetWorker() != "" {
		to = c.workerName("worker", req.GetWorker())
	}
	if err := c.err(); err != nil {
		return nil, err
	}
	err := session.ErrStale
	for n := 0; n < moveAttempts && errors.Is(err, session.ErrStale); n++ {
		err = s.move(ctx, key, to)
	}
	if err != nil {
		return nil, err
	}
	moved, err := s.store.GetSession(ctx, key)
	if err != nil {
		return nil, err
	}
	return &leaseholdv1.MoveSessionResponse{Session: moved}, nil
}

// move asks the owner, if the session is not where it is wanted. It returns ErrStale
// when the session had another owner by then.
func (s *sessions) move(ctx context.Context, key session.Key, to string) error {
	found, err := s.store.GetSession(ctx, key)
	if err != nil {
		return err
	}
	members, err := s.store.Members(ctx)
	if err != nil {
		return err
	}
	owner, _ := session.ParseWorkerName(found.Owner)
	at := slices.IndexFunc(members, func(m store.Member) bool { return m.Worker == owner && m.Incarnation == found.Incarnation })
	switch {
	case found.End != nil:
		return session.ErrEnded
	case at < 0:
		return session.ErrNotAlive
	case owner == to:
		return nil
	case found.Class == leaseholdv1.Class_CLASS_PINNED:
		return session.ErrPinned
	case to != "" && !slices.ContainsFunc(members, func(m store.Member) bool { return m.Worker == to && !m.Info.GetDraining() }):
		return session.ErrNotAlive
	}
	return s.observer.HandOver(ctx, members[at], &leaseholdv1.HandOverNowRequest{Gateway: key.Gateway, Session: key.Digest, To: to})
}
