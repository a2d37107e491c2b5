// Package session holds the client sessions that this worker owns, from
// initialize to their end, and relays their requests to the upstream. Only the
// owner of a session talks to its upstream.
//
// An idle session is one struct: it has no goroutine, timer, connection or
// buffer. Its end is noticed by one loop over a heap of deadlines.
package session

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/replay"
	"github.com/leasehold/leasehold/dataplane/sessionid"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Bounds of a session's end.
const (
	// callGrace is how long calls in flight may go on once their session ends.
	callGrace = 5 * time.Second
	// clientGrace is that if its client ends it, which may wait for its DELETE no
	// longer than for other answers.
	clientGrace = 2 * time.Second
	// cutTime is how long a call that is cut may take to notice.
	cutTime = time.Second
	// deleteTimeout bounds the DELETE that ends an upstream session.
	deleteTimeout = 5 * time.Second
	// enders is how many sessions end at the same time at most.
	enders = 1024
	// endersPerGateway is how many of them may be of one gateway, so that an
	// upstream that hangs does not hold up the ends of others.
	endersPerGateway = 256
	// retryEnd is how long an end that could not be completed waits.
	retryEnd = 2 * time.Second
	// rememberMoved is how many sessions are remembered that were handed over, for
	// requests that still come here. Forgetting one costs a look-up.
	rememberMoved = 65_536
	// lastWords is how long ends under way may still take when the worker stops.
	lastWords = 500 * time.Millisecond
)

// Config is what a table needs; all fields but Metrics, Away and KeepAlive are required.
type Config struct {
	Worker    string
	Max       int // bound on sessions
	Upstream  Upstream
	Records   Records
	Receivers Receivers
	Authority Authority
	World     func() *config.Snapshot
	Logger    hclog.Logger
	Metrics   prometheus.Registerer
	// Away reports whether the control plane is known to be away, so that it need not be
	// asked before a session is opened. nil means that it never is.
	Away func() bool
	// Composite knows the parts of sessions with several upstreams. nil: there are none.
	Composite Composite
	// KeepAlive is how long a stream to a client is silent at most; 0 means
	// DefaultKeepAlive.
	KeepAlive time.Duration
}

// Table is the sessions of one worker. Safe for concurrent use.
type Table struct {
	cfg     Config
	now     func() time.Time
	metrics metrics
	turns   turns // of Run
	replays *replay.Store
	pumps   sync.WaitGroup // the GET streams at upstreams
	clients connections
	moved   *lru.Cache[sessionid.Digest, *Moved] // the sessions that were handed over last
	later   chan struct{}                        // capacity 1: a session is to be recorded later

	mu         sync.RWMutex // guards what follows
	sessions   map[sessionid.Digest]*Session
	opening    int
	pinned     int                            // of sessions, those that end with this worker
	expected   map[sessionid.Digest]*Expected // sessions that are being handed over to this worker
	straggling map[*Session]struct{}          // sessions of others, to whose calls this worker still passes on the answers
	undurable  map[*Session]*undurable        // sessions that are not recorded yet
	composite  map[string]*Session            // sessions with several upstreams, by the id that Composite knows
	changed    map[*Session]struct{}          // of those, the ones whose parts are to be recorded
	order      deadlines
	ending     map[string][]*Session // closed, waiting to be completed, by gateway
	busy       map[string]int        // being completed, by gateway
	wake       chan struct{}         // capacity 1
}

// NewTable returns an empty table; its Run ends sessions whose time has come.
func NewTable(cfg Config) (*Table, error) {
	cfg.KeepAlive = cmp.Or(cfg.KeepAlive, DefaultKeepAlive)
	moved, err := lru.New[sessionid.Digest, *Moved](rememberMoved)
	if err != nil {
		return nil, fmt.Errorf("sessions handed over: %w", err)
	}
	t := &Table{cfg: cfg, now: time.Now, sessions: make(map[sessionid.Digest]*Session), moved: moved,
		expected: make(map[sessionid.Digest]*Expected), straggling: make(map[*Session]struct{}),
		undurable: make(map[*Session]*undurable), composite: make(map[string]*Session), changed: make(map[*Session]struct{}), later: make(chan struct{}, 1), ending: make(map[string][]*Session), busy: make(map[string]int), wake: make(chan struct{}, 1)}
	t.replays = replay.NewStore(t.now)
	return t, t.metrics.register(t, cfg.Metrics)
}

// Find returns the session with this digest if this worker owns it.
func (t *Table) Find(d sessionid.Digest) (*Session, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	s, ok := t.sessions[d]
	return s, ok
}

// Len returns the number of sessions.
func (t *Table) Len() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.sessions)
}

// reserve takes a place for a session that is being opened or taken over.
func (t *Table) reserve() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.sessions)+t.opening >= t.cfg.Max {
		return false
	}
	t.opening++
	return true
}

func (t *Table) unreserve() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.opening--
}

// insert makes a session findable, in the place reserved for it. It refuses when
// the incarnation that the session was opened or taken under is over: then it is
// not this worker's any more. And when the session is there already.
func (t *Table) insert(s *Session, idle time.Duration) bool {
	s.table, s.idle = t, idle
	if s.lastUse.IsZero() {
		s.lastUse = t.now()
	}
	due, _ := s.dueAt(t.now())
	t.mu.Lock()
	defer t.mu.Unlock()
	t.opening--
	if t.sessions[s.digest] != nil || s.incarnation != t.cfg.Authority.Incarnation() {
		return false
	}
	t.sessions[s.digest] = s
	if s.pinned() {
		t.pinned++
	}
	t.knowPartsLocked(s)
	t.moved.Remove(s.digest) // it was this worker's before, and is again
	s.due = due
	heap.Push(&t.order, s)
	if s.slot == 0 {
		t.poke()
	}
	return true
}

// remove forgets a session that is over.
func (t *Table) remove(s *Session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.removeLocked(s)
}

func (t *Table) removeLocked(s *Session) {
	if t.sessions[s.digest] == s {
		delete(t.sessions, s.digest)
		if s.pinned() {
			t.pinned--
		}
	}
	if s.slot >= 0 {
		heap.Remove(&t.order, s.slot)
	}
	delete(t.undurable, s)
	t.forgetPartsLocked(s)
}

// forgetStraggler forgets a session of another worker whose last answer went by.
func (t *Table) forgetStraggler(s *Session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.straggling, s)
}

// poke makes Run look again.
func (t *Table) poke() {
	select {
	case t.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// queue leaves it to Run to complete the end of a closed session.
func (t *Table) queue(s *Session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.queueLocked(s)
	t.poke()
}

// End ends the session if this worker owns it, and reports whether it does.
func (t *Table) End(d sessionid.Digest, reason leaseholdv1.EndReason) bool {
	s, ok := t.Find(d)
	if ok && s.close(reason) {
		t.queue(s)
	}
	return ok
}

// DropAll forgets every session without a word to the upstreams: other workers
// may own them now.
func (t *Table) DropAll() {
	defer t.clients.close()
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.sessions {
		s.drop()
		s.slot = -1
	}
	for s := range t.straggling {
		s.drop()
	}
	t.disownLocked()
	t.sessions = make(map[sessionid.Digest]*Session)
	t.order, t.pinned = nil, 0
	clear(t.straggling)
	clear(t.ending)
}

// Fence cuts every request in flight, since this worker's lease is uncertain and
// others may soon own the sessions. Nothing is sent to the upstreams, and the
// sessions stay: they go on here if nobody took them.
func (t *Table) Fence() {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, s := range t.sessions {
		s.cut(ErrFenced)
	}
	for s := range t.straggling {
		s.cut(ErrFenced)
	}
	for s := range t.undurable {
		s.doubtful.Store(true)
	}
}

// Reconcile brings the sessions in line with a new snapshot: those whose gateway
// is gone or whose upstream is now reached differently end, the others take on
// the new policy.
func (t *Table) Reconcile(previous, next *config.Snapshot) {
	changed := make(map[string]*config.Gateway)
	for id, old := range previous.Gateways {
		if now := next.Gateways[id]; now != old {
			changed[id] = now
		}
	}
	if len(changed) == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.sessions {
		gateway, ok := changed[s.gateway]
		if !ok || s.isClosing() {
			continue
		}
		if t.followLocked(s, gateway) != 0 {
			continue
		}
		s.mu.Lock()
		s.idle = gateway.IdleTimeout
		s.mu.Unlock()
		s.due, _ = s.dueAt(t.now())
		heap.Fix(&t.order, s.slot)
	}
	t.poke()
}

// mismatch returns why a session opened with upstream cannot go on under gateway,
// or 0 if it can.
func mismatch(upstream *config.Upstream, gateway *config.Gateway) leaseholdv1.EndReason {
	switch {
	case gateway == nil:
		return leaseholdv1.EndReason_END_REASON_GATEWAY_DELETED
	case gateway.Upstream.Fingerprint != upstream.Fingerprint:
		return leaseholdv1.EndReason_END_REASON_UPSTREAM_CHANGED
	}
	return 0
}

// Run ends sessions whose time has come, until ctx ends. Sessions that are left
// then are not ended: another worker continues them.
func (t *Table) Run(ctx context.Context) error {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var group errgroup.Group
	group.SetLimit(enders)
	var waiting sync.WaitGroup
	defer func() {
		last := time.AfterFunc(lastWords, cancel)
		defer last.Stop()
		group.Wait()
		waiting.Wait()
		t.pumps.Wait() // they were cut when the sessions were dropped
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		complete := t.turns.begin()
		next := t.expire()
		for s := t.takeEnding(); s != nil; s = t.takeEnding() {
			if quiet := s.inUse(); quiet != nil { // it holds up none of those that can end
				t.release(s)
				waiting.Go(func() { s.awaitQuiet(work, quiet); t.queue(s) })
				continue
			}
			if !group.TryGo(func() error { defer t.doneEnding(s); t.complete(work, s); return nil }) {
				t.putBack(s) // until one of those under way is done, which wakes this loop
				break
			}
		}
		complete()
		if due, ok := t.replays.Sweep(); ok {
			next = min(next, due)
		}
		timer.Reset(next)
		select {
		case <-ctx.Done():
			return nil
		case <-t.wake:
		case <-timer.C:
		}
	}
}

// takeEnding returns a session whose end is to be completed now, or nil.
func (t *Table) takeEnding() *Session {
	t.mu.Lock()
	defer t.mu.Unlock()
	for gateway, waiting := range t.ending {
		if t.busy[gateway] >= endersPerGateway {
			continue
		}
		s := waiting[0]
		waiting[0] = nil
		if t.ending[gateway] = waiting[1:]; len(waiting) == 1 {
			delete(t.ending, gateway)
		}
		t.busy[gateway]++
		return s
	}
	return nil
}

// release gives back the place of a session whose calls are waited for.
func (t *Table) release(s *Session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.freeLocked(s)
}

// doneEnding gives back the place of a session that takeEnding returned.
func (t *Table) doneEnding(s *Session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.freeLocked(s)
	t.poke()
}

// putBack takes back what takeEnding returned.
func (t *Table) putBack(s *Session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.freeLocked(s)
	t.queueLocked(s)
}

func (t *Table) freeLocked(s *Session) {
	if t.busy[s.gateway]--; t.busy[s.gateway] == 0 {
		delete(t.busy, s.gateway)
	}
}

func (t *Table) queueLocked(s *Session) { t.ending[s.gateway] = append(t.ending[s.gateway], s) }

// expire closes the sessions whose time has come and returns when to look again.
func (t *Table) expire() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	for len(t.order) > 0 && !t.order[0].due.After(now) {
		s := t.order[0]
		if s.isClosing() {
			heap.Pop(&t.order)
			if s.again {
				t.queueLocked(s)
			}
			continue
		}
		due, reason := s.dueAt(now)
		if reason != 0 && !t.cfg.Authority.Holds(s.incarnation) {
			due, reason = now.Add(retryEnd), 0 // it may live elsewhere, and be in use
		}
		if reason == 0 {
			s.due = due
			heap.Fix(&t.order, 0)
			continue
		}
		if !s.close(reason) { // it is being handed over
			s.due = now.Add(retryEnd)
			heap.Fix(&t.order, 0)
			continue
		}
		heap.Pop(&t.order)
		t.queueLocked(s)
	}
	if len(t.order) == 0 {
		return time.Hour
	}
	return t.order[0].due.Sub(now)
}

// complete carries a closed session's end through: calls in flight get their
// grace, the upstream session ends with DELETE, the record becomes a tombstone.
// In this order: when the worker dies in between, the session has a live record
// still and the next owner finds out, so that nothing is left over upstream.
//
// It reports whether the end is recorded; if not, it is completed later.
func (t *Table) complete(ctx context.Context, s *Session) bool {
	if !s.isClosing() {
		t.endRetired(ctx, s)
		return true
	}
	if !s.completing.CompareAndSwap(false, true) {
		return true // it was queued for an upstream session that was taken away, too
	}
	done := t.finishEnd(ctx, s)
	s.completing.Store(done)
	return done
}

// finishEnd is complete for a closed session.
func (t *Table) finishEnd(ctx context.Context, s *Session) bool {
	s.mu.Lock()
	quiet := s.quiet
	s.mu.Unlock()
	if quiet != nil {
		// Calls are cut when their grace is over, but one whose client does not
		// read may still hang in writing to it.
		patience := time.NewTimer(callGrace + cutTime)
		defer patience.Stop()
		select {
		case <-quiet:
		case <-patience.C:
		case <-ctx.Done():
			return false // the worker stops; the session goes on elsewhere
		}
	}
	t.endRetired(ctx, s)
	if !s.told {
		if !t.cfg.Authority.Holds(s.incarnation) {
			t.completeLater(s) // the upstream session may be somebody else's by now
			return false
		}
		if err := t.endUpstream(ctx, s.upstream(), s.up.Load(), s); moving(ctx, err) != nil {
			t.completeLater(s)
			return false
		}
		s.told = true
	}
	return t.bury(ctx, s)
}

func (s *Session) endRequest() *leaseholdv1.EndRequest {
	return &leaseholdv1.EndRequest{Gateway: s.gateway, Session: s.digest.String(), Incarnation: s.incarnation,
		Reason: s.reason, ExpireTime: timestamppb.New(s.expires)}
}

// bury writes the tombstone and then forgets the session. While the control
// plane cannot be reached the session stays, refusing every request.
func (t *Table) bury(ctx context.Context, s *Session) bool {
	ctx, cancel := context.WithTimeout(ctx, retryEnd)
	defer cancel()
	err := t.cfg.Records.End(ctx, s.endRequest())
	if errors.Is(err, ErrUnavailable) || errors.Is(err, ErrNoRoom) {
		t.cfg.Logger.Warn("session end not recorded yet", "session", s.digest, "error", err)
		t.completeLater(s)
		return false
	}
	if err != nil { // another worker owns it, or has ended it
		t.cfg.Logger.Warn("session end refused", "session", s.digest, "error", err)
	}
	t.remove(s)
	t.metrics.ended.WithLabelValues(reasonLabel(s.reason)).Inc()
	level := hclog.Info
	if s.reason == leaseholdv1.EndReason_END_REASON_CLIENT {
		level = hclog.Debug // nothing that an operator would look for
	}
	t.cfg.Logger.Log(level, "session ended", "gateway", s.gateway, "session", s.digest, "epoch", s.epoch, "reason", reasonLabel(s.reason))
	return true
}

// completeLater puts a closed session back among the deadlines.
func (t *Table) completeLater(s *Session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sessions[s.digest] != s {
		return // dropped meanwhile: the record is no longer this worker's
	}
	s.again = true
	s.due = t.now().Add(retryEnd)
	if s.slot >= 0 {
		heap.Fix(&t.order, s.slot)
	} else {
		heap.Push(&t.order, s)
	}
	t.poke()
}

// deadlines is a heap of sessions, the one that is due first on top.
type deadlines []*Session

func (d deadlines) Len() int           { return len(d) }
func (d deadlines) Less(i, j int) bool { return d[i].due.Before(d[j].due) }
func (d deadlines) Swap(i, j int) {
	d[i], d[j] = d[j], d[i]
	d[i].slot, d[j].slot = i, j
}

// Push is part of heap.Interface.
func (d *deadlines) Push(x any) {
	s := x.(*Session)
	s.slot = len(*d)
	*d = append(*d, s)
}

// Pop is part of heap.Interface.
func (d *deadlines) Pop() any {
	last := len(*d) - 1
	s := (*d)[last]
	(*d)[last] = nil
	*d = (*d)[:last]
	s.slot = -1
	return s
}
