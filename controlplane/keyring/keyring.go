// Package keyring holds the keys that seal session ids and records, and the root
// keys that wrap them, and data keys too. Whoever reads the store without the root
// keys can open none.
package keyring

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

const (
	keyIDBytes  = 4
	secretBytes = 32
)

// ErrWrongRootKey says that the root key does not open the stored key ring.
var ErrWrongRootKey = errors.New("no root key opens the stored key ring: the key that it is wrapped under is missing")

// New returns a ring with one fresh key, which seals from now on.
func New(now time.Time) *leaseholdv1.KeyRing {
	key := fresh(now)
	key.SealTime = key.CreateTime
	return &leaseholdv1.KeyRing{Keys: []*leaseholdv1.Key{key}}
}

// Seal wraps ring under the first root key, bound to the name it is stored under.
func (r RootKeys) Seal(name string, ring *leaseholdv1.KeyRing) ([]byte, error) {
	plain, err := proto.Marshal(ring)
	if err != nil {
		return nil, fmt.Errorf("encode key ring: %w", err)
	}
	return r.Wrap(name, plain)
}

// Open unwraps what Seal made. It returns ErrWrongRootKey if sealed was wrapped
// under another key, for another name, or changed.
func (r RootKeys) Open(name string, sealed []byte) (*leaseholdv1.KeyRing, error) {
	plain, _, err := r.openRing(name, sealed)
	if err != nil {
		return nil, err
	}
	ring := &leaseholdv1.KeyRing{}
	if err := proto.Unmarshal(plain, ring); err != nil {
		return nil, fmt.Errorf("decode key ring: %w", err)
	}
	return ring, check(ring)
}

// openRing unwraps a ring, and returns the id of the root key that it was wrapped
// under. One that was stored before there could be several does not say it.
func (r RootKeys) openRing(name string, sealed []byte) (plain []byte, id string, err error) {
	if plain, err = r.Unwrap(name, sealed); err == nil {
		id, _ = WrappedBy(sealed)
		return plain, id, nil
	}
	for _, key := range r.keys {
		if plain, err := key.open(name, sealed); err == nil {
			return plain, key.ID(), nil
		}
	}
	return nil, "", fmt.Errorf("%w: %w", ErrWrongRootKey, err)
}

// Rewrap returns a ring as it is to be stored instead, under the first root key; or
// nothing if it is so already. It returns ErrWrongRootKey as Open does.
func (r RootKeys) Rewrap(name string, sealed []byte) ([]byte, error) {
	plain, id, err := r.openRing(name, sealed)
	if _, says := WrappedBy(sealed); err != nil || says && id == r.First() {
		return nil, err
	}
	return r.Wrap(name, plain)
}

// RingWrappedBy returns the id of the root key that a ring is wrapped under; empty if
// there is none among r that opens one that does not say it.
func (r RootKeys) RingWrappedBy(name string, sealed []byte) string {
	if _, id, err := r.openRing(name, sealed); err == nil {
		return id
	}
	id, _ := WrappedBy(sealed)
	return id
}

func check(ring *leaseholdv1.KeyRing) error {
	if len(ring.Keys) == 0 {
		return errors.New("key ring has no key")
	}
	for i, key := range ring.Keys {
		if len(key.GetId()) != keyIDBytes || len(key.GetSecret()) != secretBytes {
			return fmt.Errorf("key ring: key %d must have %d + %d bytes; has %d + %d", i, keyIDBytes, secretBytes, len(key.GetId()), len(key.GetSecret()))
		}
	}
	return nil
}
