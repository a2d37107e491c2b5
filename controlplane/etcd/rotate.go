package etcd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/leasehold/leasehold/controlplane/envelope"
	"github.com/leasehold/leasehold/controlplane/keyring"
	"github.com/leasehold/leasehold/controlplane/store"
)

const (
	// rotationsPerSecond is how many objects a replica seals anew in a second.
	rotationsPerSecond = 200
	// rotationPart is how many gateways a call looks at.
	rotationPart = 200
)

// RootKeys says which root keys there are, and what is wrapped under them.
func (s *Store) RootKeys(ctx context.Context) (store.KeyUse, error) {
	var use store.KeyUse
	roots := s.roots()
	for _, id := range roots.IDs() {
		use.Roots = append(use.Roots, store.RootKeyUse{ID: id, Known: true})
	}
	ring, err := s.Ring(ctx)
	if err != nil {
		return use, err
	}
	if ring != nil {
		rootKeyUse(&use, roots.RingWrappedBy(RingKey, ring.Sealed)).Ring = true
	}
	_, err = s.state(ctx, gatewaysPrefix, func(kvs []*mvccpb.KeyValue) error {
		for _, kv := range kvs {
			facts, err := envelope.Look(kv.Value)
			if err != nil {
				continue // which the log says whenever it is followed
			}
			addFacts(&use, facts)
		}
		return nil
	})
	known := len(roots.IDs())
	slices.SortFunc(use.Roots[known:], func(a, b store.RootKeyUse) int { return cmp.Compare(a.ID, b.ID) })
	return use, err
}

func addFacts(use *store.KeyUse, facts envelope.Facts) {
	if facts.Unsealed {
		use.Unsealed++
	}
	if !facts.Sealed {
		return
	}
	rootKeyUse(use, facts.RootKey).DataKeys++
	if use.Oldest.IsZero() || facts.DataKeyTime.Before(use.Oldest) {
		use.Oldest = facts.DataKeyTime
	}
	if facts.DataKeyTime.After(use.Newest) {
		use.Newest = facts.DataKeyTime
	}
}

// rootKeyUse returns the use of a root key, which is added if it is not there.
func rootKeyUse(use *store.KeyUse, id string) *store.RootKeyUse {
	i := slices.IndexFunc(use.Roots, func(k store.RootKeyUse) bool { return k.ID == id })
	if i < 0 {
		use.Roots, i = append(use.Roots, store.RootKeyUse{ID: id}), len(use.Roots)
	}
	return &use.Roots[i]
}

// RotateRootKey wraps the key ring, if after is empty, and the data keys of some
// gateways after that id anew, under the first root key, and seals what is stored in
// clear. It returns store.ErrOtherRootKey if expect is not empty and not the first.
// No definition gets another revision.
func (s *Store) RotateRootKey(ctx context.Context, expect, after string) (store.Rotation, error) {
	roots := s.roots()
	if expect != "" && expect != roots.First() {
		return store.Rotation{}, store.ErrOtherRootKey
	}
	ring := false
	if after == "" {
		var err error
		if ring, err = s.rotateRing(ctx, roots); err != nil {
			return store.Rotation{}, fmt.Errorf("rotate key ring: %w", err)
		}
	}
	r, err := s.rotateGateways(ctx, after, func(kv *mvccpb.KeyValue) ([]byte, error) {
		return envelope.Rewrap(roots, string(kv.Key), kv.Value, kv.ModRevision, s.now())
	})
	r.Ring = ring
	return r, err
}

// RotateDataKeys gives some gateways after that id new data keys, unless they got one
// since it was called. No definition gets another revision.
func (s *Store) RotateDataKeys(ctx context.Context, after string) (store.Rotation, error) {
	roots, began := s.roots(), s.now()
	return s.rotateGateways(ctx, after, func(kv *mvccpb.KeyValue) ([]byte, error) {
		return envelope.Reseal(roots, string(kv.Key), kv.Value, kv.ModRevision, began, s.now())
	})
}

// sealAnew returns what is to be stored in the place of kv, and nothing if it may
// stay.
type sealAnew func(kv *mvccpb.KeyValue) ([]byte, error)

// errLocked says that something cannot be opened, for a reason that is not etcd's.
type errLocked struct{ error }

func (s *Store) rotateGateways(ctx context.Context, after string, anew sealAnew) (store.Rotation, error) {
	r := store.Rotation{Last: after}
	from := gatewaysPrefix
	if after != "" {
		from = gatewayKey(after) + "\x00"
	}
	resp, err := s.scan(ctx, "rotate", from, clientv3.WithRange(clientv3.GetPrefixRangeEnd(gatewaysPrefix)), clientv3.WithLimit(rotationPart))
	if err != nil {
		return r, err
	}
	for _, kv := range resp.Kvs {
		r.Last = strings.TrimPrefix(string(kv.Key), gatewaysPrefix)
		if facts, err := envelope.Look(kv.Value); err == nil && !facts.Sealed && !facts.Unsealed {
			continue
		}
		r.Gateways++
		rotated, err := s.rotateKV(ctx, string(kv.Key), kv, anew)
		var locked errLocked
		switch {
		case errors.As(err, &locked):
			s.log.Error("cannot be sealed anew", "key", string(kv.Key), "error", locked.error)
			r.Locked = append(r.Locked, r.Last)
		case err != nil:
			return r, fmt.Errorf("rotate: %w", err)
		case rotated:
			r.Rotated++
		}
	}
	r.More = resp.More
	return r, nil
}

// rotateRing wraps the key ring anew. One that cannot be opened is left as it is.
func (s *Store) rotateRing(ctx context.Context, roots keyring.RootKeys) (rotated bool, err error) {
	resp, err := s.get(ctx, "rotate", RingKey)
	if err != nil {
		return false, err
	}
	rotated, err = s.rotateKV(ctx, RingKey, first(resp.Kvs), func(kv *mvccpb.KeyValue) ([]byte, error) {
		return roots.Rewrap(RingKey, kv.Value)
	})
	var locked errLocked
	if errors.As(err, &locked) {
		s.log.Error("cannot be sealed anew", "key", RingKey, "error", locked.error)
		return false, nil
	}
	return rotated, err
}

// rotateKV seals what is under a key anew, and was read as kv, which is nil if there is
// nothing. When it has changed since, what it is then is sealed.
func (s *Store) rotateKV(ctx context.Context, key string, kv *mvccpb.KeyValue, anew sealAnew) (rotated bool, err error) {
	for kv != nil {
		value, err := anew(kv)
		if err != nil {
			return false, errLocked{err}
		}
		if value == nil {
			return false, nil
		}
		if err := s.pace.Wait(ctx); err != nil && ctx.Err() == nil {
			return false, fmt.Errorf("%w: %w", store.ErrBusy, err)
		} else if err != nil {
			return false, err
		}
		resp, err := s.txn(ctx, "rotate", []clientv3.Cmp{unchanged(key, kv.ModRevision)},
			[]clientv3.Op{clientv3.OpPut(key, string(value))}, []clientv3.Op{clientv3.OpGet(key)})
		if err != nil || resp.Succeeded {
			return err == nil, err
		}
		kv = first(resp.Responses[0].GetResponseRange().Kvs)
	}
	return false, nil
}
