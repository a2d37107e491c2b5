package keyring_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/hex"
	"errors"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/leasehold/leasehold/controlplane/keyring"
)

func TestSealedRingOpensWithItsKeyAndNameOnly(t *testing.T) {
	ring := keyring.New(time.Now())
	roots, other := keyring.NewRootKeys(keyring.NewRootKey()), keyring.NewRootKeys(keyring.NewRootKey())
	sealed, err := roots.Seal("keys/ring", ring)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(sealed, ring.Keys[0].Secret) {
		t.Error("sealed ring shows its secret")
	}
	got, err := roots.Open("keys/ring", sealed)
	if err != nil || !proto.Equal(got, ring) {
		t.Errorf("open: %v, want the ring", err)
	}
	refuse := func(what string, roots keyring.RootKeys, name string, sealed []byte) {
		t.Helper()
		if _, err := roots.Open(name, sealed); !errors.Is(err, keyring.ErrWrongRootKey) {
			t.Errorf("%s: %v, want ErrWrongRootKey", what, err)
		}
	}
	refuse("another key", other, "keys/ring", sealed)
	refuse("another name", roots, "keys/other", sealed)
	refuse("no key", keyring.RootKeys{}, "keys/ring", sealed)
	refuse("short", roots, "keys/ring", sealed[:3])
	for i := range sealed {
		changed := bytes.Clone(sealed)
		changed[i] ^= 1
		refuse("changed", roots, "keys/ring", changed)
	}
}

// sealBefore seals a ring as it was stored when there was one root key.
func sealBefore(t *testing.T, key keyring.RootKey, name string) []byte {
	t.Helper()
	secret, err := hex.DecodeString(key.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	block, err := aes.NewCipher(secret)
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := proto.Marshal(keyring.New(time.Now()))
	if err != nil {
		t.Fatal(err)
	}
	return aead.Seal(nil, nil, plain, []byte(name))
}

func TestRingThatWasStoredUnderTheOneRootKeyIsOpenedAndRewrapped(t *testing.T) {
	first, old := keyring.NewRootKey(), keyring.NewRootKey()
	sealed := sealBefore(t, old, "ring")
	for what, roots := range map[string]keyring.RootKeys{"the only key": keyring.NewRootKeys(old), "the second key": keyring.NewRootKeys(first, old)} {
		ring, err := roots.Open("ring", sealed)
		if err != nil {
			t.Fatalf("%s: %v, want it open", what, err)
		}
		if id := roots.RingWrappedBy("ring", sealed); id != old.ID() {
			t.Errorf("%s: wrapped by %q, want %q", what, id, old.ID())
		}
		again, err := roots.Rewrap("ring", sealed)
		if id, ok := keyring.WrappedBy(again); err != nil || !ok || id != roots.First() {
			t.Fatalf("%s: wrapped anew by %q, %v; want %q", what, id, err, roots.First())
		}
		if got, err := roots.Open("ring", again); err != nil || !proto.Equal(got, ring) {
			t.Errorf("%s: wrapped anew it opens as %v, %v; want what it was", what, got, err)
		}
		if more, err := roots.Rewrap("ring", again); more != nil || err != nil {
			t.Errorf("%s: wrapped twice: %x, %v; want nothing to do", what, more, err)
		}
	}
	if _, err := keyring.NewRootKeys(first).Open("ring", sealed); !errors.Is(err, keyring.ErrWrongRootKey) {
		t.Errorf("without its key: %v, want ErrWrongRootKey", err)
	}
}

func TestFirstRootKeyWrapsAndAllUnwrap(t *testing.T) {
	a, b := keyring.NewRootKey(), keyring.NewRootKey()
	wrapped, err := keyring.NewRootKeys(a, b).Wrap("name", []byte("plain"))
	if err != nil {
		t.Fatal(err)
	}
	if id, ok := keyring.WrappedBy(wrapped); !ok || id != a.ID() {
		t.Errorf("wrapped by %q, want the first key, %q", id, a.ID())
	}
	for _, roots := range []keyring.RootKeys{keyring.NewRootKeys(a), keyring.NewRootKeys(b, a)} {
		if plain, err := roots.Unwrap("name", wrapped); err != nil || string(plain) != "plain" {
			t.Errorf("unwrap: %q, %v; want plain", plain, err)
		}
	}
	if _, err := keyring.NewRootKeys(b).Unwrap("name", wrapped); !errors.Is(err, keyring.ErrUnknownRootKey) {
		t.Errorf("without the key: %v, want ErrUnknownRootKey", err)
	}
	if _, err := keyring.NewRootKeys(a).Unwrap("other", wrapped); !errors.Is(err, keyring.ErrChanged) {
		t.Errorf("for another name: %v, want ErrChanged", err)
	}
	if _, err := (keyring.RootKeys{}).Wrap("name", nil); !errors.Is(err, keyring.ErrNoRootKey) {
		t.Errorf("wrap without a key: %v, want ErrNoRootKey", err)
	}
}
