package etcd

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/leasehold/leasehold/controlplane/store"
)

const (
	// rereadEvery bounds how long something that a watch missed stays missed.
	rereadEvery = time.Minute
	// patience is how long reading may fail before it is said: an election in
	// etcd is shorter and concerns nobody.
	patience = 3 * time.Second
	// watchTimeout bounds how long it takes to begin a watch.
	watchTimeout = 2 * time.Second
	firstPause   = 50 * time.Millisecond
	longPause    = 2 * time.Second
)

// Follower is told what the store holds.
type Follower interface {
	// Publish is given each new state. It must not block.
	Publish(*store.Snapshot)
	// Lost is told that the state could not be followed for a while, and why; the
	// next Publish says that it can again.
	Lost(error)
}

// Follow reads the state in one go at one revision, and then watches from the
// next revision on. It follows one range with one watch, so that changes come in
// the order of their revisions whatever their kind: a state at a revision has
// everything up to it. When the watch ends or has a gap, everything is read
// again; and also every minute, because a watch alone does not prove absence.
// Follow returns when ctx ends.
func (s *Store) Follow(ctx context.Context, f Follower) {
	pause, failing := firstPause, time.Time{}
	var known *store.Snapshot
	for ctx.Err() == nil {
		snap, err := s.Snapshot(ctx, known)
		if err == nil {
			known, pause, failing = snap, firstPause, time.Time{}
			s.publish(known, f)
			known, err = s.watch(ctx, known, f)
		}
		if err == nil || ctx.Err() != nil {
			continue
		}
		if failing.IsZero() {
			failing = time.Now()
		}
		if errors.Is(err, errSilent) {
			failing = failing.Add(-s.hush) // so long already
		}
		if time.Since(failing) >= s.patience {
			f.Lost(err)
		}
		s.log.Warn("following etcd was interrupted", "error", err, "again_in", pause)
		wait(ctx, pause+rand.N(pause))
		pause = min(2*pause, longPause)
	}
}

// Reread has Follow read everything again, since there are other root keys.
func (s *Store) Reread() {
	select {
	case s.again <- struct{}{}:
	default: // it is asked for already
	}
}

// errSilent says that etcd has answered nothing for a while. The watch itself does not
// tell: the client begins it anew for as long as it takes, and says nothing of it.
var errSilent = fmt.Errorf("%w: etcd is silent", store.ErrUnavailable)

// errGap says that the watch is behind what etcd still has.
var errGap = errors.New("watch has a gap")

func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// Snapshot reads the whole state at one revision. What is as it was in before
// (which may be nil) is taken over from it.
func (s *Store) Snapshot(ctx context.Context, before *store.Snapshot) (*store.Snapshot, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	resp, err := s.readAll(ctx, "snapshot", []clientv3.Op{
		clientv3.OpGet(gatewaysPrefix, clientv3.WithPrefix()),
		clientv3.OpGet(membersPrefix, clientv3.WithPrefix()),
		clientv3.OpGet(endingsPrefix, clientv3.WithPrefix()),
		clientv3.OpGet(RingKey),
	})
	if err != nil {
		return nil, err
	}
	if before != nil && before.Revision > resp.Header.Revision {
		return nil, fmt.Errorf("etcd's revision went back from %d to %d: was it restored from a backup?", before.Revision, resp.Header.Revision)
	}
	d := newDraft(s, before)
	d.reset()
	for _, r := range resp.Responses {
		for _, kv := range r.GetResponseRange().Kvs {
			d.put(kv)
		}
	}
	return d.finish(resp.Header.Revision), nil
}

// watch publishes the state after each change until the watch ends, and returns
// the last one. It returns no error when it is merely time to read again.
func (s *Store) watch(ctx context.Context, known *store.Snapshot, f Follower) (*store.Snapshot, error) {
	ctx, cancel := context.WithCancel(withOp(clientv3.WithRequireLeader(ctx), "watch"))
	defer cancel()
	slow := time.AfterFunc(watchTimeout, cancel) // Watch returns when it is established, or never
	events := s.client.Watch(ctx, watchFrom, clientv3.WithRange(watchEnd), clientv3.WithRev(known.Revision+1))
	slow.Stop()
	reread := time.NewTimer(s.reread + rand.N(s.reread/4))
	defer reread.Stop()
	listen := time.NewTicker(s.hush / 4)
	defer listen.Stop()
	for {
		select {
		case <-reread.C:
			return known, nil
		case <-s.again:
			return known, nil
		case <-listen.C:
			if s.contact.quiet(s.hush) {
				return known, fmt.Errorf("watch: %w", errSilent)
			}
		case resp, ok := <-events:
			if !ok {
				return known, fmt.Errorf("watch: %w", store.ErrUnavailable)
			}
			if resp.CompactRevision != 0 {
				return known, fmt.Errorf("%w: compacted up to %d", errGap, resp.CompactRevision)
			}
			if err := resp.Err(); err != nil {
				return known, fmt.Errorf("watch: %w", err)
			}
			if len(resp.Events) == 0 {
				continue
			}
			known = s.apply(known, resp.Events)
			s.publish(known, f)
		}
	}
}

func (s *Store) publish(snap *store.Snapshot, f Follower) {
	s.followed.Store(snap)
	s.counts.rejected.Set(float64(len(store.Rejected(snap.Members))))
	s.deaths.wake()
	f.Publish(snap)
}

// apply returns the state after events. Its revision is the last event's: the
// one in the response's header may be ahead of events that are still to come.
func (s *Store) apply(known *store.Snapshot, events []*clientv3.Event) *store.Snapshot {
	d := newDraft(s, known)
	for _, ev := range events {
		if ev.Type == clientv3.EventTypeDelete {
			d.delete(string(ev.Kv.Key))
			continue
		}
		d.put(ev.Kv)
	}
	return d.finish(events[len(events)-1].Kv.ModRevision)
}
