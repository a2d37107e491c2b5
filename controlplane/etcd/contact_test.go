package etcd

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/leasehold/leasehold/controlplane/session"
	"github.com/leasehold/leasehold/controlplane/store"
)

// newContact is a contact with a clock, and its log.
func newContact(lease, length time.Duration) (*contact, *clock, *lines) {
	c, out := &clock{}, &lines{}
	log := hclog.New(&hclog.LoggerOptions{Output: out, Level: hclog.Info})
	return &contact{lease: lease, length: length, log: log, holding: prometheus.NewGauge(prometheus.GaugeOpts{}), now: c.now}, c, out
}

func TestAReplicaHoldsFromTheFirstAnswerOfEtcdOn(t *testing.T) {
	c, clock, out := newContact(6*time.Second, 9*time.Second)
	clock.advance(time.Hour)
	if got := c.held(); got != 0 {
		t.Errorf("held for %s before there is anything to hold", got)
	}
	c.heard()
	clock.advance(4 * time.Second)
	c.heard()
	if got := c.held(); got != 5*time.Second {
		t.Errorf("4 s after the first answer it holds for %s, want 5s", got)
	}
	clock.advance(5*time.Second - 1)
	c.heard()
	if got := c.held(); got != 1 {
		t.Errorf("it holds for %s more, want 1ns", got)
	}
	clock.advance(1)
	if got := c.held(); got != 0 {
		t.Errorf("after its time it holds for %s", got)
	}
	if text := out.String(); strings.Count(text, "reclaims are held") != 1 || strings.Count(text, "no longer held") != 1 {
		t.Errorf("it said\n%s\nwant once that it holds and once that it does not any more", text)
	}
}

func TestOnlyALossOfEtcdThatIsLongerThanALeaseIsFollowedByAHold(t *testing.T) {
	for _, tt := range []struct {
		away time.Duration
		want time.Duration
	}{{6 * time.Second, 0}, {6*time.Second + 1, 9 * time.Second}} {
		c, clock, _ := newContact(6*time.Second, 9*time.Second)
		c.heard()
		clock.advance(5 * time.Second)
		c.heard()
		clock.advance(5 * time.Second)
		c.heard()
		clock.advance(tt.away)
		c.heard()
		if got := c.held(); got != tt.want {
			t.Errorf("after %s without etcd it holds for %s, want %s", tt.away, got, tt.want)
		}
	}
}

func TestALossDuringAHoldMakesItLonger(t *testing.T) {
	c, clock, _ := newContact(6*time.Second, 9*time.Second)
	c.heard()
	clock.advance(7 * time.Second)
	c.heard()
	if got := c.held(); got != 9*time.Second {
		t.Errorf("it holds for %s, want 9s", got)
	}
}

// holding is what the metric says.
func holding(t testing.TB, reg *prometheus.Registry) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "leasehold_controlplane_holding" {
			return f.Metric[0].GetGauge().GetValue()
		}
	}
	t.Fatal("there is no metric of the hold")
	return 0
}

// While a replica holds, nothing is taken from an owner that may still run, by whoever it
// is; and nobody is condemned.
func TestAReplicaThatHoldsTakesFromTheSupersededOnly(t *testing.T) {
	reg := prometheus.NewRegistry()
	r := openReplica(t, server, ClientConfig{Metrics: reg})
	dead, left, gone, taker := register(t, r.Store), register(t, r.Store), register(t, r.Store), register(t, r.Store)
	key, other := newSession(), newSession()
	dead.claim(t, r.Store, key)
	left.claim(t, r.Store, other)
	dead.kill(t, r.Store)
	gone.kill(t, r.Store)
	left.leave(t, r.Store)
	reclaim := func(key session.Key) error {
		_, _, err := r.Reclaim(testContext(t), key, taker.taker(resolve(t, r.Store, key)))
		return err
	}
	condemned := func() bool {
		t.Helper()
		if _, err := r.RecordPeers(testContext(t), taker.key(), 0, nil, []session.Peer{gone.key()}); err != nil {
			t.Fatal(err)
		}
		return exists(t, r.Store, condemnedKey(gone.id, gone.incarnation))
	}
	if err := reclaim(key); !errors.Is(err, session.ErrHolding) {
		t.Errorf("reclaim from a dead owner: %v, want ErrHolding", err)
	}
	if condemned() {
		t.Error("a dead worker was condemned")
	}
	if err := reclaim(other); err != nil {
		t.Errorf("reclaim from an owner that left: %v", err)
	}
	if got := holding(t, reg); got != 1 {
		t.Errorf("metric says %v, want 1", got)
	}
	r.pass(testTTL + testTTL/2)
	if err := reclaim(key); err != nil {
		t.Errorf("reclaim after the hold: %v", err)
	}
	if !condemned() {
		t.Error("after the hold a dead worker was not condemned")
	}
	if got := holding(t, reg); got != 0 {
		t.Errorf("metric says %v after the hold, want 0", got)
	}
}

func TestAClosedReplicaDoesNotHold(t *testing.T) {
	reg := prometheus.NewRegistry()
	s, err := Open(ClientConfig{Endpoints: server.Endpoints(), LeaseTTL: testTTL, Metrics: reg})
	if err != nil {
		t.Fatal(err)
	}
	register(t, s)
	before := holding(t, reg)
	s.Close()
	if got := holding(t, reg); before != 1 || got != 0 {
		t.Errorf("metric says %v and, when it is closed, %v; want 1 and 0", before, got)
	}
}

// A replica of which nobody wants anything knows that etcd is there, and one that lost
// it for longer than a lease holds when it is back.
func TestAnIdleReplicaKnowsWhetherEtcdIsThere(t *testing.T) {
	reg := prometheus.NewRegistry()
	url, f := freeze(t, ownServer(t).Endpoints()[0])
	const lease = 4 * time.Second
	s, err := Open(ClientConfig{Endpoints: []string{url}, LeaseTTL: lease, Hold: time.Hour, Metrics: reg})
	if err != nil {
		t.Fatal(err)
	}
	runStore(t, s)
	waitFor(t, func() bool { return requests(t, reg, "pulse") > pulsesPerLease })
	if got := s.contact.lost(); got != 1 {
		t.Errorf("idle for longer than a lease it lost etcd %d times, want 0", got-1)
	}
	f.gate.Lock()
	waitFor(t, func() bool { return s.contact.quiet(lease + 1) })
	f.gate.Unlock()
	waitFor(t, func() bool { return s.contact.lost() == 2 })
	if s.contact.held() < time.Minute {
		t.Error("it has etcd back and does not hold")
	}
}

// An answer that one member of etcd can give without the others says nothing.
func TestOnlyAnswersOfTheWholeOfEtcdCount(t *testing.T) {
	s := newStore(t)
	register(t, s)
	s.contact.mu.Lock()
	s.contact.answered = time.Time{}
	s.contact.mu.Unlock()
	if _, err := s.client.Status(testContext(t), server.Endpoints()[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := s.client.Revoke(testContext(t), 1); err == nil {
		t.Fatal("revoked a lease that is not there")
	}
	if !s.contact.quiet(time.Hour) {
		t.Error("the status of a member, or an error, counts as an answer of etcd")
	}
	if _, err := s.Members(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if s.contact.quiet(time.Hour) {
		t.Error("an answer does not count")
	}
}

func TestHowLongAWorkerIsDeadIsCountedFromWhenThisReplicaSawIt(t *testing.T) {
	r := newReplica(t)
	w := register(t, r.Store)
	age := func() time.Duration {
		d, _ := r.deaths.age(w.key())
		return d
	}
	w.kill(t, r.Store)
	if _, err := r.markDead(testContext(t), w.key(), time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	r.pass(time.Minute)
	if got := age(); got != 0 {
		t.Errorf("not seen yet, it is dead for %s", got)
	}
	r.seeDeaths(t)
	r.pass(time.Minute)
	r.seeDeaths(t)
	r.pass(time.Minute)
	if got := age(); got != 2*time.Minute {
		t.Errorf("dead for %s, want 2m0s", got)
	}
	w = w.readopt(t, r.Store)
	w.kill(t, r.Store)
	r.seeDeaths(t)
	r.pass(time.Minute)
	if got := age(); got != time.Minute {
		t.Errorf("after it was back it is dead for %s, want 1m0s", got)
	}
	r.clock.advance(testTTL + 1)
	r.contact.heard()
	if got := age(); got != 0 {
		t.Errorf("after a loss of etcd it is dead for %s, want 0s", got)
	}
	r.seeDeaths(t)
	r.pass(time.Minute)
	if got := age(); got != time.Minute {
		t.Errorf("a minute after that it is dead for %s, want 1m0s", got)
	}
}

// Replicas see deaths by what they follow, also of workers that died before they began,
// and again after a loss of etcd.
func TestAFollowingReplicaSeesDeaths(t *testing.T) {
	server := ownServer(t)
	early := openStore(t, server, nil)
	before, after := register(t, early), register(t, early)
	before.kill(t, early)
	r := openReplica(t, server, ClientConfig{Hold: unheld})
	r.reread = 50 * time.Millisecond
	follow(t, r.Store)
	seen := func(w alive) func() bool {
		return func() bool {
			_, mark := r.deaths.age(w.key())
			return mark > 0
		}
	}
	waitFor(t, seen(before))
	if seen(after)() {
		t.Error("a living worker was seen dead")
	}
	after.kill(t, r.Store)
	waitFor(t, seen(after))
	r.clock.advance(testTTL + 1)
	r.contact.heard()
	if seen(after)() {
		t.Error("seen dead all the time though etcd was lost")
	}
	waitFor(t, seen(after))
	r.deaths.miss(after.key())
	waitFor(t, seen(after))
}

// A worker may come and go while a replica follows nothing. Its time counts from when
// somebody asks for its sessions, and that of the others goes on.
func TestADeathThatWasMissedIsSeenWhenItMatters(t *testing.T) {
	r := newReplica(t)
	known, taker, other, key := register(t, r.Store), register(t, r.Store), register(t, r.Store), newSession()
	other.kill(t, r.Store)
	r.seeDeaths(t)
	owner := register(t, r.Store)
	owner.knows(t, r.Store, known)
	owner.claim(t, r.Store, key)
	owner.kill(t, r.Store)
	look := func() {
		t.Helper()
		members := &store.Table[store.MemberKey, store.Member]{}
		if err := r.deaths.look(testContext(t), members, members); err != nil {
			t.Fatal(err)
		}
	}
	r.pass(time.Minute)
	look()
	if _, mark := r.deaths.age(owner.key()); mark != 0 {
		t.Fatal("the death was not missed")
	}
	if _, _, err := r.Reclaim(testContext(t), key, taker.taker(resolve(t, r.Store, key))); !errors.Is(err, session.ErrOwnerUncertain) {
		t.Errorf("reclaim: %v, want ErrOwnerUncertain", err)
	}
	look()
	r.pass(time.Minute)
	for w, want := range map[alive]time.Duration{owner: time.Minute, other: 2 * time.Minute} {
		if got, _ := r.deaths.age(w.key()); got != want {
			t.Errorf("it is dead for %s, want %s", got, want)
		}
	}
	r.deaths.miss(owner.key())
	if _, missed := r.deaths.state(); !missed {
		t.Error("a minute later a miss is not looked for again")
	}
	look()
	r.deaths.miss(owner.key())
	if _, missed := r.deaths.state(); missed {
		t.Error("all incarnations are read for each miss")
	}
}
