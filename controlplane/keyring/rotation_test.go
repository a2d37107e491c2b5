package keyring_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/leasehold/leasehold/controlplane/keyring"
	"github.com/leasehold/leasehold/controlplane/store"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

var began = time.Unix(1_790_000_000, 0)

// sealing returns the id of the key that seals.
func sealing(ring *leaseholdv1.KeyRing) string { return string(ring.Keys[len(ring.Keys)-1].Id) }

func has(ring *leaseholdv1.KeyRing, id string) bool {
	return slices.ContainsFunc(ring.Keys, func(k *leaseholdv1.Key) bool { return string(k.Id) == id })
}

func next(t *testing.T, ring *leaseholdv1.KeyRing, everywhere bool, now time.Time) *leaseholdv1.KeyRing {
	t.Helper()
	before := proto.CloneOf(ring)
	got, err := keyring.Next(ring, everywhere, keyring.DefaultRotation, now)
	if err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(ring, before) {
		t.Fatal("the ring that was given was changed")
	}
	return got
}

func TestKeySealsOnlyOnceEveryLivingWorkerHasIt(t *testing.T) {
	ring := keyring.New(began)
	old := sealing(ring)
	if got := next(t, ring, true, began.Add(keyring.DefaultRotation-time.Second)); got != ring {
		t.Fatalf("a ring that is young enough becomes %v", keyring.Show(got))
	}
	now := began.Add(keyring.DefaultRotation)
	ring = next(t, ring, true, now)
	if len(ring.Keys) != 2 || sealing(ring) != old {
		t.Fatalf("a key that was just made seals: %v", keyring.Show(ring))
	}
	for range 100 {
		now = now.Add(time.Hour)
		if got := next(t, ring, false, now); got != ring {
			t.Fatalf("while a worker lags, the ring becomes %v", keyring.Show(got))
		}
	}
	ring = next(t, ring, true, now)
	if sealing(ring) == old || !has(ring, old) {
		t.Fatalf("once every worker has the new key, the ring is %v", keyring.Show(ring))
	}
	// The former key's time counts from when nobody seals with it any more.
	if got := next(t, ring, false, now.Add(keyring.Kept)); !has(got, old) {
		t.Error("a key was removed with which a worker may still seal")
	}
	ring = next(t, ring, true, now)
	if got := next(t, ring, true, now.Add(keyring.Kept-time.Second)); !has(got, old) {
		t.Error("a key was removed while what it sealed may be of use")
	}
	if got := next(t, ring, true, now.Add(keyring.Kept)); has(got, old) {
		t.Error("a key is kept for longer than what it sealed can be of use")
	}
}

func TestRingThatIsRotatedForEverIsBounded(t *testing.T) {
	ring, most := keyring.New(began), 0
	made := map[string]time.Time{}
	for now := began; now.Before(began.Add(100 * 24 * time.Hour)); now = now.Add(time.Minute) {
		got, err := keyring.Next(ring, true, keyring.MinRotation, now)
		if err != nil {
			t.Fatalf("after %s: %v", now.Sub(began), err)
		}
		ring, most = got, max(most, len(got.Keys))
		for _, k := range got.Keys {
			if made[string(k.Id)].IsZero() {
				made[string(k.Id)] = now
			}
		}
	}
	if most > 64 || len(made) < 195 {
		t.Errorf("the ring had %d keys at most, of %d that were made; want 64 of about 200", most, len(made))
	}
}

func TestFullRingIsNotRotated(t *testing.T) {
	ring := keyring.New(began)
	for len(ring.Keys) < store.MaxKeys {
		made, _, err := keyring.Make(ring, began)
		if err != nil {
			t.Fatal(err)
		}
		ring = next(t, made, true, began)
	}
	if _, _, err := keyring.Make(ring, began); !errors.Is(err, store.ErrTooManyKeys) {
		t.Errorf("one more key: %v, want ErrTooManyKeys", err)
	}
	if _, err := keyring.Next(ring, true, keyring.DefaultRotation, began.Add(keyring.DefaultRotation)); !errors.Is(err, store.ErrTooManyKeys) {
		t.Errorf("when one is due: %v, want ErrTooManyKeys", err)
	}
	ring = next(t, ring, true, began)
	if got := next(t, ring, true, began.Add(keyring.Kept)); len(got.Keys) != 2 {
		t.Errorf("when their time is over, %d keys are left, want the sealing one and the next", len(got.Keys))
	}
}

func TestWhileAKeyWaitsNoOtherIsMade(t *testing.T) {
	one, key, err := keyring.Make(keyring.New(began), began)
	if err != nil {
		t.Fatal(err)
	}
	again, same, err := keyring.Make(one, began.Add(time.Hour))
	if err != nil || again != one || string(same.Id) != string(key.Id) {
		t.Errorf("made another: %v, %v", keyring.Show(again), err)
	}
}

// A ring of before keys were rotated has one key, without times.
func TestRingWithoutTimesIsRotated(t *testing.T) {
	ring := keyring.New(began)
	ring.Keys[0].CreateTime, ring.Keys[0].SealTime = nil, nil
	old := sealing(ring)
	ring = next(t, ring, true, began)
	if sealing(ring) != old || len(ring.Keys) != 2 {
		t.Fatalf("ring is %v", keyring.Show(ring))
	}
	ring = next(t, next(t, ring, true, began), true, began)
	if sealing(ring) == old || !has(next(t, ring, true, began.Add(keyring.Kept-1)), old) {
		t.Errorf("ring is %v", keyring.Show(ring))
	}
}

func TestShownKeysHaveNoSecret(t *testing.T) {
	ring, _, err := keyring.Make(keyring.New(began), began.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	shown := keyring.Show(ring)
	if len(shown) != 2 || shown[0].State != leaseholdv1.SessionKeyState_SESSION_KEY_STATE_SEALING || shown[1].State != leaseholdv1.SessionKeyState_SESSION_KEY_STATE_WAITING {
		t.Errorf("shown are %v, want the older, which seals, and the newer, which waits", shown)
	}
	for _, k := range shown {
		k.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
			if f.Kind() == protoreflect.BytesKind {
				t.Errorf("%s has bytes", f.FullName())
			}
			return true
		})
	}
}
