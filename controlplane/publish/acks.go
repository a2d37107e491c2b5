package publish

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/leasehold/leasehold/controlplane/store"
)

const (
	recordTimeout = 5 * time.Second
	recordPause   = time.Second
)

// Recorder keeps acknowledgements where every replica sees them.
type Recorder interface {
	// Applied records what a living worker acknowledged last.
	Applied(ctx context.Context, key store.MemberKey, ack store.Ack) error
}

// Acks takes the acknowledgements of the streams and records them, only the
// newest of each worker: one that comes while another is being written replaces
// the one before it. It is safe to use from many goroutines.
type Acks struct {
	recorder Recorder
	log      hclog.Logger
	wake     chan struct{} // has room for one

	mu      sync.Mutex
	workers map[store.MemberKey]*ack // guarded by mu
}

type ack struct {
	last    store.Ack
	pending bool
	streams int
}

// NewAcks returns Acks that write to r.
func NewAcks(r Recorder, log hclog.Logger) *Acks {
	return &Acks{recorder: r, log: log, wake: make(chan struct{}, 1), workers: make(map[store.MemberKey]*ack)}
}

// Open remembers a worker's acknowledgements until close is called, once.
func (a *Acks) Open(key store.MemberKey) (closeStream func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.workers[key] == nil {
		a.workers[key] = &ack{}
	}
	a.workers[key].streams++
	return func() { a.close(key) }
}

func (a *Acks) close(key store.MemberKey) {
	a.mu.Lock()
	defer a.mu.Unlock()
	w := a.workers[key]
	if w.streams--; w.streams == 0 {
		delete(a.workers, key)
	}
}

// Ack takes an acknowledgement of a worker whose stream is open.
func (a *Acks) Ack(key store.MemberKey, ack store.Ack) {
	a.mu.Lock()
	defer a.mu.Unlock()
	w := a.workers[key]
	if w == nil || ack.Revision == 0 || ack.Revision < w.last.Revision || ack.Same(w.last) {
		return
	}
	w.last, w.pending = ack, true
	a.signal()
}

// Check records again what a living member's key has lost: when a worker
// re-adopts after its key was gone, the key begins anew.
func (a *Acks) Check(snap *store.Snapshot) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for key, w := range a.workers {
		if m, ok := snap.Members.Entries[key]; ok && m.AppliedRevision <= w.last.Revision && !m.Ack().Same(w.last) && !w.pending {
			w.pending = true
			a.signal()
		}
	}
}

func (a *Acks) signal() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// Run records until ctx ends.
func (a *Acks) Run(ctx context.Context) {
	for {
		select {
		case <-a.wake:
		case <-ctx.Done():
			return
		}
		for key, ack := range a.take() {
			if err := a.record(ctx, key, ack); err != nil && ctx.Err() == nil {
				a.log.Warn("acknowledgement was not recorded; trying again", "worker", key.Worker, "revision", ack.Revision, "error", err)
				a.retry(ctx, key)
			}
		}
	}
}

// take returns what is pending, which then no longer is.
func (a *Acks) take() map[store.MemberKey]store.Ack {
	a.mu.Lock()
	defer a.mu.Unlock()
	pending := make(map[store.MemberKey]store.Ack)
	for key, w := range a.workers {
		if w.pending {
			pending[key], w.pending = w.last, false
		}
	}
	return pending
}

func (a *Acks) record(ctx context.Context, key store.MemberKey, ack store.Ack) error {
	ctx, cancel := context.WithTimeout(ctx, recordTimeout)
	defer cancel()
	return a.recorder.Applied(ctx, key, ack)
}

// retry marks a worker's acknowledgement as pending again after a pause.
func (a *Acks) retry(ctx context.Context, key store.MemberKey) {
	timer := time.NewTimer(recordPause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if w := a.workers[key]; w != nil {
		w.pending = true
		a.signal()
	}
}
