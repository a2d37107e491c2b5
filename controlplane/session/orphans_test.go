package session_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/leasehold/leasehold/controlplane/session"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func TestWhenAnOrphanIsDue(t *testing.T) {
	died := time.Unix(1000, 0)
	at := func(seconds int64) time.Time { return time.Unix(seconds, 0) }
	idle := func(d time.Duration) session.Policy { return session.Policy{Exists: true, IdleTimeout: d} }
	tests := []struct {
		name   string
		expire time.Time
		policy session.Policy
		due    time.Time
		reason leaseholdv1.EndReason
	}{
		{"idle", at(9000), idle(time.Minute), at(1060), leaseholdv1.EndReason_END_REASON_IDLE},
		{"expires before", at(1030), idle(time.Minute), at(1030), leaseholdv1.EndReason_END_REASON_EXPIRED},
		{"expires at the same time", at(1060), idle(time.Minute), at(1060), leaseholdv1.EndReason_END_REASON_IDLE},
		{"expiry not known", time.Time{}, idle(time.Minute), at(1060), leaseholdv1.EndReason_END_REASON_IDLE},
		{"expired before its owner died", at(900), idle(time.Minute), at(1005), leaseholdv1.EndReason_END_REASON_EXPIRED},
		{"idle before its owner can be back", at(9000), idle(time.Second), at(1005), leaseholdv1.EndReason_END_REASON_IDLE},
		{"no gateway", at(9000), session.Policy{}, at(1005), leaseholdv1.EndReason_END_REASON_GATEWAY_DELETED},
	}
	for _, tt := range tests {
		due, reason := session.Orphan{Died: died, Expire: tt.expire}.Due(tt.policy)
		if !due.Equal(tt.due) || reason != tt.reason {
			t.Errorf("%s: due %s because of %v; want %s because of %v", tt.name, due, reason, tt.due, tt.reason)
		}
	}
}

// orphan is one that is due after n seconds and a minute.
func orphan(n int64) session.Orphan {
	return session.Orphan{Key: session.Key{Gateway: "g", Digest: fmt.Sprintf("%032x", n)}, Worker: mine, Incarnation: n % 2, Died: time.Unix(n, 0)}
}

var minute = session.Policy{Exists: true, IdleTimeout: time.Minute}

func minutes(string) session.Policy { return minute }

func TestOrphansComeInTheOrderInWhichTheyAreDue(t *testing.T) {
	o := session.NewOrphans(10)
	for _, n := range []int64{3, 1, 4, 2} {
		o.Add(orphan(n), minute)
	}
	o.Schedule(minutes)
	due := o.Due(time.Unix(63, 0), 2)
	if len(due) != 2 || due[0].Died.Unix() != 1 || due[1].Died.Unix() != 2 {
		t.Fatalf("two of those due: %v, want 1 and 2", due)
	}
	o.Done(2)
	if due = o.Due(time.Unix(63, 0), 2); len(due) != 1 || due[0].Died.Unix() != 3 {
		t.Errorf("the rest of those due: %v, want 3", due)
	}
	o.Forget(mine, 1)
	if due = o.Due(time.Unix(100, 0), 9); len(due) != 1 || due[0].Died.Unix() != 4 {
		t.Errorf("after the owner of 3 came back: %v, want 4", due)
	}
	o.Schedule(func(string) session.Policy { return session.Policy{} })
	if due = o.Due(time.Unix(9, 0), 9); len(due) != 1 || due[0].Reason() != leaseholdv1.EndReason_END_REASON_GATEWAY_DELETED {
		t.Errorf("after the gateway was deleted: %v, want 4, because of that", due)
	}
}

func TestOrphansOfSomeOwnersArePutOffBehindThoseOfOthers(t *testing.T) {
	o := session.NewOrphans(10)
	for n := range int64(6) {
		o.Add(orphan(n), minute)
	}
	o.Schedule(minutes)
	o.Postpone(map[session.Peer]bool{{Worker: mine, Incarnation: 0}: true}, time.Unix(64, 0))
	var order []int64
	for _, one := range o.Due(time.Unix(64, 0), 9) {
		order = append(order, one.Died.Unix())
	}
	if due := o.Due(time.Unix(63, 0), 9); len(due) != 2 || len(order) != 5 || order[0] != 1 || order[1] != 3 {
		t.Errorf("at 63 s %d are due, and at 64 s %v; want 1 and 3, and then 0, 2 and 4 too", len(due), order)
	}
}

// What finds no room is the orphans that are due last, and it is known when the
// first of them is.
func TestOrphansAreBounded(t *testing.T) {
	o := session.NewOrphans(10)
	for n := range int64(100) {
		o.Add(orphan((n*37)%100), minute)
	}
	o.Schedule(minutes)
	if due := o.Due(time.Unix(1000, 0), 100); len(due) != 10 || due[9].Died.Unix() != 9 {
		t.Errorf("%d are kept, want the 10 that are due first: %v", len(due), due)
	}
	if !o.Partial() || !o.Complete(time.Unix(69, 0)) || o.Complete(time.Unix(70, 0)) {
		t.Error("want all orphans known that are due before 70 s, and no later ones")
	}
}
