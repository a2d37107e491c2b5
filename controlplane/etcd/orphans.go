package etcd

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/leasehold/leasehold/controlplane/gateway"
	"github.com/leasehold/leasehold/controlplane/session"
	"github.com/leasehold/leasehold/controlplane/store"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

const (
	// orphanTurn is how often the clock is looked at.
	orphanTurn = time.Second
	// orphansPerTurn bounds the sessions that are wished to end in one turn, so
	// that neither etcd nor the upstreams are flooded.
	orphansPerTurn = 500
	// maxOrphanEndings bounds the wishes that wait at the same time: operators
	// keep the rest of the room.
	maxOrphanEndings = store.MaxEndings / 2
	// maxOrphans is how many orphans are remembered.
	maxOrphans = 100_000
	// orphanWork bounds one turn.
	orphanWork = time.Minute
	// orphansUntaken is how long orphans are left alone from whose owner nobody may
	// take over yet: a worker that is told to end them could not.
	orphansUntaken = 10 * time.Second
)

// keeper ends the sessions that nobody asks for after their owner died. One
// replica at a time does. It reads all sessions when an owner has died, or when
// it begins, and then knows when the next one is due; no session is watched or
// written before that. It ends none itself, because only a worker may talk to an
// upstream: it wishes the end, as an operator does, and workers carry it out.
//
// When an owner died is written down in dead/{worker}/{E}, so that the next
// keeper goes on where this one stopped.
type keeper struct {
	store  *Store
	office office
	most   int // orphans that are remembered

	known   *store.Snapshot
	orphans *session.Orphans
	marks   map[store.MemberKey]mark
	read    time.Time // when the sessions are to be read again; zero for never
}

func newKeeper(s *Store) *keeper {
	return &keeper{store: s, office: office{store: s, key: orphansKey}, most: maxOrphans, orphans: session.NewOrphans(0)}
}

// keepOrphans takes turns until ctx ends.
func (s *Store) keepOrphans(ctx context.Context) {
	k := newKeeper(s)
	defer k.office.leave(ctx)
	failing := false
	for ctx.Err() == nil {
		wait(ctx, orphanTurn)
		err := k.turn(ctx)
		if err != nil && !failing && ctx.Err() == nil {
			s.log.Warn("ending orphans was interrupted", "error", err)
		}
		failing = err != nil
	}
}

// turn does what is to be done now.
func (k *keeper) turn(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, orphanWork)
	defer cancel()
	snap := k.store.followed.Load()
	if snap == nil {
		return nil
	}
	mine, err := k.office.hold(ctx)
	if err != nil || !mine {
		k.known = nil
		return err
	}
	if k.known == nil {
		k.readAt(k.store.now())
	}
	if err := k.compare(ctx, snap); err != nil {
		return err
	}
	now := k.store.now()
	if !k.orphans.Complete(now) || !k.read.IsZero() && !now.Before(k.read) {
		if err := k.findOrphans(ctx, snap); err != nil {
			return err
		}
	}
	return k.end(ctx, now)
}

// compare notes what changed since the last turn: owners that died or came back,
// and gateways.
func (k *keeper) compare(ctx context.Context, snap *store.Snapshot) error {
	before := k.known
	if before != nil && before.Members != snap.Members {
		for key := range before.Members.Entries {
			if _, alive := snap.Members.Entries[key]; alive {
				continue
			}
			if _, err := k.store.markDead(ctx, key, k.store.now()); err != nil {
				return err
			}
			k.readAt(k.store.now().Add(session.ReturnTime - orphanTurn))
		}
		for key := range snap.Members.Entries {
			if _, was := k.marks[key]; was {
				k.orphans.Forget(key.Worker, key.Incarnation)
				delete(k.marks, key)
			}
		}
	}
	if before != nil && before.Gateways != snap.Gateways {
		k.orphans.Schedule(policies(snap))
		if k.orphans.Partial() {
			k.readAt(k.store.now())
		}
	}
	k.known = snap
	return nil
}

// readAt has the sessions read again at t, or before.
func (k *keeper) readAt(t time.Time) {
	if k.read.IsZero() || t.Before(k.read) {
		k.read = t
	}
}

// policies returns what the gateways of a snapshot say of their sessions.
func policies(snap *store.Snapshot) func(string) session.Policy {
	return func(id string) session.Policy {
		g, ok := snap.Gateways.Entries[id]
		if _, there := snap.Unusable.Entries[id]; there {
			return session.Policy{Exists: true, IdleTimeout: gateway.MaxSessionTime}
		}
		if !ok {
			return session.Policy{}
		}
		p := session.Policy{Exists: true, IdleTimeout: gateway.DefaultIdleTimeout}
		if d := g.GetSession().GetIdleTimeout(); d != nil {
			p.IdleTimeout = d.AsDuration()
		}
		return p
	}
}

// findOrphans reads all sessions. One whose owner dies meanwhile is found after
// that.
func (k *keeper) findOrphans(ctx context.Context, snap *store.Snapshot) error {
	members, marks, err := k.store.readDead(ctx)
	if err != nil {
		return err
	}
	orphans, policy := session.NewOrphans(k.most), policies(snap)
	err = k.store.eachLive(ctx, func(key session.Key, kv *mvccpb.KeyValue, rec *session.Record) error {
		owner := store.MemberKey{Worker: rec.Worker, Incarnation: rec.Incarnation}
		if _, wished := snap.Endings.Entries[store.EndingKey{Gateway: key.Gateway, Session: key.Digest}]; wished || members[owner] {
			return nil
		}
		m, ok := marks[owner]
		if !ok {
			if m, err = k.store.markDead(ctx, owner, k.store.now()); err != nil {
				return err
			}
			if m.revision == 0 {
				members[owner] = true // it registered meanwhile
				return nil
			}
			marks[owner] = m
		}
		o := session.Orphan{Key: key, Revision: kv.ModRevision, Worker: rec.Worker, Incarnation: rec.Incarnation, Died: m.died}
		if rec.ExpireTime != nil {
			o.Expire = rec.ExpireTime.AsTime()
		}
		orphans.Add(o, policy(key.Gateway))
		return nil
	})
	if err != nil {
		return err
	}
	orphans.Schedule(policy)
	k.orphans, k.marks, k.read = orphans, marks, time.Time{}
	return nil
}

// end wishes that what is due end, as fast as is good and as far as there is room. A
// worker has to be able to take it over.
func (k *keeper) end(ctx context.Context, now time.Time) error {
	may := map[session.Peer]bool{} // who was judged in this turn
	for left := orphansPerTurn; left > 0; {
		due := k.orphans.Due(now, min(left, maxBatch))
		if len(due) == 0 {
			return nil
		}
		untaken, err := k.untaken(ctx, due, may)
		switch {
		case err != nil:
			return err
		case len(untaken) > 0:
			k.orphans.Postpone(untaken, now.Add(orphansUntaken))
			continue
		}
		room, err := k.store.endingsRoom(ctx)
		if err != nil || room <= 0 {
			return err
		}
		due = due[:min(len(due), room)]
		unsure, err := k.store.wishOrphans(ctx, due, k.marks)
		if err != nil {
			return err
		}
		if unsure {
			k.readAt(now.Add(orphanTurn))
		}
		k.orphans.Done(len(due))
		left -= len(due)
	}
	return nil
}

// untaken returns the owners of those due from whom nobody may take over yet.
func (k *keeper) untaken(ctx context.Context, due []session.Orphan, may map[session.Peer]bool) (map[session.Peer]bool, error) {
	untaken := map[session.Peer]bool{}
	for _, o := range due {
		owner := o.Owner()
		if _, judged := may[owner]; !judged {
			takeover, err := k.store.takeover(ctx, owner, slices.Collect(maps.Values(k.known.Members.Entries)))
			if err != nil {
				return nil, err
			}
			may[owner] = takeover.Rule != leaseholdv1.TakeoverRule_TAKEOVER_RULE_WAITING && takeover.Rule != leaseholdv1.TakeoverRule_TAKEOVER_RULE_HOLDING
		}
		if !may[owner] {
			untaken[owner] = true
		}
	}
	return untaken, nil
}

// endingsRoom returns how many more wishes there is room for.
func (s *Store) endingsRoom(ctx context.Context) (int, error) {
	resp, err := s.get(ctx, "collect", endingsPrefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return 0, err
	}
	return maxOrphanEndings - int(resp.Count), nil
}

// wishOrphans wishes that each session end whose record is as it was found, whose
// owner has been dead all the time since, and of which nobody wishes that yet. It
// reports whether an owner was alive in between: then something may be missing.
func (s *Store) wishOrphans(ctx context.Context, due []session.Orphan, marks map[store.MemberKey]mark) (unsure bool, err error) {
	steps := make([]step, len(due))
	for i, o := range due {
		wish, err := encodeProto(&leaseholdv1.Ending{Gateway: o.Key.Gateway, Session: o.Key.Digest, Reason: o.Reason()})
		if err != nil {
			return false, err
		}
		dead := deadKey(o.Worker, o.Incarnation)
		steps[i] = step{
			when: []clientv3.Cmp{
				unchanged(sessionKey(o.Key), o.Revision),
				absent(memberKey(o.Worker, o.Incarnation)),
				unchanged(dead, marks[store.MemberKey{Worker: o.Worker, Incarnation: o.Incarnation}].revision),
				absent(endingKey(o.Key)),
			},
			then:      []clientv3.Op{clientv3.OpPut(endingKey(o.Key), wish)},
			otherwise: []clientv3.Op{clientv3.OpGet(dead, clientv3.WithKeysOnly())},
		}
		if o.Reason() == leaseholdv1.EndReason_END_REASON_GATEWAY_DELETED {
			steps[i].when = append(steps[i].when, absent(gatewayKey(o.Key.Gateway)))
		}
	}
	ops, _ := nest(steps)
	resp, err := s.txn(ctx, "collect", nil, ops, nil)
	if err != nil {
		return false, err
	}
	for i, r := range resp.Responses {
		own := r.GetResponseTxn()
		was := marks[store.MemberKey{Worker: due[i].Worker, Incarnation: due[i].Incarnation}].revision
		if !own.Succeeded && modRevision(first(own.Responses[0].GetResponseRange().Kvs)) != was {
			unsure = true
		}
	}
	return unsure, nil
}

// eachLive visits all sessions that have not ended.
func (s *Store) eachLive(ctx context.Context, visit func(session.Key, *mvccpb.KeyValue, *session.Record) error) error {
	return s.page(ctx, sessionsPrefix, func(kvs []*mvccpb.KeyValue) error {
		for _, kv := range kvs {
			key, rec := s.sessionIn(kv)
			if rec == nil || session.Ended(rec) {
				continue
			}
			if err := visit(key, kv, rec); err != nil {
				return fmt.Errorf("session %s: %w", key.Name(), err)
			}
		}
		return nil
	})
}
