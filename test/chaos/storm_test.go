package chaos

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/leasehold/leasehold/test/internal/cluster"
)

// listed is how soon a change reaches all workers once a control plane is back.
const listed = 2 * time.Second

// A control plane is killed again and again, and etcd forgets what the other one has
// not seen yet: both read everything anew.
func TestControlPlanesThatRestartAndReadAnew(t *testing.T) {
	const gateways, storms = 1000, 4
	p := usual
	p.plain = true
	p.between = func(from, to string) bool { return from == "control1" && strings.HasPrefix(to, "etcd") }
	w := start(t, p)
	var all strings.Builder
	for n := range gateways {
		fmt.Fprintf(&all, "---\nname: gateways/other-%d\nupstreams:\n- {name: upstream, url: %q, transport: STREAMABLE_HTTP}\n", n, w.ledger.URL())
	}
	if _, err := w.CLI(t.Context(), all.String(), "apply", "--timeout", "1m", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	w.serve("storm", w.ledger.URL(), "", "")
	crew := enlist(t, "storm", w.Workers, crewSize/2)
	w.settle()
	members, before := w.members(), w.owned(crew)
	crew.work(crew.members, pace)

	for n := range storms {
		w.Control[0].Kill()
		w.strand(w.Control[1].Process)
		if err := w.RestartControl(t.Context(), w.Control[0]); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		gateway := fmt.Sprintf("storm-%d", n)
		if err := w.Apply(t.Context(), gateway, w.ledger.URL(), ""); err != nil {
			t.Fatal(err)
		}
		w.eventually(10*time.Second, func(ctx context.Context) error { return w.Applied(ctx, gateway) })
		took := time.Since(began)
		t.Logf("a gateway was there %v after a control plane was back", took.Round(time.Millisecond))
		if took > listed+w.late() {
			t.Errorf("a gateway was there %v after a control plane was back, want at most %v", took, listed)
		}
	}
	w.settle()
	crew.rest()
	w.expect(crew.made(), nil)
	w.same("after the control planes had restarted", before, w.owned(crew))
	if now := w.members(); !slices.Equal(now, members) {
		t.Errorf("the workers are registered as %v, before as %v", now, members)
	}
	w.audit(crew, book{})
	w.leave(crew, nil)
}

// strand cuts a control plane off from etcd for a moment, in which etcd goes on and
// forgets what was.
func (w *world) strand(control *cluster.Process) {
	w.t.Helper()
	for _, member := range w.Etcd {
		w.links.of(w.t, control.Name, member.Name).stall(w.t)
	}
	for n := range 10 {
		if err := putEtcd(w.t.Context(), w.EtcdClient(), w.EtcdURL(n%len(w.Etcd))); err != nil {
			w.t.Fatal(err)
		}
	}
	if err := w.CompactEtcd(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	for _, member := range w.Etcd {
		w.links.of(w.t, control.Name, member.Name).flow(w.t)
	}
}
