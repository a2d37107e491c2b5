package etcd

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/leasehold/leasehold/controlplane/session"
	"github.com/leasehold/leasehold/controlplane/store"
)

// hold keeps the batcher busy until release is called, as a transaction that is
// under way would: what is called meanwhile waits together.
func hold(t testing.TB, s *Store) (release func()) {
	t.Helper()
	reached, open := make(chan struct{}), make(chan struct{})
	s.writes.waiting <- &write{
		key:    newSession(),
		result: make(chan result, 1),
		plan: func(*mvccpb.KeyValue) (step, bool, int64, error) {
			close(reached)
			<-open
			return step{}, true, 0, nil
		},
	}
	<-reached
	return sync.OnceFunc(func() { close(open) })
}

// waitFor polls until ok, which nothing announces.
func waitFor(t testing.TB, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(testTimeout)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatal("it did not come to pass")
		}
		time.Sleep(time.Millisecond)
	}
}

// requests is how often an operation was sent to etcd.
func requests(t testing.TB, reg *prometheus.Registry, op string) int {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			if len(m.Label) == 1 && m.Label[0].GetValue() == op {
				return int(m.Counter.GetValue())
			}
		}
	}
	return 0
}

func revisionNow(t testing.TB, s *Store) int64 {
	t.Helper()
	resp, err := s.client.Get(testContext(t), "nothing")
	if err != nil {
		t.Fatal(err)
	}
	return resp.Header.Revision
}

func TestWaitingClaimsShareATransactionAndEachGetsItsOwnVerdict(t *testing.T) {
	const claims = 120
	reg := prometheus.NewRegistry()
	s := openStore(t, ownServer(t), reg)
	living, dead, other := register(t, s), register(t, s), register(t, s)
	dead.kill(t, s)
	keys, workers, wants := make([]session.Key, claims), make([]alive, claims), make([]error, claims)
	for i := range claims {
		keys[i], workers[i] = newSession(), living
		switch i % 10 {
		case 3:
			workers[i], wants[i] = dead, session.ErrNotAlive
		case 5:
			wants[i] = session.ErrHeld
			other.claim(t, s, keys[i])
		case 7:
			wants[i] = session.ErrEnded
			mustEnd(t, s, living, keys[i])
		}
	}
	revisions, errs := make([]int64, claims), make([]error, claims)
	release := hold(t, s)
	sent, revision := requests(t, reg, "batch"), revisionNow(t, s)
	ctx := testContext(t)
	var group sync.WaitGroup
	for i := range claims {
		group.Go(func() { revisions[i], errs[i] = s.Claim(ctx, keys[i], workers[i].record()) })
	}
	waitFor(t, func() bool { return len(s.writes.waiting) == claims })
	release()
	group.Wait()

	for i := range claims {
		if !errors.Is(errs[i], wants[i]) {
			t.Errorf("claim %d: %v, want %v", i, errs[i], wants[i])
		}
		if wants[i] == nil && resolve(t, s, keys[i]).Revision != revisions[i] {
			t.Errorf("claim %d: %d is not the record's revision", i, revisions[i])
		}
	}
	const want = (claims + maxBatch - 1) / maxBatch
	if got := requests(t, reg, "batch") - sent; got != want {
		t.Errorf("%d claims took %d requests, want %d", claims, got, want)
	}
	if got := revisionNow(t, s) - revision; got != want {
		t.Errorf("%d claims took %d transactions, want %d", claims, got, want)
	}
}

func TestWritesOfOneSessionDoNotShareATransaction(t *testing.T) {
	s := newStore(t)
	w, key := register(t, s), newSession()
	revision := w.claim(t, s, key)
	saves := make([]error, 10)
	release := hold(t, s)
	ctx := testContext(t)
	var group sync.WaitGroup
	for i := range saves {
		group.Go(func() {
			rec := w.record()
			rec.ProtocolVersion = fmt.Sprint(i)
			_, saves[i] = s.Save(ctx, key, revision, rec)
		})
	}
	waitFor(t, func() bool { return len(s.writes.waiting) == len(saves) })
	release()
	group.Wait()
	won := 0
	for _, err := range saves {
		if err == nil {
			won++
		} else if !errors.Is(err, session.ErrStale) {
			t.Errorf("save: %v, want ErrStale", err)
		}
	}
	if won != 1 {
		t.Errorf("%d saves of one revision were granted, want 1", won)
	}
}

func TestACancelledCallerDoesNotCancelTheBatch(t *testing.T) {
	s := newStore(t)
	w, gone, stays := register(t, s), newSession(), newSession()
	release := hold(t, s)
	ctx, cancel := context.WithCancel(testContext(t))
	result := make(chan error, 2)
	go func() {
		_, err := s.Claim(ctx, gone, w.record())
		result <- err
	}()
	waitFor(t, func() bool { return len(s.writes.waiting) == 1 })
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled claim: %v, want context.Canceled", err)
	}
	go func() {
		_, err := s.Claim(testContext(t), stays, w.record())
		result <- err
	}()
	waitFor(t, func() bool { return len(s.writes.waiting) == 2 })
	release()
	if err := <-result; err != nil {
		t.Errorf("the other claim: %v", err)
	}
	// The cancelled claim's outcome is unknown to its caller, who finds out by
	// claiming again.
	if _, err := s.Claim(testContext(t), gone, w.record()); err != nil {
		t.Errorf("claim repeated: %v", err)
	}
}

func TestFullQueueRefuses(t *testing.T) {
	s := newStore(t)
	w := register(t, s)
	release := hold(t, s)
	defer release()
	for range maxWaiting {
		s.writes.waiting <- &write{key: newSession(), result: make(chan result, 1), plan: func(*mvccpb.KeyValue) (step, bool, int64, error) {
			return step{}, true, 0, nil
		}}
	}
	ctx := testContext(t)
	if _, err := s.Claim(ctx, newSession(), w.record()); !errors.Is(err, store.ErrBusy) || ctx.Err() != nil {
		t.Errorf("claim with a full queue: %v, want ErrBusy at once", err)
	}
}

// A lone claim is sent at once: it does not wait for others to join.
func TestALoneClaimIsOneRequest(t *testing.T) {
	reg := prometheus.NewRegistry()
	s := openStore(t, ownServer(t), reg)
	w := register(t, s)
	w.claim(t, s, newSession())
	if got := requests(t, reg, "batch") + requests(t, reg, "batch_read"); got != 1 {
		t.Errorf("a claim took %d requests, want 1", got)
	}
}

func TestLargeRecordsAreSplitOverTransactions(t *testing.T) {
	s := newStore(t)
	w := register(t, s)
	release := hold(t, s)
	errs := make([]error, 12)
	ctx := testContext(t)
	var group sync.WaitGroup
	for i := range errs {
		group.Go(func() {
			rec := w.record()
			rec.ClientCapabilities = make([]byte, 250<<10)
			_, errs[i] = s.Claim(ctx, newSession(), rec)
		})
	}
	waitFor(t, func() bool { return len(s.writes.waiting) == len(errs) })
	release()
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Errorf("claims of 3 MiB together: %v", err)
	}
}

func TestStoppedStoreAnswers(t *testing.T) {
	s, err := Open(ClientConfig{Endpoints: server.Endpoints(), LeaseTTL: testTTL})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx, cancel := context.WithCancel(testContext(t))
	cancel()
	_ = s.Run(ctx)
	if _, err := s.Claim(testContext(t), newSession(), &session.Record{}); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("claim after the end: %v, want ErrUnavailable", err)
	}
}
