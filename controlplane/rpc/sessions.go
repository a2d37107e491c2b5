package rpc

import (
	"context"
	"fmt"
	"strconv"

	"google.golang.org/grpc"

	"github.com/leasehold/leasehold/controlplane/audit"
	"github.com/leasehold/leasehold/controlplane/gateway"
	"github.com/leasehold/leasehold/controlplane/publish"
	"github.com/leasehold/leasehold/controlplane/session"
	"github.com/leasehold/leasehold/controlplane/store"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// sessions implements SessionService.
type sessions struct {
	leaseholdv1.UnimplementedSessionServiceServer
	store    Store
	hub      *publish.Hub
	observer Observer
	watches  *watches
}

// GetSession implements SessionService.
func (s *sessions) GetSession(ctx context.Context, req *leaseholdv1.GetSessionRequest) (*leaseholdv1.GetSessionResponse, error) {
	var c check
	key := c.sessionName(req.GetName())
	if err := c.err(); err != nil {
		return nil, err
	}
	found, err := s.store.GetSession(ctx, key)
	if err != nil {
		return nil, err
	}
	s.observe(ctx, []*leaseholdv1.Session{found})
	return &leaseholdv1.GetSessionResponse{Session: found}, nil
}

// ListSessions implements SessionService.
func (s *sessions) ListSessions(ctx context.Context, req *leaseholdv1.ListSessionsRequest) (*leaseholdv1.ListSessionsResponse, error) {
	var c check
	q := session.Query{Ended: req.GetShowEnded(), Size: pageSize(&c, req.GetPageSize())}
	parent := c.parent(req.GetParent())
	q.Filter = c.sessionFilter(parent, req.GetFilter())
	cur := newCursor("sessions", parent, strconv.FormatBool(q.Ended), req.GetFilter())
	after := cur.after(&c, req.GetPageToken(), func(after string) bool {
		_, ok := session.ParseName(after)
		return ok
	})
	if err := c.err(); err != nil {
		return nil, err
	}
	q.After, _ = session.ParseName(after)
	page, last, more, err := s.store.ListSessions(ctx, q)
	if err != nil {
		return nil, err
	}
	if req.GetShowActivity() {
		s.observe(ctx, page)
	}
	if kept := fitting(page); len(kept) < len(page) {
		page, more = kept, true
		last, _ = session.ParseName(page[len(page)-1].Name)
	}
	resp := &leaseholdv1.ListSessionsResponse{Sessions: page}
	if more {
		cur.After = last.Name()
		resp.NextPageToken = cur.token()
	}
	return resp, nil
}

// WatchSessions implements SessionService.
func (s *sessions) WatchSessions(req *leaseholdv1.WatchSessionsRequest, stream grpc.ServerStreamingServer[leaseholdv1.WatchSessionsResponse]) error {
	var c check
	c.notNegative("revision", req.GetRevision())
	f := c.sessionFilter(c.parent(req.GetParent()), req.GetFilter())
	if err := c.err(); err != nil {
		return err
	}
	return serveWatch(s.watches, stream, func(ctx context.Context, send func(*leaseholdv1.WatchSessionsResponse) error) error {
		return s.store.WatchSessions(ctx, req.GetRevision(), f, func(c store.Change[*leaseholdv1.Session]) error {
			return send(&leaseholdv1.WatchSessionsResponse{Type: c.Type, Session: c.Resource, Revision: c.Revision})
		})
	})
}

// observe adds what the owners say of how the sessions are used.
func (s *sessions) observe(ctx context.Context, list []*leaseholdv1.Session) {
	snap := s.hub.Snapshot()
	if snap == nil {
		return
	}
	ask := map[store.MemberKey][]string{}
	for _, one := range list {
		worker, _ := session.ParseWorkerName(one.Owner)
		key, ok := session.ParseName(one.Name)
		if owner := (store.MemberKey{Worker: worker, Incarnation: one.Incarnation}); ok && one.End == nil && snap.Members.Entries[owner].Info != nil {
			ask[owner] = append(ask[owner], key.Digest)
		}
	}
	activities := s.observer.Observe(ctx, snap, ask)
	for _, one := range list {
		if key, ok := session.ParseName(one.Name); ok && one.End == nil {
			one.Activity = activities[key.Digest]
		}
	}
}

// TerminateSession implements SessionService. It writes down the wish, which
// every worker is told of, and waits until the wish is gone: the transaction
// that ends the session deletes it.
func (s *sessions) TerminateSession(ctx context.Context, req *leaseholdv1.TerminateSessionRequest) (*leaseholdv1.TerminateSessionResponse, error) {
	var c check
	key := c.sessionName(req.GetName())
	if err := c.err(); err != nil {
		return nil, err
	}
	revision, err := s.store.WishEnd(ctx, key, leaseholdv1.EndReason_END_REASON_TERMINATED)
	if err != nil {
		return nil, err
	}
	audit.Of(ctx).Revision = revision
	wish := store.EndingKey{Gateway: key.Gateway, Session: key.Digest}
	err = s.hub.Await(ctx, func(snap *store.Snapshot) bool {
		_, waiting := snap.Endings.Entries[wish]
		return snap.Revision >= revision && !waiting
	})
	if err != nil {
		return nil, fmt.Errorf("terminate %s: %w", gateway.Name(key.Gateway), err)
	}
	ended, err := s.store.GetSession(ctx, key)
	if err != nil {
		return nil, err
	}
	return &leaseholdv1.TerminateSessionResponse{Session: ended}, nil
}
