package etcd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/leasehold/leasehold/controlplane/session"
	"github.com/leasehold/leasehold/controlplane/store"
)

// RecordPeers records whom a worker knows, and returns the list as it is recorded then:
// the peers given, and those of the list before that may come back. A peer leaves the
// list when it can certainly never take a session again under that incarnation: when it
// is condemned or superseded, neither of which ever changes. Absent is not enough.
//
// Before that it condemns those of gone that are dead, and that the worker may take over
// from: otherwise a worker that died without sessions stayed in all lists.
//
// It returns ErrStale when the worker's incarnation is over or condemned: one that gets
// a list only then could serve on although somebody took over from it while it had none.
// And when a list with a higher number is recorded already: one that comes late would
// have somebody on it whom the worker does not ask any more, or nobody.
func (s *Store) RecordPeers(ctx context.Context, worker session.Peer, number int64, peers, gone []session.Peer) ([]session.Peer, error) {
	err := s.condemnGone(ctx, worker, gone)
	var recorded []session.Peer
	for done := false; err == nil && !done; {
		recorded, done, err = s.recordPeers(ctx, worker, number, peers)
	}
	if err != nil {
		return nil, fmt.Errorf("record peers of %s: %w", worker.Worker, err)
	}
	return recorded, nil
}

// recordPeers tries once; done is false when the list changed meanwhile.
func (s *Store) recordPeers(ctx context.Context, worker session.Peer, number int64, peers []session.Peer) (recorded []session.Peer, done bool, err error) {
	read, err := s.readMembership(ctx, "peers", worker.Worker, worker.Incarnation)
	if err != nil {
		return nil, false, err
	}
	if read.condemned || read.over(worker.Incarnation) || number < read.incarnation.Number {
		return nil, false, session.ErrStale
	}
	kept, err := s.mayComeBack(ctx, read.incarnation.Peers, peers)
	if err != nil {
		return nil, false, err
	}
	recorded = union(peers, kept)
	switch {
	case len(recorded) > store.MaxPeers:
		return nil, false, store.ErrTooManyPeers
	case slices.Equal(recorded, read.incarnation.Peers) && number == read.incarnation.Number:
		return recorded, true, nil
	}
	next := read.incarnation
	next.Peers, next.Number = recorded, number
	resp, err := s.txn(ctx, "peers", []clientv3.Cmp{
		unchanged(incarnationKey(worker.Worker), read.revision),
		absent(condemnedKey(worker.Worker, worker.Incarnation)),
	}, []clientv3.Op{clientv3.OpPut(incarnationKey(worker.Worker), encode(next))}, nil)
	return recorded, err == nil && resp.Succeeded, err
}

// mayComeBack returns those of old that are not in peers, and that are neither condemned
// nor superseded.
func (s *Store) mayComeBack(ctx context.Context, old, peers []session.Peer) ([]session.Peer, error) {
	if listDropsAbsent {
		return nil, nil
	}
	old = slices.DeleteFunc(slices.Clone(old), func(p session.Peer) bool { return slices.Contains(peers, p) })
	states, err := s.readPeers(ctx, "peers", old)
	if err != nil {
		return nil, err
	}
	var kept []session.Peer
	for i, p := range old {
		if !states[i].condemned && !states[i].superseded {
			kept = append(kept, p)
		}
	}
	return kept, nil
}

// union returns the peers of both lists once each, in order.
func union(a, b []session.Peer) []session.Peer {
	all := slices.Concat(a, b)
	slices.SortFunc(all, func(a, b session.Peer) int {
		return cmp.Or(cmp.Compare(a.Worker, b.Worker), cmp.Compare(a.Incarnation, b.Incarnation))
	})
	return slices.Compact(all)
}

// condemnGone condemns those of gone that are dead and that worker may take over from,
// as a reclaim does. Of the others nothing is said: they are asked for again.
func (s *Store) condemnGone(ctx context.Context, worker session.Peer, gone []session.Peer) error {
	states, err := s.readPeers(ctx, "condemn", gone)
	if err != nil {
		return err
	}
	for i, p := range gone {
		if states[i].superseded || states[i].condemned {
			continue
		}
		if err := s.condemn(ctx, worker, p, states[i].revision); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) condemn(ctx context.Context, worker, gone session.Peer, revision int64) error {
	guards := []clientv3.Cmp{
		present(memberKey(worker.Worker, worker.Incarnation)),
		absent(memberKey(gone.Worker, gone.Incarnation)),
		unchanged(incarnationKey(gone.Worker), revision),
	}
	t := session.Taker{Worker: worker.Worker, Incarnation: worker.Incarnation, IncarnationRevision: revision}
	for {
		may, err := s.mayTake(ctx, gone, t)
		switch {
		case errors.Is(err, session.ErrStale), errors.Is(err, session.ErrOwnerUncertain), errors.Is(err, session.ErrHolding):
			return nil
		case err != nil:
			return err
		}
		resp, err := s.txn(ctx, "condemn", slices.Concat(guards, may.guard),
			[]clientv3.Op{clientv3.OpPut(condemnedKey(gone.Worker, gone.Incarnation), unixText(time.Now()))}, nil)
		if err != nil || resp.Succeeded || len(may.guard) == 0 {
			return err
		}
		s.deaths.miss(gone) // and judge without that
	}
}
