package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/leasehold/leasehold/controlplane/session"
	"github.com/leasehold/leasehold/controlplane/store"
)

const (
	// maxBatch is how many writes share a transaction. etcd takes 128 operations
	// by default; the outer level has one for each write, or the one within it
	// that has those with a common premise, and a write's own few are counted on
	// top of that.
	maxBatch = 100
	// maxBatchBytes keeps a transaction below etcd's 1.5 MiB for a request.
	maxBatchBytes = 1 << 20
	// batchTimeout bounds a batch, read included: shorter than callers wait, so
	// that they are told that etcd does not answer.
	batchTimeout = 5 * time.Second
	// maxWaiting bounds the writes that wait for a transaction. When they do,
	// further ones are refused with store.ErrBusy.
	maxWaiting = 4096
)

// write is one claim, reclaim, hand-over, save or end on its way through a batch.
type write struct {
	key session.Key
	// reads asks for the record before plan is called, unless it is known.
	reads bool
	// known is a record that was read before; the step has to compare that it is
	// still this one.
	known *mvccpb.KeyValue
	// plan says what is to be done, given the record (nil if there is none, or
	// if reads is not set). Returning done means that there is nothing to do.
	plan func(stored *mvccpb.KeyValue) (step step, done bool, revision int64, err error)
	// verdict says why the step was refused, from what step.otherwise read, and if
	// it was by the premise, from what premise.otherwise read. It may say that the
	// write was granted before, and at which revision.
	verdict func(own, shared []*etcdserverpb.ResponseOp) (revision int64, err error)
	// size is how many bytes it adds to a request, as far as is known before plan.
	size int
	// gone is closed when the caller no longer waits; nil if it always does.
	// What is not sent by then never is.
	gone <-chan struct{}
	// result is sent to once; it has room, so that nobody waits for a caller
	// that is gone.
	result chan result
}

func (w *write) abandoned() bool {
	select {
	case <-w.gone:
		return true
	default:
		return false
	}
}

// step is one write's own comparisons and operations. When premise is set they
// come after its comparisons.
type step struct {
	premise         *premise
	when            []clientv3.Cmp
	then, otherwise []clientv3.Op
}

// premise is comparisons that steps share, and what they want to know when those do
// not hold. Steps of one batch whose premises have one name share them.
type premise struct {
	name      string
	when      []clientv3.Cmp
	otherwise []clientv3.Op
}

type result struct {
	revision int64
	err      error
}

// batcher sends the writes that wait at the same time as one transaction. While
// a transaction is under way the next writes gather; when none is, a write is
// sent at once. Each write is a nested transaction with its own comparisons, so
// that one that is refused takes nothing with it.
type batcher struct {
	store   *Store
	waiting chan *write
	stopped chan struct{}
	// held were taken from waiting but did not fit the batch. Only run uses it.
	held []*write
}

func newBatcher(s *Store) *batcher {
	return &batcher{store: s, waiting: make(chan *write, maxWaiting), stopped: make(chan struct{})}
}

// do waits for a write's outcome. When ctx ends first, the write may still be
// done: its outcome is unknown.
func (b *batcher) do(ctx context.Context, w *write) (int64, error) {
	w.result, w.gone = make(chan result, 1), ctx.Done()
	select {
	case b.waiting <- w:
	default:
		b.store.counts.refused.Inc()
		return 0, store.ErrBusy
	}
	select {
	case r := <-w.result:
		return r.revision, r.err
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-b.stopped:
		return 0, store.ErrUnavailable
	}
}

// run sends batches until ctx ends.
func (b *batcher) run(ctx context.Context) {
	defer close(b.stopped)
	for {
		batch := b.gather(ctx)
		if batch == nil {
			return
		}
		b.send(ctx, batch)
	}
}

// gather waits for one write and takes those that wait with it. A key comes up
// once in a batch at most: etcd refuses to put a key twice in a transaction, and
// all comparisons are made before the first put. What does not fit is first in
// the next batch. It returns nil when ctx ends.
func (b *batcher) gather(ctx context.Context) []*write {
	f := fill{keys: make(map[session.Key]bool)}
	before := b.held
	b.held = nil
	for _, w := range before {
		if !w.abandoned() && !f.take(w) {
			b.held = append(b.held, w)
		}
	}
	for len(f.batch) == 0 {
		select {
		case w := <-b.waiting:
			if !w.abandoned() {
				f.take(w)
			}
		case <-ctx.Done():
			return nil
		}
	}
	for !f.full() && len(b.held) < maxBatch {
		select {
		case w := <-b.waiting:
			if !w.abandoned() && !f.take(w) {
				b.held = append(b.held, w)
			}
		default:
			return f.batch
		}
	}
	return f.batch
}

// fill is a batch in the making.
type fill struct {
	batch []*write
	keys  map[session.Key]bool
	size  int
}

func (f *fill) full() bool { return len(f.batch) == maxBatch || f.size >= maxBatchBytes }

// take adds w if it fits; the first always does.
func (f *fill) take(w *write) bool {
	if f.full() || f.keys[w.key] || len(f.batch) > 0 && f.size+w.size > maxBatchBytes {
		return false
	}
	f.batch, f.size, f.keys[w.key] = append(f.batch, w), f.size+w.size, true
	return true
}

// send does what the batch asks for and tells every write its outcome.
func (b *batcher) send(ctx context.Context, batch []*write) {
	ctx, cancel := context.WithTimeout(ctx, batchTimeout)
	defer cancel()
	stored, err := b.read(ctx, batch)
	if err != nil {
		fail(batch, unanswered(err))
		return
	}
	var steps []step
	var sent []*write
	for _, w := range batch {
		record := w.known
		if record == nil {
			record = stored[w.key]
		}
		s, done, revision, err := w.plan(record)
		if done || err != nil {
			w.result <- result{revision, err}
			continue
		}
		steps, sent = append(steps, s), append(sent, w)
	}
	for from := 0; from < len(sent); {
		n := fitting(steps[from:])
		b.commit(ctx, steps[from:from+n], sent[from:from+n])
		from += n
	}
}

// fitting returns how many of the steps fit into a transaction, at least one: how much
// is put is known only now.
func fitting(steps []step) int {
	size := 0
	for n, s := range steps {
		for _, op := range s.then {
			size += len(op.ValueBytes())
		}
		if n > 0 && size > maxBatchBytes {
			return n
		}
	}
	return len(steps)
}

// commit sends one transaction and tells every write its outcome.
func (b *batcher) commit(ctx context.Context, steps []step, sent []*write) {
	ops, places := nest(steps)
	resp, err := b.store.txn(ctx, "batch", nil, ops, nil)
	if err != nil {
		fail(sent, unanswered(err))
		return
	}
	for i, w := range sent {
		if granted, own, shared := places[i].find(resp.Responses); granted {
			w.result <- result{revision: resp.Header.Revision} // of all that was put
		} else {
			revision, err := w.verdict(own, shared)
			w.result <- result{revision, err}
		}
	}
}

// read gets the records of the writes that ask for them, all in one request.
func (b *batcher) read(ctx context.Context, batch []*write) (map[session.Key]*mvccpb.KeyValue, error) {
	var gets []clientv3.Op
	for _, w := range batch {
		if w.reads && w.known == nil {
			gets = append(gets, clientv3.OpGet(sessionKey(w.key)))
		}
	}
	if len(gets) == 0 {
		return nil, nil
	}
	resp, err := b.store.txn(ctx, "batch_read", nil, gets, nil)
	if err != nil {
		return nil, err
	}
	stored := make(map[session.Key]*mvccpb.KeyValue, len(gets))
	for _, r := range resp.Responses {
		for _, kv := range r.GetResponseRange().Kvs {
			key, ok := parseSession(sessionsPrefix, string(kv.Key))
			if !ok {
				return nil, fmt.Errorf("batch: %q is not a session's key", kv.Key)
			}
			stored[key] = kv
		}
	}
	return stored, nil
}

// unanswered says ErrUnavailable for the batch's own deadline, which is not that
// of any caller.
func unanswered(err error) error {
	if errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, store.ErrUnavailable) {
		return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	return err
}

func fail(batch []*write, err error) {
	for _, w := range batch {
		w.result <- result{err: err}
	}
}
