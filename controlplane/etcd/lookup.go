package etcd

import (
	"context"
	"maps"
	"slices"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/leasehold/leasehold/controlplane/session"
	"github.com/leasehold/leasehold/controlplane/store"
)

const (
	// maxLookups is how many records are looked up together.
	maxLookups = 100
	// maxGets is how many keys are read together: etcd takes 128 operations.
	maxGets = 126
	// maxRecent is how many owners are read together with the records.
	maxRecent = 8
)

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
	// recent are the owners that the last round found, whose sessions are likely
	// to be asked for next. Only run uses it.
	recent []holder
}

// holder is an incarnation that owns sessions.
type holder struct {
	worker      string
	incarnation int64
}

func holderOf(rec *session.Record) holder { return holder{rec.Worker, rec.Incarnation} }

// gets reads what the store has of the owner.
func (o holder) gets() []clientv3.Op {
	return []clientv3.Op{
		clientv3.OpGet(memberKey(o.worker, o.incarnation)),
		clientv3.OpGet(incarnationKey(o.worker)),
	}
}

// ownerKeys is what gets found.
type ownerKeys struct{ member, incarnation *mvccpb.KeyValue }

func readOwner(answers []*etcdserverpb.ResponseOp) ownerKeys {
	return ownerKeys{first(answers[0].GetResponseRange().Kvs), first(answers[1].GetResponseRange().Kvs)}
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

// look reads all records together with the owners that came up last, and then
// what is missing: the other owners, together with whether their records are still
// the same. Each answer is of one revision. That is without comparisons: etcd takes
// nested transactions for writes, which each of its members would have to carry out.
func (l *lookups) look(ctx context.Context, round []*lookup) ([]found, error) {
	var gets []clientv3.Op
	for _, q := range round {
		gets = append(gets, clientv3.OpGet(sessionKey(q.key)))
	}
	for _, o := range l.recent {
		gets = append(gets, o.gets()...)
	}
	read, err := l.store.txn(ctx, "resolve", nil, gets, nil)
	if err != nil {
		return nil, err
	}
	owners := make(map[holder]ownerKeys, len(l.recent))
	for i, o := range l.recent {
		owners[o] = readOwner(read.Responses[len(round)+2*i:])
	}
	answers, rest := make([]found, len(round)), unsettled{}
	came := make(map[holder]bool)
	for i, q := range round {
		kv := first(read.Responses[i].GetResponseRange().Kvs)
		answers[i] = found{record: kv, settled: kv == nil}
		rec, err := decodeRecord(kv)
		if kv == nil || err != nil {
			answers[i].err = err
			continue
		}
		came[holderOf(rec)] = true
		if keys, ok := owners[holderOf(rec)]; ok {
			answers[i].settle(keys)
		} else {
			rest.add(i, q.key, holderOf(rec))
		}
	}
	l.recent = slices.Collect(maps.Keys(came))
	l.recent = l.recent[:min(len(l.recent), maxRecent)]
	return answers, l.settle(ctx, answers, rest)
}

func (f *found) settle(keys ownerKeys) {
	f.settled, f.member, f.incarnation = true, keys.member, keys.incarnation
}

// unsettled are the records whose owners have still to be read.
type unsettled struct {
	at     []int // in the round
	keys   []session.Key
	owners []holder
}

func (u *unsettled) add(at int, key session.Key, o holder) {
	u.at, u.keys, u.owners = append(u.at, at), append(u.keys, key), append(u.owners, o)
}

// settle reads the owners, and whether the records are still the same.
func (l *lookups) settle(ctx context.Context, answers []found, u unsettled) error {
	for done := 0; done < len(u.at); {
		var gets []clientv3.Op
		places := make(map[holder]int) // of each owner's keys among the gets
		from := done
		for ; done < len(u.at) && len(gets)+3 <= maxGets; done++ {
			gets = append(gets, clientv3.OpGet(sessionKey(u.keys[done]), clientv3.WithKeysOnly()))
			if _, ok := places[u.owners[done]]; !ok {
				places[u.owners[done]] = len(gets)
				gets = append(gets, u.owners[done].gets()...)
			}
		}
		then, err := l.store.txn(ctx, "resolve", nil, gets, nil)
		if err != nil {
			return err
		}
		next := 0
		for n := from; n < done; n++ {
			same := modRevision(first(then.Responses[next].GetResponseRange().Kvs)) == answers[u.at[n]].record.ModRevision
			if next++; places[u.owners[n]] == next {
				next += 2
			}
			if same {
				answers[u.at[n]].settle(readOwner(then.Responses[places[u.owners[n]]:]))
			}
		}
	}
	return nil
}
