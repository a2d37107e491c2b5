package sessionid

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"
)

var hint = Hint{Worker: "00d1f2a3b4c5e6f7", Incarnation: 123456789, Created: time.UnixMilli(1_790_000_000_123)}

// What an earlier build made, with keyOf(1). These must open for as long as the
// prefix is lh1.: clients and records keep them over an upgrade.
const (
	earlierID     = "lh1.AQIDBGVq-cz0OLH_RhFibzoJU_KNp_yehr3Bei9u2tL-m7cVeb3k52ZtGdqgA4Xbz_Zen5y2Y_SBi8FKU4yxGcWI5XoE_iaxMTqJBvvkFZs"
	earlierSealed = "0102030406744e3c9aa9869855e4532f9083543c4474dd8d3cef1425680711d7638af3aa"
)

func TestWhatAnEarlierBuildMadeOpens(t *testing.T) {
	r := ringOf(t, 1)
	if h, err := r.Open(earlierID, "g", "p"); err != nil || h != hint {
		t.Errorf("got %+v, %v, want %+v", h, err, hint)
	}
	sealed, _ := hex.DecodeString(earlierSealed)
	if plain, err := r.Unseal(sealed, "c"); err != nil || string(plain) != "up-1" {
		t.Errorf("got %q, %v, want up-1", plain, err)
	}
}

// keyOf returns a key whose id and secret follow from n.
func keyOf(n byte) Key {
	return Key{ID: [4]byte{n, 2, 3, 4}, Secret: Secret(bytes.Repeat([]byte{n, n + 1}, 16))}
}

func ringOf(t testing.TB, numbers ...byte) *Ring {
	t.Helper()
	var keys []Key
	for _, n := range numbers {
		keys = append(keys, keyOf(n))
	}
	r, err := NewRing(keys)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func mint(t testing.TB, r *Ring, gateway, principal string) string {
	t.Helper()
	id, err := r.Mint(hint, gateway, principal)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestOpenReturnsWhatWasMinted(t *testing.T) {
	r := ringOf(t, 1)
	for _, h := range []Hint{
		hint,
		{Worker: "w", Incarnation: -1, Created: time.UnixMilli(-5)},
		{Worker: strings.Repeat("w", maxWorker), Incarnation: 1<<63 - 1, Created: time.UnixMilli(0)},
	} {
		for _, who := range [][2]string{{"g", "anonymous"}, {"", ""}, {"weather", "https://issuer\x00subject"}, {"g", strings.Repeat("p", 10_000)}} {
			id, err := r.Mint(h, who[0], who[1])
			if err != nil {
				t.Fatal(err)
			}
			got, err := r.Open(id, who[0], who[1])
			if err != nil || got.Worker != h.Worker || got.Incarnation != h.Incarnation || !got.Created.Equal(h.Created) {
				t.Errorf("got %+v, %v, want %+v", got, err, h)
			}
		}
	}
}

func TestIDsAreVisibleASCIIAndShort(t *testing.T) {
	r := ringOf(t, 1)
	id := mint(t, r, "g", "p")
	if !strings.HasPrefix(id, "lh1.") || len(id) != 111 {
		t.Errorf("got %q of %d characters, want lh1.… of 111", id, len(id))
	}
	for _, c := range []byte(id) {
		if c < 0x21 || c > 0x7e {
			t.Errorf("%q has the byte %#x", id, c)
		}
	}
	long, err := r.Mint(Hint{Worker: strings.Repeat("w", maxWorker)}, "g", "p")
	if err != nil || len(long) > MaxLen {
		t.Errorf("the longest id has %d characters, %v", len(long), err)
	}
}

func TestMintNeverRepeats(t *testing.T) {
	r := ringOf(t, 1)
	seen := map[string]bool{}
	for range 1000 {
		id := mint(t, r, "g", "p")
		if seen[id] {
			t.Fatalf("%s twice", id)
		}
		seen[id] = true
	}
	// Neither the nonce nor the sealed random bytes are constant.
	a, _ := encoding.DecodeString(mint(t, r, "g", "p")[len(prefix):])
	b, _ := encoding.DecodeString(mint(t, r, "g", "p")[len(prefix):])
	if bytes.Equal(a[4:16], b[4:16]) {
		t.Error("two ids have the same nonce")
	}
	plain := func(sealed []byte) []byte {
		p, err := r.keys[0].sessions.Open(nil, nil, sealed[4:], appendBinding(nil, "g", "p"))
		if err != nil {
			t.Fatal(err)
		}
		return p[16:32]
	}
	if bytes.Equal(plain(a), plain(b)) {
		t.Error("two ids have the same random bytes")
	}
}

func TestMintRefuses(t *testing.T) {
	r := ringOf(t, 1)
	if id, err := r.Mint(Hint{}, "g", "p"); err == nil {
		t.Errorf("no worker: got %s", id)
	}
	if id, err := r.Mint(Hint{Worker: strings.Repeat("w", maxWorker+1)}, "g", "p"); err == nil {
		t.Errorf("long worker: got %s", id)
	}
	if id, err := r.Mint(hint, "a\x00b", "p"); err == nil {
		t.Errorf("NUL in the gateway: got %s", id)
	}
}

func TestEveryBitFlipIsRefused(t *testing.T) {
	r := ringOf(t, 1, 2)
	id := mint(t, r, "g", "p")
	for i := range len(id) {
		for bit := range 8 {
			forged := []byte(id)
			forged[i] ^= 1 << bit
			h, err := r.Open(string(forged), "g", "p")
			if h != (Hint{}) || err != ErrInvalid && err != ErrUnknownKey {
				t.Fatalf("bit %d of byte %d: got %+v, %v", bit, i, h, err)
			}
			if inKeyID := i >= 4 && i < 10; err == ErrUnknownKey && !inKeyID {
				t.Errorf("bit %d of byte %d: unknown key, though the key's id is as it was", bit, i)
			}
		}
	}
	sealed, err := encoding.DecodeString(id[len(prefix):])
	if err != nil {
		t.Fatal(err)
	}
	for i := range sealed {
		for bit := range 8 {
			sealed[i] ^= 1 << bit
			_, err := r.Open(prefix+encoding.EncodeToString(sealed), "g", "p")
			if want := ErrInvalid; i < 4 && err != ErrUnknownKey || i >= 4 && err != want {
				t.Errorf("bit %d of sealed byte %d: got %v", bit, i, err)
			}
			sealed[i] ^= 1 << bit
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	r := ringOf(t, 1)
	id := mint(t, r, "g", "p")
	odd := mint(t, r, "g", "p\x00q")
	sealed, _ := encoding.DecodeString(id[len(prefix):])
	tests := []struct{ name, id, gateway, principal string }{
		{"nothing", "", "g", "p"},
		{"prefix alone", "lh1.", "g", "p"},
		{"no prefix", id[4:], "g", "p"},
		{"other prefix", "LH1." + id[4:], "g", "p"},
		{"next format", "lh2." + id[4:], "g", "p"},
		{"other gateway", id, "h", "p"},
		{"other principal", id, "g", "q"},
		{"no principal", id, "g", ""},
		{"gateway and principal shifted", id, "", "g\x00p"},
		{"principal shifted into the gateway", id, "g\x00p", ""},
		{"the same bytes, cut elsewhere", odd, "g\x00p", "q"},
		{"cut by a character", id[:len(id)-1], "g", "p"},
		{"cut by a byte", prefix + encoding.EncodeToString(sealed[:len(sealed)-1]), "g", "p"},
		{"a byte more", prefix + encoding.EncodeToString(append(bytes.Clone(sealed), 0)), "g", "p"},
		{"empty hint", prefix + encoding.EncodeToString(sealed[:minSealed-1]), "g", "p"},
		{"padded", id + "=", "g", "p"},
		{"line feed behind it", id + "\n", "g", "p"},
		{"line feed in it", id[:50] + "\n" + id[50:], "g", "p"},
		{"carriage return in it", id[:50] + "\r" + id[50:], "g", "p"},
		{"space in front", " " + id, "g", "p"},
		{"standard alphabet", prefix + base64.RawStdEncoding.EncodeToString(bytes.Repeat([]byte{0xff}, len(sealed))), "g", "p"},
		{"too long", prefix + strings.Repeat("A", MaxLen-len(prefix)+1), "g", "p"},
		{"as long as can be", prefix + strings.Repeat("A", MaxLen-len(prefix)), "g", "p"},
		{"twice", id + id, "g", "p"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if h, err := r.Open(tt.id, tt.gateway, tt.principal); err != ErrInvalid || h != (Hint{}) {
				t.Errorf("Open(%q, %q, %q) = %+v, %v, want ErrInvalid", tt.id, tt.gateway, tt.principal, h, err)
			}
		})
	}
}

// Two texts for one id would be two sessions for a digest and one for Open.
func TestOneTextForOneID(t *testing.T) {
	r := ringOf(t, 1)
	for n := range 3 { // the bits that base64 leaves over: 0, 4 and 2
		id, err := r.Mint(Hint{Worker: "www"[:n+1]}, "g", "p")
		if err != nil {
			t.Fatal(err)
		}
		opens := 0
		for c := range 256 {
			if _, err := r.Open(id[:len(id)-1]+string([]byte{byte(c)}), "g", "p"); err == nil {
				opens++
			}
		}
		if opens != 1 {
			t.Errorf("%d last characters open %s", opens, id)
		}
	}
}

func TestLastKeySealsAndAllOpen(t *testing.T) {
	first, both, second := ringOf(t, 1), ringOf(t, 1, 2), ringOf(t, 2)
	old, fresh := mint(t, first, "g", "p"), mint(t, both, "g", "p")
	tests := []struct {
		name string
		ring *Ring
		id   string
		want error
	}{
		{"old id, old ring", first, old, nil},
		{"old id, ring of both", both, old, nil},
		{"old id, key gone", second, old, ErrUnknownKey},
		{"new id, old ring", first, fresh, ErrUnknownKey},
		{"new id, ring of both", both, fresh, nil},
		{"new id, new ring", second, fresh, nil},
	}
	for _, tt := range tests {
		if _, err := tt.ring.Open(tt.id, "g", "p"); err != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, err, tt.want)
		}
	}
	// The same key id with another secret is a forgery, not an unknown key.
	liar := keyOf(1)
	liar.Secret[0]++
	other, err := NewRing([]Key{liar})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Open(old, "g", "p"); err != ErrInvalid {
		t.Errorf("same key id, other secret: got %v, want ErrInvalid", err)
	}
}

func TestNewRingRefuses(t *testing.T) {
	for name, keys := range map[string][]Key{
		"no keys":  nil,
		"same id":  {keyOf(1), {ID: keyOf(1).ID, Secret: keyOf(2).Secret}},
		"all zero": {keyOf(1), {ID: [4]byte{9}}},
	} {
		if r, err := NewRing(keys); err == nil || r != nil {
			t.Errorf("%s: got %v, %v", name, r, err)
		}
	}
}

func TestSealedBytesOpenInTheirContextOnly(t *testing.T) {
	r := ringOf(t, 1, 2)
	for _, plain := range [][]byte{nil, []byte("upstream-session"), bytes.Repeat([]byte("x"), 100_000)} {
		sealed, err := r.Seal(plain, "g/d/up")
		if err != nil {
			t.Fatal(err)
		}
		if len(plain) > 0 && bytes.Contains(sealed, plain) {
			t.Error("sealed bytes hold the plain ones")
		}
		got, err := ringOf(t, 2, 3).Unseal(sealed, "g/d/up")
		if err != nil || !bytes.Equal(got, plain) {
			t.Errorf("got %.20q, %v, want %.20q", got, err, plain)
		}
		if _, err := r.Unseal(sealed, "g/d/other"); err != ErrInvalid {
			t.Errorf("other context: got %v", err)
		}
		if _, err := ringOf(t, 1).Unseal(sealed, "g/d/up"); err != ErrUnknownKey {
			t.Errorf("key that is not there: got %v", err)
		}
	}
	sealed, _ := r.Seal([]byte("upstream-session"), "c")
	for i := range sealed {
		for bit := range 8 {
			sealed[i] ^= 1 << bit
			if got, err := r.Unseal(sealed, "c"); got != nil || err != ErrInvalid && err != ErrUnknownKey {
				t.Fatalf("bit %d of byte %d: got %q, %v", bit, i, got, err)
			}
			sealed[i] ^= 1 << bit
		}
	}
	for n := range sealed {
		if _, err := r.Unseal(sealed[:n], "c"); err != ErrInvalid {
			t.Errorf("cut to %d bytes: got %v", n, err)
		}
	}
	again, _ := r.Seal([]byte("upstream-session"), "c")
	if bytes.Equal(again, sealed) {
		t.Error("sealed the same twice")
	}
}

// What is sealed for one use must not open as the other.
func TestUsesHaveDifferentKeys(t *testing.T) {
	r := ringOf(t, 1)
	id := mint(t, r, "g", "p")
	sealed, _ := encoding.DecodeString(id[len(prefix):])
	if _, err := r.Unseal(sealed, string(appendBinding(nil, "g", "p"))); err != ErrInvalid {
		t.Errorf("a session id opens as a record: %v", err)
	}
	record, _ := r.Seal(bytes.Repeat([]byte("x"), 48), string(appendBinding(nil, "g", "p")))
	if _, err := r.Open(prefix+encoding.EncodeToString(record), "g", "p"); err != ErrInvalid {
		t.Errorf("a record opens as a session id: %v", err)
	}
}

func TestSecretsNeverPrint(t *testing.T) {
	key := Key{ID: [4]byte{1}, Secret: Secret([]byte("CANARYCANARYCANARYCANARYCANARYCA"))}
	ring, err := NewRing([]Key{key})
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "% x", "%#x", "%c", "%b", "%40v"} {
		for _, v := range []any{key, &key, key.Secret, &key.Secret, []Key{key}, map[string]Key{"k": key}, struct{ S Secret }{key.Secret}, ring, *ring, struct{ R *Ring }{ring}} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
	}
	fmt.Fprintln(&out, key.Secret.String(), key.Secret.GoString(), fmt.Sprint(key.Secret, ring))
	j, err := json.Marshal(map[string]any{"k": key, "s": key.Secret, "r": ring})
	if err != nil {
		t.Fatal(err)
	}
	out.Write(j)
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "k", key, "s", key.Secret, "r", ring)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "k", key, "s", key.Secret, "r", ring)
	for _, trace := range []string{"CANARY", "43414e", "43414E", "43 41", "67 65 78", "0x43", "[67", "Q0FOQVJ"} {
		if i := strings.Index(out.String(), trace); i >= 0 {
			t.Errorf("%q is in the output: …%s", trace, out.String()[max(0, i-40):min(out.Len(), i+40)])
		}
	}
	if !strings.Contains(out.String(), redacted) {
		t.Error("nothing is redacted")
	}
}

func TestDigest(t *testing.T) {
	// printf abc | sha256sum
	const want = "ba7816bf8f01cfea414140de5dae2223"
	d := DigestOf("abc")
	if d.String() != want {
		t.Errorf("got %s, want %s", d, want)
	}
	if got, err := ParseDigest(want); err != nil || got != d {
		t.Errorf("ParseDigest(%s) = %v, %v", want, got, err)
	}
	long := strings.Repeat("x", 10_000)
	if DigestOf(long) == DigestOf(long[1:]) {
		t.Error("long ids are cut")
	}
	for _, s := range []string{"", want[1:], want + "0", want + want, strings.ToUpper(want), "g" + want[1:], " " + want[1:], want[:31] + "\n"} {
		if got, err := ParseDigest(s); err == nil || got != (Digest{}) {
			t.Errorf("ParseDigest(%q) = %v, %v", s, got, err)
		}
	}
}

func TestRingServesManyAtOnce(t *testing.T) {
	r := ringOf(t, 1, 2)
	var wg sync.WaitGroup
	for n := range 8 {
		wg.Go(func() {
			principal := fmt.Sprint(n)
			for range 200 {
				id, err := r.Mint(hint, "g", principal)
				if err != nil {
					t.Error(err)
				}
				if _, err := r.Open(id, "g", principal); err != nil {
					t.Error(err)
				}
				if _, err := r.Open(id, "g", "another"); err != ErrInvalid {
					t.Errorf("another principal: got %v", err)
				}
			}
		})
	}
	wg.Wait()
}

func FuzzOpen(f *testing.F) {
	const id = earlierID // the fuzzer's processes must agree on it
	r := ringOf(f, 1, 2)
	for _, seed := range []string{id, id + "=", id[:20] + "\n" + id[20:], "lh1.", "", "lh1." + strings.Repeat("_", 200), id[:len(id)-1]} {
		f.Add(seed, "g", "p")
	}
	f.Add(id, "g\x00p", "")
	f.Fuzz(func(t *testing.T, text, gateway, principal string) {
		h, err := r.Open(text, gateway, principal)
		switch {
		case err == nil:
			if text != id || gateway != "g" || principal != "p" || h.Worker != hint.Worker {
				t.Fatalf("a forged id opens: %q for %q, %q: %+v", text, gateway, principal, h)
			}
		case !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrUnknownKey), h != Hint{}:
			t.Fatalf("got %+v, %v", h, err)
		}
		r.Unseal([]byte(text), principal)
		if d, err := ParseDigest(text); err == nil && d.String() != text {
			t.Fatalf("digest %q reads as %s", text, d)
		}
	})
}

func BenchmarkOpen(b *testing.B) {
	r := ringOf(b, 1, 2)
	id := mint(b, r, "weather", "https://issuer.example/subject-17")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Open(id, "weather", "https://issuer.example/subject-17"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpenForged(b *testing.B) {
	r := ringOf(b, 1, 2)
	id := mint(b, r, "weather", "a")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Open(id, "weather", "b"); err == nil {
			b.Fatal("opened")
		}
	}
}

func BenchmarkMint(b *testing.B) {
	r := ringOf(b, 1)
	b.ReportAllocs()
	for b.Loop() {
		mint(b, r, "weather", "https://issuer.example/subject-17")
	}
}

func BenchmarkDigestOf(b *testing.B) {
	id := mint(b, ringOf(b, 1), "g", "p")
	b.ReportAllocs()
	for b.Loop() {
		DigestOf(id)
	}
}
