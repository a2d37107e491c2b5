package etcd

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/leasehold/leasehold/controlplane/session"
	"github.com/leasehold/leasehold/controlplane/store"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Members returns the workers that are alive, ordered by id.
func (s *Store) Members(ctx context.Context) ([]store.Member, error) {
	resp, err := s.readAll(ctx, "list_workers", []clientv3.Op{clientv3.OpGet(membersPrefix, clientv3.WithPrefix())})
	if err != nil {
		return nil, err
	}
	return newestMembers(resp.Responses[0])
}

// Workers returns all workers that are known, alive or not, ordered by id. Of those that
// are alive it is not said whom they know, and of the others not who may take over.
func (s *Store) Workers(ctx context.Context) ([]store.Worker, error) {
	dead := map[string]store.Worker{}
	err := s.page(ctx, incarnationsPrefix, func(kvs []*mvccpb.KeyValue) error {
		for _, kv := range kvs {
			w, err := deadWorker(kv)
			if err != nil {
				return err
			}
			dead[w.Worker] = w
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	members, err := s.Members(ctx) // after that, so that one that has just registered is not dead
	if err != nil {
		return nil, err
	}
	var all []store.Worker
	for _, m := range members {
		all = append(all, store.Living(m))
		delete(dead, m.Worker)
	}
	for _, w := range dead {
		all = append(all, w)
	}
	slices.SortFunc(all, func(a, b store.Worker) int { return cmp.Compare(a.Worker, b.Worker) })
	return all, nil
}

// deadWorker is what an incarnation says of a worker that is not alive.
func deadWorker(kv *mvccpb.KeyValue) (store.Worker, error) {
	v, err := decodeIncarnation(kv)
	if err != nil {
		return store.Worker{}, err
	}
	w := store.Worker{
		Peers: v.Peers,
		Member: store.Member{
			MemberKey:    store.MemberKey{Worker: strings.TrimPrefix(string(kv.Key), incarnationsPrefix), Incarnation: v.Incarnation},
			RegisterTime: v.Registered,
		},
		State: leaseholdv1.WorkerState_WORKER_STATE_DEAD,
	}
	if v.Left {
		w.State = leaseholdv1.WorkerState_WORKER_STATE_LEFT
	}
	return w, nil
}

// Worker returns a worker, alive or dead, with whom it knows, and of a dead one who may
// take over from it. It returns ErrWorkerNotFound.
func (s *Store) Worker(ctx context.Context, id string) (store.Worker, error) {
	read, err := s.get(ctx, "get_worker", incarnationKey(id))
	if err != nil {
		return store.Worker{}, err
	}
	kv := first(read.Kvs)
	if kv == nil {
		return store.Worker{}, fmt.Errorf("worker %s: %w", id, session.ErrWorkerNotFound)
	}
	w, err := deadWorker(kv)
	if err != nil {
		return store.Worker{}, err
	}
	members, err := s.Members(ctx)
	if err != nil {
		return store.Worker{}, err
	}
	if i := slices.IndexFunc(members, func(m store.Member) bool { return m.Worker == id }); i >= 0 {
		peers := w.Peers
		w = store.Living(members[i])
		w.Peers = peers
	} else if w.Takeover, err = s.takeover(ctx, w.MemberKey, members); err != nil {
		return store.Worker{}, err
	}
	return w, nil
}

// CountOwned counts the live sessions that each worker is recorded to own, by its id,
// under whatever incarnation. It reads all sessions.
func (s *Store) CountOwned(ctx context.Context) (map[string]int32, error) {
	owned, err := s.countOwned(ctx)
	count := map[string]int32{}
	for key, n := range owned {
		count[key.Worker] += n
	}
	return count, err
}

// takeover says which of the members may take over from a dead owner, and why.
func (s *Store) takeover(ctx context.Context, owner session.Peer, members []store.Member) (*leaseholdv1.Takeover, error) {
	if err := s.learn(ctx, owner); err != nil {
		return nil, err
	}
	o, _ := s.takeovers.get(owner.Worker)
	facts, _ := s.facts(owner, o)
	answer := &leaseholdv1.Takeover{Rule: facts.Open()}
	for _, m := range members {
		if facts.By(m.MemberKey) != leaseholdv1.TakeoverRule_TAKEOVER_RULE_WAITING {
			answer.Takers = append(answer.Takers, session.WorkerName(m.Worker))
		}
	}
	if answer.Rule == leaseholdv1.TakeoverRule_TAKEOVER_RULE_SUPERSEDED {
		return answer, nil
	}
	held := s.contact.held()
	wait := held
	if answer.Rule == leaseholdv1.TakeoverRule_TAKEOVER_RULE_UNSPECIFIED {
		wait = max(held, session.ServesOn(s.outage, s.ttl)-facts.DeadFor)
		if answer.Rule = leaseholdv1.TakeoverRule_TAKEOVER_RULE_WAITING; len(answer.Takers) > 0 {
			answer.Rule = leaseholdv1.TakeoverRule_TAKEOVER_RULE_LISTED
		}
	}
	if held > 0 && answer.Rule != leaseholdv1.TakeoverRule_TAKEOVER_RULE_WAITING {
		answer.Rule, answer.Takers = leaseholdv1.TakeoverRule_TAKEOVER_RULE_HOLDING, nil
	}
	if wait > 0 {
		answer.LatestTime = timestamppb.New(s.now().Add(wait))
	}
	return answer, nil
}
