package etcd

import (
	"context"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/leasehold/leasehold/controlplane/session"
	"github.com/leasehold/leasehold/controlplane/store"
)

// maxLookups is how many records are looked up together: etcd takes 128
// operations, and each needs three.
const maxLookups = 40

// lookup is a question for a session's record and its owner.
type lookup struct {
	key   session.Key
	gone  <-chan struct{} // closed when the caller no longer waits
	found chan found      // is sent to once; has room
}

// found is the answer: the record, and what the store had of its owner while the
// record was this one. settled is false when the record changed in between.
type found struct {
	record, member, incarnation *mvccpb.KeyValue
	settled                     bool
	err                         error
}

// lookups answers the questions that wait at the same time together: when a
// worker dies, there is one for each of its sessions. While one round is under way
// the next questions gather.
type lookups struct {
	store   *Store
	waiting chan *lookup
	stopped chan struct{}
}

func newLookups(s *Store) *lookups {
	return &lookups{store: s, waiting: make(chan *lookup, maxWaiting), stopped: make(chan struct{})}
}

// ask waits for the answer.
func (l *lookups) ask(ctx context.Context, key session.Key) (found, error) {
	q := &lookup{key: key, gone: ctx.Done(), found: make(chan found, 1)}
	select {
	case l.waiting <- q:
	default:
		l.store.counts.refused.Inc()
		return found{}, store.ErrBusy
	}
	select {
	case f := <-q.found:
		return f, f.err
	case <-ctx.Done():
		return found{}, ctx.Err()
	case <-l.stopped:
		return found{}, store.ErrUnavailable
	}
}

// run answers until ctx ends.
func (l *lookups) run(ctx context.Context) {
	defer close(l.stopped)
	for {
		select {
		case <-ctx.Done():
			return
		case q := <-l.waiting:
			l.answer(ctx, l.gather(q))
		}
	}
}

// gather returns the first and those that wait with it and are still wanted.
func (l *lookups) gather(first *lookup) []*lookup {
	round := []*lookup{first}
	for len(round) < maxLookups {
		select {
		case q := <-l.waiting:
			select {
			case <-q.gone:
			default:
				round = append(round, q)
			}
		default:
			return round
		}
	}
	return round
}

func (l *lookups) answer(ctx context.Context, round []*lookup) {
	ctx, cancel := context.WithTimeout(ctx, batchTimeout)
	defer cancel()
	answers, err := l.look(ctx, round)
	for i, q := range round {
		if err != nil {
			q.found <- found{err: unanswered(err)}
			continue
		}
		q.found <- answers[i]
	}
}

// look reads all records, and then, at one revision, what belongs to each and
// whether it is still the same. That is without comparisons: etcd takes nested
// transactions for writes, which each of its members would have to carry out.
func (l *lookups) look(ctx context.Context, round []*lookup) ([]found, error) {
	gets := make([]clientv3.Op, len(round))
	for i, q := range round {
		gets[i] = clientv3.OpGet(sessionKey(q.key))
	}
	read, err := l.store.txn(ctx, "resolve", nil, gets, nil)
	if err != nil {
		return nil, err
	}
	answers := make([]found, len(round))
	var owners []clientv3.Op
	var of []int
	for i, q := range round {
		kv := first(read.Responses[i].GetResponseRange().Kvs)
		answers[i] = found{record: kv, settled: kv == nil}
		rec, err := decodeRecord(kv)
		if kv == nil || err != nil {
			answers[i].err = err
			continue
		}
		of = append(of, i)
		owners = append(owners,
			clientv3.OpGet(sessionKey(q.key), clientv3.WithKeysOnly()),
			clientv3.OpGet(memberKey(rec.Worker, rec.Incarnation)),
			clientv3.OpGet(incarnationKey(rec.Worker), clientv3.WithKeysOnly()))
	}
	if len(owners) == 0 {
		return answers, nil
	}
	then, err := l.store.txn(ctx, "resolve", nil, owners, nil)
	if err != nil {
		return nil, err
	}
	for n, i := range of {
		own := then.Responses[3*n : 3*n+3]
		answers[i].settled = modRevision(first(own[0].GetResponseRange().Kvs)) == answers[i].record.ModRevision
		answers[i].member = first(own[1].GetResponseRange().Kvs)
		answers[i].incarnation = first(own[2].GetResponseRange().Kvs)
	}
	return answers, nil
}
