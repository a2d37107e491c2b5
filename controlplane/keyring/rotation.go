package keyring

import (
	"crypto/rand"
	"encoding/hex"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/leasehold/leasehold/controlplane/gateway"
	"github.com/leasehold/leasehold/controlplane/store"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// How often a ring is rotated. With the shortest of these times it has some 64 keys, and
// room for half as many again that an operator asks for.
const (
	DefaultRotation = 24 * time.Hour
	MinRotation     = 12 * time.Hour
	MaxRotation     = 30 * 24 * time.Hour
)

// Unheard is for how long a worker may go on sealing that is not among the living
// ones: the longest that it may serve on without the control plane, and an hour.
const Unheard = 25 * time.Hour

// Kept is how long a key is kept after the last living worker stopped sealing with it:
// as long as what it sealed can be of use.
const Kept = gateway.MaxSessionTime + Unheard

// A key's life. The last key of a ring is the one that seals; one that waits stands
// before it, so that workers that know nothing of times do the right thing.
//
//	        made                     every living worker has the ring
//	          └──▶ waiting ───────────────────────────────────────────▶ sealing
//	                                                                       │ the next one seals
//	removed ◀── retired ◀────── every living worker has that ring ───── leaving
//	        Kept

// Make returns ring with a key that waits to seal, and that key. If one waits already,
// ring is returned as it is. It fails with store.ErrTooManyKeys. ring is not changed.
func Make(ring *leaseholdv1.KeyRing, now time.Time) (*leaseholdv1.KeyRing, *leaseholdv1.Key, error) {
	if key := waiting(ring); key != nil {
		return ring, key, nil
	}
	if len(ring.Keys) >= store.MaxKeys {
		return nil, nil, store.ErrTooManyKeys
	}
	next := proto.CloneOf(ring)
	last := len(next.Keys) - 1
	if next.Keys[last].SealTime == nil { // of before keys were rotated
		next.Keys[last].SealTime = timestamppb.New(now)
	}
	key := fresh(now)
	for find(next, key.Id) != nil {
		key = fresh(now)
	}
	next.Keys = slices.Insert(next.Keys, last, key)
	return next, key, nil
}

// Next returns what ring is to be now, which is ring itself if nothing is to be done:
// keys whose time is over are removed, one is made when the sealing one is older than
// rotation, and once every living worker has applied ring, as everywhere says, keys go
// one step on. It fails as Make does. ring is not changed.
func Next(ring *leaseholdv1.KeyRing, everywhere bool, rotation time.Duration, now time.Time) (*leaseholdv1.KeyRing, error) {
	ring = remove(ring, now)
	if everywhere {
		ring = advance(ring, now)
	}
	if sealing := ring.Keys[len(ring.Keys)-1]; now.Sub(sealing.GetSealTime().AsTime()) < rotation {
		return ring, nil
	}
	next, _, err := Make(ring, now)
	return next, err
}

func remove(ring *leaseholdv1.KeyRing, now time.Time) *leaseholdv1.KeyRing {
	over := func(k *leaseholdv1.Key) bool {
		return k.RetireTime != nil && !now.Before(k.RetireTime.AsTime().Add(Kept))
	}
	if !slices.ContainsFunc(ring.Keys, over) {
		return ring
	}
	next := proto.CloneOf(ring)
	next.Keys = slices.DeleteFunc(next.Keys, over)
	return next
}

func advance(ring *leaseholdv1.KeyRing, now time.Time) *leaseholdv1.KeyRing {
	last := len(ring.Keys) - 1
	leaving := func(k *leaseholdv1.Key) bool { return k != ring.Keys[last] && k.SealTime != nil && k.RetireTime == nil }
	if waiting(ring) == nil && !slices.ContainsFunc(ring.Keys, leaving) {
		return ring
	}
	next := proto.CloneOf(ring)
	for i, k := range ring.Keys {
		if leaving(k) {
			next.Keys[i].RetireTime = timestamppb.New(now)
		}
	}
	if waiting(next) != nil {
		next.Keys[last-1].SealTime = timestamppb.New(now)
		next.Keys[last-1], next.Keys[last] = next.Keys[last], next.Keys[last-1]
	}
	return next
}

// waiting returns the key that waits to seal, or nil.
func waiting(ring *leaseholdv1.KeyRing) *leaseholdv1.Key {
	if n := len(ring.Keys); n >= 2 && ring.Keys[n-2].SealTime == nil {
		return ring.Keys[n-2]
	}
	return nil
}

func find(ring *leaseholdv1.KeyRing, id []byte) *leaseholdv1.Key {
	for _, k := range ring.Keys {
		if string(k.Id) == string(id) {
			return k
		}
	}
	return nil
}

// Added returns a key of ring that is not in before, or nil.
func Added(before, ring *leaseholdv1.KeyRing) *leaseholdv1.Key {
	for _, k := range slices.Backward(ring.Keys) {
		if find(before, k.Id) == nil {
			return k
		}
	}
	return nil
}

// Show returns what operators are told of the ring's keys, oldest first.
func Show(ring *leaseholdv1.KeyRing) []*leaseholdv1.SessionKey {
	shown := make([]*leaseholdv1.SessionKey, len(ring.Keys))
	for i, k := range ring.Keys {
		shown[i] = ShowKey(ring, k)
	}
	if n := len(shown); waiting(ring) != nil {
		shown[n-2], shown[n-1] = shown[n-1], shown[n-2]
	}
	return shown
}

// ShowKey returns what operators are told of a key of ring.
func ShowKey(ring *leaseholdv1.KeyRing, k *leaseholdv1.Key) *leaseholdv1.SessionKey {
	one := &leaseholdv1.SessionKey{
		Id: hex.EncodeToString(k.Id), State: leaseholdv1.SessionKeyState_SESSION_KEY_STATE_RETIRED,
		CreateTime: k.CreateTime, SealTime: k.SealTime, RetireTime: k.RetireTime,
	}
	switch {
	case string(k.Id) == string(ring.Keys[len(ring.Keys)-1].Id):
		one.State = leaseholdv1.SessionKeyState_SESSION_KEY_STATE_SEALING
	case k.SealTime == nil:
		one.State = leaseholdv1.SessionKeyState_SESSION_KEY_STATE_WAITING
	case k.RetireTime != nil:
		one.ExpireTime = timestamppb.New(k.RetireTime.AsTime().Add(Kept))
	}
	return one
}

func fresh(now time.Time) *leaseholdv1.Key {
	id, secret := make([]byte, keyIDBytes), make([]byte, secretBytes)
	_, _ = rand.Read(id) // never fails
	_, _ = rand.Read(secret)
	return &leaseholdv1.Key{Id: id, Secret: secret, CreateTime: timestamppb.New(now)}
}
