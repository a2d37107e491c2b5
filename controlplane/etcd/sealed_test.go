package etcd

import (
	"encoding/base64"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/leasehold/leasehold/controlplane/gateway"
	"github.com/leasehold/leasehold/controlplane/keyring"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// keyed is a store with root keys that a test changes.
type keyed struct {
	*Store
	roots atomic.Pointer[keyring.RootKeys]
}

func openKeyed(t testing.TB, server *Server, keys ...keyring.RootKey) *keyed {
	t.Helper()
	k := &keyed{}
	k.use(keys...)
	k.Store = openWith(t, server, ClientConfig{Hold: unheld, RootKeys: func() keyring.RootKeys { return *k.roots.Load() }})
	return k
}

// use gives the store other root keys, as when their file changes.
func (k *keyed) use(keys ...keyring.RootKey) {
	roots := keyring.NewRootKeys(keys...)
	k.roots.Store(&roots)
	if k.Store != nil {
		k.Reread()
	}
}

// withSecret is a gateway that shows its server value.
func withSecret(id, value string) *leaseholdv1.Gateway {
	g := &leaseholdv1.Gateway{Name: gateway.Name(id), Upstreams: []*leaseholdv1.Upstream{{Name: "u", Url: "http://127.0.0.1:1/mcp"}}}
	setSecret(g, value)
	gateway.Retain(nil, g)
	gateway.Default(g)
	return g
}

func setSecret(g *leaseholdv1.Gateway, value string) {
	g.Upstreams[0].Credential = &leaseholdv1.Credential{Kind: &leaseholdv1.Credential_Bearer{
		Bearer: &leaseholdv1.Secret{Source: &leaseholdv1.Secret_Value{Value: value}}}}
}

func bearer(g *leaseholdv1.Gateway) *leaseholdv1.Secret {
	return g.GetUpstreams()[0].GetCredential().GetBearer()
}

func (k *keyed) create(t testing.TB, id, value string) *leaseholdv1.Gateway {
	t.Helper()
	g, err := k.CreateGateway(testContext(t), withSecret(id, value))
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func (k *keyed) get(t testing.TB, id string) *leaseholdv1.Gateway {
	t.Helper()
	g, err := k.GetGateway(testContext(t), id)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// update changes a gateway as an operator does.
func (k *keyed) update(t testing.TB, id, etag string, change func(*leaseholdv1.Gateway)) (*leaseholdv1.Gateway, error) {
	t.Helper()
	return k.UpdateGateway(testContext(t), id, etag, func(stored *leaseholdv1.Gateway) (*leaseholdv1.Gateway, error) {
		asked := gateway.Shown(proto.CloneOf(stored))
		change(asked)
		next := gateway.Apply(stored, asked, nil)
		return next, gateway.Validate(next).Err()
	})
}

func describe(text string) func(*leaseholdv1.Gateway) {
	return func(g *leaseholdv1.Gateway) { g.Description = text }
}

// spellings are how text may be found in bytes: as it is, and within base64.
func spellings(text string) []string {
	list := []string{text}
	for shift := range 3 {
		whole := base64.RawStdEncoding.EncodeToString([]byte(strings.Repeat("x", shift) + text))
		list = append(list, whole[4*min(shift, 1):len(whole)-4])
	}
	return list
}

// wantNowhere checks that text is in no key and no value of etcd.
func wantNowhere(t testing.TB, s *Store, text string) {
	t.Helper()
	resp, err := s.client.Get(testContext(t), "\x00", clientv3.WithFromKey())
	if err != nil || len(resp.Kvs) == 0 {
		t.Fatalf("read all of etcd: %d keys, %v", len(resp.Kvs), err)
	}
	for _, kv := range resp.Kvs {
		for _, spelling := range spellings(text) {
			if strings.Contains(string(kv.Key), spelling) || strings.Contains(string(kv.Value), spelling) {
				t.Errorf("%s holds the secret", kv.Key)
			}
		}
	}
}

func TestNothingOfASecretIsInEtcd(t *testing.T) {
	s := openKeyed(t, ownServer(t), keyring.NewRootKey())
	s.create(t, "one", "canary-created-5f1b")
	wantNowhere(t, s.Store, "canary-created-5f1b")
	if _, err := s.update(t, "one", "", describe("kept")); err != nil {
		t.Fatal(err)
	}
	wantNowhere(t, s.Store, "canary-created-5f1b")
	if got := bearer(s.get(t, "one")).GetValue(); got != "canary-created-5f1b" {
		t.Errorf("kept by an update: got another value of %d bytes", len(got))
	}
	if _, err := s.update(t, "one", "", func(g *leaseholdv1.Gateway) { setSecret(g, "canary-updated-a0c4") }); err != nil {
		t.Fatal(err)
	}
	wantNowhere(t, s.Store, "canary-updated-a0c4")
	f := follow(t, s.Store)
	if got := bearer(f.last().Gateways.Entries["one"]).GetValue(); got != "canary-updated-a0c4" {
		t.Errorf("workers are told a value of %d bytes, want the new one", len(got))
	}
}

func TestSecretIsNotStoredInClearWithoutARootKey(t *testing.T) {
	s := openStore(t, ownServer(t), nil)
	if _, err := s.CreateGateway(testContext(t), withSecret("one", "canary")); !errors.Is(err, keyring.ErrNoRootKey) {
		t.Errorf("created: %v, want ErrNoRootKey", err)
	}
}

func TestGatewayThatCannotBeOpenedIsKeptAndSaysWhy(t *testing.T) {
	server, key, other := ownServer(t), keyring.NewRootKey(), keyring.NewRootKey()
	s, stranger := openKeyed(t, server, key), openKeyed(t, server, other)
	old := s.create(t, "one", "canary")
	define(t, stranger.Store, "plain")
	knows, knowsNot := follow(t, s.Store), follow(t, stranger.Store)

	// Workers are told that it is there, and not that it is gone.
	snap := knowsNot.last()
	if snap.Gateways.Entries["one"] != nil || snap.Gateways.Entries["plain"] == nil || !strings.Contains(snap.Unusable.Entries["one"], key.ID()) {
		t.Errorf("without its root key: usable %v, unusable %v; want it unusable for want of %s", snap.Gateways.Entries, snap.Unusable.Entries, key.ID())
	}
	if len(knows.last().Unusable.Entries) != 0 {
		t.Errorf("with its root key it is unusable: %v", knows.last().Unusable.Entries)
	}
	// Operators see it, and why.
	shown := stranger.get(t, "one")
	if got := bearer(shown); !got.GetSet() || got.GetSource() != nil || shown.Etag != old.Etag || !strings.Contains(shown.Status.Unusable, key.ID()) {
		t.Errorf("got %v, want it without a value, and that %s is missing", shown, key.ID())
	}
	if _, err := stranger.update(t, "one", "", describe("new")); !errors.Is(err, gateway.ErrLocked) {
		t.Errorf("update that keeps the secret: %v, want ErrLocked", err)
	}
	// Somebody who changes what is stored changes nothing for those who have it.
	resp, err := s.client.Get(testContext(t), gatewayKey("one"))
	if err != nil {
		t.Fatal(err)
	}
	flipped := []byte(string(resp.Kvs[0].Value))
	flipped[len(flipped)/2] ^= 1
	if _, err := s.client.Put(testContext(t), gatewayKey("one"), string(flipped)); err != nil {
		t.Fatal(err)
	}
	marker := define(t, s.Store, "marker")
	waitFor(t, func() bool { return knows.last().Revision >= marker.Status.Revision })
	if g := knows.last().Gateways.Entries["one"]; g.GetStatus().GetRevision() != old.Status.Revision || bearer(g).GetValue() != "canary" {
		t.Errorf("after a bit was flipped: got %v, want the last good one of %d", gateway.Shown(g), old.Status.Revision)
	}
	// A secret that is given anew mends it, under the root key that there is.
	if _, err := stranger.update(t, "one", "", func(g *leaseholdv1.Gateway) { setSecret(g, "anew") }); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool {
		g := knowsNot.last().Gateways.Entries["one"]
		return g != nil && bearer(g).GetValue() == "anew" && len(knowsNot.last().Unusable.Entries) == 0
	})
	// And so does the root key.
	s.use(key, other)
	waitFor(t, func() bool { return bearer(knows.last().Gateways.Entries["one"]).GetValue() == "anew" })
}

func TestGatewayThatCannotBeOpenedCanBeDeleted(t *testing.T) {
	server := ownServer(t)
	old := openKeyed(t, server, keyring.NewRootKey()).create(t, "one", "canary")
	stranger := openKeyed(t, server, keyring.NewRootKey())
	f := follow(t, stranger.Store)
	if _, err := stranger.DeleteGateway(testContext(t), "one", old.Etag); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return len(f.last().Unusable.Entries) == 0 })
}

func TestSealedSecretMovedToAnotherGatewayStaysShut(t *testing.T) {
	s := openKeyed(t, ownServer(t), keyring.NewRootKey())
	s.create(t, "one", "canary")
	resp, err := s.client.Get(testContext(t), gatewayKey("one"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.client.Put(testContext(t), gatewayKey("two"), string(resp.Kvs[0].Value)); err != nil {
		t.Fatal(err)
	}
	if g := s.get(t, "two"); bearer(g).GetSource() != nil || g.Status.Unusable == "" {
		t.Errorf("got %v, want no value, and why", gateway.Shown(g))
	}
	if snap := follow(t, s.Store).last(); snap.Gateways.Entries["two"] != nil || snap.Unusable.Entries["two"] == "" {
		t.Error("workers are told the moved gateway")
	}
}
