package merge

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Times between tries to open a part that failed.
const (
	tryAgain     = 500 * time.Millisecond
	tryAgainMost = 30 * time.Second
	// together bounds the sessions that open a part again at the same time, once it
	// works.
	together = 16
)

// recovery opens a part again for all sessions of the worker that miss it: for one of
// them, with growing pauses, until that works; then for the others, at the upstream's
// pace. It runs while there is one.
type recovery struct {
	waiting map[*part]struct{} // guarded by the Upstream's mu
}

// reopen has a part that failed opened again.
func (u *Upstream) reopen(p *part) {
	p.of.mu.Lock()
	at, useful := placeOf(p.upstream), !p.of.over && !p.gone
	p.of.mu.Unlock()
	if !useful {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	r := u.reopening[at]
	if r == nil && !u.stopped {
		r = &recovery{waiting: make(map[*part]struct{})}
		u.reopening[at] = r
		u.group.Go(func() { u.recover(at, r) })
	}
	if r != nil {
		r.waiting[p] = struct{}{}
	}
}

// forgetReopening is told of parts that are not missed any more.
func (u *Upstream) forgetReopening(parts []*part) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, r := range u.reopening {
		for _, p := range parts {
			delete(r.waiting, p)
		}
	}
}

// recover is a recovery's goroutine.
func (u *Upstream) recover(at place, r *recovery) {
	wait, works := tryAgain, false
	for {
		most := together
		if !works {
			if !u.sleep(jittered(wait, rand.Float64())) {
				return
			}
			most = 1
		}
		parts := u.takeWaiting(at, r, most)
		if len(parts) == 0 {
			return
		}
		if works = u.openAll(parts); works {
			wait = tryAgain
			continue
		}
		wait = min(2*wait, tryAgainMost)
	}
}

// sleep reports false if the worker stops.
func (u *Upstream) sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-u.work.Done():
		return false
	}
}

// takeWaiting takes parts, at most most. Without any the recovery is over.
func (u *Upstream) takeWaiting(at place, r *recovery, most int) (parts []*part) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for p := range r.waiting {
		if len(parts) == most {
			break
		}
		delete(r.waiting, p)
		parts = append(parts, p)
	}
	if len(parts) == 0 {
		delete(u.reopening, at)
	}
	return parts
}

// openAll opens parts and reports whether all are open then. Those that are not wait
// again.
func (u *Upstream) openAll(parts []*part) bool {
	var group sync.WaitGroup
	failed := make([]error, len(parts))
	for i, p := range parts {
		group.Go(func() {
			if failed[i] = pace(u.work, p.pace()); failed[i] != nil {
				return
			}
			try := p.of.begin(p)
			<-try.done
			failed[i] = try.err
		})
	}
	group.Wait()
	for _, err := range failed {
		if err != nil && err != errOver {
			return false
		}
	}
	return true
}

// pace is how fast the upstream of a part takes sessions.
func (p *part) pace() *rate.Limiter {
	p.of.mu.Lock()
	defer p.of.mu.Unlock()
	return p.upstream.Reconnects
}

func pace(ctx context.Context, limiter *rate.Limiter) error {
	if limiter == nil {
		return nil
	}
	return limiter.Wait(ctx)
}
