// Package keyring holds the keys that seal session ids and records, and the root
// key that wraps them. Whoever reads the store without the root key can open
// neither.
package keyring

import (
	"crypto/aes"
	"crypto/cipher"
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
var ErrWrongRootKey = errors.New("the root key does not open the stored key ring: it is not the key that this store was set up with")

// New returns a ring with one fresh key, which seals from now on.
func New(now time.Time) *leaseholdv1.KeyRing {
	key := fresh(now)
	key.SealTime = key.CreateTime
	return &leaseholdv1.KeyRing{Keys: []*leaseholdv1.Key{key}}
}

// Seal wraps ring under the root key, bound to the name it is stored under.
func (k RootKey) Seal(name string, ring *leaseholdv1.KeyRing) ([]byte, error) {
	plain, err := proto.Marshal(ring)
	if err != nil {
		return nil, fmt.Errorf("encode key ring: %w", err)
	}
	aead, err := k.aead()
	if err != nil {
		return nil, err
	}
	return aead.Seal(nil, nil, plain, []byte(name)), nil
}

// Open unwraps what Seal made. It returns ErrWrongRootKey if sealed was wrapped
// under another key, for another name, or changed.
func (k RootKey) Open(name string, sealed []byte) (*leaseholdv1.KeyRing, error) {
	aead, err := k.aead()
	if err != nil {
		return nil, err
	}
	plain, err := aead.Open(nil, nil, sealed, []byte(name))
	if err != nil {
		return nil, ErrWrongRootKey
	}
	ring := &leaseholdv1.KeyRing{}
	if err := proto.Unmarshal(plain, ring); err != nil {
		return nil, fmt.Errorf("decode key ring: %w", err)
	}
	return ring, check(ring)
}

func (k RootKey) aead() (cipher.AEAD, error) {
	block, err := aes.NewCipher(k[:])
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
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
