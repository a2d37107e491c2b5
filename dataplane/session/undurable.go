package session

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

const (
	// recordTogether is how many sessions are recorded at the same time.
	recordTogether = 64
	// recordTime bounds one attempt to record a session.
	recordTime = 5 * time.Second
	// recordAgain is how long to wait before the next attempt.
	recordAgain = 500 * time.Millisecond
)

// undurable is what is to be recorded of a session that was opened while the control
// plane was away. The session serves like any other: while this worker may dispatch,
// nobody else can come to own it, whether an earlier claim took effect or not. If the
// worker dies first, it is lost.
type undurable struct {
	record *leaseholdv1.SessionRecord
}

// recordLater has a session recorded as soon as the control plane is there.
func (t *Table) recordLater(s *Session, record *leaseholdv1.SessionRecord) {
	t.cfg.Logger.Info("session opened without the control plane; it is not recorded yet", "gateway", s.gateway, "session", s.digest)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sessions[s.digest] == s {
		t.undurable[s] = &undurable{record}
		t.pokeLater()
	}
}

func (t *Table) pokeLater() {
	select {
	case t.later <- struct{}{}:
	default: // it is about to look
	}
}

// Record records sessions that were opened without the control plane once it is back,
// and the parts of others as they change, until ctx ends.
func (t *Table) Record(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.later:
		}
		for ctx.Err() == nil && t.recordAll(ctx)+t.saveChanged(ctx) > 0 {
			pause(ctx, recordAgain)
		}
	}
}

// recordAll tries to record each session once, and returns how many are left.
func (t *Table) recordAll(ctx context.Context) (left int) {
	t.mu.RLock()
	waiting := make(map[*Session]*undurable, len(t.undurable))
	for s, u := range t.undurable {
		waiting[s] = u
	}
	t.mu.RUnlock()
	var group errgroup.Group
	group.SetLimit(recordTogether)
	for s, u := range waiting {
		if !t.cfg.Authority.Holds(s.incarnation) || t.cfg.Away != nil && t.cfg.Away() {
			continue
		}
		group.Go(func() error { t.recordOne(ctx, s, u); return nil })
	}
	group.Wait()
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.undurable)
}

func (t *Table) recordOne(ctx context.Context, s *Session, u *undurable) {
	ctx, cancel := context.WithTimeout(ctx, recordTime)
	defer cancel()
	revision, err := t.cfg.Records.Claim(ctx, s.gateway, s.digest.String(), u.record)
	switch {
	case errors.Is(err, ErrUnavailable), errors.Is(err, ErrNoRoom), errors.Is(err, ErrNotAlive):
		return // again later
	case err == nil:
		s.revision.Store(revision)
		t.cfg.Logger.Info("session recorded", "gateway", s.gateway, "session", s.digest)
		t.PartsChanged(s.up.Load().id) // perhaps they have, since the session was opened
	}
	t.mu.Lock()
	delete(t.undurable, s)
	t.mu.Unlock()
	if err != nil { // somebody was told that there is no such session
		t.cfg.Logger.Warn("session could not be recorded, it ends", "gateway", s.gateway, "session", s.digest, "error", err)
		t.End(s.digest, leaseholdv1.EndReason_END_REASON_OWNER_LOST)
	}
}

// disownLocked ends the sessions that were not recorded under an incarnation that is
// over. A claim that was sent may have taken effect, so that another worker owns the
// session now: the tombstone tells, and keeps it from taking effect later. Nobody can
// own one that has it.
func (t *Table) disownLocked() {
	for s := range t.undurable {
		delete(t.undurable, s)
		t.pumps.Go(func() { t.disown(s) })
	}
}

func (t *Table) disown(s *Session) {
	ctx, cancel := context.WithTimeout(context.Background(), recordTime)
	defer cancel()
	request := s.endRequest()
	request.Reason = leaseholdv1.EndReason_END_REASON_OWNER_LOST
	if err := t.cfg.Records.End(ctx, request); err != nil {
		t.cfg.Logger.Warn("session that was not recorded is left to the upstream's own timeout", "gateway", s.gateway, "session", s.digest, "error", err)
		return
	}
	if !s.upstream().Pinned() { // what is pinned was dropped with the session
		up := s.up.Load()
		_ = t.endUpstream(ctx, up.of, up, nil)
	}
}

// Load is how much a worker has to do.
type Load struct {
	Sessions, Pinned, Undurable int
}

// Load returns how many sessions this worker owns.
func (t *Table) Load() Load {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return Load{Sessions: len(t.sessions), Pinned: t.pinned, Undurable: len(t.undurable)}
}
