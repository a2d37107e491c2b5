package config

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/leasehold/leasehold/dataplane/sessionid"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func state(revision int64, url string) *State {
	return &State{
		Revision: revision,
		Gateways: map[string]*leaseholdv1.Gateway{"gateways/g": {
			Name: "gateways/g", Status: &leaseholdv1.GatewayStatus{Revision: revision},
			Upstreams: []*leaseholdv1.Upstream{{Name: "u", Url: url}},
			Session:   &leaseholdv1.SessionPolicy{IdleTimeout: durationpb.New(time.Minute)},
		}},
		KeyRing: &leaseholdv1.KeyRing{Keys: []*leaseholdv1.Key{{Id: []byte("k001"), Secret: bytes.Repeat([]byte{1}, 32)}}},
	}
}

func TestCompileKeepsWhatDidNotChange(t *testing.T) {
	first, err := Compile(state(3, "http://h/mcp"), empty)
	if err != nil {
		t.Fatal(err)
	}
	g := first.Gateways["g"]
	if g.IdleTimeout != time.Minute || g.AbsoluteLifetime != DefaultAbsoluteLifetime {
		t.Errorf("policy: got %v and %v, want 1m and the default", g.IdleTimeout, g.AbsoluteLifetime)
	}
	again, _ := Compile(state(3, "http://h/mcp"), first)
	if again.Gateways["g"] != g {
		t.Error("an unchanged gateway was compiled anew")
	}
	if again.Ring != first.Ring {
		t.Error("an unchanged key ring was made anew")
	}
	same, _ := Compile(state(4, "http://h/mcp"), first)
	if same.Gateways["g"] == g || same.Gateways["g"].Upstream.Fingerprint != g.Upstream.Fingerprint {
		t.Error("a rewritten gateway with the same connection must be new, with the same fingerprint")
	}
	other, _ := Compile(state(5, "http://h/other"), first)
	if other.Gateways["g"].Upstream.Fingerprint == g.Upstream.Fingerprint {
		t.Error("another URL has the same fingerprint")
	}
}

func TestKeyRingHasTheRevisionAtWhichItWasWritten(t *testing.T) {
	written := state(3, "http://h/mcp")
	written.KeyRing.Revision = 2
	first, err := Compile(written, empty)
	if err != nil || first.RingRevision != 2 {
		t.Errorf("got %d, %v; want 2", first.RingRevision, err)
	}
	// The same revision of another store is another ring.
	written.KeyRing.Keys[0].Secret = bytes.Repeat([]byte{2}, 32)
	if next, err := Compile(written, first); err != nil || next.Ring == first.Ring {
		t.Errorf("the ring of another store is taken for the one before, %v", err)
	}
	without := state(4, "http://h/mcp")
	without.KeyRing = nil
	if next, err := Compile(without, first); err != nil || next.Ring != first.Ring || next.RingRevision != 2 {
		t.Errorf("without a ring: got revision %d, %v; want the one before", next.RingRevision, err)
	}
}

func TestNothingIsTakenOverFromAnotherStore(t *testing.T) {
	old := state(3, "http://h/mcp")
	old.Revision = 100
	first, err := Compile(old, empty)
	if err != nil {
		t.Fatal(err)
	}
	// Whoever begins with an empty store gives the same revision to something else.
	next, err := Compile(state(3, "http://other/mcp"), first)
	if err != nil || next.Gateways["g"].Upstream.URL.Host != "other" {
		t.Errorf("got %v, %v; want the gateway of the store that there is now", next.Gateways["g"], err)
	}
}

func TestAKeyRingThatCannotBeUsedLeavesTheStateBefore(t *testing.T) {
	short := state(3, "http://h")
	short.KeyRing.Keys[0].Secret = []byte("short")
	if _, err := Compile(short, empty); err == nil || !strings.Contains(err.Error(), "secret of 5") {
		t.Errorf("got %v, want an error that names the size", err)
	}
}

func TestWinnerIsTheSameEverywhereAndFair(t *testing.T) {
	s := &State{Gateways: map[string]*leaseholdv1.Gateway{}}
	for i := range 5 {
		s.Members = append(s.Members, &leaseholdv1.Member{Worker: fmt.Sprintf("%016x", i*7919)})
	}
	all, _ := Compile(s, empty)
	s.Members[0], s.Members[4] = s.Members[4], s.Members[0]
	shuffled, _ := Compile(s, empty)
	without, _ := Compile(&State{Members: s.Members[1:]}, empty)
	const n = 10_000
	wins := map[string]int{}
	for i := range n {
		d := sessionid.DigestOf(fmt.Sprint(i))
		winner, ok := all.Winner(d)
		if again, _ := shuffled.Winner(d); !ok || again != winner {
			t.Fatalf("session %d: %v here, %v where the members came in another order", i, winner, again)
		}
		if next, _ := without.Winner(d); winner.Worker != s.Members[0].GetWorker() && next != winner {
			t.Fatalf("session %d moved from %v to %v although its winner is still there", i, winner, next)
		}
		wins[winner.Worker]++
	}
	for w, got := range wins {
		if got < n/5*8/10 || got > n/5*12/10 {
			t.Errorf("worker %s wins %d of %d sessions, want about a fifth", w, got, n)
		}
	}
	if _, ok := empty.Winner(sessionid.Digest{}); ok {
		t.Error("a winner without members")
	}
}

func TestHolderTellsOfTheNextSnapshot(t *testing.T) {
	var h Holder
	changed := h.Changed()
	if h.Load() == nil || h.Load().Revision != 0 {
		t.Error("the zero holder has no empty snapshot")
	}
	select {
	case <-changed:
		t.Fatal("changed before anything did")
	default:
	}
	h.Set(&Snapshot{Revision: 4})
	<-changed
	if h.Load().Revision != 4 {
		t.Errorf("revision: got %d, want 4", h.Load().Revision)
	}
}
