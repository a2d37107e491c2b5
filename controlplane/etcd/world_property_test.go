package etcd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/leasehold/leasehold/controlplane/session"
	"github.com/leasehold/leasehold/controlplane/store"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// world is what the store holds of workers and sessions, or what a test's model
// says that it must hold.
type world struct {
	incarnations map[string]incarnationState
	members      map[store.MemberKey]int64 // the lease
	condemned    map[store.MemberKey]bool
	sessions     map[session.Key]recordState
	ended        map[session.Key]dueState
	wishes       map[session.Key]int64 // the revision
	// dead are the collector's marks. No model has them: when it looks is its own
	// affair.
	dead map[store.MemberKey]bool

	// What follows is a model's only, and is about the replicas.

	// holding says that they hold.
	holding bool
	// expired are those whom they saw dead for longer than a worker can serve on.
	expired map[store.MemberKey]bool
}

type incarnationState struct {
	number   int64
	left     bool
	revision int64
	peers    []session.Peer
	// forgettable says of a model's that the collector may have deleted it, or
	// condemned it.
	forgettable bool
}

// String says everything but what is a model's own.
func (s incarnationState) String() string {
	return fmt.Sprintf("%d, left %v, at %d, knows %v", s.number, s.left, s.revision, s.peers)
}

// recordState is a record without the times of its events, and never changed in
// place.
type recordState struct {
	record   *session.Record
	revision int64
	// timely says of a model's tombstone that it does not know its times.
	timely bool
}

type dueState struct{ unix, revision int64 }

func newWorld() *world {
	return &world{
		incarnations: map[string]incarnationState{},
		members:      map[store.MemberKey]int64{},
		condemned:    map[store.MemberKey]bool{},
		sessions:     map[session.Key]recordState{},
		ended:        map[session.Key]dueState{},
		wishes:       map[session.Key]int64{},
		dead:         map[store.MemberKey]bool{},
		expired:      map[store.MemberKey]bool{},
	}
}

func (w *world) clone() *world {
	return &world{
		incarnations: maps.Clone(w.incarnations),
		members:      maps.Clone(w.members),
		condemned:    maps.Clone(w.condemned),
		sessions:     maps.Clone(w.sessions),
		ended:        maps.Clone(w.ended),
		wishes:       maps.Clone(w.wishes),
		holding:      w.holding,
		expired:      maps.Clone(w.expired),
	}
}

// readWorld reads everything at one revision.
func readWorld(ctx context.Context, s *Store) (*world, error) {
	resp, err := s.client.Get(ctx, root, clientv3.WithPrefix())
	if err != nil {
		return nil, err
	}
	w := newWorld()
	for _, kv := range resp.Kvs {
		if err := w.add(kv); err != nil {
			return nil, err
		}
	}
	return w, nil
}

func (w *world) add(kv *mvccpb.KeyValue) error {
	key := string(kv.Key)
	member := func(prefix string) store.MemberKey {
		k, _ := parseMember(prefix, key)
		return k
	}
	of := func(prefix string) session.Key {
		k, _ := parseSession(prefix, key)
		return k
	}
	switch {
	case strings.HasPrefix(key, incarnationsPrefix):
		v, err := decodeIncarnation(kv)
		w.incarnations[strings.TrimPrefix(key, incarnationsPrefix)] = incarnationState{number: v.Incarnation, left: v.Left, revision: kv.ModRevision, peers: v.Peers}
		return err
	case strings.HasPrefix(key, membersPrefix):
		w.members[member(membersPrefix)] = kv.Lease
	case strings.HasPrefix(key, condemnedPrefix):
		w.condemned[member(condemnedPrefix)] = true
	case strings.HasPrefix(key, deadPrefix):
		w.dead[member(deadPrefix)] = true
	case strings.HasPrefix(key, sessionsPrefix):
		rec, err := decodeRecord(kv)
		w.sessions[of(sessionsPrefix)] = recordState{record: timeless(rec), revision: kv.ModRevision}
		return err
	case strings.HasPrefix(key, endedPrefix):
		at, err := parseUnix(kv.Value)
		w.ended[of(endedPrefix)] = dueState{at.Unix(), kv.ModRevision}
		return err
	case strings.HasPrefix(key, endingsPrefix):
		w.wishes[of(endingsPrefix)] = kv.ModRevision
	case key == collectorKey: // after some minutes its turn comes
	default:
		return fmt.Errorf("nobody should write %q", key)
	}
	return nil
}

// timeless forgets when events happened, which no model knows.
func timeless(rec *session.Record) *session.Record {
	for _, e := range rec.GetEvents() {
		e.Time = nil
	}
	return rec
}

// lines says everything, each thing by its key.
func (w *world) lines() map[string]string {
	lines := map[string]string{}
	for k, v := range w.incarnations {
		lines[incarnationKey(k)] = v.String()
	}
	for k, v := range w.members {
		lines[memberKey(k.Worker, k.Incarnation)] = fmt.Sprintf("on lease %x", v)
	}
	for k := range w.condemned {
		lines[condemnedKey(k.Worker, k.Incarnation)] = "yes"
	}
	for k, v := range w.sessions {
		lines[sessionKey(k)] = fmt.Sprintf("at %d: %v", v.revision, v.record)
	}
	for k, v := range w.ended {
		lines[endedKey(k)] = fmt.Sprintf("%+v", v)
	}
	for k, v := range w.wishes {
		lines[endingKey(k)] = fmt.Sprintf("at %d", v)
	}
	return lines
}

// learn takes from what was read what w cannot know.
func (w *world) learn(read *world) {
	for worker, v := range w.incarnations {
		if v.revision == unknown {
			v.revision = read.incarnations[worker].revision
		}
		if v.number == unknown {
			v.number = read.incarnations[worker].number
		}
		w.incarnations[worker] = v
	}
	for k, lease := range w.members {
		if lease == unknown && read.alive(k) {
			w.members[k] = read.members[k]
		}
	}
	for k, v := range w.sessions {
		is := read.sessions[k]
		if v.timely && is.record.GetEnd() != nil {
			v.record.End.Time, v.record.ExpireTime = is.record.End.Time, is.record.ExpireTime
			w.ended[k] = dueState{is.record.ExpireTime.Seconds + 24*60*60, is.revision}
		}
		if v.revision == unknown {
			w.sessions[k] = recordState{record: v.record, revision: is.revision}
		}
	}
	for k, v := range w.ended {
		if v.revision == unknown {
			w.ended[k] = dueState{v.unix, read.ended[k].revision}
		}
	}
	for k, revision := range w.wishes {
		if revision == unknown {
			w.wishes[k] = read.wishes[k]
		}
	}
}

// learnForgotten takes from what was read what the collector did with incarnations.
func (w *world) learnForgotten(read *world) {
	for worker, v := range w.incarnations {
		if !v.forgettable {
			continue
		}
		k := store.MemberKey{Worker: worker, Incarnation: v.number}
		if _, there := read.incarnations[worker]; !there {
			delete(w.incarnations, worker)
			delete(w.condemned, k)
			continue
		}
		if read.condemned[k] {
			w.condemned[k] = true
		}
		v.forgettable = false
		w.incarnations[worker] = v
	}
}

// compare returns an error that says where got is not what w says.
func (w *world) compare(got *world) error {
	want, have := w.lines(), got.lines()
	var errs []error
	keys := maps.Clone(want)
	maps.Copy(keys, have)
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		if want[key] != have[key] {
			errs = append(errs, fmt.Errorf("%s\n\t got %q\n\twant %q", key, have[key], want[key]))
		}
	}
	return errors.Join(errs...)
}

func owner(rec *session.Record) store.MemberKey {
	return store.MemberKey{Worker: rec.Worker, Incarnation: rec.Incarnation}
}

func (w *world) alive(k store.MemberKey) bool { return w.members[k] != 0 }

// over reports whether nobody may continue the incarnation.
func (w *world) over(k store.MemberKey) bool { return w.superseded(k) || w.condemned[k] }

// superseded reports whether the incarnation can never act again.
func (w *world) superseded(k store.MemberKey) bool {
	now, ok := w.incarnations[k.Worker]
	return !ok || now.left || now.number != k.Incarnation
}

// known are those whom one knows that is not over.
func (w *world) known() map[store.MemberKey]bool {
	known := map[store.MemberKey]bool{}
	for worker, v := range w.incarnations {
		if w.over(store.MemberKey{Worker: worker, Incarnation: v.number}) {
			continue
		}
		for _, p := range v.peers {
			known[p] = true
		}
	}
	return known
}

// mayTake reports whether taker may take over from a dead owner, holds aside.
func (w *world) mayTake(taker, owner store.MemberKey) bool {
	list := w.incarnations[owner.Worker].peers
	return w.superseded(owner) || len(list) == 0 || w.expired[owner] ||
		slices.Contains(list, taker) || slices.ContainsFunc(list, w.silent)
}

// silent reports whether nobody answers as the incarnation any more. One that was
// collected may run, and answer.
func (w *world) silent(k store.MemberKey) bool {
	now, ok := w.incarnations[k.Worker]
	return ok && (now.left || now.number != k.Incarnation)
}

// witness sees the store between any two changes, and knows nothing of requests
// and models: it holds what must be true whatever is asked.
type witness struct {
	seen *world
	// model is the model, of which it takes what the replicas saw and whether they hold.
	model *world
	// gone are the incarnations that left or were condemned, for ever.
	gone map[store.MemberKey]bool
}

func (v *witness) see(now *world) error {
	before := v.seen
	v.seen = now
	var errs []error
	refuse := func(violated bool, format string, args ...any) {
		if violated {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	for worker, state := range now.incarnations {
		if state.left {
			v.gone[store.MemberKey{Worker: worker, Incarnation: state.number}] = true
		}
		was := before.incarnations[worker]
		refuse(was.revision > state.revision, "%s: its incarnation went back in time", worker)
		for _, p := range was.peers {
			lost := was.number == state.number && !slices.Contains(state.peers, p)
			refuse(lost && !now.superseded(p) && !now.condemned[p], "%s no longer knows %v, which may come back", worker, p)
		}
	}
	known := now.known()
	for worker, was := range before.incarnations {
		k := store.MemberKey{Worker: worker, Incarnation: was.number}
		_, there := now.incarnations[worker]
		refuse(!there && !was.left && known[k], "%v was collected, and is known", k)
		refuse(!there && before.alive(k) && now.alive(k), "%v was collected, and is alive", k)
	}
	for k := range now.condemned {
		v.gone[k] = true
	}
	for k, lease := range now.members {
		refuse(v.gone[k], "%v is alive after it left or was condemned", k)
		refuse(before.members[k] != lease && now.over(k), "%v came back although it is over", k)
	}
	for k := range before.condemned {
		refuse(!now.condemned[k] && now.incarnations[k.Worker].number == k.Incarnation, "%v is no longer condemned, and could come back", k)
	}
	for k, is := range now.sessions {
		if was, ok := before.sessions[k]; ok {
			errs = append(errs, v.changed(before, now, was, is))
			continue
		}
		refuse(!session.Ended(is.record) && (is.record.Epoch != 1 || !now.alive(owner(is.record))), "%v began as %v", k, is.record)
	}
	for k, was := range before.sessions {
		_, ok := now.sessions[k]
		refuse(!ok && !session.Ended(was.record), "%v was lost", k)
	}
	for k := range now.dead {
		refuse(now.alive(k), "%v is alive and marked as dead", k)
	}
	for k := range now.wishes {
		refuse(now.sessions[k].record == nil || session.Ended(now.sessions[k].record), "the wish to end %v outlived it", k)
	}
	for k, is := range now.sessions {
		refuse(session.Ended(is.record) != (now.ended[k].revision == is.revision), "%v is a tombstone without the key beside it, or the other way round", k)
	}
	return errors.Join(errs...)
}

// changed judges what became of one record.
func (v *witness) changed(before, now *world, was, is recordState) error {
	from, to := owner(was.record), owner(is.record)
	switch {
	case session.Ended(was.record) && was.revision != is.revision:
		return fmt.Errorf("an end was not final: %v became %v", was.record, is.record)
	case from == to && was.record.Epoch != is.record.Epoch:
		return fmt.Errorf("epoch changed without the owner: %v became %v", was.record, is.record)
	case from == to:
		return nil
	case is.record.Epoch != was.record.Epoch+1:
		return fmt.Errorf("epoch %d became %d with a new owner", was.record.Epoch, is.record.Epoch)
	case !now.alive(to):
		return fmt.Errorf("taken by %v, which is not alive", to)
	}
	if events := is.record.Events; events[len(events)-1].Type == leaseholdv1.SessionEventType_SESSION_EVENT_TYPE_HANDED_OVER {
		if !now.alive(from) {
			return fmt.Errorf("handed over by %v, which is not alive", from)
		}
		return nil
	}
	switch {
	case now.alive(from):
		return fmt.Errorf("taken from %v, which is alive", from)
	case !now.condemned[from]:
		return fmt.Errorf("taken from %v, which was not condemned", from)
	case v.model.holding && !now.superseded(from):
		return fmt.Errorf("taken from %v, which may still run, during a hold", from)
	}
	then := *before
	then.expired = v.model.expired
	if !then.mayTake(to, from) && !now.superseded(from) {
		return fmt.Errorf("taken from %v, which knows %v, by %v", from, before.incarnations[from.Worker].peers, to)
	}
	return nil
}
