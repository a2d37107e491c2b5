package dataplane

import (
	"context"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/session"
	"github.com/leasehold/leasehold/dataplane/sessionid"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// certain is the authority of incarnation 1, which lasts.
type certain struct{}

func (certain) Incarnation() int64 { return 1 }
func (certain) Holds(int64) bool   { return true }
func (certain) Await(int64) bool   { return true }

// asked counts the questions for a worker's load.
type asked int

func (a *asked) ObserveLoad(context.Context, string) (*leaseholdv1.ObserveLoadResponse, error) {
	*a++
	return &leaseholdv1.ObserveLoadResponse{Draining: true}, nil
}

// TestNoHandOverBeginsWhileTheControlPlaneIsAway is since it could not be decided: until
// the control plane is back, the session would be served by nobody.
func TestNoHandOverBeginsWhileTheControlPlaneIsAway(t *testing.T) {
	world := &config.Holder{}
	world.Set(&config.Snapshot{
		Gateways: map[string]*config.Gateway{"g": {ID: "g", IdleTimeout: time.Hour, Upstream: &config.Upstream{Name: "u"}}},
		Members:  map[string]config.Member{"other": {Worker: "other", Incarnation: 2}},
	})
	table, err := session.NewTable(session.Config{Worker: "w", Max: 1, World: world.Load, Authority: certain{}, Logger: hclog.NewNullLogger()})
	if err != nil {
		t.Fatal(err)
	}
	d := sessionid.Digest{1}
	if err := table.Reserve(d); err != nil {
		t.Fatal(err)
	}
	if _, err := table.Adopt("g", d, &leaseholdv1.SessionRecord{Worker: "w", Incarnation: 1, Epoch: 2, PrincipalDigest: make([]byte, 32),
		Upstreams: []*leaseholdv1.UpstreamRecord{{Upstream: "u", ConnectionFingerprint: make([]byte, 16)}}}, 5); err != nil {
		t.Fatal(err)
	}
	away, loads := true, asked(0)
	m := &mover{worker: "w", table: table, world: world, loads: &loads, away: func() bool { return away }, log: hclog.NewNullLogger()}
	for _, away = range []bool{true, false} {
		loads = 0
		if left, progress := m.drainOnce(t.Context(), true); left != 1 || progress || (loads == 0) != away {
			t.Errorf("away %v: %d left, progress %v, %d workers asked to take sessions; want 1, none, and that it is asked if not away", away, left, progress, loads)
		}
	}
}
