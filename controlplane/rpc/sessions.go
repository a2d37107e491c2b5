package rpc

import (
	"context"
	"fmt"
	"strconv"

	"github.com/leasehold/leasehold/controlplane/gateway"
	"github.com/leasehold/leasehold/controlplane/publish"
	"github.com/leasehold/leasehold/controlplane/session"
	"github.com/leasehold/leasehold/controlplane/store"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// everyGateway is the parent of all sessions.
const everyGateway = "gateways/-"

// sessions implements SessionService.
type sessions struct {
	leaseholdv1.UnimplementedSessionServiceServer
	store Store
	hub   *publish.Hub
}

// GetSession implements SessionService.
func (s *sessions) GetSession(ctx context.Context, req *leaseholdv1.GetSessionRequest) (*leaseholdv1.GetSessionResponse, error) {
	key, err := sessionName(req.GetName())
	if err != nil {
		return nil, err
	}
	found, err := s.store.GetSession(ctx, key)
	if err != nil {
		return nil, err
	}
	return &leaseholdv1.GetSessionResponse{Session: found}, nil
}

func sessionName(name string) (session.Key, error) {
	key, ok := session.ParseName(name)
	if !ok {
		return key, invalid("name", fmt.Sprintf("must be gateways/{gateway}/sessions/{digest} with a digest of %d hexadecimal digits; has %d bytes", session.DigestLength, len(name)))
	}
	return key, nil
}

// ListSessions implements SessionService.
func (s *sessions) ListSessions(ctx context.Context, req *leaseholdv1.ListSessionsRequest) (*leaseholdv1.ListSessionsResponse, error) {
	q := session.Query{Ended: req.GetShowEnded()}
	var err error
	if q.Gateway, err = parentGateway(req.GetParent()); err != nil {
		return nil, err
	}
	if q.Size, err = pageSize(req.GetPageSize()); err != nil {
		return nil, err
	}
	cur := cursor{Kind: "sessions", Scope: q.Gateway + " " + strconv.FormatBool(q.Ended)}
	after, err := cur.after(req.GetPageToken(), func(after string) bool {
		key, ok := session.ParseName(after)
		return ok && (q.Gateway == "" || q.Gateway == key.Gateway)
	})
	if err != nil {
		return nil, err
	}
	q.After, _ = session.ParseName(after)
	page, last, more, err := s.store.ListSessions(ctx, q)
	if err != nil {
		return nil, err
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

// parentGateway returns the gateway whose sessions are asked for; empty for all.
func parentGateway(parent string) (string, error) {
	if parent == "" || parent == everyGateway {
		return "", nil
	}
	return gatewayID("parent", parent)
}

// TerminateSession implements SessionService. It writes down the wish, which
// every worker is told of, and waits until the wish is gone: the transaction
// that ends the session deletes it.
func (s *sessions) TerminateSession(ctx context.Context, req *leaseholdv1.TerminateSessionRequest) (*leaseholdv1.TerminateSessionResponse, error) {
	key, err := sessionName(req.GetName())
	if err != nil {
		return nil, err
	}
	revision, err := s.store.WishEnd(ctx, key, leaseholdv1.EndReason_END_REASON_TERMINATED)
	if err != nil {
		return nil, err
	}
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
