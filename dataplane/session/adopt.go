package session

import (
	"errors"
	"fmt"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/sessionid"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Errors of Adopt.
var (
	// ErrFull says that this worker owns as many sessions as it may.
	ErrFull = errors.New("session bound reached")
	// ErrOver says that the session cannot go on, and has been ended.
	ErrOver = errors.New("session is over")

	errOtherWay = errors.New("the session came to be here by another way, or this worker's lease is over")
)

// Reserve takes a place for a session to adopt. ErrFull: there is none. Adopt or
// Release gives it back.
func (t *Table) Reserve(d sessionid.Digest) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.expected[d] == nil && len(t.sessions)+t.opening >= t.cfg.Max {
		return fmt.Errorf("%d sessions: %w", t.cfg.Max, ErrFull)
	}
	t.opening++ // one that is expected gives back the place that it has
	return nil
}

// Release gives back a place that is not needed after all.
func (t *Table) Release() { t.unreserve() }

// Adopt continues a session that this worker has reclaimed, or was handed, in a place
// taken with Reserve: with the upstream session that the record names, without
// initialize. ErrOver: its gateway is gone or reaches another upstream now, or it was
// pinned to the worker that died.
func (t *Table) Adopt(gateway string, d sessionid.Digest, record *leaseholdv1.SessionRecord, revision int64) (*Session, error) {
	s, reason, err := t.fromRecord(gateway, d, record)
	if err == nil {
		s.revision.Store(revision)
	}
	handed := wasHandedOver(record)
	switch {
	case err != nil:
		t.unreserve()
		return nil, err
	case reason != 0:
		t.buryOrphan(s, reason)
		return nil, fmt.Errorf("%w: %s", ErrOver, reasonLabel(reason))
	}
	var state *leaseholdv1.HandOverState
	if handed {
		from, ok := t.takeExpected(s)
		if !ok {
			t.unreserve()
			t.dropParts(s)
			return nil, errOtherWay
		}
		defer t.tookUp(from)
		s.table = t
		state = s.takeUp(from, record)
	}
	if !t.insert(s, s.idle) {
		s.dropLogs()
		t.dropParts(s)
		return nil, errOtherWay
	}
	how := "reclaim"
	if handed {
		how = "hand-over"
	}
	t.knowParts(s, record)
	t.metrics.opened.WithLabelValues(how).Inc()
	s.listenAgain(state)
	if reason := t.follow(s); reason != 0 { // what changed meanwhile found no session to end
		return nil, fmt.Errorf("%w: %s", ErrOver, reasonLabel(reason))
	}
	return s, nil
}

// fromRecord makes the session that a record describes, or says why it is over.
func (t *Table) fromRecord(gateway string, d sessionid.Digest, record *leaseholdv1.SessionRecord) (*Session, leaseholdv1.EndReason, error) {
	world := t.cfg.World()
	if len(record.GetUpstreams()) != 1 && !record.GetMerged() || len(record.GetPrincipalDigest()) != 32 {
		return nil, 0, fmt.Errorf("record of %s: %d upstreams and a principal digest of %d bytes, want 1 and 32",
			d, len(record.GetUpstreams()), len(record.GetPrincipalDigest()))
	}
	s := &Session{
		gateway: gateway, digest: d, epoch: record.GetEpoch(), incarnation: record.GetIncarnation(),
		principal: [32]byte(record.GetPrincipalDigest()), version: record.GetProtocolVersion(),
		expires: record.GetExpireTime().AsTime(), slot: -1,
	}
	up := &upstreamSession{version: s.version}
	s.up.Store(up)
	s.proven.Store(true) // by its earlier owner, as far as anybody knows
	for _, part := range record.GetUpstreams() {
		if seen := part.GetGatewayRevision(); seen > world.Revision {
			return nil, 0, fmt.Errorf("the session was opened under revision %d, this worker knows %d", seen, world.Revision)
		}
	}
	parts, err := partsOf(d, world.Ring, record.GetUpstreams())
	if err != nil {
		return nil, 0, err
	}
	definition := world.Gateways[gateway]
	if record.GetMerged() {
		wishes, err := wishesOf(d, world.Ring, record)
		if err != nil {
			return nil, 0, err
		}
		return s, t.attach(s, record, wishes, parts, definition), nil
	}
	part := parts[0]
	if up.id = part.ID; up.id != "" {
		up.address = part.Address
	}
	same := definition != nil && part.Fingerprint == definition.Upstream.Fingerprint
	if same {
		up.of, s.idle = definition.Upstream, definition.IdleTimeout
	}
	switch {
	case record.GetClass() == leaseholdv1.Class_CLASS_PINNED:
		if part.Class == leaseholdv1.Class_CLASS_PINNED {
			up.of = nil // what is left of the upstream session went with its worker
		}
		return s, leaseholdv1.EndReason_END_REASON_OWNER_LOST, nil
	case definition == nil:
		return s, leaseholdv1.EndReason_END_REASON_GATEWAY_DELETED, nil
	case !same && definition.Reinitialize && part.Class != leaseholdv1.Class_CLASS_PINNED && !definition.Upstream.Pinned():
		// The upstream session cannot be ended any more: nobody knows by what settings.
		s.up.Store(&upstreamSession{of: definition.Upstream, version: s.version, over: true})
		s.idle = definition.IdleTimeout
		return s, 0, nil
	case !same:
		return s, leaseholdv1.EndReason_END_REASON_UPSTREAM_CHANGED, nil
	}
	return s, 0, nil
}

// attach continues a session with several upstreams that a record describes, or says why
// it is over. Those of its upstream sessions that cannot go on are no reason.
func (t *Table) attach(s *Session, record *leaseholdv1.SessionRecord, wishes Wishes, parts []Part, definition *config.Gateway) leaseholdv1.EndReason {
	if definition == nil || definition.Upstream.Merged == nil {
		switch {
		case record.GetConnected():
			return leaseholdv1.EndReason_END_REASON_OWNER_LOST
		case definition == nil:
			return leaseholdv1.EndReason_END_REASON_GATEWAY_DELETED
		case !definition.Reinitialize || definition.Upstream.Pinned():
			return leaseholdv1.EndReason_END_REASON_UPSTREAM_CHANGED
		}
		s.up.Store(&upstreamSession{of: definition.Upstream, version: s.version, over: true})
		s.idle = definition.IdleTimeout
		return 0
	}
	id := t.cfg.Composite.Attach(definition.Upstream, clientOf(record), wishes, parts)
	s.up.Store(&upstreamSession{of: definition.Upstream, id: id, version: s.version})
	s.idle = definition.IdleTimeout
	s.fragile.Store(record.GetClass() == leaseholdv1.Class_CLASS_PINNED)
	if record.GetConnected() {
		return leaseholdv1.EndReason_END_REASON_OWNER_LOST
	}
	return 0
}

// dropParts gives back what Attach made of a session that does not come to be.
func (t *Table) dropParts(s *Session) {
	if up := s.up.Load(); up.several() {
		t.cfg.Upstream.Drop(up.of, up.id)
	}
}

// clientOf returns what a record says of the session's client.
func clientOf(record *leaseholdv1.SessionRecord) Client {
	info := mcp.AppendQuoted([]byte(`{"name":`), record.GetClient().GetName())
	info = append(mcp.AppendQuoted(append(info, `,"version":`...), record.GetClient().GetVersion()), '}')
	return Client{Version: record.GetProtocolVersion(), Capabilities: record.GetClientCapabilities(), Info: info}
}

// buryOrphan ends a reclaimed session that cannot go on, at the upstream too if
// the session has one still.
func (t *Table) buryOrphan(s *Session, reason leaseholdv1.EndReason) {
	s.table = t
	if s.upstream() == nil {
		s.up.Store(&upstreamSession{})
	}
	s.close(reason)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.opening--
	if t.sessions[s.digest] != nil {
		return
	}
	t.sessions[s.digest] = s
	s.told = s.told || s.upstream() == nil
	t.queueLocked(s)
	t.poke()
}
