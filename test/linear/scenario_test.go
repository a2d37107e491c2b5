package linear

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"syscall"
	"testing"
	"time"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
	"github.com/leasehold/leasehold/test/internal/client"
	"github.com/leasehold/leasehold/test/internal/cluster"
	"github.com/leasehold/leasehold/test/internal/poll"
)

// stage is a world in which one guard is put to the test. There are two workers:
// one that loses a session, and one that gains it.
type stage struct {
	*testing.T
	*world
	loser, winner *worker
	ownership     *owners
	asked         sync.WaitGroup
}

// patience is how long a scenario waits for anything.
const patience = 15 * time.Second

// settle waits until the workers can take over from each other.
func (st *stage) settle() {
	st.Helper()
	if err := st.settled(st.Context(), st.present()...); err != nil {
		st.Fatal(err)
	}
}

// present are the workers that run.
func (st *stage) present() []*worker {
	var all []*worker
	for _, wk := range st.workers {
		if wk.current().Running() {
			all = append(all, wk)
		}
	}
	return all
}

// recovered lets everything through again, ends what is left of a scenario, and waits
// until all is as in the beginning.
func (st *stage) recovered() {
	st.Helper()
	for _, wk := range st.present() {
		wk.use(nil)
		wk.heal()
		wk.peers.Heal()
	}
	for _, wk := range st.present()[2:] {
		st.leaves(wk)
	}
	st.settle()
}

// joins starts one more worker.
func (st *stage) joins() *worker {
	st.Helper()
	if err := st.startWorker(st.Context(), fmt.Sprintf("worker%d", len(st.workers))); err != nil {
		st.Fatal(err)
	}
	return st.workers[len(st.workers)-1]
}

// leaves stops a worker as it is stopped in earnest.
func (st *stage) leaves(wk *worker) {
	st.Helper()
	if err := wk.current().Signal(syscall.SIGTERM); err != nil {
		st.Fatal(err)
	}
	if _, err := wk.current().Wait(patience); err != nil {
		st.Fatal(err)
	}
}

// powerful waits until a worker may take sessions over, as far as it is concerned.
func (st *stage) powerful(wk *worker) {
	st.Helper()
	st.eventually("the worker may take over", func(ctx context.Context) error {
		return gauge(ctx, wk.admin, "leasehold_worker_power", 1)
	})
}

// apart cuts a worker off from all others.
func (st *stage) apart(wk *worker) {
	for _, other := range st.present() {
		if other != wk {
			other.peers.Cut(wk.name)
			wk.peers.Cut(other.name)
		}
	}
}

// eventually waits for what processes bring about.
func (st *stage) eventually(what string, check func(context.Context) error) {
	st.Helper()
	if _, err := poll.Until(st.Context(), patience, check); err != nil {
		st.Fatalf("%s: %v", what, err)
	}
}

// session opens a session at the loser.
func (st *stage) session() *session {
	st.Helper()
	var s *session
	st.eventually("open a session", func(ctx context.Context) (err error) {
		s, err = st.open(ctx, st.loser)
		return err
	})
	return s
}

// dies waits until a worker, from which nothing is heard, is dead.
func (st *stage) dies(wk *worker) {
	st.Helper()
	st.eventually("the worker's lease ends", func(ctx context.Context) error {
		n, err := st.member(ctx, wk)
		if err == nil && n > 0 {
			err = errors.New("it is a member")
		}
		return err
	})
}

// lives waits until a worker is alive.
func (st *stage) lives(wk *worker) {
	st.Helper()
	st.eventually("the worker lives", func(ctx context.Context) error {
		n, err := st.member(ctx, wk)
		if err == nil && n == 0 {
			err = errors.New("it is not a member")
		}
		return err
	})
}

// owner is the worker that the store has as a session's owner.
func (st *stage) owner(ctx context.Context, s *session) (string, error) {
	resp, err := st.store.Get(ctx, root+"sessions/"+s.key)
	if err != nil || len(resp.Kvs) == 0 {
		return "", errors.Join(err, errors.New("no record"))
	}
	e, err := recordOf(resp.Kvs[0].Value)
	return e.GetWorker(), err
}

// ask makes a call at a worker, whatever comes of it, and returns its id.
func (st *stage) ask(s *session, at *worker) string { return st.askWithin(st.Context(), s, at) }

func (st *stage) askWithin(ctx context.Context, s *session, at *worker) string {
	id := st.requestID()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, _ = st.requestAs(ctx, id, s, at, `"method":"tools/call","params":{"name":"counter_increment","arguments":{}}`)
	return id
}

// answered makes calls at a worker until it has an answer, whichever, for one: it
// is alive, but may not know that yet.
func (st *stage) answered(s *session, at *worker) {
	st.Helper()
	st.eventually("the worker answers", func(ctx context.Context) error {
		resp, err := st.call(ctx, s, at, "counter_increment", "{}")
		if err == nil && resp.Status == http.StatusServiceUnavailable {
			err = &client.StatusError{Response: resp}
		}
		return err
	})
}

// askMeanwhile makes a call, and does not wait for what comes of it. The returned
// function gives it up.
func (st *stage) askMeanwhile(s *session, at *worker) (giveUp func()) {
	ctx, giveUp := context.WithCancel(st.Context())
	st.asked.Go(func() { st.askWithin(ctx, s, at) })
	return giveUp
}

// taken has the winner take a session, whose owner is dead, and serve a call.
func (st *stage) taken(s *session) {
	st.Helper()
	st.eventually("the winner takes the session", func(ctx context.Context) error {
		resp, err := st.call(ctx, s, st.winner, "counter_increment", "{}")
		if err != nil {
			return err
		}
		if resp.Status != http.StatusOK {
			return &client.StatusError{Response: resp}
		}
		if owner, err := st.owner(ctx, s); err != nil || owner != st.winner.id() {
			return fmt.Errorf("the owner is %s, %w", owner, err)
		}
		return nil
	})
}

// lost cuts the loser off until it is dead.
func (st *stage) lost() {
	st.Helper()
	st.loser.sever()
	st.dies(st.loser)
}

// back lets the loser through again, and waits until it lives.
func (st *stage) back() {
	st.Helper()
	st.loser.use(nil)
	st.loser.heal()
	st.lives(st.loser)
}

// held are the calls of one method of one worker that wait on their way. They
// are carried out even if the worker has given up by then: the first when it is
// released, the others after it.
type held struct {
	arrived, release chan struct{}
	carried          chan struct{}
}

// hold holds a worker's calls of a method.
func (st *stage) hold(wk *worker, method string) *held {
	h := &held{arrived: make(chan struct{}), release: make(chan struct{}), carried: make(chan struct{})}
	var once sync.Once
	wk.use(func(c call) plan {
		if c.method != method {
			return plan{}
		}
		p := plan{before: h.carried, insist: true}
		once.Do(func() {
			close(h.arrived)
			p = plan{before: h.release, insist: true, done: func() { close(h.carried) }}
		})
		return p
	})
	return h
}

// holdHandOver holds a worker's hand-over to another one. What it sends to the same
// effect meanwhile is lost; that it keeps the session passes.
func (st *stage) holdHandOver(wk *worker) *held {
	h := &held{arrived: make(chan struct{}), release: make(chan struct{}), carried: make(chan struct{})}
	var once sync.Once
	wk.use(func(c call) plan {
		r, ok := c.request.(*leaseholdv1.HandOverRequest)
		if !ok || r.GetTo().GetWorker() == r.GetWorker() {
			return plan{}
		}
		p := plan{lost: true}
		once.Do(func() {
			close(h.arrived)
			p = plan{before: h.release, insist: true, done: func() { close(h.carried) }}
		})
		return p
	})
	return h
}

// wait waits for a channel.
func (st *stage) wait(what string, c <-chan struct{}) {
	st.Helper()
	ctx, cancel := context.WithTimeout(st.Context(), patience)
	defer cancel()
	if await(ctx, c) != nil {
		st.Fatalf("%s: not within %v", what, patience)
	}
}

// reclaimOfTheLiving: the reclaim of a dead owner's session arrives when that
// owner is back.
func reclaimOfTheLiving(st *stage) {
	s := st.session()
	reclaims := st.hold(st.winner, reclaim)
	st.lost()
	defer st.askMeanwhile(s, st.winner)()
	st.wait("the winner reclaims", reclaims.arrived)
	st.back()
	close(reclaims.release)
	st.wait("the reclaim arrives", reclaims.carried)
	st.winner.use(nil)
	st.answered(s, st.loser)
}

// reclaimOfThePast: the reclaim of a dead owner's session arrives when that owner
// has been back, has changed the record, and is dead again.
func reclaimOfThePast(st *stage) {
	s := st.session()
	reclaims := st.hold(st.winner, reclaim)
	st.lost()
	giveUp := st.askMeanwhile(s, st.winner)
	st.wait("the winner reclaims", reclaims.arrived)
	giveUp() // so that it does not look again, and see what has changed
	st.asked.Wait()
	st.back()
	st.saved(s)
	st.lost()
	close(reclaims.release)
	st.wait("the reclaim arrives", reclaims.carried)
	st.winner.use(nil)
	st.taken(s)
}

// saved has the owner save the session's record.
func (st *stage) saved(s *session) {
	st.Helper()
	known, ok := st.ownership.of(s.key)
	if !ok {
		st.Fatalf("nobody has claimed %s", s.key)
	}
	at, c := st.saving(known, 1)
	if _, err := at.lanes[0].carry(st.Context(), c, false); err != nil {
		st.Fatalf("save: %v", err)
	}
}

// returnOfTheCondemned: a worker is back, one of whose sessions another has.
func returnOfTheCondemned(st *stage) {
	s, other := st.session(), st.session()
	st.lost()
	st.taken(s)
	st.back()
	st.answered(s, st.loser)
	st.answered(other, st.loser)
}

// claimOfTheEnded: a session's claim arrives once more after its end.
func claimOfTheEnded(st *stage) {
	var first call
	st.loser.use(func(c call) plan {
		if c.method == claim {
			first = c
		}
		return plan{}
	})
	s := st.session()
	st.loser.use(nil)
	st.eventually("end the session", func(ctx context.Context) error {
		resp, err := st.delete(ctx, s, st.loser)
		if err == nil && resp.Status != http.StatusNoContent {
			err = &client.StatusError{Response: resp}
		}
		return err
	})
	_, _ = st.loser.lanes[0].carry(st.Context(), first, true)
}

// requestToTheFenced: a worker that is cut off is asked for a session that
// another has by now.
func requestToTheFenced(st *stage) {
	s := st.session()
	st.lost()
	st.taken(s)
	st.ask(s, st.loser)
}

// requestToTheStopped: a worker that was stopped for longer than its lease goes
// on, with a request waiting for a session that another has by now.
func requestToTheStopped(st *stage) {
	s := st.session()
	if err := st.loser.stop(); err != nil {
		st.Fatal(err)
	}
	st.dies(st.loser)
	st.taken(s)
	st.loser.sever() // it cannot learn of that before it is asked
	defer st.askMeanwhile(s, st.loser)()
	if err := st.loser.goOn(); err != nil {
		st.Fatal(err)
	}
	st.asked.Wait()
}

// answerOfThePast: a re-adoption is answered so late that little is left of the
// lease; after that nothing is heard of the worker. It is asked for a session
// that another has by now.
func answerOfThePast(st *stage) {
	const attempts = 3 // it is a matter of some hundred milliseconds
	for range attempts {
		s := st.session()
		st.lost()
		answered, carried, blocked := make(chan struct{}), make(chan struct{}), make(chan struct{})
		var once sync.Once
		st.loser.use(func(c call) plan {
			p := plan{before: blocked}
			switch {
			case c.method == "Renew" && isOpen(carried):
				p = plan{}
			case c.method == readopt:
				once.Do(func() { p = plan{after: answered, done: func() { close(carried) }} })
			}
			return p
		})
		st.loser.heal()
		st.wait("the loser re-adopts", carried)
		if err := pause(st.Context(), st.ttl*4/5); err != nil {
			st.Fatal(err)
		}
		close(answered)
		st.dies(st.loser)
		st.taken(s)
		asked := st.ask(s, st.loser)
		close(blocked)
		st.back()
		if st.mutant == "" || st.sent(asked, st.loser) {
			return
		}
	}
}

// isOpen reports whether a channel has not been closed.
func isOpen(c <-chan struct{}) bool {
	select {
	case <-c:
		return false
	default:
		return true
	}
}

// sent reports whether a request reached the upstream from a worker.
func (st *stage) sent(id string, from *worker) bool {
	for _, e := range st.ledger.Report(true).Entries {
		if at, _ := st.dispatcher(e.PID); at == from && string(e.ID) == id {
			return true
		}
	}
	return false
}

// handOverOfThePast: a hand-over arrives once its sender has given up, and keeps the
// session.
func handOverOfThePast(st *stage) {
	s := st.session()
	given := st.holdHandOver(st.loser)
	st.asked.Go(func() { st.moveAt(st.Context(), st.controls[0], cluster.SessionName(gateway, s.id), st.winner) })
	st.wait("the loser hands over", given.arrived)
	st.answered(s, st.loser)
	close(given.release)
	st.wait("the hand-over arrives", given.carried)
	st.ask(s, st.loser)
}

// requestToTheUnreachable: a worker that is cut off from everybody is asked for a
// session that another has by now.
func requestToTheUnreachable(st *stage) {
	s := st.session()
	st.apart(st.loser)
	st.lost()
	st.taken(s)
	st.ask(s, st.loser)
}

// returnOfAWitness: two workers serve on, since neither could take over from the other.
// One of them is back, and takes over.
func returnOfAWitness(st *stage) {
	s := st.session()
	st.loser.sever()
	st.winner.sever()
	st.dies(st.loser)
	st.dies(st.winner)
	st.ask(s, st.loser)
	st.winner.heal()
	st.lives(st.winner)
	st.taken(s)
	st.ask(s, st.loser)
}

// wordOfATaker: a worker has taken a session over, and then is cut off like the one
// before, which asks it.
func wordOfATaker(st *stage) {
	s := st.session()
	st.lost()
	st.taken(s)
	st.winner.sever()
	st.dies(st.winner)
	st.ask(s, st.loser)
}

// reclaimByANewcomer: two workers serve on, since neither could take over from the
// other. One comes that they do not know.
func reclaimByANewcomer(st *stage) {
	s := st.session()
	st.loser.sever()
	st.winner.sever()
	newcomer := st.joins()
	st.dies(st.loser)
	st.powerful(newcomer)
	st.ask(s, newcomer)
	st.ask(s, st.loser)
}

// wordOfMost: most of the others of a worker that is cut off could not take over from it.
func wordOfMost(st *stage) {
	others := []*worker{st.joins(), st.joins()}
	st.settle()
	s := st.session()
	for _, wk := range others {
		wk.sever()
	}
	st.lost()
	st.taken(s)
	st.ask(s, st.loser)
}

// recordOfTheForgotten: a session is opened without a control plane. Its worker is cut
// off for so long that clients are told elsewhere that there is no such session. Then the
// worker is back, and records it.
func recordOfTheForgotten(st *stage) {
	st.loser.sever()
	st.winner.sever()
	st.dies(st.loser)
	st.dies(st.winner)
	s := st.session()
	st.winner.heal()
	st.eventually("the session is given up", func(ctx context.Context) error {
		resp, err := st.call(ctx, s, st.winner, "counter_increment", "{}")
		if err == nil && resp.Status != http.StatusNotFound {
			err = &client.StatusError{Response: resp}
		}
		return err
	})
	st.back()
	st.eventually("the session is to be recorded", func(context.Context) error {
		for _, op := range st.all() {
			if op.Session == s.key && op.Method == claim && op.Outcome != unknown && op.Outcome != "NOT_ALIVE" {
				return nil
			}
		}
		return errors.New("nobody has claimed it")
	})
}
