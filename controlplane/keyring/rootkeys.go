package keyring

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/hex"
	"errors"
	"fmt"
)

const (
	// maxRootKeys bounds the root keys of a replica: a rotation needs two.
	maxRootKeys = 16
	// wrapHead begins what is wrapped. The number is the format's.
	wrapHead = "lhw1"
)

var (
	// ErrNoRootKey says that there is no root key to wrap with.
	ErrNoRootKey = errors.New("there is no root key")
	// ErrUnknownRootKey says that something is wrapped under a root key that is not
	// among those that there are.
	ErrUnknownRootKey = errors.New("wrapped under another root key")
	// ErrChanged says that what was wrapped was changed, or is of another name.
	ErrChanged = errors.New("changed since it was wrapped, or wrapped for another name")
)

// RootKeys are the root keys that a replica has: the first one wraps, all of them
// unwrap. They are never changed. The zero value has none.
type RootKeys struct{ keys []RootKey }

// NewRootKeys returns root keys of which the first one wraps.
func NewRootKeys(keys ...RootKey) RootKeys { return RootKeys{keys} }

// IDs are the ids of the keys, in their order.
func (r RootKeys) IDs() []string {
	ids := make([]string, len(r.keys))
	for i, key := range r.keys {
		ids[i] = key.ID()
	}
	return ids
}

// First is the id of the key that wraps; empty without one.
func (r RootKeys) First() string {
	if len(r.keys) == 0 {
		return ""
	}
	return r.keys[0].ID()
}

// Wrap wraps plain under the first key, bound to name. It returns ErrNoRootKey
// without one.
func (r RootKeys) Wrap(name string, plain []byte) ([]byte, error) {
	if len(r.keys) == 0 {
		return nil, ErrNoRootKey
	}
	key := r.keys[0]
	aead, err := newAEAD(key.bytes())
	if err != nil {
		return nil, err
	}
	return aead.Seal(append([]byte(wrapHead), key.id...), nil, plain, []byte(name)), nil
}

// Unwrap returns what Wrap wrapped for name. It returns ErrUnknownRootKey or
// ErrChanged.
func (r RootKeys) Unwrap(name string, wrapped []byte) ([]byte, error) {
	id, ok := WrappedBy(wrapped)
	if !ok {
		return nil, ErrChanged
	}
	for _, key := range r.keys {
		if key.ID() == id {
			return key.open(name, wrapped[len(wrapHead)+rootIDBytes:])
		}
	}
	return nil, fmt.Errorf("%w: %s", ErrUnknownRootKey, id)
}

// WrappedBy returns the id of the root key that something is wrapped under, and false
// if it says none.
func WrappedBy(wrapped []byte) (id string, ok bool) {
	rest, ok := bytes.CutPrefix(wrapped, []byte(wrapHead))
	if !ok || len(rest) < rootIDBytes {
		return "", false
	}
	return hex.EncodeToString(rest[:rootIDBytes]), true
}

func (k RootKey) open(name string, sealed []byte) ([]byte, error) {
	aead, err := newAEAD(k.bytes())
	if err != nil {
		return nil, err
	}
	plain, err := aead.Open(nil, nil, sealed, []byte(name))
	if err != nil {
		return nil, ErrChanged
	}
	return plain, nil
}

// newAEAD returns AES-256-GCM that puts a random nonce before what it seals. A root
// key may so seal 2^32 times, which is one write a second for 136 years.
func newAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}
