package envelope_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/leasehold/leasehold/controlplane/envelope"
	"github.com/leasehold/leasehold/controlplane/gateway"
	"github.com/leasehold/leasehold/controlplane/keyring"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

const storeKey = "/leasehold/v1/gateways/one"

var now = time.Unix(1_800_000_000, 42)

func inline(value string) *leaseholdv1.Secret {
	return &leaseholdv1.Secret{Source: &leaseholdv1.Secret_Value{Value: value}}
}

// withSecrets is a gateway with secrets in several places, of which two are the same.
func withSecrets() *leaseholdv1.Gateway {
	g := &leaseholdv1.Gateway{Name: "gateways/one", Description: "d", Upstreams: []*leaseholdv1.Upstream{{
		Name: "u", Url: "https://example.com/mcp",
		Credential: &leaseholdv1.Credential{
			Headers: []*leaseholdv1.CredentialHeader{
				{Name: "X-A", Value: inline("canary-a")}, {Name: "X-B", Value: inline("canary-b")}, {Name: "X-C", Value: inline("canary-a")},
				{Name: "X-D", Value: &leaseholdv1.Secret{Source: &leaseholdv1.Secret_File{File: "d"}}},
			},
			Kind: &leaseholdv1.Credential_Bearer{Bearer: inline("canary-bearer")},
		},
		Tls: &leaseholdv1.UpstreamTLS{PrivateKey: inline("canary-key")},
	}}}
	gateway.Retain(nil, g)
	return g
}

// newRoots returns root keys of which the first is fresh.
func newRoots(more ...keyring.RootKey) keyring.RootKeys {
	return keyring.NewRootKeys(append([]keyring.RootKey{keyring.NewRootKey()}, more...)...)
}

func seal(t *testing.T, roots keyring.RootKeys, g *leaseholdv1.Gateway) []byte {
	t.Helper()
	value, err := envelope.Seal(roots, storeKey, g, now)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func open(t *testing.T, roots keyring.RootKeys, key string, value []byte, revision int64) envelope.Opened {
	t.Helper()
	o, err := envelope.Open(roots, key, value, revision)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// hasValue reports whether a secret of g has its value with it.
func hasValue(g *leaseholdv1.Gateway) (has bool) {
	gateway.EachSecret(g.ProtoReflect(), func(s *leaseholdv1.Secret) { has = has || gateway.IsInline(s) })
	return has
}

func TestSealedGatewayShowsNoSecretAndOpensAsItWas(t *testing.T) {
	roots, g := newRoots(), withSecrets()
	before := proto.CloneOf(g)
	value := seal(t, roots, g)
	if bytes.Contains(value, []byte("canary")) {
		t.Error("what is stored shows a secret")
	}
	if !proto.Equal(g, before) {
		t.Error("the gateway was changed")
	}
	o := open(t, roots, storeKey, value, 7)
	if o.Locked != nil || !proto.Equal(o.Gateway, g) || o.Revision != 7 {
		t.Errorf("opened %v at %d, locked %v; want it as it was, at 7", gateway.Shown(o.Gateway), o.Revision, o.Locked)
	}
	if again := seal(t, roots, g); bytes.Equal(again, value) {
		t.Error("sealed twice it is the same: there is no new data key")
	}
}

func TestGatewayWithoutSecretsIsStoredAsItIs(t *testing.T) {
	g := withSecrets()
	g.Upstreams[0].Credential, g.Upstreams[0].Tls = nil, nil
	value := seal(t, keyring.RootKeys{}, g)
	bare, err := proto.MarshalOptions{Deterministic: true}.Marshal(g)
	if err != nil || !bytes.Equal(value, bare) {
		t.Errorf("stored as %x, want the bare message", value)
	}
	facts, err := envelope.Look(value)
	if err != nil || facts != (envelope.Facts{}) {
		t.Errorf("facts %v, %v; want that there is nothing to seal", facts, err)
	}
}

func TestSecretIsNotStoredWithoutARootKey(t *testing.T) {
	if value, err := envelope.Seal(keyring.RootKeys{}, storeKey, withSecrets(), now); !errors.Is(err, keyring.ErrNoRootKey) {
		t.Errorf("got %d bytes, %v; want ErrNoRootKey", len(value), err)
	}
}

func TestBareGatewayOfAnEarlierVersionIsReadAndSealed(t *testing.T) {
	roots, g := newRoots(), withSecrets()
	bare, err := proto.Marshal(g)
	if err != nil {
		t.Fatal(err)
	}
	if o := open(t, roots, storeKey, bare, 5); o.Locked != nil || !proto.Equal(o.Gateway, g) || o.Revision != 5 {
		t.Errorf("opened %v at %d; want it as it was, at 5", o.Locked, o.Revision)
	}
	if facts, err := envelope.Look(bare); err != nil || facts != (envelope.Facts{Unsealed: true}) {
		t.Errorf("facts %v, %v; want that it is not sealed", facts, err)
	}
	sealed, err := envelope.Rewrap(roots, storeKey, bare, 5, now)
	if err != nil || bytes.Contains(sealed, []byte("canary")) {
		t.Fatalf("sealed: %v, %d bytes; want no secret shown", err, len(sealed))
	}
	if o := open(t, roots, storeKey, sealed, 9); o.Locked != nil || !proto.Equal(o.Gateway, g) || o.Revision != 5 {
		t.Errorf("opened %v at %d; want it as it was, at 5", o.Locked, o.Revision)
	}
}

// wantLocked checks that no secret comes of a value, whatever else does.
func wantLocked(t *testing.T, what string, roots keyring.RootKeys, key string, value []byte) {
	t.Helper()
	o, err := envelope.Open(roots, key, value, 7)
	if err == nil && (o.Locked == nil || hasValue(o.Gateway)) {
		t.Errorf("%s: it opens", what)
	}
	if value, err := envelope.Rewrap(roots, key, value, 7, now); value != nil || err == nil {
		t.Errorf("%s: it is wrapped anew", what)
	}
	if value, err := envelope.Reseal(roots, key, value, 7, now.Add(time.Hour), now); value != nil || err == nil {
		t.Errorf("%s: it is sealed anew", what)
	}
}

func TestSealedSecretsOpenOnlyWhereTheyWereSealed(t *testing.T) {
	roots, g := newRoots(), withSecrets()
	value := seal(t, roots, g)
	wantLocked(t, "another root key", newRoots(), storeKey, value)
	wantLocked(t, "no root key", keyring.RootKeys{}, storeKey, value)
	wantLocked(t, "another gateway", roots, "/leasehold/v1/gateways/two", value)

	// change changes what is stored as somebody might who can write to etcd.
	change := func(how func(s *leaseholdv1.StoredGateway, def *leaseholdv1.Gateway)) []byte {
		s, def := &leaseholdv1.StoredGateway{}, &leaseholdv1.Gateway{}
		if err := errors.Join(proto.Unmarshal(value, s), proto.Unmarshal(s.GetDefinition(), def)); err != nil {
			t.Fatal(err)
		}
		how(s, def)
		changed, err := proto.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		return changed
	}
	redefine := func(how func(def *leaseholdv1.Gateway)) []byte {
		return change(func(s *leaseholdv1.StoredGateway, def *leaseholdv1.Gateway) {
			how(def)
			s.Definition, _ = proto.Marshal(def)
		})
	}
	wantLocked(t, "two fields' secrets exchanged", roots, storeKey, redefine(func(def *leaseholdv1.Gateway) {
		h := def.Upstreams[0].Credential.Headers
		h[0].Value, h[1].Value = h[1].Value, h[0].Value
	}))
	wantLocked(t, "a secret copied to another field", roots, storeKey, redefine(func(def *leaseholdv1.Gateway) {
		h := def.Upstreams[0].Credential.Headers
		h[3].Value = h[0].Value
	}))
	wantLocked(t, "another upstream", roots, storeKey, redefine(func(def *leaseholdv1.Gateway) {
		def.Upstreams[0].Url = "https://attacker.example.com/mcp"
	}))
	other := &leaseholdv1.StoredGateway{}
	if err := proto.Unmarshal(seal(t, roots, g), other); err != nil {
		t.Fatal(err)
	}
	for what, how := range map[string]func(s *leaseholdv1.StoredGateway, _ *leaseholdv1.Gateway){
		"an earlier data key":     func(s *leaseholdv1.StoredGateway, _ *leaseholdv1.Gateway) { s.DataKey = other.DataKey },
		"earlier sealed values":   func(s *leaseholdv1.StoredGateway, _ *leaseholdv1.Gateway) { s.Sealed = other.Sealed },
		"no data key":             func(s *leaseholdv1.StoredGateway, _ *leaseholdv1.Gateway) { s.DataKey = nil },
		"no sealed values":        func(s *leaseholdv1.StoredGateway, _ *leaseholdv1.Gateway) { s.Sealed = nil },
		"another revision":        func(s *leaseholdv1.StoredGateway, _ *leaseholdv1.Gateway) { s.Revision = 3 },
		"another age of the key":  func(s *leaseholdv1.StoredGateway, _ *leaseholdv1.Gateway) { s.DataKey.CreateTime.Seconds++ },
		"the data key's own text": func(s *leaseholdv1.StoredGateway, _ *leaseholdv1.Gateway) { s.Sealed = s.DataKey.Wrapped },
	} {
		wantLocked(t, what, roots, storeKey, change(how))
	}
}

func TestNoBitOfASealedGatewayCanBeFlipped(t *testing.T) {
	roots := newRoots()
	value := seal(t, roots, withSecrets())
	for i := range 8 * len(value) {
		flipped := bytes.Clone(value)
		flipped[i/8] ^= 1 << (i % 8)
		if o, err := envelope.Open(roots, storeKey, flipped, 7); err == nil && (o.Locked == nil || hasValue(o.Gateway)) {
			t.Fatalf("bit %d of byte %d: it opens", i%8, i/8)
		}
	}
}

func TestRewrappedGatewayOpensWithoutTheOldRootKeyAndKeepsItsRevision(t *testing.T) {
	old := keyring.NewRootKey()
	before, both := keyring.NewRootKeys(old), newRoots(old)
	g := withSecrets()
	value := seal(t, before, g)
	if again, err := envelope.Rewrap(before, storeKey, value, 7, now); again != nil || err != nil {
		t.Errorf("under the first root key already: %d bytes, %v; want nothing to do", len(again), err)
	}
	wrapped, err := envelope.Rewrap(both, storeKey, value, 7, now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	facts, err := envelope.Look(wrapped)
	if want := (envelope.Facts{Sealed: true, RootKey: both.First(), DataKeyTime: now.UTC()}); err != nil || facts != want {
		t.Errorf("facts %v, %v; want %v: the data key is the same", facts, err, want)
	}
	wantLocked(t, "the old root key alone", before, storeKey, wrapped)
	// What was wrapped anew keeps its revision when it is sealed anew too.
	resealed, err := envelope.Reseal(both, storeKey, wrapped, 11, now.Add(time.Second), now.Add(2*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	for what, value := range map[string][]byte{"wrapped anew": wrapped, "and sealed anew": resealed} {
		if o := open(t, both, storeKey, value, 12); o.Locked != nil || !proto.Equal(o.Gateway, g) || o.Revision != 7 {
			t.Errorf("%s: locked %v, revision %d; want it as it was, at 7", what, o.Locked, o.Revision)
		}
		if got := envelope.Revision(value, 12); got != 7 {
			t.Errorf("%s: revision %d, want 7", what, got)
		}
	}
}

func TestResealedGatewayHasANewDataKeyOnce(t *testing.T) {
	roots := newRoots()
	value := seal(t, roots, withSecrets())
	began, later := now.Add(time.Second), now.Add(2*time.Second)
	again, err := envelope.Reseal(roots, storeKey, value, 7, began, later)
	if err != nil {
		t.Fatal(err)
	}
	if facts, err := envelope.Look(again); err != nil || !facts.DataKeyTime.Equal(later) {
		t.Errorf("data key of %v, %v; want %v", facts.DataKeyTime, err, later)
	}
	if more, err := envelope.Reseal(roots, storeKey, again, 8, began, later); more != nil || err != nil {
		t.Errorf("a data key that is younger than the rotation: %d bytes, %v; want nothing to do", len(more), err)
	}
}

func TestSecretsWithoutOrWithOneFingerprintKeepTheirValues(t *testing.T) {
	roots, g := newRoots(), withSecrets()
	h := g.Upstreams[0].Credential.Headers
	h[0].Value.Fingerprint, h[1].Value.Fingerprint, h[2].Value.Fingerprint = "same", "same", ""
	got := open(t, roots, storeKey, seal(t, roots, g), 1).Gateway.Upstreams[0].Credential.Headers
	for i, want := range []string{"canary-a", "canary-b", "canary-a"} {
		if got[i].GetValue().GetValue() != want {
			t.Errorf("header %d: got another value, want %s", i, want)
		}
	}
}

// Whatever is stored, nothing panics, and nothing but what was sealed opens.
func FuzzStoredGatewayIsNeverForged(f *testing.F) {
	roots := newRoots()
	sealed, err := envelope.Seal(roots, storeKey, withSecrets(), now)
	if err != nil {
		f.Fatal(err)
	}
	bare, err := proto.Marshal(withSecrets())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed)
	f.Add(bare)
	f.Fuzz(func(t *testing.T, stored []byte) {
		facts, err := envelope.Look(stored)
		if err != nil {
			return
		}
		o, err := envelope.Open(roots, storeKey, stored, 1)
		if facts.Sealed && !bytes.Equal(stored, sealed) && err == nil && (o.Locked == nil || hasValue(o.Gateway)) {
			t.Error("it opens, and nobody sealed it")
		}
		if again, err := envelope.Rewrap(roots, storeKey, stored, 1, now); err == nil && facts.Unsealed == (again == nil) {
			t.Errorf("unsealed is %v, and wrapped anew it has %d bytes", facts.Unsealed, len(again))
		}
	})
}

func FuzzSealedSecretsOpenAsTheyWere(f *testing.F) {
	roots := newRoots()
	f.Add("a", "a", "one")
	f.Add("a", "b", "one")
	f.Fuzz(func(t *testing.T, a, b, name string) {
		g := withSecrets()
		g.Description = strings.ToValidUTF8(name, "")
		h := g.Upstreams[0].Credential.Headers
		h[0].Value, h[1].Value = inline(strings.ToValidUTF8(a, "")), inline(strings.ToValidUTF8(b, ""))
		gateway.Retain(nil, g)
		value, err := envelope.Seal(roots, storeKey, g, now)
		if err != nil {
			t.Fatal(err)
		}
		if o, err := envelope.Open(roots, storeKey, value, 1); err != nil || o.Locked != nil || !proto.Equal(o.Gateway, g) {
			t.Errorf("it does not open as it was: %v, %v", err, o.Locked)
		}
	})
}

// BenchmarkOpen is what a replica does with each gateway whenever it reads all of them.
func BenchmarkOpen(b *testing.B) {
	roots, plain := newRoots(), withSecrets()
	plain.Upstreams[0].Credential, plain.Upstreams[0].Tls = nil, nil
	for name, g := range map[string]*leaseholdv1.Gateway{"without secrets": plain, "with 4 secrets": withSecrets()} {
		value, err := envelope.Seal(roots, storeKey, g, now)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := envelope.Open(roots, storeKey, value, 1); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(name+", decoded only", func(b *testing.B) {
			for b.Loop() {
				if err := proto.Unmarshal(value, &leaseholdv1.Gateway{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
