package session_test

import (
	"errors"
	"testing"
	"time"

	"github.com/leasehold/leasehold/controlplane/session"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func TestWhoMayTakeOverFromADeadOwner(t *testing.T) {
	const (
		outage = 64 * time.Minute
		ttl    = 6 * time.Second
		limit  = outage + time.Minute + ttl // a 64th for drift
	)
	taker, other := session.Peer{Worker: mine, Incarnation: 7}, session.Peer{Worker: theirs, Incarnation: 9}
	earlier := session.Peer{Worker: mine, Incarnation: 6}
	knows := func(peers ...session.Peer) session.Takeover {
		return session.Takeover{Knows: peers, MaxOutage: outage, TTL: ttl}
	}
	with := func(t session.Takeover, change func(*session.Takeover)) session.Takeover {
		change(&t)
		return t
	}
	tests := []struct {
		name string
		t    session.Takeover
		want leaseholdv1.TakeoverRule
		open bool
	}{
		{"it asks the taker", knows(other, taker), leaseholdv1.TakeoverRule_TAKEOVER_RULE_LISTED, false},
		{"it does not ask the taker", knows(other), leaseholdv1.TakeoverRule_TAKEOVER_RULE_WAITING, false},
		{"it asks an earlier incarnation of the taker", knows(earlier), leaseholdv1.TakeoverRule_TAKEOVER_RULE_WAITING, false},
		{"it asks nobody", knows(), leaseholdv1.TakeoverRule_TAKEOVER_RULE_ALONE, true},
		{"it is superseded", with(knows(other), func(t *session.Takeover) { t.Superseded = true }), leaseholdv1.TakeoverRule_TAKEOVER_RULE_SUPERSEDED, true},
		{"it is superseded and knew nobody", with(knows(), func(t *session.Takeover) { t.Superseded = true }), leaseholdv1.TakeoverRule_TAKEOVER_RULE_SUPERSEDED, true},
		{"one that it asks is superseded", with(knows(other), func(t *session.Takeover) { t.PeerSuperseded = true }), leaseholdv1.TakeoverRule_TAKEOVER_RULE_PEER_SUPERSEDED, true},
		{"it could serve on until now", with(knows(other), func(t *session.Takeover) { t.DeadFor = limit }), leaseholdv1.TakeoverRule_TAKEOVER_RULE_WAITING, false},
		{"it cannot serve on any more", with(knows(other), func(t *session.Takeover) { t.DeadFor = limit + 1 }), leaseholdv1.TakeoverRule_TAKEOVER_RULE_EXPIRED, true},
		{"it cannot serve on any more, and asked the taker", with(knows(taker), func(t *session.Takeover) { t.DeadFor = limit + 1 }), leaseholdv1.TakeoverRule_TAKEOVER_RULE_LISTED, true},
		{"nobody serves on", with(knows(other), func(t *session.Takeover) { t.MaxOutage = 0 }), leaseholdv1.TakeoverRule_TAKEOVER_RULE_EXPIRED, true},
	}
	for _, tt := range tests {
		if got := tt.t.By(taker); got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
		if open := tt.t.Open() != leaseholdv1.TakeoverRule_TAKEOVER_RULE_UNSPECIFIED; open != tt.open {
			t.Errorf("%s: everybody may: %v, want %v", tt.name, open, tt.open)
		}
	}
}

func TestHandOver(t *testing.T) {
	from, to := session.Peer{Worker: mine, Incarnation: 1}, session.Peer{Worker: theirs, Incarnation: 7}
	ask := session.HandOver{From: from, To: to, Cursors: map[string]string{"u": "17", "gone": "3"}}
	stored := owned(mine, 1, 4)
	stored.Upstreams = append(stored.Upstreams, &leaseholdv1.UpstreamRecord{Upstream: "v", EventCursor: "of the hand-over before"})
	next, granted, err := ask.Next(stored, true, time.Unix(77, 0))
	if err != nil || granted {
		t.Fatalf("hand over: %v, %v", granted, err)
	}
	if !session.OwnedBy(next, theirs, 7) || next.Epoch != 5 || next.Upstreams[0].EventCursor != "17" || next.Upstreams[1].EventCursor != "" {
		t.Errorf("got %v, want the next owner's, at epoch 5, with the cursor of u alone", next)
	}
	last := next.Events[len(next.Events)-1]
	if last.Type != leaseholdv1.SessionEventType_SESSION_EVENT_TYPE_HANDED_OVER || last.Worker != "workers/"+theirs || last.Epoch != 5 {
		t.Errorf("last event is %v, want that it was handed over", last)
	}
	if stored.Epoch != 4 || stored.Upstreams[1].EventCursor == "" || len(stored.Events) > 0 {
		t.Error("Next changed its argument")
	}
	if again, granted, err := ask.Next(next, false, time.Unix(88, 0)); err != nil || !granted || again.Epoch != 5 {
		t.Errorf("again: %v, %v, %v; want it granted before", again, granted, err)
	}
	tests := []struct {
		name   string
		stored *session.Record
		seen   bool
		want   error
	}{
		{"nothing", nil, true, session.ErrStale},
		{"ended", tombstone(), true, session.ErrEnded},
		{"changed since", owned(mine, 1, 4), false, session.ErrStale},
		{"another's", owned("00000000000000cc", 1, 4), true, session.ErrStale},
		{"of a later incarnation", owned(mine, 2, 4), true, session.ErrStale},
		{"of another incarnation of the next owner", owned(theirs, 8, 4), true, session.ErrStale},
	}
	for _, tt := range tests {
		if _, granted, err := ask.Next(tt.stored, tt.seen, time.Unix(1, 0)); granted || !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, %v; want %v", tt.name, granted, err, tt.want)
		}
	}
}

func TestRefusalOfAHandOver(t *testing.T) {
	tests := []struct {
		facts session.HandOverFacts
		want  error
	}{
		{session.HandOverFacts{}, session.ErrStale},
		{session.HandOverFacts{Unchanged: true}, session.ErrNotAlive},
		{session.HandOverFacts{Unchanged: true, OwnerAlive: true}, session.ErrTargetNotAlive},
		{session.HandOverFacts{Unchanged: true, OwnerAlive: true, TargetAlive: true}, session.ErrStale},
	}
	for _, tt := range tests {
		if err := tt.facts.Refusal(); !errors.Is(err, tt.want) {
			t.Errorf("%+v: %v, want %v", tt.facts, err, tt.want)
		}
	}
}
