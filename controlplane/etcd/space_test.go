package etcd

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/leasehold/leasehold/controlplane/store"
)

// testQuota is little, and far more than what a few keys take.
const testQuota = 4 << 20

// stuff writes until etcd has no space left.
func stuff(t testing.TB, s *Store) {
	t.Helper()
	ballast := strings.Repeat("x", 256<<10)
	for range 8 * testQuota / len(ballast) {
		_, err := s.client.Put(testContext(t), "ballast", ballast)
		if errors.Is(err, rpctypes.ErrNoSpace) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Fatal("etcd takes more than its quota")
}

// free does what an operator does whose etcd is full.
func free(t testing.TB, s *Store) {
	t.Helper()
	ctx := testContext(t)
	deleted, err := s.client.Delete(ctx, "ballast")
	if err == nil {
		_, err = s.client.Compact(ctx, deleted.Header.Revision, clientv3.WithCompactPhysical())
	}
	if err == nil {
		_, err = s.client.Defragment(ctx, s.client.Endpoints()[0])
	}
	if err == nil {
		_, err = s.client.AlarmDisarm(ctx, &clientv3.AlarmMember{})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// alarms is what a store said of etcd's room.
type alarms struct {
	mu   sync.Mutex
	list []error // guarded by mu
}

func (a *alarms) add(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.list = append(a.list, err)
}

// last is the alarm now.
func (a *alarms) last() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.list) == 0 {
		return nil
	}
	return a.list[len(a.list)-1]
}

func metric(t testing.TB, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("there is no metric %s", name)
	return 0
}

func TestAFullEtcdKeepsItsMembersAndIsUsedAgainWithoutARestart(t *testing.T) {
	server, err := StartServer(testContext(t), ServerConfig{Dir: t.TempDir(), Quota: testQuota})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	said, reg := &alarms{}, prometheus.NewRegistry()
	s := openWith(t, server, ClientConfig{Metrics: reg, Hold: unheld, Alarm: said.add})
	f := follow(t, s)
	g, w, key := define(t, s, "full"), register(t, s), newSession()
	revision := w.claim(t, s, key)
	waitFor(t, func() bool { return f.last().Members.Entries[w.key()].Info != nil })

	stuff(t, s)
	ctx := testContext(t)
	for name, write := range map[string]func() error{
		"create a gateway": func() error { _, err := s.CreateGateway(ctx, g); return err },
		"claim":            func() error { _, err := s.Claim(ctx, newSession(), w.record()); return err },
		"save":             func() error { _, err := s.Save(ctx, key, revision, w.record()); return err },
		"end":              func() error { _, err := s.End(ctx, key, w.end()); return err },
		"register":         func() error { _, _, err := s.Register(ctx, workerID(), someInfo); return err },
		"acknowledge":      func() error { return s.Applied(ctx, w.key(), store.Ack{Revision: g.Status.Revision}) },
	} {
		if err := write(); !errors.Is(err, store.ErrFull) || errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s: got %v, want ErrFull", name, err)
		}
	}
	for range 3 {
		if _, err := s.Renew(ctx, w.id, w.incarnation, w.lease); err != nil {
			t.Errorf("renew: %v", err)
		}
	}
	if res := resolve(t, s, key); !res.OwnerAlive || res.Revision != revision {
		t.Errorf("the session: got %v, want it as it was, with a living owner", res)
	}
	waitFor(t, func() bool { return errors.Is(said.last(), store.ErrFull) })
	if got := metric(t, reg, "leasehold_etcd_full"); got != 1 {
		t.Errorf("leasehold_etcd_full is %v, want 1", got)
	}
	if got := metric(t, reg, "leasehold_etcd_quota_bytes"); got != testQuota {
		t.Errorf("leasehold_etcd_quota_bytes is %v, want %d", got, testQuota)
	}

	free(t, s)
	waitFor(t, func() bool { return said.last() == nil && metric(t, reg, "leasehold_etcd_full") == 0 })
	if _, err := s.Save(ctx, key, revision, w.record()); err != nil {
		t.Errorf("save: %v", err)
	}
	register(t, s).claim(t, s, newSession())
	mustEnd(t, s, w, key)
	if _, alive := f.last().Members.Entries[w.key()]; !alive || f.lastLost() != nil {
		t.Errorf("the member is there: %v; following was lost: %v", alive, f.lastLost())
	}
}

func TestARefusalForWantOfSpaceAfterAnAttemptWithoutAnAnswerTellsNothing(t *testing.T) {
	s := newStore(t)
	s.endpoints = 2
	calls := 0
	_, err := attempt(testContext(t), s, attemptTimeout, func(ctx context.Context) (struct{}, error) {
		if calls++; calls == 1 {
			return struct{}{}, rpctypes.ErrTimeout
		}
		return struct{}{}, rpctypes.ErrNoSpace
	})
	if err := s.wrap(testContext(t), "test", err); calls != 2 || errors.Is(err, store.ErrFull) || !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("after %d attempts: got %v, want ErrUnavailable: the first one may be carried out yet", calls, err)
	}
}
