package dataplane_test

import (
	"net/http"
	"testing"

	"github.com/leasehold/leasehold/dataplane"
)

// A control plane that cannot use a gateway's definition says that the gateway is there
// all the same.
func TestGatewayThatTheControlPlaneCannotTellIsServedAsItWas(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	var dir string
	w := startWorkerWith(t, p, func(cfg *dataplane.Config) { dir = cfg.DataDir })
	c := newClient(t, "g")
	c.initialize(w)

	p.change(func() {
		delete(p.gateways, "gateways/g")
		p.kept = []string{"gateways/g"}
	})
	// opens reports whether a session can be opened on a gateway.
	opens := func(w *worker, gateway string) bool {
		resp, _ := newClient(t, gateway).do(w, http.MethodPost, initialize)
		return resp != nil && resp.StatusCode == http.StatusOK
	}
	p.setGateway("marker", u.URL, nil)
	eventually(t, "the worker knows of later changes", func() bool { return opens(w, "marker") })
	if status, got := c.call(w); status != http.StatusOK || got != "1" {
		t.Errorf("a call of its session: got %d %s, want 200 1", status, got)
	}
	if !opens(w, "g") {
		t.Error("no session can be opened on it")
	}

	// Nor does a worker that is started meanwhile lose it, if it had it before.
	w.stop()
	w = startWorkerWith(t, p, func(cfg *dataplane.Config) { cfg.DataDir = dir })
	if !opens(w, "g") {
		t.Error("after a restart no session can be opened on it")
	}
	p.change(func() { p.kept = nil })
	eventually(t, "it is gone once nobody says that it is there", func() bool {
		resp, _ := newClient(t, "g").do(w, http.MethodPost, initialize)
		return resp != nil && resp.StatusCode == http.StatusNotFound
	})
}
