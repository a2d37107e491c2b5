package route

import (
	"strings"
	"testing"
	"time"

	"github.com/leasehold/leasehold/dataplane/sessionid"
)

func TestWaitingRequestsAreBoundedPerSessionAndInAll(t *testing.T) {
	w := waiting{of: make(map[sessionid.Digest]int)}
	var places []*place
	take := func(session byte) error {
		p := &place{of: &w, session: sessionid.Digest{session}}
		err := p.take()
		if err == nil {
			places = append(places, p)
		}
		return err
	}
	for i := range maxWaitingHere {
		if err := take(1); err != nil {
			t.Fatalf("request %d of a session: %v", i, err)
		}
	}
	if err := take(1); err == nil || !strings.Contains(err.Error(), "256") {
		t.Errorf("one more of that session: got %v, want an error that names the bound of 256", err)
	}
	for i := maxWaitingHere; i < maxWaiting; i++ {
		if err := take(byte(2 + i/maxWaitingHere)); err != nil {
			t.Fatalf("request %d of the worker: %v", i, err)
		}
	}
	if err := take(255); err == nil || !strings.Contains(err.Error(), "4096") {
		t.Errorf("one more of the worker: got %v, want an error that names the bound of 4096", err)
	}
	for _, p := range places {
		p.release()
		p.release() // has no effect
	}
	if w.all != 0 || len(w.of) != 0 {
		t.Errorf("after all are gone: %d waiting, %d sessions; want none", w.all, len(w.of))
	}
}

func TestOnlyAWorkerThatRenewsAndIsNotReachedForLongIsCutOff(t *testing.T) {
	const ttl, healthy = 6 * time.Second, 2 * time.Second // renews each second, rounded up
	now := time.Unix(1000, 0)
	m := missed{now: func() time.Time { return now }, of: make(map[string]miss)}
	m.note("w")
	// A worker that stopped when it was missed first has been silent for as long.
	for at := time.Duration(0); at < 10*time.Second; at += 100 * time.Millisecond {
		now = time.Unix(1000, 0).Add(at)
		if silence := (at + time.Second - 1).Truncate(time.Second); m.lasting("w", silence, ttl) {
			t.Fatalf("stopped %v ago and silent for %v: taken for cut off", at, silence)
		}
	}
	now = time.Unix(1000, 0).Add(healthy + time.Second - 1)
	if m.lasting("w", healthy, ttl) {
		t.Error("cut off before a stopped worker would have shown")
	}
	now = now.Add(1)
	if !m.lasting("w", healthy, ttl) || !m.cutOff("w") {
		t.Error("not cut off though it renews and has not been reached for 3 s")
	}
	m.note("w")
	if now = now.Add(30 * time.Second); !m.any() {
		t.Error("forgotten at once")
	}
	if m.note("w"); m.lasting("w", healthy, ttl) {
		t.Error("cut off for two misses half a minute apart")
	}
	if now = now.Add(verdictTime); m.cutOff("w") {
		t.Error("the verdict holds for longer than its time")
	}
	// One request that waits asks now and then, and no more often than that.
	for range 3 {
		now = now.Add(watch * 3 / 2)
		m.note("w")
	}
	if !m.lasting("w", healthy, ttl) {
		t.Error("not cut off for a single request that keeps trying")
	}
	if m.forget("w"); m.any() || m.lasting("w", 0, ttl) {
		t.Error("cut off though it was reached")
	}
	for i := range 3 * maxMissed {
		m.note(strings.Repeat("x", i%7) + string(rune(i)))
	}
	if len(m.of) > maxMissed+1 {
		t.Errorf("%d workers remembered, want at most %d", len(m.of), maxMissed+1)
	}
}
