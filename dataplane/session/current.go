package session

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/mcp"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// A change of a gateway's connection settings ends the upstream sessions that were
// opened with the old ones. By the gateway's policy the client's session ends with
// its upstream session, or goes on with another one, which its next request opens.
//
// It is not left to the push alone: each request compares what its upstream session
// was opened with with the newest definition, and asks once more, as the last thing
// before its first byte, whether that upstream session is the session's still.

var (
	// errOutdated says that a request was not dispatched, since its upstream session is
	// not the session's any more.
	errOutdated = errors.New("the upstream session is out of date")
	// errSettings is the cause with which what is in flight under old settings is cut.
	errSettings = errors.New("the connection settings changed")
	// errAnswered says that a request was answered.
	errAnswered = errors.New("answered")
)

// under lets requests out as long as up is the session's upstream session. It
// implements Gate.
type under struct {
	session *Session
	up      *upstreamSession
}

// Pass implements Gate.
func (u under) Pass() error {
	if err := u.session.Pass(); err != nil {
		return err
	}
	if u.session.outdated(u.up) {
		return errOutdated
	}
	return nil
}

// outdated reports whether up is not the session's upstream session any more, or was
// opened with other settings than the newest definition has.
func (s *Session) outdated(up *upstreamSession) bool {
	return s.up.Load() != up || mismatch(up.of, s.definition()) != 0
}

// useLocked notes that a request is let out under its upstream session.
func (x *exchange) useLocked() error {
	switch {
	case x.up == nil || x.using:
		return nil
	case x.session.outdated(x.up):
		return errOutdated
	}
	x.using = true
	x.up.users++
	return nil
}

// usedLocked notes that a request is over.
func (x *exchange) usedLocked() {
	if !x.using {
		return
	}
	x.using = false
	if x.up.users--; x.up.users == 0 && x.up.idle != nil {
		close(x.up.idle)
		x.up.idle = nil
	}
}

// follow brings a session in line with the newest definition of its gateway. It
// returns why the session ends, or 0.
func (t *Table) follow(s *Session) leaseholdv1.EndReason {
	gateway := s.definition()
	if mismatch(s.upstream(), gateway) == 0 {
		return 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	defer t.poke()
	return t.followLocked(s, gateway)
}

// followLocked is follow, given the definition; nil if it is gone.
func (t *Table) followLocked(s *Session, gateway *config.Gateway) leaseholdv1.EndReason {
	reason := mismatch(s.upstream(), gateway)
	switch {
	case reason == 0:
		return 0
	case reason == leaseholdv1.EndReason_END_REASON_UPSTREAM_CHANGED && gateway.Reinitialize && gateway.Upstream.Pinned() == s.upstream().Pinned():
		if s.retire() {
			t.queueLocked(s)
		}
		return 0
	}
	if s.close(reason) {
		t.queueLocked(s)
	}
	return reason
}

// retire takes the session's upstream session away: nothing is sent under it any more
// but what ends it, and streams under it end. Calls in flight may end before it. It
// reports whether there was one to take away; of a session that is being handed over
// there is none yet.
func (s *Session) retire() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.up.Load()
	if s.closing || s.dropped || s.movingLocked() || old.over {
		return false
	}
	s.up.Store(&upstreamSession{of: old.of, version: old.version, over: true})
	s.stood.Store(false)
	s.asked, s.cursor, s.early = nil, "", nil
	if s.standing != nil {
		s.standing.lastWords(nil)
	}
	s.retired = append(s.retired, old)
	if old.users == 0 {
		return true
	}
	old.idle = make(chan struct{})
	ofOld := func(x *exchange) bool { return x.up == old }
	s.cutLocked(errSettings, func(x *exchange) bool { return ofOld(x) && x.kind == aStream })
	time.AfterFunc(callGrace, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.cutLocked(errSettings, ofOld)
	})
	return true
}

// inUse returns a channel that is closed when the calls are over that what is to end
// waits for; nil if there are none.
func (s *Session) inUse() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, old := range s.retired {
		if old.idle != nil {
			return old.idle
		}
	}
	if s.closing {
		return s.quiet
	}
	return nil
}

// awaitQuiet waits for calls that what is to end waits for. They are cut when
// their grace is over, but one whose client does not read may still hang in writing to
// it: that is not waited for.
func (s *Session) awaitQuiet(ctx context.Context, quiet <-chan struct{}) {
	patience := time.NewTimer(callGrace + cutTime)
	defer patience.Stop()
	select {
	case <-quiet:
	case <-ctx.Done():
	case <-patience.C:
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, old := range s.retired {
			old.idle = nil
		}
		s.quiet = nil
	}
}

// endRetired ends the upstream sessions that were taken away from a session.
func (t *Table) endRetired(ctx context.Context, s *Session) {
	s.mu.Lock()
	retired := s.retired
	s.retired = nil
	s.mu.Unlock()
	for _, old := range retired {
		_ = t.endUpstream(ctx, old.of, old, s)
	}
}

// tryCurrent is try under settings that are those of the newest definition.
func (s *Session) tryCurrent(ctx context.Context, w http.ResponseWriter, r *Request, x *exchange) error {
	for {
		err := s.current(ctx, w, r)
		if err == nil {
			err = s.try(ctx, w, r, x)
		}
		switch err {
		case errOutdated:
			x.up = nil
		case errAnswered:
			return nil
		default:
			return err
		}
	}
}

// current sees to it that the session has an upstream session that was opened with the
// newest settings. errAnswered: it has none, and the request is answered.
func (s *Session) current(ctx context.Context, w http.ResponseWriter, r *Request) error {
	if s.table.follow(s) != 0 {
		if s.isMoving() {
			return errHanding
		}
		mcp.WriteSessionNotFound(w, r.ID())
		return errAnswered
	}
	up := s.up.Load()
	if !up.over {
		return nil
	}
	switch err := s.lostUpstream(ctx, w, r, up); err {
	case errRenewed:
		return nil
	case nil:
		return errAnswered
	default:
		return err
	}
}
