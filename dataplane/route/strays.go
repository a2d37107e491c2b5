package route

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	"github.com/leasehold/leasehold/dataplane/session"
	"github.com/leasehold/leasehold/dataplane/sessionid"
)

const (
	// strayAgain is how soon this worker asks again for a stray session.
	strayAgain = 2 * time.Second
	// maxStrays bounds the stray sessions that are remembered.
	maxStrays = 4096
)

// errStray says that a session is, or may be, recorded as this worker's, which
// does not have it. Nobody else may take it over then, and if its client does not
// come back nothing would ever end it.
var errStray = errors.New("the session may be this worker's, but is not here")

// strays are such sessions. Safe for concurrent use.
type strays struct {
	mu sync.Mutex                  // guards of
	of map[sessionid.Digest]string // gateway by session
}

// note notes what came of taking a session.
func (s *strays) note(d sessionid.Digest, gateway string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case errors.Is(err, errStray):
		if len(s.of) < maxStrays {
			s.of[d] = gateway
		}
	case err == nil, errors.Is(err, session.ErrOver), errors.Is(err, session.ErrNoRecord), errors.Is(err, errOwnerAlive):
		delete(s.of, d)
	}
}

func (s *strays) all() map[sessionid.Digest]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.of)
}

// TakeUp has Run take a session up if it is recorded as this worker's, now or, if nobody
// can say now, later.
func (rt *Router) TakeUp(gateway string, d sessionid.Digest) {
	rt.strays.note(d, gateway, errStray)
	select {
	case rt.astray <- struct{}{}:
	default: // it is about to look
	}
}

// Run takes up sessions that are this worker's without its having them, until ctx
// ends.
func (rt *Router) Run(ctx context.Context) error {
	ticker := time.NewTicker(strayAgain)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-rt.astray:
		case <-ticker.C:
		}
		for d, gateway := range rt.strays.all() {
			if _, err := rt.take(ctx, gateway, d); err != nil {
				rt.cfg.Logger.Debug("stray session not taken up yet", "session", d, "error", err)
			}
		}
	}
}
