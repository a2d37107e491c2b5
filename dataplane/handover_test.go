package dataplane_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/leasehold/leasehold/dataplane"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// pair is two workers, of which the first owns a session of a client.
type pair struct {
	p            *plane
	u            *upstreamServer
	owner, other *worker
	c            *client
}

func startPair(t *testing.T, change func(*dataplane.Config)) pair {
	t.Helper()
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	r := pair{p, u, startWorkerWith(t, p, change), startWorkerWith(t, p, change), newClient(t, "g")}
	r.c.initialize(r.owner)
	return r
}

// epoch returns the epoch of the one live record, and whose it is.
func (r pair) epoch() (uint64, string) {
	live := r.p.live()
	if len(live) != 1 {
		return 0, ""
	}
	return live[0].GetEpoch(), live[0].GetWorker()
}

// drained waits until the other worker owns the session.
func (r pair) drained(t *testing.T) {
	t.Helper()
	eventually(t, "the other worker owns the session", func() bool {
		epoch, worker := r.epoch()
		return epoch == 2 && worker == r.other.id
	})
}

func drainSoon(cfg *dataplane.Config) { cfg.DrainTimeout = 2 * time.Second }

func TestAHandOverThatTheStoreHasNoRoomForLeavesTheSessionServingWhereItIs(t *testing.T) {
	r := startPair(t, drainSoon)
	tried := make(chan struct{}, 64)
	full := refusal(codes.ResourceExhausted, "STORE_FULL")
	r.p.mu.Lock()
	r.p.saveErr = full
	r.p.beforeHandOver = func(*leaseholdv1.HandOverRequest) error {
		select {
		case tried <- struct{}{}:
		default:
		}
		return full
	}
	r.p.mu.Unlock()
	r.p.drain(r.owner.id, true)
	await(t, tried)
	for i := range 3 {
		if status, got := r.c.call(r.owner); status != 200 || got != fmt.Sprint(i+1) {
			t.Errorf("call %d: got %d %q, want 200 %q", i, status, got, fmt.Sprint(i+1))
		}
	}
	if epoch, worker := r.epoch(); epoch != 1 || worker != r.owner.id {
		t.Errorf("epoch %d of %s, want 1 of %s", epoch, worker, r.owner.id)
	}
}

func TestASessionThatTheStoreHasNoRoomForServesAndIsRecordedOnceThereIs(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	owner, front := startWorker(t, p), startWorker(t, p)
	p.change(func() { p.claimErr = refusal(codes.ResourceExhausted, "STORE_FULL") })
	c := newClient(t, "g")
	began := time.Now()
	c.initialize(owner)
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("initialize took %v, want it not to wait for room", took)
	}
	if status, got := c.call(front); status != 200 || got != "1" {
		t.Errorf("call: got %d %q, want 200 1", status, got)
	}
	if n := len(p.live()); n != 0 {
		t.Errorf("%d records, want none yet", n)
	}
	p.change(func() { p.claimErr = nil })
	eventually(t, "the session is recorded", func() bool { return len(p.live()) == 1 })
}

func TestADrainedWorkerHandsItsSessionsOverUnderTheSameUpstreamSession(t *testing.T) {
	r := startPair(t, drainSoon)
	r.c.call(r.owner)
	r.p.drain(r.owner.id, true)
	r.drained(t)
	for i, w := range []*worker{r.owner, r.other, r.owner, r.other} {
		if status, got := r.c.call(w); status != 200 || got != fmt.Sprint(i+2) {
			t.Fatalf("call %d: got %d %q, want 200 %q", i, status, got, fmt.Sprint(i+2))
		}
	}
	if r.u.opened != 1 || r.u.deleted != 0 {
		t.Errorf("upstream: %d sessions opened, %d deleted; want 1 and 0", r.u.opened, r.u.deleted)
	}
	if n := r.p.count("Resolve"); n > 0 {
		t.Errorf("the control plane was asked %d times who owns the session, and the giver knows", n)
	}
	if resp, body := r.c.do(r.owner, http.MethodDelete, ""); resp.StatusCode != http.StatusNoContent || r.u.live() != 0 {
		t.Errorf("DELETE at the giver: got %d %s, %d sessions left upstream; want 204 and 0", resp.StatusCode, body, r.u.live())
	}
}

func TestANewSessionIsOpenedElsewhereWhileItsWorkerDrains(t *testing.T) {
	r := startPair(t, drainSoon)
	r.p.drain(r.owner.id, true)
	r.drained(t)
	c := newClient(t, "g")
	c.initialize(r.owner)
	if status, got := c.call(r.owner); status != 200 || got != "1" {
		t.Errorf("got %d %q, want 200 1", status, got)
	}
	for _, record := range r.p.live() {
		if record.GetWorker() != r.other.id {
			t.Errorf("a record names %s, want the worker that does not drain", record.GetWorker())
		}
	}
	r.p.drain(r.owner.id, false)
	eventually(t, "the worker takes sessions again", func() bool {
		c := newClient(t, "g")
		c.initialize(r.owner)
		return slices.ContainsFunc(r.p.live(), func(record *leaseholdv1.SessionRecord) bool { return record.GetWorker() == r.owner.id })
	})
}

// TestRequestsWaitWhileTheirSessionChangesItsOwner stops a hand-over at the control
// plane and lets requests of every kind come meanwhile.
func TestRequestsWaitWhileTheirSessionChangesItsOwner(t *testing.T) {
	r := startPair(t, drainSoon)
	inside, goOn := make(chan struct{}), make(chan struct{})
	r.p.beforeHandOver = func(*leaseholdv1.HandOverRequest) error {
		close(inside)
		<-goOn
		return nil
	}
	r.p.drain(r.owner.id, true)
	await(t, inside)
	var group sync.WaitGroup
	var answered atomic.Int32
	for i := range 6 {
		one := *r.c
		one.ids = 100 * i
		w := []*worker{r.owner, r.other}[i%2]
		group.Go(func() {
			if status, got := one.call(w); status != 200 {
				t.Errorf("call %d: got %d %s, want 200", i, status, got)
			}
			answered.Add(1)
		})
	}
	if n := r.u.calls("up-1"); n != 0 {
		t.Errorf("%d calls were dispatched while nobody was certain to own the session", n)
	}
	close(goOn)
	group.Wait()
	if n := r.u.calls("up-1"); n != 6 {
		t.Errorf("the upstream got %d calls, want 6", n)
	}
	if epoch, worker := r.epoch(); epoch != 2 || worker != r.other.id {
		t.Errorf("the session has epoch %d at %s, want 2 at the other worker", epoch, worker)
	}
}

// calls returns how many calls a session got.
func (u *upstreamServer) calls(session string) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.sessions[session]
}

// TestALostHandOverIsDecidedByAWrite loses answers to a hand-over, and requests, and
// lets one come late.
func TestALostHandOverIsDecidedByAWrite(t *testing.T) {
	lost := refusal(codes.Unavailable, "LOST")
	for name, lose := range map[string]struct {
		before, after bool
		moves         bool
	}{
		"the answer is lost":    {after: true, moves: true},
		"the requests are lost": {before: true},
	} {
		t.Run(name, func(t *testing.T) {
			r := startPair(t, drainSoon)
			var late atomic.Pointer[leaseholdv1.HandOverRequest]
			fail := func(when bool) func(*leaseholdv1.HandOverRequest) error {
				return func(request *leaseholdv1.HandOverRequest) error {
					if !when {
						return nil
					}
					late.CompareAndSwap(nil, request)
					return lost
				}
			}
			r.p.beforeHandOver, r.p.afterHandOver = fail(lose.before), fail(lose.after)
			r.p.drain(r.owner.id, true)
			eventually(t, "a hand-over was sent", func() bool { return late.Load() != nil })
			r.p.drain(r.owner.id, false)
			if status, got := r.c.call(r.other); status != 200 && status != http.StatusServiceUnavailable {
				t.Errorf("got %d %s, want an answer, or that the session is changing its owner", status, got)
			}
			eventually(t, "the session has an owner", func() bool {
				status, _ := r.c.call(r.other)
				return status == 200
			})
			epoch, worker := r.epoch()
			if moved := worker == r.other.id; moved != lose.moves || moved != (epoch == 2) {
				t.Fatalf("the session has epoch %d at %s; moved: want %v", epoch, worker, lose.moves)
			}
			if !lose.moves {
				if _, err := r.p.handOver(late.Load()); err == nil {
					t.Error("a hand-over that comes late takes effect though its owner serves on")
				}
			}
			if status, got := r.c.call(r.owner); status != 200 {
				t.Errorf("got %d %s, want 200", status, got)
			}
		})
	}
}

// TestAWorkerStopsThoughAHandOverIsNotDecided has a control plane that answers nothing
// about sessions, from within a hand-over on.
func TestAWorkerStopsThoughAHandOverIsNotDecided(t *testing.T) {
	for name, operator := range map[string]bool{"it drains since it stops": false, "an operator had it drain before": true} {
		t.Run(name, func(t *testing.T) {
			r := startPair(t, func(cfg *dataplane.Config) { cfg.DrainTimeout = time.Second })
			sent := make(chan struct{})
			var once sync.Once
			r.p.beforeHandOver = func(*leaseholdv1.HandOverRequest) error {
				once.Do(func() { close(sent) })
				return refusal(codes.Unavailable, "AWAY")
			}
			r.p.change(func() { r.p.resolveErr = true })
			if operator {
				r.p.drain(r.owner.id, true)
				await(t, sent)
			}
			stopped := make(chan struct{})
			go func() {
				defer close(stopped)
				r.owner.stop()
			}()
			await(t, stopped)
			await(t, sent)
			r.p.change(func() { r.p.resolveErr = false }) // the receiver looks whether it got the session
			if epoch, worker := r.epoch(); epoch != 1 || worker != r.owner.id {
				t.Errorf("the session has epoch %d at %s, want 1 at the worker that has left: it can be taken over", epoch, worker)
			}
		})
	}
}

// TestASessionStaysWithItsOwnerThoughItsRecordIsNewer is of an owner that saved the
// record and did not hear that it was saved.
func TestASessionStaysWithItsOwnerThoughItsRecordIsNewer(t *testing.T) {
	r := startPair(t, drainSoon)
	s := r.u.speak()
	call := r.c.listen(r.owner, "", `{"jsonrpc":"2.0","id":"kept","method":"tools/call","params":{"name":"n"}}`)
	<-s.opened
	s.say <- "data: " + note(1) + "\n\n"
	call.data()
	call.cancel()
	const end = `{"jsonrpc":"2.0","id":"kept","result":{}}`
	s.say <- "data: " + end + "\n\n"
	s.say <- ""
	r.p.change(func() {
		for _, s := range r.p.records {
			s.revision = r.p.revision
		}
	})
	r.p.drain(r.owner.id, true)
	r.drained(t)
	again := r.c.listen(r.other, call.last, "")
	if got := again.data(); got != end {
		t.Errorf("what the owner kept: got %s, want %s", got, end)
	}
}

func TestACallInFlightIsWaitedForAndThenItsSessionMoves(t *testing.T) {
	r := startPair(t, func(cfg *dataplane.Config) { cfg.DrainTimeout = 20 * time.Second })
	inside, goOn := make(chan struct{}), make(chan struct{})
	r.u.setHook(func(_ http.ResponseWriter, _ *http.Request, method string) bool {
		if method == "tools/call" {
			close(inside)
			<-goOn
		}
		return false
	})
	answer := make(chan string)
	go func() {
		one := *r.c
		_, got := one.call(r.owner)
		answer <- got
	}()
	await(t, inside)
	r.u.setHook(nil)
	r.p.drain(r.owner.id, true)
	other := *r.c
	other.ids = 50
	for range 3 { // they are kept waiting for a moment only
		if status, got := other.call(r.other); status != 200 {
			t.Errorf("a call beside it: got %d %s, want 200", status, got)
		}
	}
	if epoch, worker := r.epoch(); epoch != 1 || worker != r.owner.id {
		t.Errorf("a session with a call in flight moved: epoch %d at %s", epoch, worker)
	}
	close(goOn)
	if got := <-answer; got != "4" {
		t.Errorf("the call in flight: got %s, want 4", got)
	}
	r.drained(t)
}

// TestALongCallIsAnsweredThoughItsSessionHasMoved lets a drain run out of time.
func TestALongCallIsAnsweredThoughItsSessionHasMoved(t *testing.T) {
	r := startPair(t, drainSoon)
	s := r.u.speak()
	long := r.c.listen(r.owner, "", `{"jsonrpc":"2.0","id":"long","method":"tools/call","params":{"name":"n"}}`)
	<-s.opened
	s.say <- "data: " + note(1) + "\n\n"
	if got := long.data(); got != note(1) {
		t.Fatalf("got %s, want %s", got, note(1))
	}
	r.u.setHook(nil)
	r.p.drain(r.owner.id, true)
	r.drained(t)
	if status, got := r.c.call(r.owner); status != 200 || got != "1" {
		t.Errorf("a call while the long one goes on: got %d %s, want 200 1", status, got)
	}
	s.say <- "data: " + note(2) + "\n\n"
	if got := long.data(); got != note(2) {
		t.Errorf("got %s, want %s", got, note(2))
	}
	const end = `{"jsonrpc":"2.0","id":"long","result":{}}`
	s.say <- "data: " + end + "\n\n"
	if got := long.data(); got != end {
		t.Errorf("got %s, want %s", got, end)
	}
	s.say <- ""
	r.owner.stop()
	if status, got := r.c.call(r.other); status != 200 || got != "2" {
		t.Errorf("after the giver has stopped: got %d %s, want 200 2", status, got)
	}
}

// TestNumberedEventsCrossAHandOverOnce has an upstream that keeps its events.
func TestNumberedEventsCrossAHandOverOnce(t *testing.T) {
	r := startPair(t, drainSoon)
	s := r.u.speak()
	stream := r.c.listen(r.owner, "", "")
	<-s.opened
	s.say <- "id: e1\ndata: " + note(1) + "\n\n"
	if got := stream.data(); got != note(1) {
		t.Fatalf("got %s, want %s", got, note(1))
	}
	r.p.drain(r.owner.id, true)
	if got := stream.data(); got != "<end>" {
		t.Fatalf("after the hand-over the stream goes on with %s", got)
	}
	r.drained(t)
	again := r.c.listen(r.owner, stream.last, "")
	request := <-s.opened
	if got := request.Header.Get("Last-Event-ID"); got != "e1" {
		t.Errorf("the next owner asks for what follows %q, want e1", got)
	}
	s.say <- "id: e2\ndata: " + note(2) + "\n\n"
	if got := again.data(); got != note(2) {
		t.Errorf("got %s, want %s", got, note(2))
	}
}

// TestAClientWithoutAnEventIDGoesOnWhereItsStreamEnded is of one whose library forgets.
func TestAClientWithoutAnEventIDGoesOnWhereItsStreamEnded(t *testing.T) {
	r := startPair(t, drainSoon)
	s := r.u.speak()
	stream := r.c.listen(r.owner, "", "")
	<-s.opened
	s.say <- "id: e1\ndata: " + note(1) + "\n\n"
	stream.data()
	r.p.drain(r.owner.id, true)
	r.drained(t)
	for i, want := range []string{"e1", ""} {
		r.c.listen(r.other, "", "")
		if i == 0 {
			request := <-s.opened
			if got := request.Header.Get("Last-Event-ID"); got != want {
				t.Errorf("the next owner asks for what follows %q, want %q", got, want)
			}
		}
	}
}

// TestListsAreAnnouncedAfterAGap has an upstream that gives no event ids.
func TestListsAreAnnouncedAfterAGap(t *testing.T) {
	r := startPair(t, drainSoon)
	r.c.do(r.owner, http.MethodPost, `{"jsonrpc":"2.0","id":7,"method":"tools/list"}`)
	r.c.do(r.other, http.MethodPost, `{"jsonrpc":"2.0","id":8,"method":"resources/list"}`)
	s := r.u.speak()
	stream := r.c.listen(r.other, "", "")
	<-s.opened
	s.say <- "data: " + note(1) + "\n\n"
	s.say <- "data: " + note(2) + "\n\n"
	for n := range 2 {
		if got := stream.data(); got != note(n+1) {
			t.Fatalf("got %s, want %s", got, note(n+1))
		}
	}
	r.p.drain(r.owner.id, true)
	<-s.opened // at once, and not when the client is back
	s.say <- "data: " + note(3) + "\n\n"
	if got := stream.data(); got != "<end>" {
		t.Fatalf("after the hand-over the stream goes on with %s", got)
	}
	again := r.c.listen(r.owner, stream.last, "")
	var got []string
	for range 3 {
		got = append(got, again.data())
	}
	want := []string{`{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}`, `{"jsonrpc":"2.0","method":"notifications/resources/list_changed"}`, note(3)}
	if !slices.Equal(got, want) {
		t.Errorf("after the gap: got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestWhatIsKeptOfACallMovesWithItsSession has a client that comes back for an answer
// which its former owner kept.
func TestWhatIsKeptOfACallMovesWithItsSession(t *testing.T) {
	r := startPair(t, drainSoon)
	s := r.u.speak()
	call := r.c.listen(r.owner, "", `{"jsonrpc":"2.0","id":"kept","method":"tools/call","params":{"name":"n"}}`)
	<-s.opened
	s.say <- "data: " + note(1) + "\n\n"
	call.data()
	call.cancel()
	const end = `{"jsonrpc":"2.0","id":"kept","result":{}}`
	s.say <- "data: " + end + "\n\n"
	s.say <- ""
	r.p.drain(r.owner.id, true)
	r.drained(t)
	r.owner.stop()
	again := r.c.listen(r.other, call.last, "")
	if got := again.data(); got != end {
		t.Errorf("got %s, want %s", got, end)
	}
}

func TestAWorkerThatStopsFailsNoRequest(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	change := func(cfg *dataplane.Config) {
		cfg.DrainTimeout, cfg.DrainNotice = 10*time.Second, 500*time.Millisecond
	}
	leaving, staying := startWorkerWith(t, p, change), startWorkerWith(t, p, change)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var group sync.WaitGroup
	var toLeaving atomic.Bool
	toLeaving.Store(true)
	for range 10 {
		c := newClient(t, "g")
		c.initialize(leaving)
		group.Go(func() {
			for n := 1; ctx.Err() == nil; n++ {
				w := staying
				if n%2 == 0 && toLeaving.Load() {
					w = leaving
				}
				if status, got := c.call(w); status != 200 || got != fmt.Sprint(n) {
					t.Errorf("call %d: got %d %s, want 200 %d", n, status, got, n)
					return
				}
			}
		})
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		leaving.stop()
	}()
	eventually(t, "all sessions have moved", func() bool {
		return !slices.ContainsFunc(p.live(), func(record *leaseholdv1.SessionRecord) bool { return record.GetWorker() != staying.id })
	})
	toLeaving.Store(false) // balancers have noticed
	await(t, stopped)
	cancel()
	group.Wait()
	for _, record := range p.live() {
		if record.GetEpoch() != 2 {
			t.Errorf("a session has epoch %d, want 2", record.GetEpoch())
		}
	}
}

func TestASessionOpenedWithoutTheControlPlaneIsRecordedOnceItIsBack(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	w := startWorker(t, p)
	p.change(func() { p.claimErr = refusal(codes.Unavailable, "AWAY") })
	c := newClient(t, "g")
	c.initialize(w)
	if status, got := c.call(w); status != 200 || got != "1" {
		t.Errorf("before it is recorded: got %d %s, want 200 1", status, got)
	}
	if live := p.live(); len(live) != 0 {
		t.Fatalf("%d records though nothing can be recorded", len(live))
	}
	p.change(func() { p.claimErr = nil })
	eventually(t, "the session is recorded", func() bool { return len(p.live()) == 1 })
	if status, got := c.call(w); status != 200 || got != "2" {
		t.Errorf("after it is recorded: got %d %s, want 200 2", status, got)
	}
}

func TestSessionsThatCannotMoveEndWhenTheDrainsTimeIsUp(t *testing.T) {
	p := startPlane(t)
	p.setUpstream("g", "", runs(""))
	change := func(cfg *dataplane.Config) {
		drainSoon(cfg)
		allowStdio(cfg)
	}
	w, other := startWorkerWith(t, p, change), startWorkerWith(t, p, change)
	c := newClient(t, "g")
	pid := openProgram(t, c, w)
	p.drain(w.id, true)
	if _, text := c.tool(w, "pid", "{}"); text != fmt.Sprint(pid) {
		t.Errorf("while the worker drains: got %s, want an answer of process %d", text, pid)
	}
	eventually(t, "the session has ended", func() bool {
		return slices.Equal(p.tombstones(), []leaseholdv1.EndReason{leaseholdv1.EndReason_END_REASON_WORKER_DRAINED})
	})
	if status, got := c.call(other); status != http.StatusNotFound {
		t.Errorf("after its end: got %d %s, want 404", status, got)
	}
}

// TestANewWorkerGetsItsShare has one worker own all sessions when a second one comes.
func TestANewWorkerGetsItsShare(t *testing.T) {
	const sessions = 60
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	rebalance := func(cfg *dataplane.Config) { cfg.Rebalance = true }
	full := startWorkerWith(t, p, rebalance)
	clients := make([]*client, sessions)
	for i := range clients {
		clients[i] = newClient(t, "g")
		clients[i].initialize(full)
	}
	inside, goOn := make(chan struct{}), make(chan struct{})
	u.setHook(func(_ http.ResponseWriter, r *http.Request, method string) bool {
		if method == "tools/call" && r.Header.Get("Mcp-Session-Id") == "up-1" {
			close(inside)
			<-goOn
		}
		return false
	})
	busy := make(chan string)
	go func() {
		_, got := clients[0].call(full)
		busy <- got
	}()
	await(t, inside)
	empty := startWorkerWith(t, p, rebalance)
	eventually(t, "the new worker owns about half of the sessions", func() bool {
		n := 0
		for _, record := range p.live() {
			if record.GetWorker() == empty.id {
				n++
			}
		}
		return n >= sessions/2-8 && n <= sessions/2+1
	})
	close(goOn)
	if got := <-busy; got != "1" {
		t.Errorf("the call in flight: got %s, want 1", got)
	}
	for i, c := range clients[1:] {
		if status, got := c.call(full); status != 200 || got != "1" {
			t.Fatalf("session %d: got %d %s, want 200 1", i+1, status, got)
		}
	}
}
