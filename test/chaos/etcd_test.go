package chaos

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// claimGap is how long no session may be opened when an etcd member goes away.
const claimGap = 2500 * time.Millisecond

// An etcd member of three may go away, however it does: workers keep their leases,
// clients notice nothing, and new sessions are held up for a moment.
func TestLostEtcdMember(t *testing.T) {
	t.Run("a follower is killed", func(t *testing.T) {
		loseMember(t, false, func(w *world, member int) { w.Etcd[member].Kill() })
	})
	t.Run("the leader is killed", func(t *testing.T) {
		loseMember(t, true, func(w *world, member int) { w.Etcd[member].Kill() })
	})
	t.Run("the leader hangs", func(t *testing.T) {
		loseMember(t, true, func(w *world, member int) {
			if err := w.Etcd[member].Pause(); err != nil {
				w.t.Fatal(err)
			}
		})
	})
}

// loseMember takes an etcd member away under load, the leader or a follower.
func loseMember(t *testing.T, leader bool, harm func(w *world, member int)) {
	p := usual
	p.ttl = 6 * time.Second // the default: an election must not cost a lease
	w := start(t, p)
	w.serve("member", w.ledger.URL(), "", "")
	crew := enlist(t, "member", w.Workers, crewSize)
	w.locate(crew)
	members := w.members()
	crew.work(crew.members, pace)
	opener := w.openEvery(crew, 100*time.Millisecond)
	w.let(2 * time.Second)

	victim, err := w.EtcdLeader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !leader {
		victim = (victim + 1) % len(w.Etcd)
	}
	harmed := time.Now()
	harm(w, victim)
	w.let(w.plan.ttl + 5*time.Second)
	opened := opener()

	gap, at := longestGap(opened, harmed)
	t.Logf("%d calls: p99 %v; no session was opened for %v, from %v after the harm", len(crew.made()),
		percentile(crew.made(), 0.99), gap.Round(time.Millisecond), at.Round(time.Millisecond))
	if gap > claimGap {
		t.Errorf("no session was opened for %v, from %v after the harm; want at most %v", gap, at, claimGap)
	}
	w.expect(crew.made(), nil)
	if now := w.members(); !slices.Equal(now, members) {
		t.Errorf("the workers are registered as %v, before the harm as %v: somebody lost its membership", now, members)
	}
	w.audit(crew, book{})
	w.leave(crew, nil)
}

// longestGap is the longest time without a session that came to be, and when that
// began after the harm.
func longestGap(opened []*call, harmed time.Time) (gap, at time.Duration) {
	var ends []time.Time
	for _, o := range opened {
		if o.outcome == answered {
			ends = append(ends, o.end)
		}
	}
	slices.SortFunc(ends, time.Time.Compare)
	for i := 1; i < len(ends); i++ {
		if d := ends[i].Sub(ends[i-1]); ends[i].After(harmed) && d > gap {
			gap, at = d, ends[i-1].Sub(harmed)
		}
	}
	return gap, at
}

// members says how the workers are registered.
func (w *world) members() []string {
	w.t.Helper()
	var list []string
	w.eventually(10*time.Second, func(ctx context.Context) error {
		workers, err := w.Registered(ctx)
		list = nil
		for _, each := range workers {
			list = append(list, memberName(each))
		}
		return err
	})
	slices.Sort(list)
	return list
}

func memberName(w *leaseholdv1.Worker) string {
	return fmt.Sprintf("%s as incarnation %d", w.GetListenAddress(), w.GetIncarnation())
}
