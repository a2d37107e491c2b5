// Package envelope knows how gateways are stored: the values of their secrets are
// sealed under a data key of the gateway's own, which is wrapped under a root key.
// Whoever reads the store without the root key has no secret; whoever can also write
// to it cannot make one go with anything else than it was stored with, as it opens
// only with the very definition, under the very key of the store. What is stored as a
// whole can be put back as it was before: that nobody notices.
package envelope

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/leasehold/leasehold/controlplane/gateway"
	"github.com/leasehold/leasehold/controlplane/keyring"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

const dataKeyBytes = 32

// ErrChanged says that what is stored was changed, or belongs under another key.
var ErrChanged = errors.New("changed since it was sealed, or sealed for another gateway")

// Seal returns what is stored of g under key: g itself if no secret in it has its
// value with it. g is not changed.
func Seal(roots keyring.RootKeys, key string, g *leaseholdv1.Gateway, now time.Time) ([]byte, error) {
	return seal(roots, key, g, 0, now)
}

// seal is Seal for a definition that was accepted at revision; 0 for the write's own.
func seal(roots keyring.RootKeys, key string, g *leaseholdv1.Gateway, revision int64, now time.Time) ([]byte, error) {
	def, values := take(g)
	definition, err := encode(def)
	if err != nil || len(values) == 0 {
		return definition, err
	}
	plain, err := encode(&leaseholdv1.SecretValues{Values: values})
	if err != nil {
		return nil, err
	}
	return sealBytes(roots, key, definition, plain, revision, now)
}

// take returns a copy of g with the values of its secrets taken out, and these by
// their fingerprints. A secret without one, or with that of another value, gets one.
func take(g *leaseholdv1.Gateway) (def *leaseholdv1.Gateway, values map[string]string) {
	def, values = proto.CloneOf(g), map[string]string{}
	gateway.EachSecret(def.ProtoReflect(), func(s *leaseholdv1.Secret) {
		if !gateway.IsInline(s) {
			return
		}
		if other, taken := values[s.Fingerprint]; s.Fingerprint == "" || taken && other != s.GetValue() {
			s.Fingerprint = rand.Text()
		}
		values[s.Fingerprint] = s.GetValue()
		s.Source, s.Set = nil, true
	})
	return def, values
}

// sealBytes seals plain under a new data key.
func sealBytes(roots keyring.RootKeys, key string, definition, plain []byte, revision int64, now time.Time) ([]byte, error) {
	secret := make([]byte, dataKeyBytes)
	_, _ = rand.Read(secret) // never fails
	aead, err := newAEAD(secret)
	if err != nil {
		return nil, err
	}
	s := &leaseholdv1.StoredGateway{
		Definition: definition,
		Sealed:     aead.Seal(nil, nil, plain, bound(key, definition)),
		DataKey:    &leaseholdv1.DataKey{CreateTime: timestamppb.New(now)},
		Revision:   revision,
	}
	return wrap(roots, key, s, secret)
}

// wrap wraps the data key of s, and returns s encoded.
func wrap(roots keyring.RootKeys, key string, s *leaseholdv1.StoredGateway, secret []byte) (value []byte, err error) {
	if s.DataKey.Wrapped, err = roots.Wrap(dataKeyName(key, s), secret); err != nil {
		return nil, err
	}
	return encode(s)
}

// bound is what sealed values are bound to. Keys of the store have no NUL.
func bound(key string, definition []byte) []byte {
	return append([]byte("secrets of a gateway\x00"+key+"\x00"), definition...)
}

// dataKeyName is what a data key is bound to: whose it is, and what is said of it.
func dataKeyName(key string, s *leaseholdv1.StoredGateway) string {
	return "data key of a gateway\x00" + key + "\x00" +
		strconv.FormatInt(s.GetRevision(), 10) + "\x00" + strconv.FormatInt(s.GetDataKey().GetCreateTime().AsTime().UnixNano(), 10)
}

func newAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

func encode(m proto.Message) ([]byte, error) {
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", m.ProtoReflect().Descriptor().Name(), err)
	}
	return value, nil
}
