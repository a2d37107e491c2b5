package etcd

import (
	"math"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"pgregory.net/rapid"

	"github.com/leasehold/leasehold/controlplane/gateway"
	"github.com/leasehold/leasehold/controlplane/session"
	"github.com/leasehold/leasehold/controlplane/store"
)

func drawSession(t *rapid.T) session.Key {
	return session.Key{
		Gateway: rapid.StringMatching(`[a-z]([a-z0-9-]{0,20}[a-z0-9])?`).Filter(gateway.ValidID).Draw(t, "gateway"),
		Digest:  rapid.StringMatching(`[0-9a-f]{32}`).Draw(t, "digest"),
	}
}

func drawMember(t *rapid.T) store.MemberKey {
	return store.MemberKey{
		Worker:      rapid.StringMatching(`[0-9a-f]{16}`).Draw(t, "worker"),
		Incarnation: rapid.Int64Range(1, math.MaxInt64).Draw(t, "incarnation"),
	}
}

// A key says what it was made of, and only under its own prefix.
func TestKeysSayWhatTheyWereMadeOf(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, m := drawSession(t), drawMember(t)
		of := map[string]string{sessionsPrefix: sessionKey(s), endedPrefix: endedKey(s), endingsPrefix: endingKey(s)}
		for prefix := range of {
			for its, key := range of {
				got, ok := parseSession(prefix, key)
				if ok != (prefix == its) || ok && got != s {
					t.Errorf("%s under %s: got %v, %v; want %v only under its own prefix", key, prefix, got, ok, s)
				}
			}
		}
		of = map[string]string{membersPrefix: memberKey(m.Worker, m.Incarnation), condemnedPrefix: condemnedKey(m.Worker, m.Incarnation)}
		for prefix := range of {
			for its, key := range of {
				got, ok := parseMember(prefix, key)
				if ok != (prefix == its) || ok && got != m {
					t.Errorf("%s under %s: got %v, %v; want %v only under its own prefix", key, prefix, got, ok, m)
				}
			}
		}
	})
}

// Whatever lies in the store, what is made of a key is well formed.
func FuzzParseKeys(f *testing.F) {
	f.Add(sessionKey(session.Key{Gateway: "g", Digest: "00000000000000000000000000000001"}))
	f.Add(memberKey("00000000000000aa", 7))
	f.Fuzz(func(t *testing.T, key string) {
		if k, ok := parseSession(sessionsPrefix, key); ok && (!k.Valid() || sessionKey(k) != key) {
			t.Errorf("%q parses as %v, whose key is %q", key, k, sessionKey(k))
		}
		if k, ok := parseMember(membersPrefix, key); ok && (!session.ValidWorkerID(k.Worker) || k.Incarnation < 1) {
			t.Errorf("%q parses as %v", key, k)
		}
	})
}

// Values that nobody of ours wrote are errors, never panics.
func FuzzDecodeValues(f *testing.F) {
	f.Add([]byte(encode(incarnationValue{Incarnation: 3, Left: true})))
	f.Add([]byte(encode(newMemberValue(someInfo, time.Unix(1_800_000_000, 0)))))
	f.Add([]byte(unixText(time.Unix(1_800_000_000, 0))))
	f.Fuzz(func(t *testing.T, value []byte) {
		kv := &mvccpb.KeyValue{Key: []byte(memberKey("00000000000000aa", 7)), Value: value, ModRevision: 9}
		if v, err := decodeIncarnation(kv); err == nil && v.Incarnation == 0 {
			t.Errorf("%q has no incarnation", value)
		}
		if m, err := decodeMember(kv); err == nil && m.Incarnation != 7 {
			t.Errorf("%q is of incarnation %d, want 7, as its key says", value, m.Incarnation)
		}
		if rec, err := decodeRecord(kv); err == nil && rec == nil {
			t.Errorf("%q is no record and no error", value)
		}
		if at, err := parseUnix(value); err == nil {
			if again, err := parseUnix([]byte(unixText(at))); err != nil || !again.Equal(at) {
				t.Errorf("%q is %v, and then %v, %v", value, at, again, err)
			}
		}
	})
}
