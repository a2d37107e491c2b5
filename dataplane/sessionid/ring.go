package sessionid

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// Secret is the secret of a key. However it is printed, it says [redacted], but
// for one case that no type can help: inside of an unexported field. Keep it out
// of those, and keep a [Ring] instead.
type Secret [32]byte

const redacted = "[redacted]"

// String returns "[redacted]".
func (Secret) String() string { return redacted }

// GoString returns "[redacted]".
func (Secret) GoString() string { return redacted }

// Format writes "[redacted]" for every verb and flag.
func (Secret) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// MarshalText returns "[redacted]".
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue returns "[redacted]".
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// Key is one key of a ring.
type Key struct {
	ID     [4]byte
	Secret Secret
}

// Errors of opening ids and sealed bytes.
var (
	// ErrInvalid says that an id or a sealed value is malformed, forged, or
	// was made for another gateway, principal or context. Which one is not told.
	ErrInvalid = errors.New("invalid session id or sealed value")
	// ErrUnknownKey says that it is under a key that the ring does not have: a
	// newer ring may.
	ErrUnknownKey = errors.New("session id or sealed value is under an unknown key")
)

// Ring holds the keys that ids and records are sealed with. It does not change
// and is safe for concurrent use.
type Ring struct {
	keys []subkeys // the sealing one first
	sum  [sha256.Size]byte
}

// subkeys is what is derived from one key. The AEADs choose a random nonce
// for each sealing and put it in front.
type subkeys struct {
	id       [4]byte
	sessions cipher.AEAD
	records  cipher.AEAD
}

// NewRing makes a ring of at least one key. The last one seals, all of them
// open. Ids must be unique and no secret may be all zero.
func NewRing(keys []Key) (*Ring, error) {
	if len(keys) == 0 {
		return nil, errors.New("key ring: no keys")
	}
	r := &Ring{sum: sumOf(keys)}
	for i := len(keys) - 1; i >= 0; i-- {
		k := keys[i]
		if r.key(k.ID) != nil {
			return nil, fmt.Errorf("key ring: two keys with the id %x", k.ID)
		}
		sub, err := derive(k)
		if err != nil {
			return nil, fmt.Errorf("key ring: key %x: %w", k.ID, err)
		}
		r.keys = append(r.keys, sub)
	}
	return r, nil
}

// Of reports whether the ring was made of these keys, in this order. Making another one
// takes some microseconds for each.
func (r *Ring) Of(keys []Key) bool { return r.sum == sumOf(keys) }

// sumOf tells sequences of keys apart, and nothing about them: each has 32 random bytes.
func sumOf(keys []Key) [sha256.Size]byte {
	h := sha256.New()
	for i := range keys {
		h.Write(keys[i].ID[:])
		h.Write(keys[i].Secret[:])
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// String does not show the keys.
func (r *Ring) String() string { return redacted }

// GoString does not show the keys.
func (r *Ring) GoString() string { return redacted }

func derive(k Key) (subkeys, error) {
	if k.Secret == (Secret{}) {
		return subkeys{}, errors.New("the secret is all zero")
	}
	sessions, err := newAEAD(k, "leasehold/v1 session ids")
	if err != nil {
		return subkeys{}, err
	}
	records, err := newAEAD(k, "leasehold/v1 upstream session ids")
	return subkeys{id: k.ID, sessions: sessions, records: records}, err
}

// newAEAD returns AES-256-GCM under the subkey for use.
func newAEAD(k Key, use string) (cipher.AEAD, error) {
	secret, err := hkdf.Key(sha256.New, k.Secret[:], nil, use, len(k.Secret))
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// key returns the key with the id, or nil. A ring has less than a hundred keys, and ids
// in use are under the newest, which come first.
func (r *Ring) key(id [4]byte) *subkeys {
	for i := range r.keys {
		if r.keys[i].id == id {
			return &r.keys[i]
		}
	}
	return nil
}

// Seal encrypts plain for the record that context names, and for no other one.
func (r *Ring) Seal(plain []byte, context string) ([]byte, error) {
	k := &r.keys[0]
	sealed := append(make([]byte, 0, len(k.id)+len(plain)+k.records.Overhead()), k.id[:]...)
	return k.records.Seal(sealed, nil, plain, []byte(context)), nil
}

// Unseal returns what was given to Seal with the same context. It fails with
// ErrInvalid or ErrUnknownKey.
func (r *Ring) Unseal(sealed []byte, context string) ([]byte, error) {
	var id [4]byte
	if len(sealed) < len(id)+r.keys[0].records.Overhead() {
		return nil, ErrInvalid
	}
	n := copy(id[:], sealed)
	k := r.key(id)
	if k == nil {
		return nil, ErrUnknownKey
	}
	plain, err := k.records.Open(nil, nil, sealed[n:], []byte(context))
	if err != nil {
		return nil, ErrInvalid
	}
	return plain, nil
}
