package etcd

import (
	"errors"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/leasehold/leasehold/controlplane/session"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func TestClaim(t *testing.T) {
	tests := []struct {
		name   string
		before func(t *testing.T, s *Store, w alive, key session.Key)
		want   error
	}{
		{"no record", func(*testing.T, *Store, alive, session.Key) {}, nil},
		{"repeated", func(t *testing.T, s *Store, w alive, key session.Key) { w.claim(t, s, key) }, nil},
		{"repeated by a worker that died meanwhile", func(t *testing.T, s *Store, w alive, key session.Key) {
			w.claim(t, s, key)
			w.kill(t, s)
		}, nil},
		{"held by another", func(t *testing.T, s *Store, _ alive, key session.Key) { register(t, s).claim(t, s, key) }, session.ErrHeld},
		{"held with other content", func(t *testing.T, s *Store, w alive, key session.Key) {
			rec := w.record()
			rec.ProtocolVersion = "another"
			if _, err := s.Claim(testContext(t), key, rec); err != nil {
				t.Fatal(err)
			}
		}, session.ErrHeld},
		{"ended", func(t *testing.T, s *Store, w alive, key session.Key) {
			w.claim(t, s, key)
			mustEnd(t, s, w, key)
		}, session.ErrEnded},
		{"ended before it was claimed", func(t *testing.T, s *Store, w alive, key session.Key) { mustEnd(t, s, w, key) }, session.ErrEnded},
		{"dead", func(t *testing.T, s *Store, w alive, _ session.Key) { w.kill(t, s) }, session.ErrNotAlive},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newStore(t)
			w, key := register(t, s), newSession()
			tt.before(t, s, w, key)
			revision, err := s.Claim(testContext(t), key, w.record())
			if !errors.Is(err, tt.want) {
				t.Fatalf("claim: %v, want %v", err, tt.want)
			}
			if tt.want != nil {
				return
			}
			if res := resolve(t, s, key); res.Revision != revision || !proto.Equal(session.Saved(nil, res.Record), w.record()) {
				t.Errorf("record %v at %d, want what was claimed at %d", res.Record, res.Revision, revision)
			}
		})
	}
}

func mustEnd(t testing.TB, s *Store, w alive, key session.Key) int64 {
	t.Helper()
	revision, err := s.End(testContext(t), key, w.end())
	if err != nil {
		t.Fatalf("end: %v", err)
	}
	return revision
}

func TestEnd(t *testing.T) {
	s := newStore(t)
	w, key := register(t, s), newSession()
	w.claim(t, s, key)
	if _, err := s.End(testContext(t), key, register(t, s).end()); !errors.Is(err, session.ErrStale) {
		t.Errorf("end by another: %v, want ErrStale", err)
	}
	first := mustEnd(t, s, w, key)
	if again := mustEnd(t, s, w, key); again != first {
		t.Errorf("ended again at %d, want %d as before", again, first)
	}
	res := resolve(t, s, key)
	if res.Record.End.GetReason() != leaseholdv1.EndReason_END_REASON_CLIENT || res.Revision != first {
		t.Errorf("tombstone %v at %d, want one at %d", res.Record, res.Revision, first)
	}
	if u := res.Record.Upstreams[0]; len(u.SealedSessionId) > 0 || len(res.Record.ClientCapabilities) > 0 {
		t.Errorf("tombstone keeps what only a living session needs: %v", res.Record)
	}
}

// A worker whose lease is gone may still end what nobody took from it.
func TestEndByADeadOwnerIsGranted(t *testing.T) {
	s := newStore(t)
	w, key := register(t, s), newSession()
	w.claim(t, s, key)
	w.kill(t, s)
	mustEnd(t, s, w, key)
}

func TestEndDeletesTheWish(t *testing.T) {
	s := newStore(t)
	w, key := register(t, s), newSession()
	if _, err := s.WishEnd(testContext(t), key, leaseholdv1.EndReason_END_REASON_TERMINATED); !errors.Is(err, session.ErrNotFound) {
		t.Errorf("wish for no session: %v, want ErrNotFound", err)
	}
	w.claim(t, s, key)
	revision, err := s.WishEnd(testContext(t), key, leaseholdv1.EndReason_END_REASON_TERMINATED)
	if err != nil || revision == 0 || !exists(t, s, endingKey(key)) {
		t.Fatalf("wish: %d, %v; want it recorded", revision, err)
	}
	mustEnd(t, s, w, key)
	if exists(t, s, endingKey(key)) {
		t.Error("the wish outlived the session")
	}
	revision, err = s.WishEnd(testContext(t), key, leaseholdv1.EndReason_END_REASON_TERMINATED)
	if err != nil || revision != 0 || exists(t, s, endingKey(key)) {
		t.Errorf("wish after the end: %d, %v; want none recorded", revision, err)
	}
}

// A wish that comes after the end would stay for ever.
func TestLateWishIsNotRecorded(t *testing.T) {
	s := newStore(t)
	w, key := register(t, s), newSession()
	revision := w.claim(t, s, key)
	mustEnd(t, s, w, key)
	if at, err := s.wish(testContext(t), key, "", revision); err != nil || at != 0 {
		t.Errorf("wish: %d, %v; want none", at, err)
	}
	if exists(t, s, endingKey(key)) {
		t.Error("a wish was recorded after the end")
	}
}

func TestSave(t *testing.T) {
	s := newStore(t)
	w, key := register(t, s), newSession()
	revision := w.claim(t, s, key)
	next := w.record()
	next.Upstreams[0].Address = "127.0.0.1:9"
	saved, err := s.Save(testContext(t), key, revision, next)
	if err != nil || saved <= revision {
		t.Fatalf("save: %d, %v", saved, err)
	}
	if again, err := s.Save(testContext(t), key, revision, next); err != nil || again != saved {
		t.Errorf("save repeated: %d, %v; want %d", again, err, saved)
	}
	refused := []struct {
		name     string
		revision int64
		change   func(*session.Record)
		want     error
	}{
		{"old revision", revision, func(*session.Record) {}, session.ErrStale},
		{"another epoch", saved, func(r *session.Record) { r.Epoch = 2 }, session.ErrStale},
		{"another owner", saved, func(r *session.Record) { r.Worker = workerID() }, session.ErrStale},
		{"another incarnation", saved, func(r *session.Record) { r.Incarnation++ }, session.ErrStale},
	}
	for _, tt := range refused {
		rec := w.record()
		tt.change(rec)
		if _, err := s.Save(testContext(t), key, tt.revision, rec); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
	w.kill(t, s)
	if _, err := s.Save(testContext(t), key, saved, w.record()); !errors.Is(err, session.ErrNotAlive) {
		t.Errorf("save by the dead: %v, want ErrNotAlive", err)
	}
	mustEnd(t, s, w, key)
	if _, err := s.Save(testContext(t), key, saved, w.record()); !errors.Is(err, session.ErrEnded) {
		t.Errorf("save of an ended session: %v, want ErrEnded", err)
	}
	if _, err := s.Save(testContext(t), newSession(), saved, w.record()); !errors.Is(err, session.ErrStale) {
		t.Errorf("save of no session: %v, want ErrStale", err)
	}
}

func TestTombstoneOutlivesTheSessionByADay(t *testing.T) {
	server := ownServer(t)
	s := openStore(t, server, nil)
	w := register(t, s)
	claimed, never, lives := newSession(), newSession(), newSession()
	w.claim(t, s, claimed)
	w.claim(t, s, lives)
	mustEnd(t, s, w, claimed)
	end := w.end()
	end.Expire = w.record().ExpireTime.AsTime()
	if end.Expire.After(end.Time.Add(30 * 24 * time.Hour)) {
		end.Expire = time.Time{}
	}
	if _, err := s.End(testContext(t), never, end); err != nil {
		t.Fatal(err)
	}
	due := resolve(t, s, claimed).Record.ExpireTime.AsTime().Add(24 * time.Hour)
	if err := s.Collect(testContext(t), due); err != nil {
		t.Fatal(err)
	}
	if !exists(t, s, sessionKey(claimed)) {
		t.Error("tombstone was collected too early")
	}
	if err := s.Collect(testContext(t), due.Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if exists(t, s, sessionKey(claimed)) || exists(t, s, endedKey(claimed)) {
		t.Error("tombstone was not collected")
	}
	if err := s.Collect(testContext(t), due.Add(10*365*24*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if exists(t, s, sessionKey(never)) || exists(t, s, endedKey(never)) {
		t.Error("tombstone of a session that was never claimed was not collected")
	}
	if !exists(t, s, sessionKey(lives)) {
		t.Error("a live session was collected")
	}
}
