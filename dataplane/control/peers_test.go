package control

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// me is the worker of a bubble.
var me = peer{"0123456789abcdef", 7}

// listOf returns a list of members with me in it, each at its own address.
func listOf(others ...peer) []*leaseholdv1.Member {
	var all []*leaseholdv1.Member
	for _, one := range slices.Concat(others, []peer{me}) {
		all = append(all, &leaseholdv1.Member{Worker: one.worker, Incarnation: one.incarnation,
			Info: &leaseholdv1.WorkerInfo{PeerAddress: addressOf(one)}})
	}
	return all
}

func addressOf(one peer) string { return fmt.Sprintf("%s:%d", one.worker, one.incarnation) }

// book is the record of a worker's list, kept as the control plane keeps it.
type book struct {
	mu     sync.Mutex // guards what follows
	number int64
	list   map[peer]bool
	over   map[peer]bool // condemned or superseded
	gone   []*leaseholdv1.Peer
	holds  bool   // condemns nobody
	wrote  func() // after each change, with the book locked
}

func newBook() *book { return &book{list: map[peer]bool{}, over: map[peer]bool{}} }

// carryOut does what a request wants, now.
func (b *book) carryOut(r *leaseholdv1.RecordPeersRequest) (*leaseholdv1.RecordPeersResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if r.GetNumber() < b.number {
		return nil, refused(codes.Aborted, "STALE")
	}
	b.number = r.GetNumber()
	for _, p := range r.GetGone() {
		if !b.holds {
			b.over[peer{p.GetWorker(), p.GetIncarnation()}] = true
		}
	}
	b.gone = append(b.gone, r.GetGone()...)
	maps.DeleteFunc(b.list, func(one peer, _ bool) bool { return b.over[one] })
	for _, p := range r.GetPeers() {
		b.list[peer{p.GetWorker(), p.GetIncarnation()}] = true
	}
	if b.wrote != nil {
		b.wrote()
	}
	resp := &leaseholdv1.RecordPeersResponse{}
	for one := range b.list {
		resp.Peers = append(resp.Peers, one.message())
	}
	return resp, nil
}

func (b *book) record(_ context.Context, r *leaseholdv1.RecordPeersRequest) (*leaseholdv1.RecordPeersResponse, error) {
	return b.carryOut(r)
}

// end makes a worker one that can never take anything over.
func (b *book) end(one peer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.over[one] = true
}

// wantLists checks what is listed and what is recorded.
func wantLists(t *testing.T, what string, b *bubble, book *book, want ...peer) {
	t.Helper()
	listed, _, recorded := b.peers.list()
	book.mu.Lock()
	defer book.mu.Unlock()
	wanted := map[peer]bool{}
	for _, one := range want {
		wanted[one] = true
	}
	if !sameKeys(listed, wanted) || !sameKeys(book.list, wanted) || recorded != (len(want) > 0) {
		t.Errorf("%s: listed %v, recorded %v and known to be: %v; want both to be %v", what, listed, book.list, recorded, want)
	}
	for one, address := range listed {
		if address != addressOf(one) {
			t.Errorf("%s: %v is listed at %q", what, one, address)
		}
	}
}

var (
	peerB  = peer{"b", 1}
	peerB2 = peer{"b", 9}
	peerC  = peer{"c", 2}
)

func TestTheListFollowsWhoIsAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		book := newBook()
		f := &fake{record: book.record}
		b := newBubble(t, f)
		b.run(t, func() {
			see := func(others ...peer) {
				b.peers.see(listOf(others...))
				synctest.Wait()
			}
			wantLists(t, "at first", b, book)
			see()
			if n := len(f.got("RecordPeers")); n != 0 {
				t.Errorf("alone from the start: got %d requests, want none: that is what a registration says", n)
			}
			see(peerB, peerC)
			wantLists(t, "two came", b, book, peerB, peerC)
			for range 3 {
				see(peerC, peerB)
			}
			time.Sleep(time.Hour)
			if n := len(f.got("RecordPeers")); n != 1 {
				t.Errorf("got %d requests for one change, want 1", n)
			}
			see(peerC)
			wantLists(t, "one is dead, and may come back", b, book, peerB, peerC)
			see(peerB2, peerC)
			wantLists(t, "it registered anew, which is not recorded yet", b, book, peerB, peerB2, peerC)
			book.end(peerB)
			time.Sleep(bubbleTTL * 5 / 4)
			synctest.Wait()
			wantLists(t, "it can take nothing over any more", b, book, peerB2, peerC)
			book.end(peerB2)
			book.end(peerC)
			see()
			wantLists(t, "all are over", b, book)
			n := len(f.got("RecordPeers"))
			time.Sleep(time.Hour)
			if got := len(f.got("RecordPeers")) - n; got != 0 {
				t.Errorf("got %d requests in an hour in which nothing happened, want none", got)
			}
		})
	})
}

func TestAWorkerThatIsGoneAndNotOverIsAskedForEveryTTLOrSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		book := newBook()
		book.holds = true
		f := &fake{record: book.record}
		b := newBubble(t, f)
		b.run(t, func() {
			b.peers.see(listOf(peerB))
			synctest.Wait()
			b.peers.see(listOf())
			synctest.Wait()
			n := len(f.got("RecordPeers"))
			time.Sleep(10 * bubbleTTL)
			synctest.Wait()
			if got := len(f.got("RecordPeers")) - n; got < 7 || got > 14 {
				t.Errorf("got %d requests in 10 TTLs, want about one each", got)
			}
		})
	})
}

func TestAListOfAMomentWithoutThisWorkerSaysNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		book := newBook()
		f := &fake{record: book.record}
		b := newBubble(t, f)
		b.run(t, func() {
			b.peers.see(listOf(peerB))
			synctest.Wait()
			n := len(f.got("RecordPeers"))
			for _, list := range [][]*leaseholdv1.Member{nil, listOf(peerC)[:1], {{Worker: me.worker, Incarnation: me.incarnation - 1}}} {
				b.peers.see(list)
				synctest.Wait()
			}
			wantLists(t, "later", b, book, peerB)
			if got := len(f.got("RecordPeers")) - n; got != 0 {
				t.Errorf("got %d requests, want none", got)
			}
		})
	})
}

func TestARegistrationBeginsWithAnEmptyList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		book := newBook()
		var over atomic.Bool
		var b *bubble
		f := &fake{record: book.record, outage: testOutage}
		f.answer = func(_ context.Context, method string) error {
			switch {
			case method == "Register" && len(b.listed()) > 0:
				t.Errorf("before it is registered: listed %v, want nobody", b.listed())
			case method == "Renew" && over.Load():
				return refused(codes.NotFound, "LEASE_LOST")
			case method == "Readopt" && over.Swap(false):
				book.mu.Lock()
				defer book.mu.Unlock()
				book.number, book.list = 0, map[peer]bool{} // of the next registration
				return refused(codes.FailedPrecondition, "CONDEMNED")
			}
			return nil
		}
		b = newBubble(t, f)
		b.run(t, func() {
			b.peers.see(listOf(peerB))
			synctest.Wait()
			wantLists(t, "before", b, book, peerB)
			over.Store(true)
			time.Sleep(bubbleTTL / 6)
			synctest.Wait()
			wantLists(t, "registered anew", b, book)
			b.peers.see(listOf(peerC))
			synctest.Wait()
			wantLists(t, "told of another", b, book, peerC)
		})
	})
}

// TestWhatIsRecordedIsListedWhateverHappensToRequestsAndAnswers: each is lost, late or
// doubled at times, in a world that changes all the time.
func TestWhatIsRecordedIsListedWhateverHappensToRequestsAndAnswers(t *testing.T) {
	for seed := range uint64(100) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 2))
			var mu sync.Mutex // guards random and late
			chance := func(n int) bool {
				mu.Lock()
				defer mu.Unlock()
				return random.IntN(n) == 0
			}
			var late []*leaseholdv1.RecordPeersRequest
			book := newBook()
			f := &fake{outage: testOutage}
			b := newBubble(t, f)
			book.wrote = func() {
				listed, _, recorded := b.peers.list()
				for one := range book.list {
					if _, ok := listed[one]; !ok {
						t.Errorf("seed %d: %v is recorded and not listed", seed, one)
					}
				}
				if len(book.list) == 0 && recorded {
					t.Errorf("seed %d: nobody is recorded, and somebody is believed to be", seed)
				}
			}
			f.record = func(ctx context.Context, r *leaseholdv1.RecordPeersRequest) (*leaseholdv1.RecordPeersResponse, error) {
				if chance(3) {
					mu.Lock()
					late = append(late, r)
					mu.Unlock()
				}
				if chance(4) {
					return nil, errAway
				}
				resp, err := book.carryOut(r)
				if chance(4) {
					return nil, errAway
				}
				return resp, err
			}
			b.run(t, func() {
				alive := map[peer]bool{}
				for range 300 {
					mu.Lock()
					one := peer{string(rune('a' + random.IntN(4))), int64(1 + random.IntN(6))}
					wait := time.Duration(random.Int64N(int64(bubbleTTL / 2)))
					mu.Unlock()
					book.mu.Lock()
					over := book.over[one]
					book.mu.Unlock()
					switch {
					case alive[one]:
						delete(alive, one)
						if chance(2) {
							book.end(one)
						}
					case !over:
						alive[one] = true
					}
					b.peers.see(listOf(slices.Collect(maps.Keys(alive))...))
					time.Sleep(wait)
					mu.Lock()
					again := late[:0:0]
					if len(late) > 3 {
						again, late = late[:1], late[1:]
					}
					mu.Unlock()
					for _, r := range again {
						book.carryOut(r)
					}
				}
				clear(alive)
				b.peers.see(listOf(peerB))
				time.Sleep(20 * bubbleTTL)
				listed, _, _ := b.peers.list()
				if _, ok := listed[peerB]; !ok {
					t.Errorf("seed %d: at rest: listed %v, want %v among them", seed, listed, peerB)
				}
				if !sameKeys(listed, book.list) {
					t.Errorf("seed %d: at rest: listed %v and recorded %v", seed, listed, book.list)
				}
			})
		})
	}
}

func TestWhoeverIsNewIsListedBeforeItIsRecordedAndThePermitForfeited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		book := newBook()
		f := &fake{outage: testOutage}
		b := newBubble(t, f)
		permit := func() time.Duration { return b.authority.state.Load().permit - b.authority.now() }
		f.record = func(_ context.Context, r *leaseholdv1.RecordPeersRequest) (*leaseholdv1.RecordPeersResponse, error) {
			listed, _, _ := b.peers.list()
			for _, p := range r.GetPeers() {
				one := peer{p.GetWorker(), p.GetIncarnation()}
				if _, ok := listed[one]; !ok {
					t.Errorf("%v is not listed when it is to be recorded", one)
				}
				if left := permit(); left > 0 && !book.list[one] {
					t.Errorf("there is a permit for %v when %v is to be recorded", left, one)
				}
			}
			return book.carryOut(r)
		}
		b.run(t, func() {
			b.peers.see(listOf(peerB))
			synctest.Wait()
			allow := func() {
				t.Helper()
				_, growth, _ := b.peers.list()
				b.peers.allow(growth, 7, b.authority.state.Load().deadline, b.authority.now()+time.Minute)
				if permit() != time.Minute {
					t.Errorf("got a permit for %v, want %v", permit(), time.Minute)
				}
			}
			allow()
			b.peers.see(listOf(peerB, peerC))
			synctest.Wait()
			wantLists(t, "another came", b, book, peerB, peerC)
			allow()
			_, growth, _ := b.peers.list()
			book.end(peerC)
			b.peers.see(listOf(peerB))
			synctest.Wait()
			if permit() != time.Minute {
				t.Errorf("one left: got a permit for %v, want it untouched", permit())
			}
			b.peers.see(listOf(peerB, peerB2))
			synctest.Wait()
			b.peers.allow(growth, 7, b.authority.state.Load().deadline, b.authority.now()+time.Minute)
			if left := permit(); left > 0 {
				t.Errorf("got a permit for %v for which not everybody was asked", left)
			}
		})
	})
}

func TestThePermitIsForfeitedBeforeAWorkerMayBeRecordedAsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		book := newBook()
		book.holds = true
		f := &fake{outage: testOutage}
		b := newBubble(t, f)
		var lost atomic.Bool
		allow := func() bool {
			_, growth, _ := b.peers.list()
			b.peers.allow(growth, 7, b.authority.state.Load().deadline, b.authority.now()+bubbleTTL)
			return b.authority.state.Load().permit > b.authority.now()
		}
		f.record = func(_ context.Context, r *leaseholdv1.RecordPeersRequest) (*leaseholdv1.RecordPeersResponse, error) {
			if len(r.GetPeers()) == 0 && allow() {
				t.Error("there is a permit when nobody may be recorded")
			}
			resp, err := book.carryOut(r)
			if lost.Load() {
				err = errAway
			}
			return resp, err
		}
		b.run(t, func() {
			b.peers.see(listOf(peerB))
			synctest.Wait()
			if !allow() {
				t.Error("no permit with somebody recorded")
			}
			lost.Store(true)
			b.peers.see(listOf())
			time.Sleep(10 * bubbleTTL)
			if allow() {
				t.Error("there is a permit though nobody knows who is recorded")
			}
			lost.Store(false)
			time.Sleep(time.Second)
			if !allow() {
				t.Error("no permit though the other one, which may come back, is recorded still")
			}
			book.end(peerB)
			time.Sleep(2 * bubbleTTL)
			if allow() {
				t.Error("there is a permit of nobody")
			}
			b.peers.see(listOf(peerC))
			synctest.Wait()
			if !allow() {
				t.Error("no permit with somebody recorded again")
			}
		})
	})
}

func TestTheListIsAskedForUntilItIsRecordedWhileThereIsContact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var away, gone atomic.Bool
		away.Store(true)
		book := newBook()
		f := &fake{record: book.record}
		f.answer = func(_ context.Context, method string) error {
			if gone.Load() || away.Load() && method == "RecordPeers" {
				return errAway
			}
			return nil
		}
		b := newBubble(t, f)
		b.run(t, func() {
			b.peers.see(listOf(peerB))
			time.Sleep(time.Minute)
			requests := f.got("RecordPeers")
			if len(requests) < 110 || len(requests) > 260 {
				t.Errorf("got %d requests in a minute, want one every 0.25 to 0.5 s", len(requests))
			}
			gone.Store(true)
			time.Sleep(bubbleTTL)
			n := len(f.got("RecordPeers"))
			time.Sleep(time.Minute)
			if got := len(f.got("RecordPeers")) - n; got != 0 {
				t.Errorf("got %d requests without contact, want none", got)
			}
			gone.Store(false)
			away.Store(false)
			time.Sleep(bubbleTTL / 2)
			wantLists(t, "with contact again", b, book, peerB)
		})
	})
}

func TestAControlPlaneThatKeepsNoListsIsServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{outage: testOutage}
		b := newBubble(t, f)
		b.run(t, func() {
			b.peers.see(listOf(peerB))
			time.Sleep(10 * bubbleTTL)
			if n := len(f.got("RecordPeers")); n < 7 || n > 14 {
				t.Errorf("got %d requests in 10 TTLs, want about one each", n)
			}
			if _, _, recorded := b.peers.list(); recorded {
				t.Error("the list is believed to be recorded")
			}
			if !b.Authority().Holds(7) || len(f.got("Register")) != 1 {
				t.Errorf("authority %v after %d registrations, want it after 1", b.Authority().Holds(7), len(f.got("Register")))
			}
		})
	})
}

func TestMoreWorkersThanCanBeRecordedLeaveTheListAsItWas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		book := newBook()
		f := &fake{record: book.record}
		b := newBubble(t, f)
		b.run(t, func() {
			var many []peer
			for i := range maxPeers + 1 {
				many = append(many, peer{fmt.Sprintf("w%04d", i), 1})
			}
			b.peers.see(listOf(many[:maxPeers]...))
			synctest.Wait()
			wantLists(t, "as many as may be", b, book, many[:maxPeers]...)
			b.peers.see(listOf(many...))
			synctest.Wait()
			wantLists(t, "one more", b, book, many[:maxPeers]...)
			b.peers.see(listOf(many[1:]...))
			synctest.Wait()
			if _, ok := b.listed()[many[maxPeers]]; !ok {
				t.Error("one fewer: the last one is not listed")
			}
		})
	})
}

func (b *bubble) listed() map[peer]string {
	listed, _, _ := b.peers.list()
	return listed
}

func TestAWorkerThatWasDeadForLongIsCondemnedByOneThatMayTakeOver(t *testing.T) {
	const hold = bubbleTTL * 3 / 2
	condemned := func(t *testing.T, run func(b *bubble, away *atomic.Bool)) (after time.Duration, book *book) {
		book = newBook()
		synctest.Test(t, func(t *testing.T) {
			var away atomic.Bool
			var last atomic.Pointer[time.Time] // when the worker was seen alive last, or what it takes for that
			now := func() *time.Time { now := time.Now(); return &now }
			f := &fake{}
			f.answer = func(context.Context, string) error {
				if away.Load() {
					return errAway
				}
				return nil
			}
			b := newBubble(t, f)
			f.record = func(_ context.Context, r *leaseholdv1.RecordPeersRequest) (*leaseholdv1.RecordPeersResponse, error) {
				if len(r.GetGone()) > 0 && after == 0 {
					after = time.Since(*last.Load())
				}
				return book.carryOut(r)
			}
			b.run(t, func() {
				b.peers.see(listOf(peerB, peerC))
				time.Sleep(time.Minute)
				b.peers.see(listOf(peerC))
				last.Store(now())
				time.Sleep(2*hold - time.Second)
				if run != nil {
					run(b, &away)
					last.Store(now())
				}
				time.Sleep(2*hold + 2*bubbleTTL)
				synctest.Wait()
				listed, _, _ := b.peers.list()
				if _, ok := listed[peerB]; ok || len(listed) != 1 {
					t.Errorf("in the end: listed %v, want %v alone", listed, peerC)
				}
			})
		})
		return after, book
	}
	for what, run := range map[string]func(b *bubble, away *atomic.Bool){
		"seen dead all the time": nil,
		"it came back": func(b *bubble, _ *atomic.Bool) {
			b.peers.see(listOf(peerB, peerC))
			synctest.Wait()
			b.peers.see(listOf(peerC))
		},
		"the watch began anew": func(b *bubble, _ *atomic.Bool) { b.peers.watching() },
		"power was renounced":  func(b *bubble, _ *atomic.Bool) { b.Authority().Renounce() },
		"contact lapsed": func(b *bubble, away *atomic.Bool) {
			away.Store(true)
			time.Sleep(bubbleTTL)
			away.Store(false)
			for !b.Authority().Contact() {
				time.Sleep(time.Millisecond)
			}
		},
	} {
		after, book := condemned(t, run)
		if after < 2*hold || after > 2*hold+bubbleTTL*5/4+time.Second {
			t.Errorf("%s: asked for after %v, want %v and a TTL at most", what, after, 2*hold)
		}
		for _, p := range book.gone {
			if p.GetWorker() != peerB.worker {
				t.Errorf("%s: %v was asked for", what, p)
			}
		}
	}
}

func TestAnAnswerThatComesWhenPowerIsLostIsAskedForAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		book := newBook()
		f := &fake{}
		b := newBubble(t, f)
		asked := 0
		f.record = func(_ context.Context, r *leaseholdv1.RecordPeersRequest) (*leaseholdv1.RecordPeersResponse, error) {
			if len(r.GetGone()) > 0 {
				asked++
				b.Authority().Renounce()
			}
			return book.carryOut(r)
		}
		b.run(t, func() {
			b.peers.see(listOf(peerB))
			time.Sleep(time.Minute)
			b.peers.see(listOf())
			time.Sleep(time.Minute)
			synctest.Wait()
			wantLists(t, "in the end", b, book)
			requests := f.got("RecordPeers")
			if asked != 1 || len(requests) < 3 || requests[len(requests)-1].at.Sub(requests[len(requests)-2].at) > time.Second {
				t.Errorf("asked for %d times, requests %v; want once, and the list once more soon after", asked, requests)
			}
		})
	})
}

func TestARequestThatHangsIsGivenUpAndGoesToTheNextReplica(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		book := newBook()
		hangs := &fake{record: func(ctx context.Context, _ *leaseholdv1.RecordPeersRequest) (*leaseholdv1.RecordPeersResponse, error) {
			<-ctx.Done()
			return nil, status.FromContextError(ctx.Err()).Err()
		}}
		b := newBubble(t, hangs, &fake{record: book.record})
		b.run(t, func() {
			b.peers.see(listOf(peerB))
			time.Sleep(attemptTimeout + time.Second)
			wantLists(t, "at the next one", b, book, peerB)
		})
	})
}
