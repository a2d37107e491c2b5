package etcd

import (
	"context"
	"sync"
	"time"

	"github.com/leasehold/leasehold/controlplane/store"
)

// deathsPause is how long the next try is put off when a death could not be noted.
const deathsPause = time.Second

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
	for {
		select {
		case <-d.woken:
		case <-ctx.Done():
			return
		}
		snap := d.store.followed.Load()
		if snap == nil {
			continue
		}
		members := snap.Members
		if err := d.look(ctx, known, members); err != nil {
			if ctx.Err() == nil {
				d.store.log.Warn("deaths of workers were not noted", "error", err, "again_in", deathsPause)
			}
			wait(ctx, deathsPause)
			d.wake()
			continue
		}
		known = members
	}
}

// look marks the members that are gone since before, and notes what is marked. When
// nothing is known of before, all of the dead are marked.
func (d *deaths) look(ctx context.Context, before, now *store.Table[store.MemberKey, store.Member]) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if before == nil {
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
	if !gone && d.current() {
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

// current reports whether etcd was not lost since marks were noted.
func (d *deaths) current() bool {
	losses := d.store.contact.lost()
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.losses == losses
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
	d.seen, d.losses = seen, losses
}

// doubt has the marks read again: one is not what was seen.
func (d *deaths) doubt() {
	d.mu.Lock()
	d.losses = 0
	d.mu.Unlock()
	d.wake()
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
