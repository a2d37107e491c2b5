package dataplane_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/leasehold/leasehold/dataplane"
	"github.com/leasehold/leasehold/dataplane/forward"
	"github.com/leasehold/leasehold/dataplane/sessionid"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// outageTTL leaves questions between workers of a busy machine time enough.
const outageTTL = 6 * time.Second

// startOutagePlane starts a control plane that lets workers serve on without it.
func startOutagePlane(t *testing.T) *plane {
	p := startPlane(t)
	p.change(func() { p.ttl, p.maxOutage = outageTTL, 10*time.Minute })
	return p
}

func TestSessionsGoOnWithoutTheControlPlaneWhileAllWorkersLive(t *testing.T) {
	p, u := startOutagePlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	workers := []*worker{startWorker(t, p), startWorker(t, p), startWorker(t, p)}
	eventually(t, "the workers are recorded to know each other", func() bool { return p.know(workers...) })
	var clients []*client
	for _, w := range workers {
		c := newClient(t, "g")
		c.initialize(w)
		clients = append(clients, c)
	}
	slow := newClient(t, "g") // its call is in flight all the time
	slow.initialize(workers[0])
	release, reached := make(chan struct{}), make(chan struct{})
	u.setHook(func(w http.ResponseWriter, r *http.Request, method string) bool {
		if method == "tools/call" && r.Header.Get("Mcp-Session-Id") == "up-4" {
			close(reached)
			<-release
		}
		return false
	})
	answered := make(chan string, 1)
	go func() {
		status, body := slow.call(workers[1])
		answered <- fmt.Sprint(status, body)
	}()
	await(t, reached)
	p.change(func() { p.dark = true })
	calls := 0
	for began := time.Now(); time.Since(began) < 2*outageTTL; calls++ {
		for i, c := range clients {
			if status, got := c.call(workers[(i+calls)%len(workers)]); status != http.StatusOK || got != fmt.Sprint(calls+1) {
				t.Fatalf("call %d of session %d, %v after the control plane went: got %d %s, want 200 %d", calls, i, time.Since(began), status, got, calls+1)
			}
		}
		<-time.After(20 * time.Millisecond)
	}
	for i, w := range workers {
		if !w.is(t, "leasehold_worker_serving_on") || w.is(t, "leasehold_worker_power") || w.is(t, "leasehold_worker_fenced") {
			t.Errorf("worker %d: serving on %v, power %v, fenced %v; want it to serve on", i,
				w.is(t, "leasehold_worker_serving_on"), w.is(t, "leasehold_worker_power"), w.is(t, "leasehold_worker_fenced"))
		}
	}
	close(release)
	if got := <-answered; got != "2001" {
		t.Errorf("the call that was in flight when contact was over: got %s, want its answer", got)
	}
	// One of them is gone, and nobody can tell whether it took anything over.
	workers[2].stop()
	eventually(t, "the others are fenced", func() bool {
		status, _ := clients[0].call(workers[0])
		return status == http.StatusServiceUnavailable
	})
	p.change(func() { p.dark = false })
	for i, c := range clients[:2] {
		eventually(t, "the session goes on after the return", func() bool {
			status, _ := c.call(workers[i])
			return status == http.StatusOK
		})
	}
	for _, record := range p.live() {
		if record.GetEpoch() != 1 && record.GetWorker() != workers[2].id {
			t.Errorf("a session of a worker that lived moved: got epoch %d", record.GetEpoch())
		}
	}
}

// TestSessionsThatMovedAreFoundWhileTheOutageIsNotKnownYet asks at workers that do not
// know where sessions are, at a moment when they still ask the control plane.
func TestSessionsThatMovedAreFoundWhileTheOutageIsNotKnownYet(t *testing.T) {
	const sessions = 8
	p, u := startOutagePlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	first, second, third := startWorker(t, p), startWorker(t, p), startWorker(t, p)
	var clients []*client
	for range sessions {
		c := newClient(t, "g")
		c.initialize(first)
		clients = append(clients, c)
	}
	first.stop()
	for _, c := range clients {
		if status, got := c.call(second); status != http.StatusOK {
			t.Fatalf("at a worker that may take it over: got %d %s", status, got)
		}
	}
	workers := []*worker{second, third, startWorker(t, p)}
	eventually(t, "the workers are recorded to know each other", func() bool { return p.know(workers...) })
	p.change(func() { p.dark = true })
	began := time.Now()
	var group sync.WaitGroup
	for i, c := range clients {
		for n, w := range workers {
			one := *c
			one.ids = 100 * (n + 1)
			group.Go(func() {
				if status, got := one.call(w); status != http.StatusOK {
					t.Errorf("session %d at worker %d: got %d %s after %v, want 200", i, n, status, got, time.Since(began))
				}
			})
		}
	}
	group.Wait()
	if took := time.Since(began); took > 3*outageTTL/2 {
		t.Errorf("the last was found after %v, want at most %v", took, 3*outageTTL/2)
	}
}

func TestAWorkerThatIsStartedInAnOutageIsAFrontUntilItIsOver(t *testing.T) {
	p, u := startOutagePlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	owner, other := startWorker(t, p), startWorker(t, p)
	var dir string
	first := startWorkerWith(t, p, func(cfg *dataplane.Config) { dir = cfg.DataDir })
	c := newClient(t, "g")
	c.initialize(owner)
	eventually(t, "the workers are recorded to know each other", func() bool { return p.know(owner, other, first) })
	if status, got := c.call(first); status != http.StatusOK {
		t.Fatalf("before: got %d %s", status, got)
	}
	first.stop()
	eventually(t, "the one that left is recorded no more", func() bool { return p.know(owner, other) })
	p.change(func() { p.dark = true })

	var health []error
	var mu sync.Mutex // guards health
	front := startWorkerWith(t, p, func(cfg *dataplane.Config) {
		cfg.DataDir = dir
		ready := cfg.Health
		cfg.Health = func(err error) {
			mu.Lock()
			health = append(health, err)
			mu.Unlock()
			ready(err)
		}
	})
	if !front.is(t, "leasehold_worker_front_only") || front.id != "" {
		t.Errorf("front only: %v, registered as %q; want a front that is not registered", front.is(t, "leasehold_worker_front_only"), front.id)
	}
	resp, body := newClient(t, "g").do(front, http.MethodPost, initialize)
	if resp == nil || resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
		t.Errorf("initialize at the front: got %v %s, want 503 with Retry-After", resp, body)
	}
	for began, calls := time.Now(), 2; time.Since(began) < outageTTL; calls++ {
		if status, got := c.call(front); status != http.StatusOK || got != fmt.Sprint(calls) {
			t.Fatalf("call %d at the front: got %d %s, want 200 %d", calls, status, got, calls)
		}
		<-time.After(20 * time.Millisecond)
	}
	p.change(func() { p.dark = false })
	eventually(t, "the front is a worker like the others", func() bool {
		resp, _ := newClient(t, "g").do(front, http.MethodPost, initialize)
		return resp != nil && resp.StatusCode == http.StatusOK && !front.is(t, "leasehold_worker_front_only")
	})
	mu.Lock()
	defer mu.Unlock()
	ready := 0
	for _, err := range health {
		if err == nil {
			ready++
		}
	}
	if ready < 2 {
		t.Errorf("health: got %v, want it told that the worker is ready as a front and again when it is registered", health)
	}
}

func TestAWorkerThatKnowsNothingIsNotReadyInAnOutage(t *testing.T) {
	p := startPlane(t)
	p.change(func() { p.dark = true })
	told := make(chan error, 100)
	w := &worker{}
	done := make(chan struct{})
	go func() { // it becomes ready with the control plane
		defer close(done)
		*w = *startWorkerWith(t, p, func(cfg *dataplane.Config) {
			ready := cfg.Health
			cfg.Health = func(err error) {
				told <- err
				ready(err)
			}
		})
	}()
	if err := <-told; err == nil || !strings.Contains(err.Error(), "no configuration") {
		t.Errorf("got %v, want it not to be ready for want of a configuration", err)
	}
	p.change(func() { p.dark = false })
	await(t, done)
}

func TestAWorkerSaysWhichSessionsItOwnsAndHowMuchItHasToDo(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	var address string
	w := startWorkerWith(t, p, func(cfg *dataplane.Config) {
		address = cfg.PeerListener.Addr().String()
		cfg.MaxSessions = 5
	})
	c := newClient(t, "g")
	c.initialize(w)
	asker := forward.NewClient(nil)
	t.Cleanup(asker.Close)
	digest := sessionid.DigestOf(c.session)
	got, err := asker.Locate(t.Context(), address, digest)
	record := p.live()[0]
	if err != nil || got == nil || got.Epoch != 1 || got.Incarnation != record.GetIncarnation() {
		t.Fatalf("Locate: got %v, %v; want a session under epoch 1 of incarnation %d", got, err, record.GetIncarnation())
	}
	load, err := asker.ObserveLoad(t.Context(), address)
	if err != nil || load.GetSessions() != 1 || load.GetCapacity() != 5 || load.GetPinnedSessions() != 0 || load.GetIncarnation() != got.Incarnation || load.GetServingOn() {
		t.Errorf("ObserveLoad: got %v, %v; want 1 of 5 sessions", load, err)
	}
	if witness, err := asker.Witness(t.Context(), address, &leaseholdv1.WitnessRequest{Worker: "x"}); err != nil || witness.GetIncarnation() != got.Incarnation {
		t.Errorf("Witness: got %v, %v; want incarnation %d", witness, err, got.Incarnation)
	}
	if resp, body := c.do(w, http.MethodDelete, ""); resp.StatusCode != http.StatusNoContent {
		t.Fatalf("DELETE: got %v %s", resp, body)
	}
	if got, err := asker.Locate(t.Context(), address, digest); err != nil || got != nil {
		t.Errorf("Locate after the end: got %v, %v; want no session", got, err)
	}
}
