package control

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/session"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// failing returns a replica that answers reclaims with an error, and all else well.
func failing(err error) *fake {
	return &fake{answer: func(_ context.Context, method string) error {
		if method == "Reclaim" {
			return err
		}
		return nil
	}}
}

var errHolding = refused(codes.Unavailable, "HOLDING")

func reclaim(ctx context.Context, b *bubble) error {
	_, err := b.Reclaim(ctx, "g", "s", 7, &leaseholdv1.ResolveResponse{})
	return err
}

func TestAReplicaThatHoldsIsPassedOverForTheOneCallOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		holds, takes := failing(errHolding), &fake{}
		b := newBubble(t, holds, holds, takes)
		b.run(t, func() {
			began := time.Now()
			for range 3 {
				if err := reclaim(t.Context(), b); err != nil {
					t.Errorf("got %v, want it to be granted by the replica that does not hold", err)
				}
			}
			if took := time.Since(began); took != 0 || len(holds.got("Reclaim")) != 6 || len(takes.got("Reclaim")) != 3 {
				t.Errorf("it took %v and %d and %d requests, want no time, 6 and 3", took, len(holds.got("Reclaim")), len(takes.got("Reclaim")))
			}
			time.Sleep(10 * bubbleTTL)
			if n := len(takes.got("Renew")); n != 0 {
				t.Errorf("%d renewals went to another replica, want none: the first one is well", n)
			}
		})
	})
}

func TestAfterAReplicaThatHoldsOneThatDoesNotAnswerIsPassedOverToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		holds, away, takes := failing(errHolding), failing(errAway), &fake{}
		b := newBubble(t, holds, away, takes)
		if err := reclaim(t.Context(), b); err != nil {
			t.Errorf("got %v, want it to be granted by the last replica", err)
		}
		if got := []int{len(holds.got("Reclaim")), len(away.got("Reclaim")), len(takes.got("Reclaim"))}; fmt.Sprint(got) != "[1 1 1]" {
			t.Errorf("the replicas got %v requests, want 1 each", got)
		}
		if got := b.pick().address; got != "a" {
			t.Errorf("other calls go to replica %s, want the first", got)
		}
	})
}

func TestWhenAllReplicasHoldNothingIsCertainYet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, c := failing(errHolding), failing(errHolding)
		b := newBubble(t, a, c)
		began := time.Now()
		if err := reclaim(t.Context(), b); !errors.Is(err, session.ErrUncertain) || time.Since(began) != 0 {
			t.Errorf("got %v after %v, want session.ErrUncertain at once", err, time.Since(began))
		}
		if got := []int{len(a.got("Reclaim")), len(c.got("Reclaim"))}; got[0] != 1 || got[1] != 1 {
			t.Errorf("the replicas got %v requests, want 1 each", got)
		}
	})
}

func TestAnUnknownOutcomeStaysUnknownThoughTheOtherReplicasHold(t *testing.T) {
	for _, replicas := range [][]*fake{{failing(errAway), failing(errHolding)}, {failing(errHolding), failing(errAway)}} {
		synctest.Test(t, func(t *testing.T) {
			b := newBubble(t, replicas...)
			ctx, cancel := context.WithTimeout(t.Context(), bubbleTTL)
			defer cancel()
			began := time.Now()
			if err := reclaim(ctx, b); !errors.Is(err, session.ErrUnavailable) || errors.Is(err, session.ErrUncertain) {
				t.Errorf("got %v, want session.ErrUnavailable: it may have been carried out", err)
			}
			requests := len(replicas[0].got("Reclaim")) + len(replicas[1].got("Reclaim"))
			if took := time.Since(began); took != bubbleTTL || requests > 200 {
				t.Errorf("gave up after %v and %d requests, want %v, with pauses", took, requests, bubbleTTL)
			}
		})
	}
}

func TestVerdictsOnATakeover(t *testing.T) {
	for reason, want := range map[string]error{"OWNER_UNCERTAIN": session.ErrUncertain, "OWNER_ALIVE": session.ErrRefused, "NOT_ALIVE": session.ErrRefused} {
		synctest.Test(t, func(t *testing.T) {
			f := failing(refused(codes.FailedPrecondition, reason))
			b := newBubble(t, f)
			if err := reclaim(t.Context(), b); !errors.Is(err, want) || len(f.got("Reclaim")) != 1 {
				t.Errorf("%s: got %v after %d requests, want %v after 1", reason, err, len(f.got("Reclaim")), want)
			}
		})
	}
}

func TestAFullStoreIsAVerdictUnlessAnAttemptBeforeMayHaveBeenCarriedOut(t *testing.T) {
	errStoreFull := refused(codes.ResourceExhausted, "STORE_FULL")
	for what, test := range map[string]struct {
		replicas []*fake
		want     error
		took     time.Duration
	}{
		"at once":                     {[]*fake{failing(errStoreFull), failing(errStoreFull)}, session.ErrNoRoom, 0},
		"after one that holds":        {[]*fake{failing(errHolding), failing(errStoreFull)}, session.ErrNoRoom, 0},
		"after one without an answer": {[]*fake{failing(errAway), failing(errStoreFull)}, session.ErrUnavailable, bubbleTTL},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := newBubble(t, test.replicas...)
			ctx, cancel := context.WithTimeout(t.Context(), bubbleTTL)
			defer cancel()
			began := time.Now()
			if err := reclaim(ctx, b); !errors.Is(err, test.want) || time.Since(began) != test.took {
				t.Errorf("%s: got %v after %v, want %v after %v", what, err, time.Since(began), test.want, test.took)
			}
		})
	}
}

func TestTheControlPlaneIsAwayAThirdOfATTLAfterItsLastAnswer(t *testing.T) {
	for what, answer := range map[string]error{"an answer": nil, "a refusal": refused(codes.FailedPrecondition, "OWNER_ALIVE"), "a hold": errHolding} {
		synctest.Test(t, func(t *testing.T) {
			var away atomic.Bool
			f := &fake{answer: func(_ context.Context, method string) error {
				if away.Load() && method != "Reclaim" {
					return errAway
				}
				if method == "Reclaim" {
					return answer
				}
				return nil
			}}
			b := newBubble(t, f)
			b.run(t, func() {
				for range 100 {
					if time.Sleep(bubbleTTL / 11); b.Away() {
						t.Fatal("away though it answers")
					}
				}
				away.Store(true)
				last := f.last("Renew").at
				time.Sleep(time.Until(last.Add(bubbleTTL / 3)))
				if b.Away() {
					t.Errorf("%v after the last answer: away", bubbleTTL/3)
				}
				if time.Sleep(1 * time.Nanosecond); !b.Away() {
					t.Errorf("later: not away")
				}
				if reclaim(t.Context(), b); b.Away() {
					t.Errorf("away though there is %s", what)
				}
			})
		})
	}
}

func TestAWorkerThatNeverReachedTheControlPlaneKnowsThatItIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, &fake{answer: func(context.Context, string) error { return errAway }})
		b.run(t, func() {
			if b.Away() {
				t.Error("away from the start")
			}
			if time.Sleep(firstAttempt + 1); !b.Away() {
				t.Errorf("not away after %v", firstAttempt)
			}
		})
	})
}

func TestAStateIsRecalledWhenNobodyRegistersTheWorkerInTime(t *testing.T) {
	for what, test := range map[string]struct {
		answers time.Duration // when the control plane begins to
		want    int
	}{
		"there at once": {},
		"there in time": {answers: recallAfter - time.Second},
		"there later":   {answers: recallAfter + time.Second, want: 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			f := &fake{}
			f.answer = func(context.Context, string) error {
				if time.Since(began) < test.answers {
					return errAway
				}
				return nil
			}
			b := newBubble(t, f)
			recalls := 0
			b.cfg.Recall = func() int64 {
				if recalls++; time.Since(began) != recallAfter || b.Authority().Incarnation() != 0 {
					t.Errorf("%s: recalled after %v as incarnation %d, want %v and none", what, time.Since(began), b.Authority().Incarnation(), recallAfter)
				}
				return 5
			}
			b.run(t, func() {
				time.Sleep(time.Minute)
				synctest.Wait()
				if recalls != test.want || b.applied.Load() != int64(5*test.want) || !b.Authority().Holds(7) {
					t.Errorf("%s: recalled %d times, applied revision %d, authority %v; want %d, %d and it", what, recalls, b.applied.Load(), b.Authority().Holds(7), test.want, 5*test.want)
				}
			})
		})
	}
}

// states is a stream of a watch.
type states struct {
	grpc.ClientStream
	ctx  context.Context
	sent chan *leaseholdv1.WatchResponse
	got  []*leaseholdv1.WatchRequest
}

func (s *states) Send(r *leaseholdv1.WatchRequest) error {
	s.got = append(s.got, r)
	return nil
}

func (s *states) Recv() (*leaseholdv1.WatchResponse, error) {
	select {
	case r := <-s.sent:
		return r, nil
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
}

// watched is a replica that has a watch.
type watched struct {
	fake
	stream states
}

func (w *watched) Watch(ctx context.Context, _ ...grpc.CallOption) (grpc.BidiStreamingClient[leaseholdv1.WatchRequest, leaseholdv1.WatchResponse], error) {
	w.stream.ctx = ctx
	return &w.stream, nil
}

func TestAStateOlderThanTheRecalledOneIsAppliedOnlyIfThatIsOfAnotherStore(t *testing.T) {
	// The incarnation is 7. A store in which it comes to be has nothing newer.
	for _, test := range []struct {
		recalled int64
		states   []int64
		want     string
	}{
		{5, []int64{4, 5}, "[5]"},
		{6, []int64{5, 7}, "[7]"},
		{7, []int64{6, 7}, "[7]"},
		{8, []int64{7, 6}, "[7]"},
		{100, []int64{7, 9}, "[7 9]"},
	} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			w := &watched{}
			w.stream.sent = make(chan *leaseholdv1.WatchResponse, 10)
			w.answer = func(context.Context, string) error {
				if time.Since(began) < recallAfter+time.Second {
					return errAway
				}
				return nil
			}
			b := newBubble(t, &w.fake)
			b.replicas[0].api = w
			var applied []int64
			b.cfg.Recall = func() int64 { return test.recalled }
			b.cfg.Apply = func(s *config.State) ([]config.Rejection, error) {
				applied = append(applied, s.Revision)
				if s.TTL != bubbleTTL {
					t.Errorf("got a state with TTL %v, want %v", s.TTL, bubbleTTL)
				}
				return nil, nil
			}
			b.run(t, func() {
				for _, revision := range test.states {
					w.stream.sent <- &leaseholdv1.WatchResponse{Revision: revision, Complete: true, Members: &leaseholdv1.MemberList{Members: listOf(peerB)}}
				}
				time.Sleep(time.Minute)
				synctest.Wait()
				if got := fmt.Sprint(applied); got != test.want {
					t.Errorf("recalled revision %d, told %v: applied %s, want %s", test.recalled, test.states, got, test.want)
				}
				if _, ok := b.listed()[peerB]; !ok {
					t.Error("the list of the other workers does not follow the watch")
				}
			})
		})
	}
}

func TestThatAWorkerDrainsIsSaidWithEveryRegistration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lost atomic.Int32
		f := &fake{}
		f.answer = func(_ context.Context, method string) error {
			switch {
			case method == "Renew" && lost.Load() > 0:
				return refused(codes.NotFound, "LEASE_LOST")
			case method == "Readopt" && lost.Add(-1) == 1:
				return refused(codes.FailedPrecondition, "CONDEMNED")
			}
			return nil
		}
		b := newBubble(t, f)
		b.run(t, func() {
			if err := b.SetDraining(t.Context(), true); err != nil || !b.Draining() {
				t.Errorf("got %v, draining %v; want it to be noted", err, b.Draining())
			}
			lost.Store(1)
			time.Sleep(bubbleTTL / 3) // re-adopted
			if err := b.SetDraining(t.Context(), false); err != nil || b.Draining() {
				t.Errorf("got %v, draining %v; want it to be noted", err, b.Draining())
			}
			lost.Store(2)
			time.Sleep(bubbleTTL) // re-adopted in vain, and registered anew
		})
		var said []bool
		for _, info := range f.infos {
			said = append(said, info.GetDraining())
		}
		if len(said) < 4 || fmt.Sprint(said[:4]) != "[false true false false]" {
			t.Errorf("it said that it drains at registrations: %v, want false, true, false, false", said)
		}
		if b.cfg.Info.GetDraining() {
			t.Error("what the caller said of the worker was changed")
		}
	})
}

// recorder is a replica that notes what it is asked.
type recorder struct {
	leaseholdv1.UnimplementedControlServiceServer
	requests []proto.Message
}

func (r *recorder) Reclaim(_ context.Context, request *leaseholdv1.ReclaimRequest) (*leaseholdv1.ReclaimResponse, error) {
	r.requests = append(r.requests, request)
	return &leaseholdv1.ReclaimResponse{Revision: 12}, nil
}

func (r *recorder) Resolve(_ context.Context, request *leaseholdv1.ResolveRequest) (*leaseholdv1.ResolveResponse, error) {
	r.requests = append(r.requests, request)
	return &leaseholdv1.ResolveResponse{Revision: 11}, nil
}

func (r *recorder) Save(_ context.Context, request *leaseholdv1.SaveRequest) (*leaseholdv1.SaveResponse, error) {
	r.requests = append(r.requests, request)
	return &leaseholdv1.SaveResponse{Revision: 13}, nil
}

func (r *recorder) HandOver(_ context.Context, request *leaseholdv1.HandOverRequest) (*leaseholdv1.HandOverResponse, error) {
	r.requests = append(r.requests, request)
	return &leaseholdv1.HandOverResponse{Revision: 14}, nil
}

func TestWhatIsAskedOfRecordsIsAskedInThisWorkersName(t *testing.T) {
	r := &recorder{}
	c := newClient(t, nil, start(t, r))
	resolved, err := c.Resolve(t.Context(), "g", "s", &leaseholdv1.Peer{Worker: "b", Incarnation: 1}, true)
	if err != nil {
		t.Fatal(err)
	}
	resolved.OwnerSuperseded, resolved.IncarnationRevision = true, 3
	reclaimed, err := c.Reclaim(t.Context(), "g", "s", 7, resolved)
	if err != nil || reclaimed.GetRevision() != 12 {
		t.Errorf("Reclaim: got revision %d, %v; want 12", reclaimed.GetRevision(), err)
	}
	if revision, err := c.Save(t.Context(), "g", "s", 12, &leaseholdv1.SessionRecord{}); err != nil || revision != 13 {
		t.Errorf("Save: got revision %d, %v; want 13", revision, err)
	}
	handed, err := c.HandOver(t.Context(), &leaseholdv1.HandOverRequest{Gateway: "g", Session: "s", Revision: 13, Incarnation: 7, To: &leaseholdv1.Peer{Worker: "b", Incarnation: 1}})
	if err != nil || handed.GetRevision() != 14 {
		t.Errorf("HandOver: got revision %d, %v; want 14", handed.GetRevision(), err)
	}
	want := []proto.Message{
		&leaseholdv1.ResolveRequest{Gateway: "g", Session: "s", MeasureOwner: true, OpenedBy: &leaseholdv1.Peer{Worker: "b", Incarnation: 1}},
		&leaseholdv1.ReclaimRequest{Gateway: "g", Session: "s", Revision: 11, IncarnationRevision: 3, Worker: me.worker, Incarnation: 7, SupersededOnly: true},
		&leaseholdv1.SaveRequest{Gateway: "g", Session: "s", Revision: 12, Record: &leaseholdv1.SessionRecord{}},
		&leaseholdv1.HandOverRequest{Gateway: "g", Session: "s", Revision: 13, Worker: me.worker, Incarnation: 7, To: &leaseholdv1.Peer{Worker: "b", Incarnation: 1}},
	}
	for i, request := range r.requests {
		if i >= len(want) || !proto.Equal(request, want[i]) {
			t.Errorf("request %d: got %v, want %v", i, request, want[min(i, len(want)-1)])
		}
	}
}
