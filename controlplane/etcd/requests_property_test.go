package etcd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/leasehold/leasehold/controlplane/session"
	"github.com/leasehold/leasehold/controlplane/store"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// request is something that is asked of the store. It can be sent any number of
// times, at any time: the rules say what must come of it in the world as it is
// by then.
type request struct {
	kind, text string
	send       func(ctx context.Context, s *Store) outcome
	// rules change the world as the request must, and return an error when the
	// outcome is not what must be said. There is one rule for each step that is
	// a transaction of its own.
	rules []rule
	// rests is what must not change between reading and writing: when it does, the
	// request is refused with ErrUnavailable, unless the rules have a better
	// reason. It is nil where the rules say everything.
	rests func(w *world) int64
	// by is the incarnation whose life it changes, if it does.
	by store.MemberKey
}

func (x request) of(k store.MemberKey) request {
	x.by = k
	return x
}

// GoString is how rapid logs a request.
func (x request) GoString() string { return x.kind + " " + x.text }

type rule func(w *world, o outcome) error

// outcome is what a request was answered, in those fields that it has.
type outcome struct {
	err                          error
	incarnation, lease, revision int64
	record                       *session.Record
	peers                        []session.Peer
	resolved                     *leaseholdv1.ResolveResponse
	lost                         bool // nobody knows it
}

// unknown is a revision or a lease that no answer told.
const unknown = -1

// same reports whether what was told is what it must be.
func same(got, want int64) bool { return got == want || want == unknown }

func (o outcome) String() string {
	if o.err != nil {
		return o.err.Error()
	}
	return fmt.Sprintf("ok, revision %d", o.revision+o.incarnation)
}

// is says whether the outcome is this error, or none.
func (o outcome) is(want error) error {
	if !o.lost && !errors.Is(o.err, want) {
		return fmt.Errorf("got %v, want %v", o.err, want)
	}
	return nil
}

// at says whether the request was granted at this revision.
func (o outcome) at(revision int64) error {
	if !o.lost && (o.err != nil || !same(o.revision, revision)) {
		return fmt.Errorf("got %v, want it granted at %d", o, revision)
	}
	return nil
}

func registerRequest(worker string) request {
	return request{
		kind: "register", text: worker,
		rests: func(w *world) int64 { return w.incarnations[worker].revision },
		send: func(ctx context.Context, s *Store) (o outcome) {
			var lease store.Lease
			o.incarnation, lease, o.err = s.Register(ctx, worker, someInfo)
			o.lease = lease.ID
			return o
		},
		rules: []rule{
			func(w *world, o outcome) error {
				w.incarnations[worker] = incarnationState{number: o.incarnation, revision: o.incarnation}
				return nil
			},
			func(w *world, o outcome) error {
				if w.incarnations[worker].revision != o.incarnation {
					return o.is(store.ErrUnavailable)
				}
				w.comes(store.MemberKey{Worker: worker, Incarnation: o.incarnation}, o.lease)
				return o.is(nil)
			},
		},
	}
}

// loseRequest ends a lease, as its expiry does.
func loseRequest(lease int64) request {
	return request{
		kind: "lose", text: fmt.Sprintf("lease %x", lease),
		send: func(ctx context.Context, s *Store) outcome {
			_, err := s.client.Revoke(ctx, clientv3.LeaseID(lease))
			if errors.Is(err, rpctypes.ErrLeaseNotFound) {
				err = nil
			}
			return outcome{err: err}
		},
		rules: []rule{func(w *world, o outcome) error {
			for k, on := range w.members {
				if on == lease {
					delete(w.members, k)
				}
			}
			return o.is(nil)
		}},
	}
}

func renewRequest(k store.MemberKey, lease int64) request {
	return request{
		kind: "renew", text: fmt.Sprintf("%v on lease %x", k, lease),
		send: func(ctx context.Context, s *Store) outcome {
			_, err := s.Renew(ctx, k.Worker, k.Incarnation, lease)
			return outcome{err: err}
		},
		rules: []rule{func(w *world, o outcome) error {
			if w.members[k] != lease {
				return o.is(session.ErrLeaseLost)
			}
			return o.is(nil)
		}},
	}
}

func readoptRequest(k store.MemberKey) request {
	return request{
		kind: "readopt", text: fmt.Sprint(k),
		rests: func(w *world) int64 { return w.members[k] + 1000*w.incarnations[k.Worker].revision },
		send: func(ctx context.Context, s *Store) outcome {
			lease, err := s.Readopt(ctx, k.Worker, k.Incarnation, someInfo)
			return outcome{err: err, lease: lease.ID}
		},
		rules: []rule{func(w *world, o outcome) error {
			if w.over(k) {
				return o.is(session.ErrCondemned)
			}
			w.comes(k, o.lease)
			now := w.incarnations[k.Worker]
			now.revision = unknown // it is put again as it was
			w.incarnations[k.Worker] = now
			return o.is(nil)
		}},
	}
}

func leaveRequest(k store.MemberKey, lease int64) request {
	return request{
		kind: "leave", text: fmt.Sprintf("%v on lease %x", k, lease),
		send: func(ctx context.Context, s *Store) outcome {
			return outcome{err: s.Leave(ctx, k.Worker, k.Incarnation, lease)}
		},
		rules: []rule{func(w *world, o outcome) error {
			delete(w.members, k)
			if now := w.incarnations[k.Worker]; !w.superseded(k) {
				now.left, now.revision = true, unknown
				w.incarnations[k.Worker] = now
			}
			return o.is(nil)
		}},
	}
}

// comes makes an incarnation alive.
func (w *world) comes(k store.MemberKey, lease int64) {
	w.members[k] = lease
	delete(w.expired, k)
}

func forgetRequest(worker string) request {
	return request{
		kind: "forget", text: worker,
		send: func(ctx context.Context, s *Store) outcome { return outcome{err: s.Forget(ctx, worker)} },
		rules: []rule{func(w *world, o outcome) error {
			now, ok := w.incarnations[worker]
			switch {
			case !ok:
				return o.is(session.ErrWorkerNotFound)
			case now.left:
				return o.is(nil)
			case w.alive(store.MemberKey{Worker: worker, Incarnation: now.number}):
				return o.is(session.ErrWorkerAlive)
			}
			now.left, now.revision = true, unknown
			w.incarnations[worker] = now
			return o.is(nil)
		}},
	}
}

// peersRequest records whom k knows, and asks to condemn at most one that is gone.
func peersRequest(k store.MemberKey, peers, gone []session.Peer) request {
	x := request{
		kind: "peers", text: fmt.Sprintf("of %v: %v, gone %v", k, peers, gone),
		send: func(ctx context.Context, s *Store) (o outcome) {
			o.peers, o.err = s.RecordPeers(ctx, k, 0, peers, gone)
			return o
		},
	}
	for _, p := range gone {
		x.rules = append(x.rules, func(w *world, o outcome) error {
			if !w.superseded(p) && !w.alive(p) && w.alive(k) && w.mayTake(k, p) && !w.holding {
				w.condemned[p] = true
			}
			return nil
		})
	}
	x.rules = append(x.rules, func(w *world, o outcome) error {
		if w.over(k) {
			return o.is(session.ErrStale)
		}
		now := w.incarnations[k.Worker]
		list := union(peers, slices.DeleteFunc(slices.Clone(now.peers), w.over))
		if !slices.Equal(list, now.peers) {
			now.peers, now.revision = list, unknown
			w.incarnations[k.Worker] = now
		}
		if !o.lost && o.err == nil && !slices.Equal(o.peers, list) {
			return fmt.Errorf("got %v, want %v", o.peers, list)
		}
		return o.is(nil)
	})
	return x
}

// holdRequest makes the replicas hold, or end that.
func holdRequest(replicas []*Store, holds bool) request {
	return request{
		kind: "hold", text: fmt.Sprint(holds),
		send: func(context.Context, *Store) outcome {
			for _, s := range replicas {
				s.contact.mu.Lock()
				if s.contact.until = (time.Time{}); holds {
					s.contact.until = s.contact.now().AddDate(9, 0, 0)
				}
				s.contact.mu.Unlock()
			}
			return outcome{}
		},
		rules: []rule{func(w *world, o outcome) error {
			w.holding = holds
			return nil
		}},
	}
}

// waitRequest lets so much time pass that whoever is dead cannot serve on any more.
func waitRequest(replicas []*Store, c *clock) request {
	return request{
		kind: "wait",
		send: func(ctx context.Context, _ *Store) outcome {
			var errs []error
			for _, s := range replicas {
				errs = append(errs, s.deaths.look(ctx, nil, nil))
			}
			for passed := time.Duration(0); passed <= session.ServesOn(testOutage, testTTL); passed += testTTL {
				c.advance(testTTL)
				for _, s := range replicas {
					s.contact.heard()
				}
			}
			return outcome{err: errors.Join(errs...)}
		},
		rules: []rule{func(w *world, o outcome) error {
			for worker, v := range w.incarnations {
				if k := (store.MemberKey{Worker: worker, Incarnation: v.number}); !v.left && !w.alive(k) {
					w.expired[k] = true
				}
			}
			return o.is(nil)
		}},
	}
}

// after returns a copy of rec with one more event, which leaves rec as it is.
func after(rec *session.Record, what leaseholdv1.SessionEventType) *session.Record {
	rec = proto.CloneOf(rec)
	rec.Events = append(rec.Events, &leaseholdv1.SessionEvent{Type: what, Worker: "workers/" + rec.Worker, Epoch: rec.Epoch})
	if len(rec.Events) > 8 {
		rec.Events = rec.Events[len(rec.Events)-8:]
	}
	return rec
}

// sameRecord reports whether two records are equal but for their events.
func sameRecord(a, b *session.Record) bool {
	a, b = proto.CloneOf(a), proto.CloneOf(b)
	a.Events, b.Events = nil, nil
	return proto.Equal(a, b)
}

func claimRequest(key session.Key, rec *session.Record) request {
	return request{
		kind: "claim", text: fmt.Sprintf("%s as %v", key.Name(), rec),
		send: func(ctx context.Context, s *Store) (o outcome) {
			o.revision, o.err = s.Claim(ctx, key, rec)
			return o
		},
		rules: []rule{func(w *world, o outcome) error {
			stored, ok := w.sessions[key]
			switch {
			case !ok && !w.alive(owner(rec)):
				return o.is(session.ErrNotAlive)
			case !ok:
				w.sessions[key] = recordState{record: after(rec, leaseholdv1.SessionEventType_SESSION_EVENT_TYPE_OPENED), revision: o.revision}
				return o.is(nil)
			case session.Ended(stored.record):
				return o.is(session.ErrEnded)
			case sameRecord(stored.record, rec):
				return o.at(stored.revision)
			}
			return o.is(session.ErrHeld)
		}},
	}
}

func resolveRequest(key session.Key) request {
	return request{
		kind: "resolve", text: key.Name(),
		send: func(ctx context.Context, s *Store) (o outcome) {
			o.resolved, o.err = s.Resolve(ctx, key)
			return o
		},
		rules: []rule{func(w *world, o outcome) error {
			stored, ok := w.sessions[key]
			if !ok {
				return o.is(session.ErrNotFound)
			}
			switch {
			case o.err != nil || o.lost:
				return o.is(nil)
			case stored.timely: // put a moment ago
				if !session.Ended(o.resolved.Record) {
					return fmt.Errorf("got %v, want a tombstone", o.resolved)
				}
				return nil
			}
			want := recordState{record: stored.record, revision: stored.revision}
			got := recordState{record: timeless(o.resolved.Record), revision: o.resolved.Revision}
			alive, incarnation := w.alive(owner(stored.record)), w.incarnations[stored.record.Worker].revision
			if superseded := w.superseded(owner(stored.record)); o.resolved.OwnerSuperseded != superseded {
				return fmt.Errorf("owner is superseded: got %v, want %v", o.resolved.OwnerSuperseded, superseded)
			}
			if !proto.Equal(got.record, want.record) || !same(got.revision, want.revision) ||
				o.resolved.OwnerAlive != alive || !same(o.resolved.IncarnationRevision, incarnation) {
				return fmt.Errorf("got %v, want %v, owner alive %v, incarnation at %d", o.resolved, want, alive, incarnation)
			}
			return nil
		}},
	}
}

// openedRequest resolves a session that a worker opened, as its id says.
func openedRequest(key session.Key, opener store.MemberKey) request {
	recorded := resolveRequest(key).rules[0]
	return request{
		kind: "opened", text: fmt.Sprintf("%s by %v", key.Name(), opener),
		send: func(ctx context.Context, s *Store) (o outcome) {
			if o.resolved, o.err = s.Resolve(ctx, key); errors.Is(o.err, session.ErrNotFound) {
				o.resolved, o.err = s.ResolveUnrecorded(ctx, key, opener)
			}
			return o
		},
		rules: []rule{func(w *world, o outcome) error {
			_, ok := w.sessions[key]
			switch {
			case ok:
				return recorded(w, o)
			case w.alive(opener):
				if !o.lost && (o.err != nil || o.resolved.Record != nil || o.resolved.Owner.GetIncarnation() != opener.Incarnation) {
					return fmt.Errorf("got %v, %v; want no record, and its opener", o.resolved, o.err)
				}
				return nil
			case !w.over(opener) && (!w.expired[opener] || w.holding):
				return o.is(session.ErrOwnerUncertain)
			}
			tomb := &session.Record{Worker: opener.Worker, Incarnation: opener.Incarnation}
			tomb.End = &leaseholdv1.SessionEnd{Reason: leaseholdv1.EndReason_END_REASON_OWNER_LOST}
			w.sessions[key] = recordState{record: after(tomb, leaseholdv1.SessionEventType_SESSION_EVENT_TYPE_ENDED), revision: unknown, timely: true}
			return o.is(session.ErrNotFound)
		}},
	}
}

func handOverRequest(key session.Key, revision int64, h session.HandOver) request {
	return request{
		kind: "hand over", text: fmt.Sprintf("%s at %d: %+v", key.Name(), revision, h),
		send: func(ctx context.Context, s *Store) (o outcome) {
			o.record, o.revision, o.err = s.HandOver(ctx, key, revision, h)
			o.record = timeless(o.record)
			return o
		},
		rules: []rule{func(w *world, o outcome) error {
			stored, ok := w.sessions[key]
			switch {
			case !ok:
				return o.is(session.ErrStale)
			case session.Ended(stored.record):
				return o.is(session.ErrEnded)
			case owner(stored.record) == h.To:
			case stored.revision != revision, owner(stored.record) != h.From:
				return o.is(session.ErrStale)
			case !w.alive(h.From):
				return o.is(session.ErrNotAlive)
			case !w.alive(h.To):
				return o.is(session.ErrTargetNotAlive)
			default:
				next := proto.CloneOf(stored.record)
				next.Worker, next.Incarnation, next.Epoch = h.To.Worker, h.To.Incarnation, next.Epoch+1
				next.Upstreams[0].EventCursor = h.Cursors["u"]
				stored = recordState{record: after(next, leaseholdv1.SessionEventType_SESSION_EVENT_TYPE_HANDED_OVER), revision: o.revision}
				w.sessions[key] = stored
			}
			if !o.lost && o.err == nil && !proto.Equal(o.record, stored.record) {
				return fmt.Errorf("got %v, want %v", o.record, stored.record)
			}
			return o.at(stored.revision)
		}},
	}
}

func reclaimRequest(key session.Key, t session.Taker) request {
	return request{
		kind: "reclaim", text: fmt.Sprintf("%s by %+v", key.Name(), t),
		send: func(ctx context.Context, s *Store) (o outcome) {
			o.record, o.revision, o.err = s.Reclaim(ctx, key, t)
			o.record = timeless(o.record)
			return o
		},
		rules: []rule{func(w *world, o outcome) error {
			taker := store.MemberKey{Worker: t.Worker, Incarnation: t.Incarnation}
			stored, ok := w.sessions[key]
			if !ok {
				return o.is(session.ErrNotFound)
			}
			if session.Ended(stored.record) {
				return o.is(session.ErrEnded)
			}
			dead := owner(stored.record)
			switch {
			case dead == taker:
			case stored.revision != t.Revision:
				return o.is(session.ErrStale)
			case w.incarnations[dead.Worker].revision != t.IncarnationRevision:
				// By what it knows of that revision the replica may refuse for another reason.
				if errors.Is(o.err, session.ErrOwnerUncertain) || errors.Is(o.err, session.ErrHolding) {
					return nil
				}
				return o.is(session.ErrStale)
			case !w.superseded(dead) && (t.SupersededOnly || !w.mayTake(taker, dead)):
				// A replica that saw the owner dead for too long finds out in the transaction.
				if errors.Is(o.err, session.ErrNotAlive) && !w.alive(taker) ||
					errors.Is(o.err, session.ErrOwnerAlive) && w.alive(dead) ||
					errors.Is(o.err, session.ErrHolding) && w.holding {
					return nil
				}
				return o.is(session.ErrOwnerUncertain)
			case !w.superseded(dead) && w.holding:
				return o.is(session.ErrHolding)
			case !w.alive(taker):
				return o.is(session.ErrNotAlive)
			case w.alive(dead):
				return o.is(session.ErrOwnerAlive)
			default:
				next := proto.CloneOf(stored.record)
				next.Worker, next.Incarnation, next.Epoch = taker.Worker, taker.Incarnation, next.Epoch+1
				stored = recordState{record: after(next, leaseholdv1.SessionEventType_SESSION_EVENT_TYPE_RECLAIMED), revision: o.revision}
				w.sessions[key], w.condemned[dead] = stored, true
			}
			if !o.lost && o.err == nil && !proto.Equal(o.record, stored.record) {
				return fmt.Errorf("got %v, want %v", o.record, stored.record)
			}
			return o.at(stored.revision)
		}},
	}
}

func saveRequest(key session.Key, revision int64, rec *session.Record) request {
	return request{
		kind: "save", text: fmt.Sprintf("%s at %d as %v", key.Name(), revision, rec),
		send: func(ctx context.Context, s *Store) (o outcome) {
			o.revision, o.err = s.Save(ctx, key, revision, rec)
			return o
		},
		rules: []rule{func(w *world, o outcome) error {
			stored, ok := w.sessions[key]
			switch {
			case !ok:
				return o.is(session.ErrStale)
			case session.Ended(stored.record):
				return o.is(session.ErrEnded)
			case stored.revision != revision && sameRecord(stored.record, rec):
				return o.at(stored.revision)
			case stored.revision != revision, owner(stored.record) != owner(rec), stored.record.Epoch != rec.Epoch:
				return o.is(session.ErrStale)
			case !w.alive(owner(rec)):
				return o.is(session.ErrNotAlive)
			}
			next := proto.CloneOf(rec)
			next.Events = stored.record.Events
			w.sessions[key] = recordState{record: next, revision: o.revision}
			return o.is(nil)
		}},
	}
}

func endRequest(key session.Key, end session.End) request {
	return request{
		kind: "end", text: fmt.Sprintf("%s by %+v", key.Name(), end),
		send: func(ctx context.Context, s *Store) (o outcome) {
			o.revision, o.err = s.End(ctx, key, end)
			return o
		},
		rules: []rule{func(w *world, o outcome) error {
			stored, ok := w.sessions[key]
			tomb := &session.Record{Worker: end.Worker, Incarnation: end.Incarnation, ExpireTime: timestamppb.New(end.Expire)}
			switch {
			case ok && session.Ended(stored.record):
				return o.at(stored.revision)
			case ok && owner(stored.record) != owner(tomb):
				return o.is(session.ErrStale)
			case ok:
				tomb = proto.CloneOf(stored.record)
				tomb.ClientCapabilities, tomb.Upstreams[0].SealedSessionId, tomb.Upstreams[0].EventCursor = nil, nil, ""
			}
			tomb.End = &leaseholdv1.SessionEnd{Reason: end.Reason, Time: timestamppb.New(end.Time)}
			w.sessions[key] = recordState{record: after(tomb, leaseholdv1.SessionEventType_SESSION_EVENT_TYPE_ENDED), revision: o.revision}
			w.ended[key] = dueState{tomb.ExpireTime.Seconds + 24*60*60, o.revision}
			delete(w.wishes, key)
			return o.is(nil)
		}},
	}
}

func wishRequest(key session.Key) request {
	return request{
		kind: "wish", text: key.Name(),
		send: func(ctx context.Context, s *Store) (o outcome) {
			o.revision, o.err = s.WishEnd(ctx, key, leaseholdv1.EndReason_END_REASON_TERMINATED)
			return o
		},
		rules: []rule{func(w *world, o outcome) error {
			stored, ok := w.sessions[key]
			switch {
			case !ok:
				return o.is(session.ErrNotFound)
			case session.Ended(stored.record):
				return o.at(0)
			}
			w.wishes[key] = o.revision
			return o.is(nil)
		}},
	}
}

// collectRequest collects at a time that is now, or late: years from now.
func collectRequest(now time.Time, late bool) request {
	return request{
		kind: "collect", text: now.Format(time.DateOnly),
		send: func(ctx context.Context, s *Store) outcome { return outcome{err: s.Collect(ctx, now)} },
		rules: []rule{func(w *world, o outcome) error {
			if late {
				w.collect()
			}
			return o.is(nil)
		}},
	}
}

// collect removes everything that is over and that nobody knows. What merely died may be
// condemned and removed if it owns nothing, depending on when it was first seen to be
// dead; and so whom it knows.
func (w *world) collect() {
	for key := range w.ended {
		delete(w.sessions, key)
	}
	clear(w.ended)
	owners := map[store.MemberKey]bool{}
	for _, v := range w.sessions {
		owners[owner(v.record)] = true
	}
	for worker, v := range w.incarnations {
		if v.left {
			delete(w.incarnations, worker)
		}
	}
	known := w.known()
	for worker, v := range w.incarnations {
		k := store.MemberKey{Worker: worker, Incarnation: v.number}
		switch {
		case w.alive(k):
		case w.condemned[k] && !known[k]:
			delete(w.incarnations, worker)
			delete(w.condemned, k)
		case w.condemned[k] || !owners[k]:
			v.forgettable = true
			w.incarnations[worker] = v
		}
	}
	for k := range w.condemned {
		if w.superseded(k) {
			delete(w.condemned, k)
		}
	}
}
