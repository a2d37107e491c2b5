package dataplane_test

import (
	"net/http"
	"slices"
	"sync/atomic"
	"testing"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func TestADeleteAtAFencedOwnerIsPutOffAndEndsTheSessionOnceAfterwards(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	owner, other := startWorker(t, p), startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(owner)
	var told atomic.Int32
	u.setHook(func(_ http.ResponseWriter, r *http.Request, _ string) bool {
		if r.Method == http.MethodDelete {
			told.Add(1)
		}
		return false
	})
	p.change(func() { p.away = true })
	eventually(t, "the owner is fenced", func() bool {
		status, _ := c.call(owner)
		return status == http.StatusServiceUnavailable
	})
	resp, body := c.do(owner, http.MethodDelete, "")
	if resp == nil || resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
		t.Errorf("DELETE while fenced: got %v %s, want 503 with Retry-After", resp, body)
	}
	if n, over := told.Load(), len(p.tombstones()); n != 0 || over != 0 {
		t.Errorf("while fenced: the upstream was told %d times, %d ends are recorded; want 0 and 0", n, over)
	}
	p.change(func() { p.away = false })
	eventually(t, "the session goes on", func() bool {
		status, _ := c.call(owner)
		return status == http.StatusOK
	})
	if n := told.Load(); n != 0 {
		t.Errorf("once the lease was certain again: the upstream was told %d times, want 0: the client was told that it was not", n)
	}
	if resp, body := c.do(owner, http.MethodDelete, ""); resp == nil || resp.StatusCode != http.StatusNoContent {
		t.Errorf("the DELETE after it: got %v %s, want 204", resp, body)
	}
	if status, body := c.call(other); status != http.StatusNotFound {
		t.Errorf("call after the end: got %d %s, want 404", status, body)
	}
	want := []leaseholdv1.EndReason{leaseholdv1.EndReason_END_REASON_CLIENT}
	if n := told.Load(); n != 1 || u.live() != 0 || !slices.Equal(p.tombstones(), want) {
		t.Errorf("in the end: the upstream was told %d times and has %d sessions, ends %v; want once, none and %v", n, u.live(), p.tombstones(), want)
	}
}
