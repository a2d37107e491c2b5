package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Witnesses are the other workers, as a worker asks them for their word that it may
// serve on.
type Witnesses interface {
	// Witness asks the worker at address, and waits for no longer than ctx lasts.
	Witness(ctx context.Context, address string, request *leaseholdv1.WitnessRequest) (*leaseholdv1.WitnessResponse, error)
}

// driftPart is the part of a time by which two clocks may differ after it.
const driftPart = 64

// certain is how much of a time by another clock has certainly passed by this one.
func certain(d time.Duration) time.Duration { return d - d/driftPart }

// forever is longer than a permit lasts.
const forever = time.Duration(math.MaxInt64)

// permitFor is for how long a permit lasts at most.
func (t terms) permitFor() time.Duration { return t.ttl / 3 }

// askEvery is how often the others are asked, and askFor how long they have to answer.
func (t terms) askEvery() time.Duration { return t.permitFor() / 4 }
func (t terms) askFor() time.Duration   { return t.permitFor() / 2 }

// askFrom returns when the others begin to be asked, so that a permit is there before
// contact lapses.
func (t *tenure) askFrom() time.Duration { return t.sent + t.terms.ttl/2 }

// serveOn keeps a permit while renewals fail, until ctx ends.
func (c *Client) serveOn(ctx context.Context) {
	a := asker{Client: c}
	timer := time.NewTimer(never)
	defer timer.Stop()
	for {
		t := c.authority.state.Load()
		timer.Reset(a.turn(ctx, t))
		select {
		case <-ctx.Done():
			return
		case <-t.changed:
		case <-timer.C:
		}
	}
}

// asker asks the others in an outage. Only serveOn has to do with it.
type asker struct {
	*Client
	asked    time.Duration // when the last round began
	growth   uint64        // of the list, then
	deadline time.Duration // the end of contact that the outage is counted from
	clean    map[peer]time.Duration
	denied   error         // why the last round gave no permit; nil if it did
	began    time.Duration // when this worker began to serve on; 0 if it does not
	told     time.Duration // when it was logged last that it may not; 0 if it was not yet
}

// turn asks the others if it is time to, and returns when to look again.
func (a *asker) turn(ctx context.Context, t *tenure) time.Duration {
	now := a.authority.now()
	may := t.incarnation != 0 && t.gone == 0 && t.terms.outage > 0
	over := now >= t.deadline+t.terms.outage
	switch {
	case !may:
		a.denied = nil
	case now < t.askFrom():
		a.denied, a.told = nil, 0
	case over:
		a.denied = fmt.Errorf("this worker may do so for %v at most", t.terms.outage)
	}
	a.tell(t, now)
	switch {
	case !may || over:
		return never
	case now < t.askFrom():
		return t.askFrom() - now
	}
	listed, growth, recorded := a.peers.list()
	if next := a.asked + t.terms.askEvery(); growth == a.growth && now < next {
		return next - now
	}
	a.asked, a.growth = now, growth
	if t.deadline != a.deadline {
		a.deadline, a.clean = t.deadline, make(map[peer]time.Duration)
	}
	switch {
	case a.cfg.Witnesses == nil:
		a.denied = errors.New("this worker asks nobody")
	case !recorded:
		a.denied = errors.New("no other worker is recorded that could take over")
	default:
		var until time.Duration
		if until, a.denied = a.ask(ctx, t, listed); a.denied == nil {
			a.peers.allow(growth, t.incarnation, t.deadline, until)
		}
	}
	return max(0, a.asked+t.terms.askEvery()-a.authority.now())
}

// ask asks all of the list at the same time, and returns until when none of them can
// take over; the error says who may, or may have.
func (a *asker) ask(ctx context.Context, t *tenure, listed map[peer]string) (until time.Duration, denied error) {
	ctx, cancel := context.WithTimeout(ctx, t.terms.askFor())
	defer cancel()
	all := slices.SortedFunc(maps.Keys(listed), func(x, y peer) int {
		return cmp.Or(cmp.Compare(x.worker, y.worker), cmp.Compare(x.incarnation, y.incarnation))
	})
	answers := make([]testimony, len(all))
	var group sync.WaitGroup
	for i, one := range all {
		group.Go(func() {
			answers[i].words, answers[i].err = a.cfg.Witnesses.Witness(ctx, listed[one], &leaseholdv1.WitnessRequest{Worker: a.cfg.Worker})
			answers[i].came = a.authority.now()
		})
	}
	group.Wait()
	until = a.asked + certain(t.terms.permitFor())
	denials := 0
	for i, one := range all {
		powerless, err := a.judge(one, answers[i])
		if err != nil {
			denials++
			denied = cmp.Or(denied, fmt.Errorf("worker %s: %w", one.worker, err))
			continue
		}
		until = min(until, powerless)
	}
	if permitFromMajority && denials <= len(all)/2 { // of all workers, this one among them
		denied = nil
	}
	return until, denied
}

// testimony is what came of asking one worker.
type testimony struct {
	words *leaseholdv1.WitnessResponse
	err   error
	came  time.Duration
}

// judge returns until when a worker cannot take over, if it could not have since this
// one's contact was over. No answer is no such word.
//
// A worker's time without power is by its own clock. So that the drift of a long
// outage does not add up, it only has to reach back to when the worker was asked
// before, if it could not have taken over until then.
func (a *asker) judge(one peer, answer testimony) (powerless time.Duration, err error) {
	switch {
	case answer.err != nil && permitUnreachableOK:
		return forever, nil
	case answer.err != nil:
		return 0, fmt.Errorf("did not answer: %w", answer.err)
	case answer.words.GetIncarnation() != one.incarnation:
		return 0, fmt.Errorf("is incarnation %d and not %d any more", answer.words.GetIncarnation(), one.incarnation)
	case permitWithoutWitnessTimes:
		return forever, nil
	}
	base := max(a.deadline, a.clean[one])
	if age := answer.words.GetPowerAge(); age != nil && answer.came-certain(age.AsDuration()) >= base {
		return 0, errors.New("could have taken sessions over since this worker's lease became uncertain")
	}
	a.clean[one] = a.asked
	return a.asked + certain(answer.words.GetPowerIn().AsDuration()), nil
}

// tell logs that the worker begins to serve on, or does so no more, and now and then
// why it does not.
func (a *asker) tell(t *tenure, now time.Duration) {
	on := t.incarnation != 0 && !t.contact(now) && now < t.permit
	switch {
	case on && a.began == 0:
		a.began, a.told = now, 0
		a.cfg.Logger.Warn("serving on without the control plane: no other worker can take over", "for_at_most", t.terms.outage)
	case !on && a.began != 0 && t.contact(now):
		a.cfg.Logger.Warn("the control plane answers again, serving on is over", "lasted", now-a.began)
		a.began = 0
	case !on && a.began != 0:
		a.cfg.Logger.Warn("serving on is over", "lasted", now-a.began, "error", a.denied)
		a.began, a.told = 0, now
	case !on && a.denied != nil && !t.contact(now) && (a.told == 0 || now-a.told > time.Minute):
		a.told = now
		a.cfg.Logger.Warn("not serving on without the control plane", "error", a.denied)
	}
}
