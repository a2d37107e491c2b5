package session

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/sessionid"
)

// TestNothingIsLetOutUnderSettingsThatChangedSinceTheRequestBegan changes the definition
// after a request has looked at it, and before anybody has told the table.
func TestNothingIsLetOutUnderSettingsThatChangedSinceTheRequestBegan(t *testing.T) {
	defined := func(fingerprint byte) *config.Snapshot {
		return &config.Snapshot{Gateways: map[string]*config.Gateway{"g": {ID: "g", Upstream: &config.Upstream{Name: "u", Fingerprint: [16]byte{fingerprint}}}}}
	}
	var world atomic.Pointer[config.Snapshot]
	world.Store(defined(1))
	authority := &wavering{}
	authority.holds.Store(true)
	table, err := NewTable(Config{Max: 1, Logger: hclog.NewNullLogger(), Authority: authority, Records: &ledger{}, Upstream: unreached{t: t}, World: world.Load})
	if err != nil {
		t.Fatal(err)
	}
	s := &Session{gateway: "g", digest: sessionid.Digest{1}, incarnation: 1, expires: time.Now().Add(time.Hour), slot: -1}
	up := &upstreamSession{of: world.Load().Gateways["g"].Upstream, id: "1"}
	s.up.Store(up)
	if !table.reserve() || !table.insert(s, time.Minute) {
		t.Fatal("the session has no place")
	}
	gates := map[string]func() Gate{
		"a call":   func() Gate { return &exchange{session: s, up: up} },
		"a stream": func() Gate { return under{s, up} },
	}
	for what, gate := range gates {
		if err := gate().Pass(); err != nil {
			t.Errorf("%s under the settings that there are: %v", what, err)
		}
	}
	world.Store(defined(2))
	for what, gate := range gates {
		if err := gate().Pass(); !errors.Is(err, errOutdated) {
			t.Errorf("%s under earlier settings: got %v, want it held back", what, err)
		}
	}
}
