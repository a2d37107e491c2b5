package etcd

import (
	"context"
	"sync"
	"time"

	"github.com/leasehold/leasehold/controlplane/store"
)

const (
	// deathsPause is how long the next try is put off when deaths could not be noted.
	deathsPause = time.Second
	// missAgain is how often all incarnations are read at most because of one whose death
	// was missed.
	missAgain = 10 * time.Second
)

// deaths is for how long this replica has seen incarnations dead without a break, on its
// own clock. That there was none is proven by dead/{worker}/{E}: whatever brings an
// incarnation back deletes that key, so while it has the revision that was seen, the
// incarnation was dead all the time. A loss of etcd begins all times anew. It is safe for
// concurrent use.
type deaths struct {
	store *Store
	woken chan struct{} // has room for one

	mu     sync.Mutex                   // guards what follows
	losses int                          // of etcd, when seen was made
	seen   map[store.MemberKey]sighting // as many as there are keys in dead/
	missed bool                         // a death, or that somebody was back
	asked  time.Time                    // when that was found last
}

// sighting is a mark and since when it has been seen.
type sighting struct {
	revision int64
	since    time.Time
}

func newDeaths(s *Store) *deaths { return &deaths{store: s, woken: make(chan struct{}, 1)} }

// wake says that there is a new state of the members, or etcd again.
func (d *deaths) wake() {
	select {
	case d.woken <- struct{}{}:
	default:
	}
}

// run notes deaths as the followed state tells of them, until ctx ends.
func (d *deaths) run(ctx context.Context) {
	var known *store.Table[store.MemberKey, store.Member]
	for failing := false; ; {
		select {
		case <-d.woken:
		case <-ctx.Done():
			return
		}
		snap := d.store.followed.Load()
		if snap == nil {
			continue
		}
		err := d.look(ctx, known, snap.Members)
		if err == nil {
			known, failing = snap.Members, false
			continue
		}
		if !failing && ctx.Err() == nil {
			d.store.log.Warn("deaths of workers are not noted", "error", err)
		}
		failing = true
		wait(ctx, deathsPause)
		d.wake()
	}
}

// look marks the members that are gone since before, and notes what is marked. When
// nothing is known of before, or something was missed, all of the dead are marked.
func (d *deaths) look(ctx context.Context, before, now *store.Table[store.MemberKey, store.Member]) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	current, missed := d.state()
	if before == nil || missed {
		r, err := d.store.callRoll(ctx)
		if err == nil {
			err = d.store.markAll(ctx, r, d.store.now())
		}
		if err != nil {
			return err
		}
		return d.noteMarks(ctx)
	}
	gone := false
	for key := range before.Entries {
		if _, alive := now.Entries[key]; alive {
			continue
		}
		gone = true
		if _, err := d.store.markDead(ctx, key, d.store.now()); err != nil {
			return err
		}
	}
	if !gone && current {
		return nil
	}
	return d.noteMarks(ctx)
}

func (d *deaths) noteMarks(ctx context.Context) error {
	_, marks, err := d.store.readDead(ctx)
	if err == nil {
		d.note(marks)
	}
	return err
}

// state reports whether etcd was not lost since marks were noted, and whether something
// was missed.
func (d *deaths) state() (current, missed bool) {
	losses := d.store.contact.lost()
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.losses == losses, d.missed
}

// note takes marks as they were just read.
func (d *deaths) note(marks map[store.MemberKey]mark) {
	now, losses := d.store.contact.now(), d.store.contact.lost()
	d.mu.Lock()
	defer d.mu.Unlock()
	seen := make(map[store.MemberKey]sighting, len(marks))
	for key, m := range marks {
		seen[key] = sighting{m.revision, now}
		if before, ok := d.seen[key]; ok && before.revision == m.revision && d.losses == losses {
			seen[key] = before
		}
	}
	d.seen, d.losses, d.missed = seen, losses, false
}

// miss says that an incarnation is dead and was not seen, or not as it was seen. Its time
// begins anew once all incarnations were read again.
func (d *deaths) miss(key store.MemberKey) {
	now := d.store.contact.now()
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.seen, key)
	if d.asked.IsZero() || now.Sub(d.asked) >= missAgain {
		d.asked, d.missed = now, true
		d.wake()
	}
}

// age returns for how long an incarnation has been seen dead, as long as its mark has
// the revision that is returned too.
func (d *deaths) age(key store.MemberKey) (time.Duration, int64) {
	now, losses := d.store.contact.now(), d.store.contact.lost()
	d.mu.Lock()
	defer d.mu.Unlock()
	s, ok := d.seen[key]
	if !ok || d.losses != losses {
		return 0, 0
	}
	return now.Sub(s.since), s.revision
}
