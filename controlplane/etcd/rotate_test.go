package etcd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/protobuf/proto"

	"github.com/leasehold/leasehold/controlplane/gateway"
	"github.com/leasehold/leasehold/controlplane/keyring"
	"github.com/leasehold/leasehold/controlplane/store"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// all makes all calls of a rotation, and returns them as one.
func all(t testing.TB, part func(ctx context.Context, after string) (store.Rotation, error)) (sum store.Rotation) {
	t.Helper()
	for {
		r, err := part(testContext(t), sum.Last)
		if err != nil {
			t.Error(err)
			return sum
		}
		sum.Gateways += r.Gateways
		sum.Rotated += r.Rotated
		sum.Locked = append(sum.Locked, r.Locked...)
		sum.Ring = sum.Ring || r.Ring
		if sum.Last = r.Last; !r.More {
			return sum
		}
	}
}

func (k *keyed) rotateRoot(t testing.TB) store.Rotation {
	t.Helper()
	return all(t, func(ctx context.Context, after string) (store.Rotation, error) {
		return k.RotateRootKey(ctx, "", after)
	})
}

func (k *keyed) rotateData(t testing.TB) store.Rotation {
	t.Helper()
	return all(t, k.RotateDataKeys)
}

func (k *keyed) makeRing(t testing.TB) {
	t.Helper()
	sealed, err := k.Store.roots().Seal(RingKey, keyring.New(time.Now()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.MakeRing(testContext(t), sealed); err != nil {
		t.Fatal(err)
	}
}

func (k *keyed) uses(t testing.TB) store.KeyUse {
	t.Helper()
	use, err := k.RootKeys(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	return use
}

func TestRotationTellsNobodyAnythingAndEtagsStayGood(t *testing.T) {
	old, next := keyring.NewRootKey(), keyring.NewRootKey()
	s := openKeyed(t, ownServer(t), old)
	s.makeRing(t)
	made := s.create(t, "one", "canary")
	define(t, s.Store, "plain")
	f := follow(t, s.Store)
	before := f.last()
	w := watchGateways(t, s.Store, before.Revision, "")

	s.use(next, old)
	if got, want := s.rotateRoot(t), (store.Rotation{Gateways: 1, Rotated: 1, Ring: true, Last: "plain"}); !equalRotations(got, want) {
		t.Errorf("root key: %+v, want %+v", got, want)
	}
	if got, want := s.rotateData(t), (store.Rotation{Gateways: 1, Rotated: 1, Last: "plain"}); !equalRotations(got, want) {
		t.Errorf("data keys: %+v, want %+v", got, want)
	}
	if got := s.rotateRoot(t); got.Rotated != 0 || got.Ring {
		t.Errorf("again: %+v, want nothing to do", got)
	}
	s.use(next)
	got := s.get(t, "one")
	if got.Etag != made.Etag || got.Status.Revision != made.Status.Revision || bearer(got).GetValue() != "canary" {
		t.Errorf("got %v, want etag %s, revision %d and the same secret", gateway.Shown(got), made.Etag, made.Status.Revision)
	}
	ring, err := s.Ring(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Store.roots().Open(RingKey, ring.Sealed); err != nil {
		t.Errorf("ring without the old root key: %v, want it open", err)
	}

	// An etag from before is good, and the next change is the first that is told.
	updated, err := s.update(t, "one", made.Etag, describe("after"))
	if err != nil {
		t.Fatal(err)
	}
	if c := w.change(); c.Type != put || c.Resource.Description != "after" {
		t.Errorf("the watch was told %v of %v, want the update only", c.Type, gateway.Shown(c.Resource))
	}
	waitFor(t, func() bool { return f.last().Revision >= updated.Status.Revision })
	for _, snap := range f.all() {
		if snap.Revision >= before.Revision && snap.Revision < updated.Status.Revision && snap.Gateways != before.Gateways {
			t.Errorf("at revision %d workers are told of gateways", snap.Revision)
		}
	}
	if _, err := s.DeleteGateway(testContext(t), "one", made.Etag); !errors.Is(err, gateway.ErrETagMismatch) {
		t.Errorf("delete with an etag from before the update: %v, want ErrETagMismatch", err)
	}
}

func equalRotations(a, b store.Rotation) bool {
	return a.Gateways == b.Gateways && a.Rotated == b.Rotated && a.Ring == b.Ring && a.Last == b.Last && a.More == b.More && slices.Equal(a.Locked, b.Locked)
}

// all returns everything that was published.
func (f *seen) all() []*store.Snapshot {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.snapshots)
}

func TestRotatedGatewayIsDeletedByItsEtag(t *testing.T) {
	old, next := keyring.NewRootKey(), keyring.NewRootKey()
	s := openKeyed(t, ownServer(t), old)
	made := s.create(t, "one", "canary")
	s.use(next, old)
	s.rotateRoot(t)
	if _, err := s.DeleteGateway(testContext(t), "one", made.Etag); err != nil {
		t.Errorf("delete: %v, want the etag to be good", err)
	}
}

// Two replicas rotate root and data keys at once, again and again, while others
// update and read: nothing is lost, and in the end the old root key is not needed.
func TestRotationWhileServingLosesNothing(t *testing.T) {
	const gateways, updates = 8, 12
	server, old, next := ownServer(t), keyring.NewRootKey(), keyring.NewRootKey()
	replicas := []*keyed{openKeyed(t, server, old), openKeyed(t, server, old)}
	replicas[0].makeRing(t)
	for i := range gateways {
		replicas[0].create(t, fmt.Sprintf("g%d", i), "first")
	}
	for _, s := range replicas {
		s.pace.SetLimit(rate.Inf)
		s.use(next, old)
	}
	f := follow(t, replicas[1].Store)
	var writers, rotators sync.WaitGroup
	stop := make(chan struct{})
	for _, s := range replicas {
		rotators.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					s.rotateRoot(t)
					s.rotateData(t)
				}
			}
		})
	}
	for i := range gateways {
		writers.Go(func() {
			s, id := replicas[i%2], fmt.Sprintf("g%d", i)
			for n := range updates {
				value := fmt.Sprintf("secret-%d-%d", i, n)
				written, err := s.update(t, id, "", func(g *leaseholdv1.Gateway) {
					setSecret(g, value)
					g.Description += "."
				})
				if err != nil {
					t.Errorf("%s: update %d: %v", id, n, err)
					return
				}
				got, err := replicas[(i+n)%2].GetGateway(testContext(t), id)
				if err != nil || bearer(got).GetValue() != value || got.Etag != written.Etag {
					t.Errorf("%s: read after update %d: %v, etag %s, status %v; want what was written, etag %s", id, n, err, got.GetEtag(), got.GetStatus(), written.Etag)
				}
				if _, err := s.update(t, id, written.Etag, describe(written.Description)); err != nil {
					t.Errorf("%s: its etag is not good after update %d: %v", id, n, err)
				}
			}
		})
	}
	writers.Wait()
	close(stop)
	rotators.Wait()

	for _, s := range replicas {
		s.use(next)
	}
	if r := replicas[0].rotateRoot(t); r.Gateways != gateways || len(r.Locked) != 0 {
		t.Errorf("without the old root key: %+v, want %d that all open", r, gateways)
	}
	for i := range gateways {
		g := replicas[i%2].get(t, fmt.Sprintf("g%d", i))
		if want := fmt.Sprintf("secret-%d-%d", i, updates-1); bearer(g).GetValue() != want || len(g.Description) != updates {
			t.Errorf("g%d: %v; want %s and %d updates", i, gateway.Shown(g), want, updates)
		}
	}
	use := replicas[0].uses(t)
	if want := (store.RootKeyUse{ID: next.ID(), Known: true, DataKeys: gateways, Ring: true}); len(use.Roots) != 1 || use.Roots[0] != want {
		t.Errorf("root keys %+v, want only %+v", use.Roots, want)
	}
	waitFor(t, func() bool {
		last := f.last()
		return len(last.Gateways.Entries) == gateways && len(last.Unusable.Entries) == 0 &&
			bearer(last.Gateways.Entries["g0"]).GetValue() == fmt.Sprintf("secret-0-%d", updates-1)
	})
}

func TestGatewayStoredInClearIsReadAndThenSealed(t *testing.T) {
	s := openKeyed(t, ownServer(t), keyring.NewRootKey())
	for _, id := range []string{"rotated", "written"} {
		bare, err := proto.Marshal(withSecret(id, "canary-in-clear"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.client.Put(testContext(t), gatewayKey(id), string(bare)); err != nil {
			t.Fatal(err)
		}
	}
	f := follow(t, s.Store)
	read := s.get(t, "rotated")
	if g := f.last().Gateways.Entries["rotated"]; bearer(g).GetValue() != "canary-in-clear" || g.Status.Revision != read.Status.Revision {
		t.Errorf("got %v, want it as it was stored", gateway.Shown(g))
	}
	if n := s.uses(t).Unsealed; n != 2 {
		t.Errorf("%d in clear, want 2", n)
	}
	if _, err := s.update(t, "written", "", describe("new")); err != nil {
		t.Fatal(err)
	}
	if r := s.rotateRoot(t); r.Gateways != 2 || r.Rotated != 1 {
		t.Errorf("rotated %+v, want the one that is still in clear", r)
	}
	wantNowhere(t, s.Store, "canary-in-clear")
	if again := s.get(t, "rotated"); !proto.Equal(again, read) {
		t.Errorf("got %v, want what it was before, with its etag", gateway.Shown(again))
	}
}

func TestRotationLeavesWhatItCannotOpen(t *testing.T) {
	server, lost, old, next := ownServer(t), keyring.NewRootKey(), keyring.NewRootKey(), keyring.NewRootKey()
	openKeyed(t, server, lost).makeRing(t)
	openKeyed(t, server, lost).create(t, "a-lost", "canary")
	s := openKeyed(t, server, old)
	s.create(t, "b", "canary")
	s.use(next, old)
	if r, want := s.rotateRoot(t), (store.Rotation{Gateways: 2, Rotated: 1, Locked: []string{"a-lost"}, Last: "b"}); !equalRotations(r, want) {
		t.Errorf("root key: %+v, want %+v", r, want)
	}
	if r := s.rotateData(t); r.Rotated != 1 || !slices.Equal(r.Locked, []string{"a-lost"}) {
		t.Errorf("data keys: %+v, want one rotated and one locked", r)
	}
	want := []store.RootKeyUse{
		{ID: next.ID(), Known: true, DataKeys: 1},
		{ID: old.ID(), Known: true},
		{ID: lost.ID(), DataKeys: 1, Ring: true},
	}
	if use := s.uses(t); !slices.Equal(use.Roots, want) {
		t.Errorf("root keys %+v, want %+v", use.Roots, want)
	}
}

func TestRotationIsRefusedUnderAnotherRootKeyThanExpected(t *testing.T) {
	key := keyring.NewRootKey()
	s := openKeyed(t, ownServer(t), key)
	if _, err := s.RotateRootKey(testContext(t), strings.Repeat("0", 16), ""); !errors.Is(err, store.ErrOtherRootKey) {
		t.Errorf("got %v, want ErrOtherRootKey", err)
	}
	if _, err := s.RotateRootKey(testContext(t), key.ID(), ""); err != nil {
		t.Errorf("got %v, want none", err)
	}
}

func TestRotationComesInPartsAndAtItsPace(t *testing.T) {
	old, next := keyring.NewRootKey(), keyring.NewRootKey()
	s := openKeyed(t, ownServer(t), old)
	const sealed = 60
	for i := range rotationPart + 1 {
		if id := fmt.Sprintf("g%04d", i); i < sealed {
			s.create(t, id, "canary")
		} else {
			define(t, s.Store, id)
		}
	}
	s.use(next, old)
	began := time.Now()
	part, err := s.RotateRootKey(testContext(t), "", "")
	if err != nil || !part.More || part.Gateways != sealed || part.Last != fmt.Sprintf("g%04d", rotationPart-1) {
		t.Fatalf("first part: %+v, %v; want %d gateways of the first %d", part, err, sealed, rotationPart)
	}
	if took, least := time.Since(began), (sealed-1)*time.Second/rotationsPerSecond; took < least {
		t.Errorf("%d were rotated in %s, want at least %s", sealed, took, least)
	}
	rest, err := s.RotateRootKey(testContext(t), "", part.Last)
	if err != nil || rest.More || rest.Gateways != 0 {
		t.Errorf("second part: %+v, %v; want the rest, without secrets", rest, err)
	}
}
