package e2e

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/leasehold/leasehold/test/internal/client"
	"github.com/leasehold/leasehold/test/internal/cluster"
	"github.com/leasehold/leasehold/test/internal/ledger"
)

// nextCall is how long the next call may take once the owner was killed.
const nextCall = ttl + time.Second

func TestSessionsGoOnWhenTheirOwnerIsKilled(t *testing.T) {
	const sessions, before, after = 30, 3, 5
	c := cluster.Test(t, full)
	remote := c.Serve(t, "killed", "")
	f := newFleet(t, c, "killed", remote, sessions)
	f.work(before)
	f.identify()
	f.look()
	dead := f.members[0].owner
	was := map[int]member{}
	for _, m := range f.members {
		was[m.number] = *m
	}
	seen := len(report(t, remote).Entries)
	c.Settle(t)

	killed := time.Now()
	dead.Kill()
	took := make([]time.Duration, len(f.members))
	each(t, sessions, f.members, func(i int, m *member) error {
		start := time.Now()
		err := f.count(t.Context(), m)
		took[i] = time.Since(start)
		return err
	})
	slowest(t, f, was, dead, took, killed)
	f.work(after - 1)
	f.look()
	checkSuccession(t, f, was, dead)
	checkAfterKill(t, f, report(t, remote), seen, after)
	f.close()
	upstreamHas(t, remote, 0, 5*time.Second)
}

// slowest checks how long the first calls after the kill took.
func slowest(t *testing.T, f *fleet, was map[int]member, dead *cluster.Worker, took []time.Duration, killed time.Time) {
	t.Helper()
	var orphans, others []time.Duration
	for i, m := range f.members {
		if was[m.number].owner == dead {
			orphans = append(orphans, took[i])
		} else {
			others = append(others, took[i])
		}
	}
	slices.Sort(orphans)
	slices.Sort(others)
	t.Logf("first call after the kill: %d orphans p50 %v, max %v; %d others max %v; all done %v after the kill",
		len(orphans), orphans[len(orphans)/2].Round(time.Millisecond), orphans[len(orphans)-1].Round(time.Millisecond),
		len(others), others[len(others)-1].Round(time.Millisecond), time.Since(killed).Round(time.Millisecond))
	if longest := orphans[len(orphans)-1]; longest > nextCall {
		t.Errorf("the next call took %v, want at most %v", longest, nextCall)
	}
}

// checkSuccession checks who owns what after the kill.
func checkSuccession(t *testing.T, f *fleet, was map[int]member, dead *cluster.Worker) {
	t.Helper()
	for _, m := range f.members {
		old := was[m.number]
		orphan := old.owner == dead
		switch {
		case orphan && (m.owner == dead || m.epoch != old.epoch+1):
			t.Errorf("orphan %d: owner %s, epoch %d after %d; want another owner and one epoch more", m.number, m.owner.Name, m.epoch, old.epoch)
		case !orphan && (m.owner != old.owner || m.epoch != old.epoch):
			t.Errorf("session %d: owner %s, epoch %d after %s, %d; want no change", m.number, m.owner.Name, m.epoch, old.owner.Name, old.epoch)
		}
	}
}

// checkAfterKill checks what the upstream saw since then: nothing but the
// calls, each from its session's owner.
func checkAfterKill(t *testing.T, f *fleet, r ledger.Report, seen, calls int) {
	t.Helper()
	owners := map[string]int{}
	for _, m := range f.members {
		owners[m.upstream] = m.owner.PID
	}
	counted := map[string]int{}
	for _, e := range r.Entries[seen:] {
		if e.Tool != "counter_increment" {
			t.Errorf("after the kill the upstream saw %s %s of session %s", e.HTTP, e.Method, e.Session)
			continue
		}
		counted[e.Session]++
		if e.PID != owners[e.Session] {
			t.Errorf("a call of upstream session %s came from process %d, its owner is %d", e.Session, e.PID, owners[e.Session])
		}
	}
	for _, m := range f.members {
		if n := counted[m.upstream]; n != calls {
			t.Errorf("the upstream saw %d calls of session %d after the kill, want %d", n, m.number, calls)
		}
	}
}

// crowd is how many callers ask for one orphan at once.
const crowd = 8

func TestFirstCallsOnAnOrphanAreAllAnswered(t *testing.T) {
	c := cluster.Test(t, small)
	remote := c.Serve(t, "crowd", "")
	owner := c.Workers[0]
	all, one := open(t, owner, "crowd"), open(t, owner, "crowd")
	increment(t, all, c.Workers[1], "crowd", 1)
	increment(t, one, c.Workers[2], "crowd", 1)
	if _, w := c.SessionOwner(t, "crowd", all.ID); w != owner {
		t.Fatalf("the session belongs to %s, want the worker that was asked first, %s", w.Name, owner.Name)
	}
	opened := report(t, remote).Opened
	c.Settle(t)

	owner.Kill()
	var group sync.WaitGroup
	group.Go(func() { callTogether(t, c, all, crowd) })
	group.Go(func() {
		cancelled := make(chan struct{})
		group.Go(func() { defer close(cancelled); callAndLeave(t, c, one) })
		callTogether(t, c, one, crowd-1)
		<-cancelled
	})
	group.Wait()
	r := report(t, remote)
	if r.Opened != opened {
		t.Errorf("the upstream saw %d more sessions opened, want none", r.Opened-opened)
	}
	for name, s := range map[string]*client.Session{"one session": all, "the other": one} {
		if record, _ := c.SessionOwner(t, "crowd", s.ID); record.GetEpoch() != 2 {
			t.Errorf("%s is at epoch %d, want 2", name, record.GetEpoch())
		}
	}
}

// callTogether makes n calls on one session at once, at all workers that run,
// and checks that the counter goes on from 1, each value once.
func callTogether(t *testing.T, c *cluster.Cluster, s *client.Session, n int) {
	live := c.Live()
	values, errs := make([]int, n), make([]error, n)
	var group sync.WaitGroup
	start := time.Now()
	for i := range n {
		group.Go(func() { values[i], errs[i] = s.Increment(t.Context(), live[i%len(live)].URL("crowd")) })
	}
	group.Wait()
	t.Logf("%d first calls on one orphan took %v", n, time.Since(start).Round(time.Millisecond))
	for i, err := range errs {
		if err != nil {
			t.Errorf("one of %d first calls, at %s: %v", n, live[i%len(live)].Name, err)
		}
	}
	slices.Sort(values)
	want := make([]int, n)
	for i := range want {
		want[i] = i + 2
	}
	if !slices.Equal(values, want) {
		t.Errorf("the counter's values are %v, want %v", values, want)
	}
}

// callAndLeave makes a call on an orphan and goes away before anybody can have
// taken the orphan over.
func callAndLeave(t *testing.T, c *cluster.Cluster, s *client.Session) {
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if value, err := s.Increment(ctx, c.Live()[0].URL("crowd")); err == nil {
		t.Errorf("the orphan's counter is %d before its owner's lease can be over", value)
	}
}

func TestCallsAndNewSessionsGoOnWithoutOneControlPlane(t *testing.T) {
	cfg := full
	c := cluster.Test(t, cfg)
	remote := c.Serve(t, "replica", "")
	f := newFleet(t, c, "replica", remote, 12)
	f.work(1)

	c.Control[0].Kill()
	// Longer than a lease: workers that could not renew would be fenced by now.
	until := time.Now().Add(ttl + 2*time.Second)
	calls := make([]int, len(f.members))
	each(t, len(f.members), f.members, func(i int, m *member) error {
		for ; time.Now().Before(until); calls[i]++ {
			if err := f.count(t.Context(), m); err != nil {
				return fmt.Errorf("after %d calls: %w", calls[i], err)
			}
		}
		return nil
	})
	total := 0
	for _, n := range calls {
		total += n
	}
	t.Logf("%d calls without a failure since a control plane was killed", total)
	for _, w := range c.Live() {
		s := open(t, w, "replica")
		for i, at := range c.Live() {
			increment(t, s, at, "replica", i+1)
		}
	}
	c.Publish(t, "later", remote.URL(), "")
	open(t, c.Workers[2], "later")
}
