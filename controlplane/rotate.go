package controlplane

import (
	"context"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/leasehold/leasehold/controlplane/etcd"
	"github.com/leasehold/leasehold/controlplane/keyring"
	"github.com/leasehold/leasehold/controlplane/publish"
	"github.com/leasehold/leasehold/controlplane/store"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// rotator sees to the key ring that seals session ids. Every change of the ring is one
// write that compares what was read, so it does not matter how many rotators there are.
type rotator struct {
	db    *etcd.Store
	hub   *publish.Hub
	every time.Duration
	open  func(sealed []byte) (*leaseholdv1.KeyRing, error)
	seal  func(*leaseholdv1.KeyRing) ([]byte, error)
	log   hclog.Logger
}

// Tend does what is due. It asks etcd only if, as far as is known here, something is.
func (r *rotator) Tend(ctx context.Context) error {
	snap := r.hub.Snapshot()
	if snap == nil || snap.Ring == nil {
		return nil
	}
	known := &store.RingState{Ring: snap.Ring}
	for _, m := range snap.Members.Entries {
		known.Members = append(known.Members, m)
	}
	if ring, next, err := r.next(known); err != nil || next == ring {
		return err
	}
	state, err := r.db.RingState(ctx)
	if err != nil {
		return err
	}
	ring, next, err := r.next(state)
	if err != nil || next == ring {
		return err
	}
	_, err = r.replace(ctx, state, next) // if that was too late, the next turn sees
	return err
}

// next returns the ring of a state, and what it is to be now.
func (r *rotator) next(state *store.RingState) (ring, next *leaseholdv1.KeyRing, err error) {
	if ring, err = r.open(state.Ring.Sealed); err != nil {
		return nil, nil, err
	}
	next, err = keyring.Next(ring, state.Everywhere(), r.every, time.Now())
	return ring, next, err
}

func (r *rotator) replace(ctx context.Context, read *store.RingState, next *leaseholdv1.KeyRing) (bool, error) {
	sealed, err := r.seal(next)
	if err != nil {
		return false, err
	}
	replaced, err := r.db.ReplaceRing(ctx, read, sealed)
	if replaced {
		newest := keyring.Show(next)[len(next.Keys)-1]
		r.log.Info("session key ring changed", "keys", len(next.Keys), "newest", newest.Id, "state", newest.State)
	}
	return replaced, err
}

// SessionKeys implements rpc.SessionKeys.
func (r *rotator) SessionKeys(ctx context.Context) ([]*leaseholdv1.SessionKey, error) {
	state, err := r.db.RingState(ctx)
	if err != nil {
		return nil, err
	}
	ring, err := r.open(state.Ring.Sealed)
	if err != nil {
		return nil, err
	}
	return keyring.Show(ring), nil
}

// RotateSessionKey implements rpc.SessionKeys. Whoever is too late returns the key that
// somebody else has made meanwhile.
func (r *rotator) RotateSessionKey(ctx context.Context) (*leaseholdv1.SessionKey, error) {
	var first *leaseholdv1.KeyRing
	for {
		state, err := r.db.RingState(ctx)
		if err != nil {
			return nil, err
		}
		ring, err := r.open(state.Ring.Sealed)
		if err != nil {
			return nil, err
		}
		if first == nil {
			first = ring
		}
		if key := keyring.Added(first, ring); key != nil {
			return keyring.ShowKey(ring, key), nil
		}
		next, key, err := keyring.Make(ring, time.Now())
		if err != nil {
			return nil, err
		}
		if next == ring {
			return keyring.ShowKey(ring, key), nil
		}
		replaced, err := r.replace(ctx, state, next)
		if err != nil {
			return nil, err
		}
		if replaced {
			return keyring.ShowKey(next, key), nil
		}
	}
}
