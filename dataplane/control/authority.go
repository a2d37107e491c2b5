package control

import (
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Authority is a worker's permission to act for sessions. There are three, each on a
// clock that counts suspend, and each given by the worker to itself:
//
//   - contact lasts as long as its lease certainly does, counted from when the last
//     acknowledged renewal was sent;
//   - a permit lasts for a moment at a time while the control plane is away: every
//     other worker that may take over said that it could not have, and cannot soon;
//   - power, to take sessions over from workers that may have a permit, comes once
//     contact has lasted for a lease and a half.
//
// Contact or a permit lets it dispatch. It is safe for concurrent use, and what the
// path of a request asks takes no lock.
type Authority struct {
	now   func() time.Duration
	state atomic.Pointer[tenure]

	mu     sync.Mutex // orders changes of state, and what others are told of it
	lapses int        // guarded by mu
}

// tenure is what an Authority rests on. It is replaced and never changed.
type tenure struct {
	incarnation int64
	terms       terms
	sent        time.Duration // when the last acknowledged request for the lease left
	deadline    time.Duration // contact lasts until then
	permit      time.Duration // the permit lasts until then
	since       time.Duration // contact has lasted, and power was not renounced, since
	gone        time.Duration // when the lease was known to be gone before its time; 0 if it is not
	powered     time.Duration // when there was power last, before since
	hadPower    bool          // there was
	counted     bool          // the lapse of this tenure is
	changed     chan struct{} // closed when it is replaced
}

// terms are those of a lease. All times of a worker are parts of its TTL.
type terms struct {
	ttl time.Duration
	// outage is for how long a worker may serve on without the control plane; 0 means
	// that it may not.
	outage time.Duration
}

func (t terms) margin() time.Duration { return t.ttl / 4 }

// hold is for how long contact has to last before it gives power. It is longer than a
// permit lasts by whatever two clocks can differ in that time: who was told that this
// worker has no contact has no permit any more once it has power.
func (t terms) hold() time.Duration { return t.ttl + t.ttl/2 }

// moment is how long a lapse of authority may last without that what is in flight is
// cut. It is a third of the margin, so that after a lapse of contact everything is
// cut well before the lease can have ended, and others can take over.
func (t terms) moment() time.Duration { return t.ttl / 12 }

// stale is how long after the last acknowledged renewal was sent a worker takes the
// control plane for away.
func (t terms) stale() time.Duration { return t.ttl / 3 }

func newAuthority(now func() time.Duration) *Authority {
	a := &Authority{now: now}
	a.state.Store(&tenure{changed: make(chan struct{})})
	return a
}

// Incarnation returns the worker's incarnation, or 0 before it registered.
func (a *Authority) Incarnation() int64 { return a.state.Load().incarnation }

// Holds reports whether incarnation may dispatch now: by contact or by a permit.
func (a *Authority) Holds(incarnation int64) bool {
	return a.state.Load().holds(incarnation, a.now())
}

// Await is Holds, but if the authority has lapsed just now it first waits for it to
// come back, for as long as what is in flight is not cut either.
func (a *Authority) Await(incarnation int64) bool {
	for {
		t, now := a.state.Load(), a.now()
		if t.holds(incarnation, now) {
			return true
		}
		left := t.ended() + t.terms.moment() - now
		if incarnation == 0 || t.incarnation != incarnation || left <= 0 {
			return false
		}
		timer := time.NewTimer(left)
		select {
		case <-t.changed:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// Contact reports whether the worker holds its lease for certain.
func (a *Authority) Contact() bool {
	t := a.state.Load()
	return t.incarnation != 0 && t.contact(a.now())
}

// Power reports whether incarnation may take sessions over from a worker that may
// serve on without the control plane. It has to have power when it asks for a session
// and when it is answered, so that it knows what it told others meanwhile.
func (a *Authority) Power(incarnation int64) bool {
	t, now := a.state.Load(), a.now()
	return incarnation != 0 && t.incarnation == incarnation && t.contact(now) &&
		(takeWithoutPower || now >= t.powerFrom())
}

// ServingOn reports whether the worker has a permit and no contact.
func (a *Authority) ServingOn() bool {
	t, now := a.state.Load(), a.now()
	return t.incarnation != 0 && !t.contact(now) && now < t.permit
}

// Renounce takes power away until contact has lasted long enough once more.
func (a *Authority) Renounce() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.renounceLocked(a.now())
}

func (a *Authority) renounceLocked(now time.Duration) {
	if a.state.Load().contact(now) { // otherwise it lapses by itself
		a.changeLocked(now, func(t *tenure) { t.since = now })
	}
}

// Witness says whether this worker could have taken a session over, under any
// incarnation, and when it could next. If the control plane does not answer it either,
// it renounces power first: in an outage workers have contact until shortly before
// their leases are over, and each needs the word of the others by then.
func (a *Authority) Witness() *leaseholdv1.WitnessResponse {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	if t := a.state.Load(); now-t.sent > t.terms.stale() {
		a.renounceLocked(now)
	}
	t := a.state.Load()
	answer := &leaseholdv1.WitnessResponse{Incarnation: t.incarnation, PowerIn: durationpb.New(t.powerIn(now))}
	if at, ok := t.lastPower(now); ok {
		answer.PowerAge = durationpb.New(now - at)
	}
	return answer
}

// Lapses returns how often the authority has lapsed until now. Nothing happens at the
// moment when it does, since it ends by the clock alone; so it is looked for before
// anything changes, and here.
func (a *Authority) Lapses() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	if now := a.now(); a.state.Load().lapsed(now) {
		a.changeLocked(now, func(*tenure) {})
	}
	return a.lapses
}

// extend gives contact until a margin before the lease can end: sent is when the
// request that was acknowledged now left, so that the worker's idea of its lease is
// never longer than the lease. Another incarnation begins without power and permit.
func (a *Authority) extend(incarnation int64, sent time.Duration, granted terms) {
	a.change(func(t *tenure, now time.Duration) {
		if fenceFromReply {
			sent = now
		}
		switch {
		case t.incarnation != incarnation:
			t.since, t.permit = now, 0
		case !t.contact(now):
			t.since = now
		}
		t.incarnation, t.terms, t.sent = incarnation, granted, sent
		t.deadline = sent + granted.ttl - granted.margin()
		t.gone, t.counted = 0, now >= t.ended()
	})
}

// allow gives a permit until a time, but for no longer than a worker may serve on,
// unless contact was extended or lost since deadline was what the others were asked
// about.
func (a *Authority) allow(incarnation int64, deadline, until time.Duration) {
	a.change(func(t *tenure, now time.Duration) {
		if t.incarnation != incarnation || t.deadline != deadline || t.gone != 0 {
			return
		}
		if until = min(until, deadline+t.terms.outage); until > max(t.permit, now) {
			t.permit, t.counted = until, false
		}
	})
}

// forfeit gives the permit up.
func (a *Authority) forfeit() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if now := a.now(); a.state.Load().permit > now {
		a.changeLocked(now, func(t *tenure) { t.permit = now })
	}
}

// suspend notes that the lease is gone. If contact has lapsed, that was to be
// expected, and a permit is no worse for it. Otherwise what this worker knew of its
// lease was wrong, and so is everything that it has concluded.
func (a *Authority) suspend() {
	a.change(func(t *tenure, now time.Duration) {
		if t.contact(now) {
			t.deadline, t.permit, t.gone = now, 0, now
		}
	})
}

// revoke takes the permission away for good, before the lease is given back.
func (a *Authority) revoke() {
	a.change(func(t *tenure, _ time.Duration) { t.incarnation, t.deadline, t.permit = 0, 0, 0 })
}

func (a *Authority) change(f func(t *tenure, now time.Duration)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	a.changeLocked(now, func(t *tenure) { f(t, now) })
}

func (a *Authority) changeLocked(now time.Duration, f func(*tenure)) {
	old := a.state.Load()
	next := *old
	next.powered, next.hadPower = old.lastPower(now)
	if old.lapsed(now) {
		a.lapses++
		next.counted = true
	}
	f(&next)
	if old.holds(old.incarnation, now) && next.incarnation != 0 && next.lapsed(now) {
		a.lapses++
		next.counted = true
	}
	next.changed = make(chan struct{})
	a.state.Store(&next)
	close(old.changed)
}

func (t *tenure) contact(now time.Duration) bool { return now < t.deadline }

func (t *tenure) holds(incarnation int64, now time.Duration) bool {
	return incarnation != 0 && t.incarnation == incarnation && (noFence || now < t.deadline || now < t.permit)
}

// ended returns when the authority ends, or has ended.
func (t *tenure) ended() time.Duration { return max(t.deadline, t.permit) }

// lapsed reports whether the authority has ended by itself, and that is not counted.
func (t *tenure) lapsed(now time.Duration) bool {
	return t.incarnation != 0 && !t.counted && now >= t.ended()
}

// powerFrom returns when contact gives power, if it lasts.
func (t *tenure) powerFrom() time.Duration { return t.since + t.terms.hold() }

// powerIn returns how long it takes at least until there is power.
func (t *tenure) powerIn(now time.Duration) time.Duration {
	if !t.contact(now) {
		return t.terms.hold()
	}
	return max(0, t.powerFrom()-now)
}

// lastPower returns when there was power last, at most now.
func (t *tenure) lastPower(now time.Duration) (at time.Duration, ok bool) {
	if from := t.powerFrom(); from < t.deadline && from <= now {
		return min(now, t.deadline), true
	}
	return t.powered, t.hadPower
}
