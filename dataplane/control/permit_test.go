package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// others are the other workers, by address.
type others struct {
	mu    sync.Mutex // guards what follows
	words map[string]func(ctx context.Context) (*leaseholdv1.WitnessResponse, error)
	asked map[string][]time.Time
	wait  []time.Duration // for how long each question would have waited
}

func newOthers() *others {
	return &others{words: map[string]func(context.Context) (*leaseholdv1.WitnessResponse, error){}, asked: map[string][]time.Time{}}
}

// Witness implements Witnesses.
func (o *others) Witness(ctx context.Context, address string, r *leaseholdv1.WitnessRequest) (*leaseholdv1.WitnessResponse, error) {
	o.mu.Lock()
	o.asked[address] = append(o.asked[address], time.Now())
	deadline, _ := ctx.Deadline()
	o.wait = append(o.wait, time.Until(deadline))
	say := o.words[address]
	o.mu.Unlock()
	if r.GetWorker() != me.worker {
		return nil, fmt.Errorf("asked by %q", r.GetWorker())
	}
	if say == nil {
		return nil, errors.New("no route to host")
	}
	return say(ctx)
}

func (o *others) set(one peer, say func(ctx context.Context) (*leaseholdv1.WitnessResponse, error)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.words[addressOf(one)] = say
}

// questions returns when a worker was asked.
func (o *others) questions(one peer) []time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.asked[addressOf(one)])
}

// waits returns for how long the questions would have waited.
func (o *others) waits() []time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.wait)
}

// powerless is the word of a worker that never had power.
func powerless(one peer) func(context.Context) (*leaseholdv1.WitnessResponse, error) {
	return func(context.Context) (*leaseholdv1.WitnessResponse, error) {
		return &leaseholdv1.WitnessResponse{Incarnation: one.incarnation, PowerIn: durationpb.New(bubbleTTL * 3 / 2)}, nil
	}
}

// outage is a worker in a world without a control plane, from a minute after its start
// on.
type outage struct {
	*bubble
	others *others
	book   *book
	fake   *fake
	away   atomic.Bool
	log    safeBuffer
	began  time.Time     // when the last acknowledged renewal was sent
	lease  time.Duration // that, on the clock of the authority
}

// safeBuffer is a buffer for many goroutines.
type safeBuffer struct {
	mu     sync.Mutex // guards buffer
	buffer bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *safeBuffer) count(what string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Count(b.buffer.String(), what)
}

const contactEnds = bubbleTTL * 3 / 4 // after the last acknowledged renewal was sent

func newOutage(t *testing.T) *outage {
	o := &outage{others: newOthers(), book: newBook()}
	o.fake = &fake{record: o.book.record, outage: testOutage}
	o.fake.answer = func(context.Context, string) error {
		if o.away.Load() {
			return errAway
		}
		return nil
	}
	o.bubble = newBubble(t, o.fake)
	o.cfg.Witnesses = o.others
	o.cfg.Logger = hclog.New(&hclog.LoggerOptions{Output: &o.log})
	return o
}

// begin runs the worker for a minute with these others, and then without the control
// plane while f runs.
func (o *outage) begin(t *testing.T, f func(), all ...peer) {
	t.Helper()
	o.run(t, func() {
		o.peers.see(listOf(all...))
		time.Sleep(time.Minute + bubbleTTL/12)
		o.away.Store(true)
		o.began = o.fake.last("Renew").at
		o.lease = o.authority.state.Load().sent
		f()
		o.away.Store(false) // so that what waits for it ends
	})
}

// until sleeps until a time after the last acknowledged renewal was sent.
func (o *outage) until(d time.Duration) { time.Sleep(time.Until(o.began.Add(d))) }

// holds checks that the authority is there without a gap between two times after
// the last acknowledged renewal was sent.
func (o *outage) holds(t *testing.T, from, to time.Duration) {
	t.Helper()
	for o.until(from); time.Since(o.began) < to; time.Sleep(bubbleTTL / 600) {
		if !o.Authority().Holds(7) {
			t.Errorf("%v after the last renewal: no authority, want it from %v to %v", time.Since(o.began), from, to)
			return
		}
	}
}

func (o *outage) metric(t *testing.T, name string) float64 {
	t.Helper()
	families, err := o.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue() + f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	t.Fatalf("there is no %s", name)
	return 0
}

func TestAWorkerServesOnWithoutAGapWhileNobodyCouldTakeOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutage(t)
		o.others.set(peerB, powerless(peerB))
		o.others.set(peerC, powerless(peerC))
		o.begin(t, func() {
			if got := o.metric(t, "leasehold_worker_power"); got != 1 {
				t.Errorf("before: got power %v, want 1", got)
			}
			o.holds(t, 0, contactEnds+2*time.Minute)
			if !o.Authority().ServingOn() || o.Authority().Contact() || o.Authority().Power(7) || o.Authority().Lapses() != 0 {
				t.Errorf("serving on %v, contact %v, power %v, %d lapses; want it to serve on without any lapse",
					o.Authority().ServingOn(), o.Authority().Contact(), o.Authority().Power(7), o.Authority().Lapses())
			}
			for name, want := range map[string]float64{"leasehold_worker_serving_on": 1, "leasehold_worker_power": 0, "leasehold_worker_fenced": 0, "leasehold_worker_fences_total": 0} {
				if got := o.metric(t, name); got != want {
					t.Errorf("%s: got %v, want %v", name, got, want)
				}
			}
			for _, one := range []peer{peerB, peerC} {
				asked := o.others.questions(one)
				if len(asked) == 0 || asked[0].Sub(o.began) != bubbleTTL/2 {
					t.Fatalf("%v was asked at %v, want first %v after the last renewal", one, asked, bubbleTTL/2)
				}
				for i := range len(asked) - 1 {
					if got := asked[i+1].Sub(asked[i]); got != bubbleTTL/12 {
						t.Fatalf("question %d to %v came %v after the one before, want %v", i+1, one, got, bubbleTTL/12)
					}
				}
			}
			for _, wait := range o.others.waits() {
				if wait != bubbleTTL/6 {
					t.Fatalf("a question may take %v, want %v", wait, bubbleTTL/6)
				}
			}
			if got := o.log.count("serving on without the control plane"); got != 1 {
				t.Errorf("it is logged %d times that it serves on, want once", got)
			}
			o.away.Store(false)
			time.Sleep(bubbleTTL / 3)
			n := len(o.others.questions(peerB))
			for range 100 {
				time.Sleep(bubbleTTL / 60)
				if !o.Authority().Holds(7) || o.Authority().ServingOn() {
					t.Fatal("after the return: no authority by contact")
				}
			}
			if got := len(o.others.questions(peerB)) - n; got != 0 {
				t.Errorf("after the return: asked %d times, want nobody to be asked", got)
			}
			if got := o.log.count("serving on is over"); got != 1 {
				t.Errorf("it is logged %d times that it does so no more, want once", got)
			}
		}, peerB, peerC)
	})
}

func TestNobodyIsAskedWhileRenewalsAreAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutage(t)
		o.others.set(peerB, powerless(peerB))
		o.run(t, func() {
			o.peers.see(listOf(peerB))
			time.Sleep(time.Hour)
			if n := len(o.others.questions(peerB)); n != 0 {
				t.Errorf("asked %d times, want never", n)
			}
		})
	})
}

func TestAWorkerIsFencedUnlessEverybodyOnItsListSaysThatItCouldNotTakeOver(t *testing.T) {
	words := func(r *leaseholdv1.WitnessResponse) func(context.Context) (*leaseholdv1.WitnessResponse, error) {
		return func(context.Context) (*leaseholdv1.WitnessResponse, error) { return r, nil }
	}
	in := durationpb.New(bubbleTTL * 3 / 2)
	for what, test := range map[string]struct {
		say  func(context.Context) (*leaseholdv1.WitnessResponse, error)
		why  string
		list []peer // nil: both
		book func(o *outage)
	}{
		"one does not answer": {why: "did not answer: no route to host"},
		"one hangs":           {say: func(ctx context.Context) (*leaseholdv1.WitnessResponse, error) { <-ctx.Done(); return nil, ctx.Err() }, why: "did not answer"},
		"one is another now":  {say: words(&leaseholdv1.WitnessResponse{Incarnation: 3, PowerIn: in}), why: "is incarnation 3 and not 2"},
		"one is registering":  {say: words(&leaseholdv1.WitnessResponse{PowerIn: in}), why: "is incarnation 0 and not 2"},
		"one has power":       {say: words(&leaseholdv1.WitnessResponse{Incarnation: 2, PowerAge: durationpb.New(0), PowerIn: durationpb.New(0)}), why: "could have taken"},
		"nobody is there":     {list: []peer{}, why: "no other worker is recorded"},
		"the list is not recorded": {say: powerless(peerC), why: "no other worker is recorded",
			book: func(o *outage) { o.fake.record = nil }},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newOutage(t)
				o.others.set(peerB, powerless(peerB))
				o.others.set(peerC, test.say)
				if test.book != nil {
					test.book(o)
				}
				list := test.list
				if list == nil {
					list = []peer{peerB, peerC}
				}
				o.begin(t, func() {
					o.until(contactEnds - 1)
					o.endsAt(t, what, o.began.Add(contactEnds))
					for time.Since(o.began) < 80*time.Second {
						time.Sleep(bubbleTTL / 60)
						if o.Authority().Holds(7) {
							t.Fatalf("%v after the last renewal: authority", time.Since(o.began))
						}
					}
					const line = "not serving on without the control plane"
					before := o.log.count(line)
					if before != 2 || o.log.count(test.why) == 0 {
						t.Errorf("in 80 s it is logged %d times why it does not serve on, %d of them %q; want once a minute", before, o.log.count(test.why), test.why)
					}
					o.away.Store(false)
					time.Sleep(bubbleTTL / 6)
					o.away.Store(true)
					if time.Sleep(bubbleTTL); o.log.count(line) != before+1 {
						t.Errorf("in the next outage, soon after: logged %d times, want once", o.log.count(line)-before)
					}
				}, list...)
			})
		})
	}
}

func TestAWitnessThatHadPowerCountsFromTheEndOfContact(t *testing.T) {
	for late, want := range map[time.Duration]bool{-1: true, 0: false} {
		synctest.Test(t, func(t *testing.T) {
			o := newOutage(t)
			o.begin(t, func() {
				end := o.began.Add(contactEnds + late) // when the other one had power last, by a clock like this one's
				o.others.set(peerB, func(context.Context) (*leaseholdv1.WitnessResponse, error) {
					// Such that all that has certainly passed is as long.
					age := max(0, time.Since(end)) * driftPart / (driftPart - 1)
					return &leaseholdv1.WitnessResponse{Incarnation: 1, PowerAge: durationpb.New(age), PowerIn: durationpb.New(bubbleTTL)}, nil
				})
				o.until(contactEnds + bubbleTTL)
				for range 100 {
					time.Sleep(bubbleTTL / 100)
					if got := o.Authority().ServingOn(); got != want {
						t.Errorf("power until %v after contact: serving on %v, want %v", late, got, want)
					}
				}
			}, peerB)
		})
	}
}

func TestADriftingClockOfAWitnessEndsNoLongOutage(t *testing.T) {
	for _, drift := range []time.Duration{-1, 1} {
		synctest.Test(t, func(t *testing.T) {
			o := newOutage(t)
			o.begin(t, func() {
				o.others.set(peerB, func(context.Context) (*leaseholdv1.WitnessResponse, error) {
					age := time.Since(o.began)
					age += drift * age / (driftPart + 1)
					return &leaseholdv1.WitnessResponse{Incarnation: 1, PowerAge: durationpb.New(age), PowerIn: durationpb.New(bubbleTTL)}, nil
				})
				o.holds(t, 0, contactEnds+testOutage-time.Second)
			}, peerB)
		})
	}
}

func TestAPermitEndsWhenTheFirstWitnessCouldHavePower(t *testing.T) {
	for _, in := range []time.Duration{0, bubbleTTL / 6, bubbleTTL / 4, bubbleTTL} {
		synctest.Test(t, func(t *testing.T) {
			o := newOutage(t)
			o.others.set(peerB, powerless(peerB))
			o.others.set(peerC, powerless(peerC))
			o.begin(t, func() {
				o.until(contactEnds + bubbleTTL)
				asked := time.Now()
				synctest.Wait()
				if last := o.others.questions(peerC); !last[len(last)-1].Equal(asked) {
					t.Fatalf("asked at %v, want %v", last[len(last)-1], asked)
				}
				o.others.set(peerC, func(context.Context) (*leaseholdv1.WitnessResponse, error) {
					return &leaseholdv1.WitnessResponse{Incarnation: 2, PowerIn: durationpb.New(in)}, nil
				})
				time.Sleep(bubbleTTL / 12)
				synctest.Wait()
				o.others.set(peerB, nil)
				// The permit that was there is as good as before.
				lasts := max(bubbleTTL/12+certain(min(in, bubbleTTL/3)), certain(bubbleTTL/3))
				o.endsAt(t, in.String(), asked.Add(lasts))
			}, peerB, peerC)
		})
	}
}

func TestServingOnEndsWhenTheOutageHasLastedForAsLongAsItMay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutage(t)
		o.others.set(peerB, powerless(peerB))
		o.begin(t, func() {
			o.holds(t, contactEnds+testOutage-bubbleTTL, contactEnds+testOutage-time.Second)
			o.endsAt(t, "the outage", o.began.Add(contactEnds+testOutage))
			n := len(o.others.questions(peerB))
			time.Sleep(time.Minute)
			if got := len(o.others.questions(peerB)) - n; got != 0 || o.Authority().Holds(7) {
				t.Errorf("afterwards: asked %d times, authority %v; want nobody to be asked and none", got, o.Authority().Holds(7))
			}
			if o.log.count("serving on is over") != 1 || o.log.count("10m0s at most") == 0 {
				t.Error("it is not logged that and why it serves on no more")
			}
			o.away.Store(false)
			time.Sleep(bubbleTTL / 6)
			if !o.Authority().Contact() {
				t.Error("no contact after the return")
			}
		}, peerB)
	})
}

func TestWhereNobodyMayServeOnNobodyIsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutage(t)
		o.fake.outage = 0
		o.others.set(peerB, powerless(peerB))
		o.begin(t, func() {
			o.until(contactEnds - 1)
			o.endsAt(t, "without serving on", o.began.Add(contactEnds))
			time.Sleep(time.Minute)
			if n := len(o.others.questions(peerB)); n != 0 {
				t.Errorf("asked %d times, want never", n)
			}
		}, peerB)
	})
}

func TestAWorkerServesOnAgainWhenTheOneThatDidNotAnswerDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutage(t)
		o.others.set(peerB, powerless(peerB))
		o.begin(t, func() {
			o.holds(t, 0, time.Minute)
			o.others.set(peerB, nil)
			o.until(time.Minute + bubbleTTL/3)
			if o.Authority().Holds(7) {
				t.Errorf("authority %v after the last answer", bubbleTTL/3)
			}
			o.until(2 * time.Minute)
			o.others.set(peerB, powerless(peerB))
			time.Sleep(bubbleTTL / 12)
			synctest.Wait()
			if !o.Authority().ServingOn() {
				t.Error("it does not serve on though everybody answers again")
			}
			if got := o.log.count("serving on without the control plane: no"); got != 2 {
				t.Errorf("it is logged %d times that it serves on, want twice", got)
			}
		}, peerB)
	})
}

func TestWhoeverComesDuringAnOutageIsAskedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutage(t)
		o.others.set(peerB, powerless(peerB))
		o.others.set(peerC, powerless(peerC))
		o.begin(t, func() {
			o.until(time.Minute + bubbleTTL/30) // in between two rounds
			// Renewals fail, and the watch still has something to say.
			o.peers.see(listOf(peerB, peerC))
			synctest.Wait()
			if asked := o.others.questions(peerC); len(asked) != 1 || !o.Authority().ServingOn() {
				t.Errorf("the new one was asked at %v, serving on %v; want it to be asked at once, and to serve on", asked, o.Authority().ServingOn())
			}
			o.others.set(peerC, nil)
			time.Sleep(bubbleTTL / 3)
			if o.Authority().Holds(7) {
				t.Error("it serves on without the word of the new one")
			}
		}, peerB)
	})
}

func TestALeaseThatIsGoneAfterAnOutageLeavesNoGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutage(t)
		o.others.set(peerB, powerless(peerB))
		var lost atomic.Bool
		answer := o.fake.answer
		o.fake.answer = func(ctx context.Context, method string) error {
			switch {
			case method == "Renew" && lost.Load():
				return refused(codes.NotFound, "LEASE_LOST")
			case method == "Readopt" && lost.Load():
				if err := delay(ctx, firstAttempt-time.Millisecond); err != nil {
					return err
				}
				lost.Store(false)
			}
			return answer(ctx, method)
		}
		o.begin(t, func() {
			o.until(time.Minute)
			lost.Store(true)
			o.away.Store(false)
			o.holds(t, time.Minute, 2*time.Minute)
			if n := len(o.fake.got("Readopt")); n != 1 || !o.Authority().Contact() {
				t.Errorf("%d re-adoptions, contact %v; want 1 and contact", n, o.Authority().Contact())
			}
		}, peerB)
	})
}

// TestNobodyHasPowerWhileAnotherHasAPermit lets two workers lose and regain the control
// plane at random, by clocks that differ as much as is allowed for.
func TestNobodyHasPowerWhileAnotherHasAPermit(t *testing.T) {
	served := atomic.Int64{}
	for seed := range uint64(60) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 3))
			drift := []int64{-1, 0, 1}[random.IntN(3)]
			began := time.Now()
			// The other worker's time goes by so much faster or slower.
			other := newAuthority(func() time.Duration {
				passed := time.Since(began)
				return 2*time.Hour + passed + time.Duration(drift*int64(passed)/(2*driftPart+1))
			})
			o := newOutage(t)
			var cut atomic.Bool // the two from each other
			o.others.set(peerB, func(ctx context.Context) (*leaseholdv1.WitnessResponse, error) {
				if cut.Load() {
					return nil, errors.New("cut off")
				}
				answer := other.Witness()
				if err := delay(ctx, time.Duration(seed)*10*time.Millisecond); err != nil {
					return nil, err
				}
				return answer, nil
			})
			var otherAway atomic.Bool
			o.run(t, func() {
				o.peers.see(listOf(peerB))
				for at := 0; at < 6000; at++ {
					if at%60 == 0 && !otherAway.Load() {
						other.extend(peerB.incarnation, other.now(), testTerms)
					}
					if random.IntN(400) == 0 {
						o.away.Store(!o.away.Load())
					}
					if random.IntN(400) == 0 {
						otherAway.Store(!otherAway.Load())
					}
					if random.IntN(800) == 0 {
						cut.Store(!cut.Load())
					}
					time.Sleep(bubbleTTL / 360)
					state := o.Authority().state.Load()
					if o.Authority().ServingOn() {
						served.Add(1)
					}
					// Before the lease is over nobody can take over with power either.
					if o.authority.now() >= state.sent+bubbleTTL && other.Power(peerB.incarnation) && o.Authority().Holds(7) {
						t.Fatalf("seed %d, after %v: one has power and the other serves on", seed, time.Since(began))
					}
				}
				o.away.Store(false)
			})
		})
	}
	if served.Load() < 1000 {
		t.Errorf("served on in %d of all moments, which shows little", served.Load())
	}
}

// TestTwoWorkersThatLoseTheControlPlaneTogetherServeOnTogether: each is the witness of
// the other.
func TestTwoWorkersThatLoseTheControlPlaneTogetherServeOnTogether(t *testing.T) {
	for _, apart := range []time.Duration{0, bubbleTTL / 12, bubbleTTL / 6} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			other := newAuthority(func() time.Duration { return 2*time.Hour + time.Since(began) })
			o := newOutage(t)
			o.others.set(peerB, func(context.Context) (*leaseholdv1.WitnessResponse, error) { return other.Witness(), nil })
			stop := make(chan struct{})
			var renewing sync.WaitGroup
			renewing.Go(func() { // until it loses the control plane as well
				for !o.away.Load() {
					time.Sleep(apart + 1)
					other.extend(peerB.incarnation, other.now(), testTerms)
					time.Sleep(bubbleTTL/6 - apart - 1)
				}
				<-stop
			})
			o.begin(t, func() {
				if !other.Power(peerB.incarnation) || !o.Authority().Power(7) {
					t.Fatal("one of them has no power when it begins")
				}
				o.holds(t, 0, time.Minute)
				close(stop)
			}, peerB)
			renewing.Wait()
		})
	}
}
