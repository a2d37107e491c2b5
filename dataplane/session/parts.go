package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/sessionid"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Part is one upstream session of a session that has several, as it is recorded.
type Part struct {
	Upstream    string // its name
	ID          string // empty if the upstream gave none
	Version     string // of the protocol, negotiated with this upstream
	Address     string // of the replica that has it, host:port
	Cursor      string // the event id that its GET stream goes on after; empty for none
	Class       leaseholdv1.Class
	Fingerprint [16]byte // of the connection settings
}

// Client is what a client said of itself at initialize: with it its upstream sessions
// are opened.
type Client struct {
	// Version is the protocol version that it asked for.
	Version string
	// Capabilities and Info are JSON objects; nil for none.
	Capabilities, Info []byte
}

// Wishes are what a client has asked of its upstreams for as long as its session lasts:
// those that are opened anew are told again.
type Wishes struct {
	// LogLevel is a JSON value; nil if the client has set none.
	LogLevel []byte
	// Subscriptions are ordered.
	Subscriptions []Subscription
}

// Subscription is a resource that a client is subscribed to.
type Subscription struct {
	Upstream string // its name
	URI      string // as that upstream has it
}

func (w Wishes) isNothing() bool { return len(w.LogLevel) == 0 && len(w.Subscriptions) == 0 }

func (w Wishes) equal(o Wishes) bool {
	return bytes.Equal(w.LogLevel, o.LogLevel) && slices.Equal(w.Subscriptions, o.Subscriptions)
}

// Composite is what knows the parts of sessions that have several upstreams. It is safe
// for concurrent use.
type Composite interface {
	// Parts returns the upstream sessions of a session as it is now; nil if there is no
	// such session.
	Parts(id string) []Part
	// Wishes returns what the client of a session has asked of all its upstreams.
	Wishes(id string) Wishes
	// Cursors returns where the GET streams of a session's parts go on after an event id
	// of the session's, by the names of their upstreams.
	Cursors(id, after string) map[string]string
	// Attach makes a session of what was recorded of one, without initialize, and returns
	// its id. Upstream.Drop gives it back.
	Attach(u *config.Upstream, client Client, wishes Wishes, parts []Part) (id string)
}

// classOfParts returns the weakest class of parts.
func classOfParts(parts []Part) leaseholdv1.Class {
	class := leaseholdv1.Class_CLASS_RESUMABLE
	for _, part := range parts {
		class = max(class, part.Class)
	}
	return class
}

// note puts into a session's record what its upstream sessions are, which were opened by
// the definition with a revision.
func (t *Table) note(record *leaseholdv1.SessionRecord, s *Session, up *upstreamSession, revision int64) error {
	parts := []Part{{Upstream: up.of.Name, ID: up.id, Version: up.version, Address: up.address, Class: classOf(up.of, up.id), Fingerprint: up.of.Fingerprint}}
	if record.Merged = up.of.Merged != nil; record.Merged {
		parts = t.cfg.Composite.Parts(up.id)
	}
	if err := t.noteWishes(record, s, up); err != nil {
		return err
	}
	record.Class, record.Connected = classOfParts(parts), record.Merged && s.connected
	s.fragile.Store(record.Merged && record.Class == leaseholdv1.Class_CLASS_PINNED)
	if s.connected {
		record.Class = leaseholdv1.Class_CLASS_PINNED // to the connection; upstream sessions may not be
	}
	record.Upstreams = make([]*leaseholdv1.UpstreamRecord, len(parts))
	for i, part := range parts {
		r := &leaseholdv1.UpstreamRecord{
			Upstream: part.Upstream, ProtocolVersion: part.Version, Address: part.Address,
			ConnectionFingerprint: part.Fingerprint[:], GatewayRevision: revision, Class: part.Class,
		}
		if part.ID != "" {
			sealed, err := t.cfg.World().Ring.Seal([]byte(part.ID), sealContext(s.digest, part.Upstream))
			if err != nil {
				return fmt.Errorf("seal session id of upstream %s: %w", part.Upstream, err)
			}
			r.SealedSessionId = sealed
		}
		record.Upstreams[i] = r
	}
	return nil
}

// noteWishes puts into a session's record what its client has asked of several upstreams.
func (t *Table) noteWishes(record *leaseholdv1.SessionRecord, s *Session, up *upstreamSession) error {
	record.SealedWishes = nil
	if up.of.Merged == nil {
		return nil
	}
	wishes := t.cfg.Composite.Wishes(up.id)
	if wishes.isNothing() {
		return nil
	}
	told := &leaseholdv1.ClientWishes{LogLevel: wishes.LogLevel}
	for _, one := range wishes.Subscriptions {
		told.Subscriptions = append(told.Subscriptions, &leaseholdv1.ResourceSubscription{Upstream: one.Upstream, Uri: one.URI})
	}
	plain, err := proto.Marshal(told)
	if err == nil {
		record.SealedWishes, err = t.cfg.World().Ring.Seal(plain, wishesContext(s.digest))
	}
	if err != nil {
		return fmt.Errorf("seal what the client has asked for: %w", err)
	}
	return nil
}

// wishesOf returns what a record says that the client has asked for.
func wishesOf(d sessionid.Digest, ring *sessionid.Ring, record *leaseholdv1.SessionRecord) (wishes Wishes, err error) {
	if len(record.GetSealedWishes()) == 0 {
		return wishes, nil
	}
	plain, err := unseal(ring, record.GetSealedWishes(), wishesContext(d))
	told := &leaseholdv1.ClientWishes{}
	if err == nil {
		err = proto.Unmarshal(plain, told)
	}
	if err != nil {
		return wishes, fmt.Errorf("unseal what the client has asked for: %w", err)
	}
	wishes.LogLevel = told.GetLogLevel()
	for _, one := range told.GetSubscriptions() {
		wishes.Subscriptions = append(wishes.Subscriptions, Subscription{one.GetUpstream(), one.GetUri()})
	}
	return wishes, nil
}

// wishesContext binds sealed wishes to their place. Upstreams have no such names.
func wishesContext(d sessionid.Digest) string { return sealContext(d, "+wishes") }

// partsOf returns what a record says of a session's parts.
func partsOf(d sessionid.Digest, ring *sessionid.Ring, recorded []*leaseholdv1.UpstreamRecord) ([]Part, error) {
	parts := make([]Part, len(recorded))
	for i, r := range recorded {
		id, err := unsealID(d, ring, r)
		if err != nil {
			return nil, err
		}
		parts[i] = Part{Upstream: r.GetUpstream(), ID: id, Version: r.GetProtocolVersion(), Address: r.GetAddress(), Cursor: r.GetEventCursor(), Class: r.GetClass()}
		copy(parts[i].Fingerprint[:], r.GetConnectionFingerprint())
	}
	return parts, nil
}

// unsealID returns the upstream session id in a record; empty if the upstream gave none.
func unsealID(d sessionid.Digest, ring *sessionid.Ring, r *leaseholdv1.UpstreamRecord) (string, error) {
	if len(r.GetSealedSessionId()) == 0 {
		return "", nil
	}
	id, err := unseal(ring, r.GetSealedSessionId(), sealContext(d, r.GetUpstream()))
	if err != nil {
		return "", fmt.Errorf("unseal upstream session id: %w", err)
	}
	return string(id), nil
}

func unseal(ring *sessionid.Ring, sealed []byte, context string) ([]byte, error) {
	if ring == nil {
		return nil, errors.New("no key ring yet")
	}
	return ring.Unseal(sealed, context)
}

// knowParts has PartsChanged find a session, if it has several upstreams, which may have
// changed since they were recorded.
func (t *Table) knowParts(s *Session, record *leaseholdv1.SessionRecord) {
	t.mu.Lock()
	if t.sessions[s.digest] == s {
		t.knowPartsLocked(s)
	}
	t.mu.Unlock()
	if up := s.up.Load(); up.several() && !t.asRecorded(s, record, up) {
		t.PartsChanged(up.id)
	}
}

// several reports whether up is the sessions of several upstreams.
func (up *upstreamSession) several() bool { return up != nil && up.of != nil && up.of.Merged != nil }

// asRecorded reports whether a record has the parts of a session, and what its client has
// asked of them, as they are.
func (t *Table) asRecorded(s *Session, record *leaseholdv1.SessionRecord, up *upstreamSession) bool {
	recorded, err := partsOf(s.digest, t.cfg.World().Ring, record.GetUpstreams())
	wishes, unsealed := wishesOf(s.digest, t.cfg.World().Ring, record)
	if unsealed != nil || !wishes.equal(t.cfg.Composite.Wishes(up.id)) {
		return false
	}
	return err == nil && slices.EqualFunc(recorded, t.cfg.Composite.Parts(up.id), func(a, b Part) bool {
		a.Cursor, b.Cursor = "", "" // which only a hand-over records
		return a == b
	})
}

func (t *Table) knowPartsLocked(s *Session) {
	t.forgetPartsLocked(s)
	if up := s.up.Load(); up.several() {
		s.knownAs = up.id
		t.composite[up.id] = s
	}
}

func (t *Table) forgetPartsLocked(s *Session) {
	if t.composite[s.knownAs] == s {
		delete(t.composite, s.knownAs)
	}
	s.knownAs = ""
	delete(t.changed, s)
}

// PartsChanged has the parts of a session, and what its client has asked of them, recorded
// soon. Composite calls it with its id;
// it does not wait.
func (t *Table) PartsChanged(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.composite[id]; s != nil {
		t.changed[s] = struct{}{}
		t.pokeLater()
	}
}

// saveChanged records the parts of sessions where they have changed, and returns how
// many sessions are left.
func (t *Table) saveChanged(ctx context.Context) (left int) {
	var group errgroup.Group
	group.SetLimit(recordTogether)
	for _, s := range t.takeChanged() {
		group.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, recordTime)
			defer cancel()
			if !s.recording.TryLock() {
				t.againChanged(s) // it is being handed over
				return nil
			}
			defer s.recording.Unlock()
			if err := t.saveParts(ctx, s); err != nil && !errors.Is(err, ErrLost) {
				t.cfg.Logger.Warn("the session's upstreams are not recorded; trying again", "gateway", s.gateway, "session", s.digest, "error", err)
				t.againChanged(s)
			}
			return nil
		})
	}
	_ = group.Wait() // none of them fails
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.changed)
}

// takeChanged takes the sessions whose parts can be recorded now.
func (t *Table) takeChanged() []*Session {
	t.mu.Lock()
	defer t.mu.Unlock()
	var ready []*Session
	for s := range t.changed {
		if s.revision.Load() != 0 && t.cfg.Authority.Holds(s.incarnation) && (t.cfg.Away == nil || !t.cfg.Away()) {
			delete(t.changed, s)
			ready = append(ready, s)
		}
	}
	return ready
}

func (t *Table) againChanged(s *Session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sessions[s.digest] == s {
		t.changed[s] = struct{}{}
	}
}

// hasChanged reports whether parts of the session are to be recorded, and forgets it.
func (t *Table) hasChanged(s *Session) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, changed := t.changed[s]
	delete(t.changed, s)
	return changed
}

// saveParts records the session's parts as they are. s.recording is held. ErrLost: the
// record is not this worker's.
func (t *Table) saveParts(ctx context.Context, s *Session) error {
	resolved, err := t.cfg.Records.Resolve(ctx, s.gateway, s.digest.String(), nil, false)
	if err != nil {
		return err
	}
	record := resolved.GetRecord()
	if !isOwner(record, t.cfg.Worker, s.incarnation, s.epoch) {
		return ErrLost
	}
	up := s.up.Load()
	if up.of.Merged == nil || up.over {
		return nil // it has another upstream now, whose opening records that
	}
	if t.asRecorded(s, record, up) {
		return nil
	}
	next := proto.CloneOf(record)
	if err := t.note(next, s, up, s.definedAt()); err != nil {
		return err
	}
	revision, err := t.cfg.Records.Save(ctx, s.gateway, s.digest.String(), resolved.GetRevision(), next)
	if err == nil {
		s.revision.Store(revision)
	}
	return err
}

// definedAt returns the revision of the definition that the session's parts are by.
func (s *Session) definedAt() int64 {
	if gateway := s.definition(); gateway != nil {
		return gateway.Revision
	}
	return 0
}
