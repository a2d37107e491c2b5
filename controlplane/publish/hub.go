package publish

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/protobuf/proto"

	"github.com/leasehold/leasehold/controlplane/store"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// ErrStopped says that the control plane is stopping.
var ErrStopped = errors.New("control plane replica is stopping")

// ErrBehind says that the replica has been without etcd for so long that what it
// knows is no longer worth telling; ask another one.
var ErrBehind = errors.New("control plane replica has lost etcd")

// behindAfter is how long after Lost the state is still told. A hiccup, such as
// an election, is no reason to send all workers to other replicas.
const behindAfter = 5 * time.Second

// OpenRing unwraps the stored key ring.
type OpenRing func(sealed []byte) (*leaseholdv1.KeyRing, error)

// Hub holds the newest state for the streams that publish it. It is safe to use
// from many goroutines.
type Hub struct {
	open    OpenRing
	log     hclog.Logger
	stopped chan struct{} // closed by Stop

	mu      sync.Mutex
	now     *state        // guarded by mu; nil until the first Publish
	changed chan struct{} // guarded by mu; closed and replaced by Publish
	lost    *time.Timer   // guarded by mu; runs between Lost and Publish
	behind  chan struct{} // guarded by mu; closed while the state is too old
}

// NewHub returns a Hub that knows no state yet.
func NewHub(open OpenRing, log hclog.Logger) *Hub {
	return &Hub{open: open, log: log, stopped: make(chan struct{}), changed: make(chan struct{}), behind: make(chan struct{})}
}

// Publish makes snap the newest state. Snapshots come in the order of their
// revisions, from one goroutine.
func (h *Hub) Publish(snap *store.Snapshot) {
	last, _ := h.newest()
	next := h.build(last, snap)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now = next
	close(h.changed)
	h.changed = make(chan struct{})
	if h.lost != nil && !h.lost.Stop() {
		h.behind = make(chan struct{})
	}
	h.lost = nil
}

// Lost says that etcd is not followed any more, until the next Publish. Streams
// end with ErrBehind if that takes long.
func (h *Hub) Lost() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lost == nil {
		behind := h.behind
		h.lost = time.AfterFunc(behindAfter, func() { close(behind) })
	}
}

// tooOld returns a channel that is closed once the state is too old to be told.
func (h *Hub) tooOld() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.behind
}

// newest returns the newest state, which is nil before the first, and a channel
// that is closed when there is a newer one.
func (h *Hub) newest() (*state, <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.now, h.changed
}

// Snapshot returns the newest state, nil before the first.
func (h *Hub) Snapshot() *store.Snapshot {
	now, _ := h.newest()
	if now == nil {
		return nil
	}
	return now.snap
}

// Stop ends all streams and waits with ErrStopped. It is called once.
func (h *Hub) Stop() { close(h.stopped) }

// Await waits until what is published satisfies until. It returns ErrStopped
// after Stop, and ctx's error when ctx ends.
func (h *Hub) Await(ctx context.Context, until func(*store.Snapshot) bool) error {
	for {
		now, changed := h.newest()
		if now != nil && until(now.snap) {
			return nil
		}
		select {
		case <-changed:
		case <-h.stopped:
			return ErrStopped
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Stream sends the state, and then each difference to what was sent last, until
// ctx ends, send fails, the hub stops, or what it knows is too old. It is the only
// caller of send.
func (h *Hub) Stream(ctx context.Context, send func(*leaseholdv1.WatchResponse) error) error {
	var sent *state
	for {
		behind := h.tooOld()
		select {
		case <-behind:
			return ErrBehind
		default:
		}
		now, changed := h.newest()
		if now != nil && now != sent {
			for _, part := range parts(sent, now) {
				if err := send(part); err != nil {
					return err
				}
			}
			sent = now
		}
		select {
		case <-changed:
		case <-behind:
			return ErrBehind
		case <-h.stopped:
			return ErrStopped
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// state is a snapshot and what is sent of it. Two states share what is the same,
// so that a stream sees by comparing pointers what it need not send.
type state struct {
	snap    *store.Snapshot
	members *leaseholdv1.MemberList
	endings *leaseholdv1.EndingList
	ring    *leaseholdv1.KeyRing
	opened  *store.SealedRing // what ring was opened from
	refused *store.SealedRing // what could not be opened, if that was said
}

func (h *Hub) build(last *state, snap *store.Snapshot) *state {
	if last == nil {
		last = &state{snap: &store.Snapshot{}}
	}
	next := &state{snap: snap, members: last.members, endings: last.endings, ring: last.ring, opened: last.opened}
	if snap.Members != last.snap.Members {
		next.members = keep(last.members, memberList(snap.Members))
	}
	if snap.Endings != last.snap.Endings {
		next.endings = keep(last.endings, endingList(snap.Endings))
	}
	if snap.Ring != last.opened && snap.Ring != nil { // the root key may have come since
		ring, err := h.open(snap.Ring.Sealed)
		if err != nil {
			next.refused = snap.Ring
			if last.refused != snap.Ring {
				h.log.Error("key ring cannot be opened; workers keep the last one", "revision", snap.Ring.Revision, "error", err)
			}
			return next
		}
		ring.Revision = snap.Ring.Revision
		next.ring, next.opened = keep(last.ring, ring), snap.Ring
	}
	return next
}

// keep returns last if next says the same. A member's acknowledgement, for one,
// changes the member but nothing that other workers are told.
func keep[M proto.Message](last, next M) M {
	if last.ProtoReflect().IsValid() && proto.Equal(last, next) {
		return last
	}
	return next
}
