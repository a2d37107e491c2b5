package control

import (
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// clock is the machine's, in the hands of a test.
type clock struct{ now time.Duration }

const testOutage = 10 * time.Minute

var testTerms = terms{ttl: bubbleTTL, outage: testOutage}

// newClocked returns an authority at 100 s since boot.
func newClocked() (*Authority, *clock) {
	c := &clock{100 * time.Second}
	return newAuthority(func() time.Duration { return c.now }), c
}

// renew extends at the pace of renewals, each answered late, for a time.
func (c *clock) renew(a *Authority, late, d time.Duration) {
	for end := c.now + d; c.now < end; c.now = min(end, c.now+bubbleTTL/6) {
		a.extend(7, c.now-late, testTerms)
	}
}

// want checks what the authority permits.
func (c *clock) want(t *testing.T, a *Authority, what string, holds, contact, power, servingOn bool) {
	t.Helper()
	if got := a.Holds(7); got != holds {
		t.Errorf("%s, at %v: holds %v, want %v", what, c.now, got, holds)
	}
	if got := a.Contact(); got != contact {
		t.Errorf("%s, at %v: contact %v, want %v", what, c.now, got, contact)
	}
	if got := a.Power(7); got != power {
		t.Errorf("%s, at %v: power %v, want %v", what, c.now, got, power)
	}
	if got := a.ServingOn(); got != servingOn {
		t.Errorf("%s, at %v: serving on %v, want %v", what, c.now, got, servingOn)
	}
}

func TestPowerComesOnceContactHasLastedForALeaseAndAHalfSinceItsFirstAnswer(t *testing.T) {
	a, c := newClocked()
	c.want(t, a, "before it registered", false, false, false, false)
	began, late := c.now, 700*time.Millisecond
	c.renew(a, late, 9*time.Second-1)
	c.want(t, a, "a moment before", true, true, false, false)
	c.now++
	c.want(t, a, "then", true, true, true, false)
	if c.now-began != bubbleTTL*3/2 {
		t.Fatalf("the test looked at %v", c.now-began)
	}
	if a.Power(6) || a.Power(0) {
		t.Error("power of another incarnation")
	}
	deadline := c.now - 9*time.Second + 8*time.Second - late + bubbleTTL*3/4
	c.now = deadline - 1
	c.want(t, a, "before contact lapses", true, true, true, false)
	c.now = deadline
	c.want(t, a, "when it has", false, false, false, false)
}

func TestPowerStartsAnewWhenContactLapsedForAnInstant(t *testing.T) {
	for instant, want := range map[time.Duration]bool{-1: true, 0: false} {
		a, c := newClocked()
		c.renew(a, 0, 20*time.Second)
		c.now = 119*time.Second + bubbleTTL*3/4 + instant // the last one was sent at 119 s
		a.extend(7, c.now, testTerms)
		c.want(t, a, "extended", true, true, want, false)
		regained := c.now
		c.renew(a, 0, 9*time.Second-1)
		c.want(t, a, "8.9 s later", true, true, want, false)
		c.now = regained + 9*time.Second
		c.want(t, a, "9 s later", true, true, true, false)
	}
}

func TestAnAnswerThatComesAfterTheTimeItGivesRegainsNoContact(t *testing.T) {
	a, c := newClocked()
	a.extend(7, c.now-bubbleTTL*3/4, testTerms)
	c.want(t, a, "a late answer", false, false, false, false)
	c.now += 10 * time.Second
	a.extend(7, c.now, testTerms)
	c.want(t, a, "the next one", true, true, false, false)
	if got := a.Lapses(); got != 0 {
		t.Errorf("got %d lapses of an authority that never was", got)
	}
}

func TestAnotherIncarnationBeginsWithoutPowerAndPermit(t *testing.T) {
	a, c := newClocked()
	c.renew(a, 0, 20*time.Second)
	a.allow(7, 119*time.Second+bubbleTTL*3/4, c.now+10*time.Second)
	a.extend(8, c.now, testTerms)
	if a.Holds(7) || a.Power(7) || a.Power(8) || !a.Holds(8) {
		t.Errorf("holds %v and %v, power %v and %v; want contact of the new incarnation and nothing else", a.Holds(7), a.Holds(8), a.Power(7), a.Power(8))
	}
	c.now += bubbleTTL * 3 / 4
	if a.Holds(8) {
		t.Error("the new incarnation has the permit of the old one")
	}
}

func TestPowerThatIsRenouncedComesBackAsAfterALapse(t *testing.T) {
	a, c := newClocked()
	c.renew(a, 0, 20*time.Second)
	c.want(t, a, "before", true, true, true, false)
	a.Renounce()
	c.want(t, a, "renounced", true, true, false, false)
	c.renew(a, 0, 9*time.Second-1)
	c.want(t, a, "8.9 s later", true, true, false, false)
	c.now++
	c.want(t, a, "9 s later", true, true, true, false)
}

func TestAPermitLastsUntilItsTimeAndNoLongerThanTheOutageMay(t *testing.T) {
	a, c := newClocked()
	a.extend(7, c.now, testTerms)
	deadline := c.now + bubbleTTL*3/4
	a.allow(7, deadline, deadline+time.Second)
	c.want(t, a, "contact and permit", true, true, false, false)
	c.now = deadline
	c.want(t, a, "permit", true, false, false, true)
	a.allow(7, deadline, deadline+time.Second/2) // of an answer that was overtaken
	c.now = deadline + time.Second - 1
	c.want(t, a, "before its end", true, false, false, true)
	c.now++
	c.want(t, a, "at its end", false, false, false, false)
	a.allow(7, deadline, c.now)
	c.want(t, a, "another that is over", false, false, false, false)
	a.allow(7, deadline, deadline+testOutage+time.Hour)
	c.now = deadline + testOutage - 1
	c.want(t, a, "for as long as it may", true, false, false, true)
	c.now++
	c.want(t, a, "for longer", false, false, false, false)
	a.allow(7, deadline, c.now+time.Hour)
	c.want(t, a, "and another", false, false, false, false)
	a.extend(7, c.now, terms{ttl: bubbleTTL})
	a.allow(7, c.now+bubbleTTL*3/4, c.now+time.Hour)
	c.now += bubbleTTL * 3 / 4
	c.want(t, a, "where nobody may serve on", false, false, false, false)
}

func TestAPermitIsForWhatTheOthersWereAskedAbout(t *testing.T) {
	a, c := newClocked()
	a.extend(7, c.now, testTerms)
	first := c.now + bubbleTTL*3/4
	c.now += time.Second
	a.extend(7, c.now, testTerms)
	a.allow(7, first, first+time.Hour)
	a.allow(8, c.now+bubbleTTL*3/4, first+time.Hour)
	c.now += bubbleTTL * 3 / 4
	c.want(t, a, "asked before contact went on, or for another", false, false, false, false)
}

func TestAPermitEndsWithWhatItRestsOn(t *testing.T) {
	for what, end := range map[string]func(a *Authority){
		"forfeited":                func(a *Authority) { a.forfeit() },
		"revoked":                  func(a *Authority) { a.revoke() },
		"registered anew":          func(a *Authority) { a.extend(8, a.now()-bubbleTTL, testTerms) },
		"its lease was gone early": func(a *Authority) { a.extend(7, a.now(), testTerms); a.suspend() },
	} {
		a, c := newClocked()
		a.extend(7, c.now, testTerms)
		deadline := c.now + bubbleTTL*3/4
		a.allow(7, deadline, deadline+time.Minute)
		c.now = deadline + time.Second
		c.want(t, a, what+": before", true, false, false, true)
		end(a)
		c.want(t, a, what, false, false, false, false)
		if what == "its lease was gone early" {
			a.allow(7, c.now, c.now+time.Minute)
			c.want(t, a, what+", and then allowed", false, false, false, false)
		}
	}
}

func TestALeaseThatIsGoneAsWasToBeExpectedEndsNoPermit(t *testing.T) {
	a, c := newClocked()
	a.extend(7, c.now, testTerms)
	deadline := c.now + bubbleTTL*3/4
	a.allow(7, deadline, deadline+time.Minute)
	c.now = deadline + 30*time.Second
	a.suspend()
	c.want(t, a, "while it re-adopts", true, false, false, true)
	a.extend(7, c.now, testTerms)
	c.want(t, a, "re-adopted", true, true, false, false)
	a.suspend()
	c.want(t, a, "gone while there should be contact", false, false, false, false)
	a.extend(7, c.now, testTerms)
	c.want(t, a, "re-adopted again", true, true, false, false)
}

// testimonyOf returns what Witness says, with an age of -1 for never.
func testimonyOf(a *Authority) (age, in time.Duration) {
	answer := a.Witness()
	if answer.GetPowerAge() == nil {
		return -1, answer.GetPowerIn().AsDuration()
	}
	return answer.GetPowerAge().AsDuration(), answer.GetPowerIn().AsDuration()
}

func TestAWitnessSaysWhenItHadPowerAndWhenItHasNext(t *testing.T) {
	a, c := newClocked()
	wantTimes := func(what string, age, in time.Duration) {
		t.Helper()
		if gotAge, gotIn := testimonyOf(a); gotAge != age || gotIn != in {
			t.Errorf("%s, at %v: got power %v ago and in %v, want %v and %v", what, c.now, gotAge, gotIn, age, in)
		}
	}
	const hold = bubbleTTL * 3 / 2
	if got := a.Witness().GetIncarnation(); got != 0 {
		t.Errorf("before it registered: got incarnation %d, want 0, which nobody listed", got)
	}
	a.extend(7, c.now, testTerms)
	wantTimes("just registered", -1, hold)
	c.renew(a, 0, 4*time.Second)
	wantTimes("with contact for 4 s", -1, hold-4*time.Second)
	c.renew(a, 0, hold-4*time.Second)
	wantTimes("with power", 0, 0)
	c.renew(a, 0, 11*time.Second)
	wantTimes("still", 0, 0)
	c.now += 3 * time.Second // 4 s after the last renewal was sent
	wantTimes("renounced", 0, hold)
	c.now += time.Second / 4
	wantTimes("renounced again", time.Second/4, hold)
	c.now += 20 * time.Second
	wantTimes("without contact", 20*time.Second+time.Second/4, hold)
	a.extend(7, c.now, testTerms)
	wantTimes("with contact again", 20*time.Second+time.Second/4, hold)
	c.now += time.Second
	a.revoke()
	a.extend(8, c.now, testTerms)
	wantTimes("as another incarnation", 21*time.Second+time.Second/4, hold)
	if got := a.Witness().GetIncarnation(); got != 8 {
		t.Errorf("got incarnation %d, want 8", got)
	}
}

func TestAWitnessKeepsItsPowerWhileTheControlPlaneAnswersIt(t *testing.T) {
	a, c := newClocked()
	c.renew(a, 0, 20*time.Second)
	c.now = 119*time.Second + bubbleTTL/3 // after the last renewal was sent
	if age, in := testimonyOf(a); age != 0 || in != 0 || !a.Power(7) {
		t.Errorf("2 s after the last renewal: got power %v ago and in %v, and power %v; want it to keep its power", age, in, a.Power(7))
	}
	c.now++
	if _, in := testimonyOf(a); in != bubbleTTL*3/2 || a.Power(7) || !a.Contact() {
		t.Errorf("later: got power in %v, power %v and contact %v; want contact without power", in, a.Power(7), a.Contact())
	}
}

func TestAPowerThatLapsedByTheClockWasThereUntilContactEnded(t *testing.T) {
	a, c := newClocked()
	c.renew(a, 0, 20*time.Second)
	c.now = 119*time.Second + bubbleTTL*3/4 + time.Minute
	if age, _ := testimonyOf(a); age != time.Minute {
		t.Errorf("got power %v ago, want %v, when contact lapsed unasked", age, time.Minute)
	}
	// Nor does what happens afterwards make anybody forget it.
	a.extend(7, c.now-bubbleTTL, testTerms)
	a.suspend()
	a.Renounce()
	if age, _ := testimonyOf(a); age != time.Minute {
		t.Errorf("later: got power %v ago, want %v", age, time.Minute)
	}
}

// TestAWitnessIsTrueWhateverHappens: no power is ever there that a witness denied.
func TestAWitnessIsTrueWhateverHappens(t *testing.T) {
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 1))
		a, c := newClocked()
		incarnation := int64(1)
		lastPower, promised := time.Duration(-1), time.Duration(0)
		for range 400 {
			for steps := random.IntN(8); steps >= 0; steps-- {
				c.now += time.Duration(random.Int64N(int64(bubbleTTL / 8)))
				if a.Power(a.Incarnation()) {
					if c.now < promised {
						t.Fatalf("seed %d: power at %v, a witness said that there is none before %v", seed, c.now, promised)
					}
					lastPower = c.now
				}
			}
			switch random.IntN(12) {
			case 0:
				a.Renounce()
			case 1:
				a.suspend()
			case 2:
				if random.IntN(10) == 0 {
					a.revoke()
					incarnation++
				}
			case 3:
				a.allow(a.Incarnation(), a.state.Load().deadline, c.now+bubbleTTL)
			case 4, 5:
				age, in := testimonyOf(a)
				if lastPower >= 0 && (age < 0 || c.now-age < lastPower) {
					t.Fatalf("seed %d: at %v a witness had power %v ago, and did at %v", seed, c.now, age, lastPower)
				}
				promised = max(promised, c.now+in)
			default:
				a.extend(incarnation, c.now-time.Duration(random.Int64N(int64(bubbleTTL/8))), testTerms)
			}
		}
	}
}

func TestAWitnessIsTrueForThoseWhoLookAtTheSameTime(t *testing.T) {
	a := newAuthority(sinceBoot)
	short := terms{ttl: 6 * time.Millisecond, outage: time.Hour}
	stop := make(chan struct{})
	var renewing, looking sync.WaitGroup
	renewing.Go(func() {
		for n := 1; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			if n%5000 == 0 {
				a.suspend()
			}
			a.extend(7, sinceBoot(), short)
		}
	})
	for range 2 {
		looking.Go(func() {
			for n := range 100 {
				asked := sinceBoot()
				if n%10 == 0 {
					a.Renounce()
				}
				promised := asked + a.Witness().GetPowerIn().AsDuration()
				for {
					power := a.Power(7)
					if now := sinceBoot(); now >= promised {
						break
					} else if power {
						t.Errorf("power %v before it was promised to be there", promised-now)
						return
					}
				}
				a.Holds(7)
				a.Lapses()
			}
		})
	}
	looking.Wait()
	close(stop)
	renewing.Wait()
}

func TestAwaitGivesALapseATwelfthOfTheTTL(t *testing.T) {
	const moment = bubbleTTL / 12
	for what, test := range map[string]struct {
		before func(a *Authority) // what has happened when contact lapsed
		back   time.Duration      // when authority comes back after that; 0 if it does not
		how    func(a *Authority) // it does
		asked  time.Duration      // when it is asked for after that
		waits  time.Duration      // for how long
		want   bool
	}{
		"a permit in time":            {back: moment - 1, how: func(a *Authority) { a.allow(7, a.state.Load().deadline, a.now()+time.Second) }, waits: moment - 1, want: true},
		"contact in time":             {back: moment - 1, how: func(a *Authority) { a.extend(7, a.now(), testTerms) }, waits: moment - 1, want: true},
		"nothing":                     {waits: moment},
		"asked late":                  {asked: moment - 1, waits: 1},
		"asked too late":              {asked: moment},
		"another incarnation":         {back: moment / 2, how: func(a *Authority) { a.extend(8, a.now(), testTerms) }, waits: moment / 2},
		"revoked":                     {back: moment / 2, how: func(a *Authority) { a.revoke() }, waits: moment / 2},
		"power renounced":             {back: moment / 2, how: func(a *Authority) { a.Renounce() }, waits: moment},
		"a lease that was gone early": {before: func(a *Authority) { a.extend(7, a.now(), testTerms); a.suspend() }, waits: moment},
		"a permit that was forfeited": {before: func(a *Authority) { a.allow(7, a.state.Load().deadline, a.now()+time.Second); a.forfeit() }, waits: moment},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				a := newAuthority(func() time.Duration { return time.Hour + time.Since(began) })
				a.extend(7, a.now(), testTerms)
				time.Sleep(bubbleTTL * 3 / 4)
				if test.before != nil {
					test.before(a)
				}
				if test.how != nil {
					defer time.AfterFunc(test.back, func() { test.how(a) }).Stop()
				}
				time.Sleep(test.asked)
				asked := time.Now()
				if got, waited := a.Await(7), time.Since(asked); got != test.want || waited != test.waits {
					t.Errorf("got %v after %v, want %v after %v", got, waited, test.want, test.waits)
				}
			})
		})
	}
}

func TestAwaitWaitsForNothingThatIsThereOrNotToCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		a := newAuthority(func() time.Duration { return time.Hour + time.Since(began) })
		if a.Await(0) || a.Await(7) {
			t.Error("authority before any lease")
		}
		a.extend(7, a.now(), testTerms)
		if !a.Await(7) || a.Await(6) || a.Await(0) {
			t.Error("want authority of this incarnation alone")
		}
		if waited := time.Since(began); waited != 0 {
			t.Errorf("waited for %v", waited)
		}
	})
}

func TestEachLapseCountsOnce(t *testing.T) {
	a, c := newClocked()
	want := func(what string, n int) {
		t.Helper()
		for range 2 {
			if got := a.Lapses(); got != n {
				t.Errorf("%s: got %d lapses, want %d", what, got, n)
			}
		}
	}
	want("before it registered", 0)
	a.extend(7, c.now, testTerms)
	deadline := c.now + bubbleTTL*3/4
	want("with contact", 0)
	a.allow(7, deadline, deadline+time.Second)
	c.now = deadline
	want("with a permit", 0)
	c.now += time.Second
	want("when that is over", 1)
	a.allow(7, deadline, c.now+time.Second)
	want("with another", 1)
	a.forfeit()
	want("forfeited", 2)
	a.extend(7, c.now, testTerms)
	c.now += time.Minute
	a.extend(7, c.now, testTerms)
	want("with contact again, after a lapse that nobody looked at", 3)
	a.suspend()
	a.extend(7, c.now, testTerms)
	want("re-adopted", 4)
	a.revoke()
	c.now += time.Minute
	want("after it left", 4)
}
