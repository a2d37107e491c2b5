package model

import (
	"reflect"
	"testing"
)

// mutant is the rules without one of them, a world in which that matters and what
// has to be found in it.
type mutant struct {
	name string
	weak weakness
	in   world
	want property
}

// atOnce are two workers whose messages take no time, but those of the calls that are
// named.
func atOnce(can abilities) world {
	can.take = true
	return world{times: short, begin: two, can: can, limits: limits{workers: 2, incarnations: 2, epochs: 4}}
}

// threes are three workers, of whom C renews with every tick.
func threes(begin func(*machine) state, can abilities) world {
	can.take, can.permit = true, true
	return world{times: short, begin: begin, can: can, limits: limits{workers: 3, incarnations: 2, epochs: 3, punctual: 1 << workerC}}
}

// outages are two workers and as many replicas as given.
func outages(replicas int, can abilities) world {
	w := atOnce(can)
	w.limits.replicas, w.limits.slack, w.limits.epochs = replicas, 2, 2
	return w
}

// with returns the world with other times, in which a clock may go wrong so often.
func (w world) with(t times, drift uint8) world {
	w.times, w.drift = t, drift
	return w
}

// from returns the world with another beginning.
func (w world) from(begin func(*machine) state) world {
	w.begin = begin
	return w
}

// after returns the world in which something has happened first.
func (w world) after(first []event) world {
	w.first = first
	return w
}

// noMargin and shortHold are times that do not allow for a clock that goes wrong.
var (
	noMargin  = times{ttl: 3, margin: 0, h: 5, v: 3, smax: 4, drift: 1}
	shortHold = times{ttl: 3, margin: 1, h: 2, v: 2, smax: 4}
)

// again are the times of a world in which clocks go wrong more than once.
var again = times{ttl: 3, margin: 1, h: 4, v: 2, smax: 8, drift: 1, calm: 6}

// lateReclaim is a reclaim from A that is under way while A comes back.
var lateReclaim = join(short.rests(workerB, workerC), by(workerB, takeResolved, takeSent), by(workerA, renewed))

// absentee is C, which A has dropped from its list while it was dead, and which is
// back.
var absentee = join(short.rests(workerA, workerB), by(workerA, livingSent), by(workerC, renewed))

// returned is A that was dead for long.
var returned = join(short.rests(), short.rests(), short.rests(), short.rests(), by(workerA, renewed))

// lateAlone is a list without anybody, which A sent while B was dead and forgot
// about when B was recorded after all; then B is condemned.
var lateAlone = join(short.rests(workerA, workerC), by(workerA, livingSent, peersSent, peersArrived, peersAnswered, condemned))

// lateOther is a list with C, sent before C was condemned and registered anew, long
// enough ago to have power again.
var lateOther = join(by(workerA, peersSent), short.rests(workerA), []event{{kind: condemned, w: workerA, who: idOf(workerC, 1)}},
	by(workerC, refused, registered), short.rests(workerC), []event{{kind: ticked}}, by(workerC, renewed))

// copied is A with a copy of its registration under way.
func copied(m *machine) state {
	s := m.friends(2)
	s.workers[workerA].register = 1
	return s
}

// unknown is A that has heard of B and has not recorded it, and C.
func unknown(m *machine) state {
	s := stranger(m)
	s.workers[workerA].known = 0
	s.incarnations[idOf(workerA, 1)].list = 0
	return s
}

var mutants = []mutant{
	// The fence.
	{"no fence", weakness{noFence: true}, atOnce(abilities{}), s1},
	{"fence from the reply", weakness{fenceFromReply: true}, atOnce(abilities{apartRenew: true}), s1},
	{"no margin, and drift", weakness{}, atOnce(abilities{}).with(noMargin, 1), s1},

	// Leases and incarnations.
	{"re-adoption ignores condemned", weakness{readoptCondemned: true}, atOnce(abilities{}), s3},
	{"H18: re-adoption only while the key is gone", weakness{readoptNeedsAbsence: true}, outages(1, abilities{apartRenew: true, outage: true, reboot: true}), p5},
	{"re-adoption leaves incarnations/w as it is", weakness{readoptLeavesRevision: true}, threes(strangerToA, abilities{apartTake: true}).after(lateReclaim), s1},
	{"re-adoption leaves incarnations/w as it is, and an answer needs no power", weakness{readoptLeavesRevision: true, answerNeedsNoPower: true}, atOnce(abilities{permit: true, apartTake: true}), s1},
	{"re-adoption leaves incarnations/w as it is, and a reader needs no power", weakness{readoptLeavesRevision: true, readNeedsNoPower: true}, atOnce(abilities{permit: true, apartTake: true}), s1},
	{"H4: only what was taken is dropped", weakness{keepTheOthers: true}, atOnce(abilities{condemn: true}), s3},
	{"a late registration is carried out", weakness{registerBlindly: true}, atOnce(abilities{permit: true}).from(copied), s1},
	{"H12: leaving before stopping", weakness{revokeWhileServing: true}, atOnce(abilities{leave: true}), s1},
	{"a running worker is forgotten", weakness{forgetTheRunning: true}, atOnce(abilities{permit: true, forget: true}), s1},
	{"H10: condemned is collected first", weakness{collectInTwo: true}, atOnce(abilities{collect: true}), s3},
	{"the opener is collected soon", weakness{collectSoon: true}, atOnce(abilities{permit: true, claim: true, notFound: true, collect: true}).from(opened), s5},

	// Reclaim.
	{"no dead-owner guard", weakness{aliveOwnersLose: true}, atOnce(abilities{}), s1},
	{"no power", weakness{takeWithoutPower: true}, atOnce(abilities{permit: true}), s1},
	{"condemned in a later transaction", weakness{condemnedLater: true}, atOnce(abilities{}), s3},
	{"no compare-and-swap", weakness{noCompare: true}, atOnce(abilities{handover: true}), s1},
	{"what is read is not believed", weakness{neverReads: true}, atOnce(abilities{apartTake: true, renounce: true}), l1},

	// Who may take.
	{"H3: anybody takes", weakness{anybodyTakes: true}, threes(stranger, abilities{}), s1},
	{"H3b: only the listed take", weakness{onlyListedTake: true}, atOnce(abilities{crash: true, restart: true}), l1},
	{"who is superseded proves it at once, having left", weakness{peerIsOverAtOnce: true}, threes(stranger, abilities{leave: true, renounce: true}), s1},
	{"who is superseded proves it at once, having registered", weakness{peerIsOverAtOnce: true}, threes(stranger, abilities{condemn: true}), s1},
	{"who is superseded proves it at once, forgotten", weakness{peerIsOverAtOnce: true}, threes(stranger, abilities{crash: true, forget: true}), s1},
	{"who is collected proves that nobody answers", weakness{collectedIsOver: true}, threes(stranger, abilities{collect: true}), s1},
	{"an owner is given up too soon", weakness{impatient: true}, threes(stranger, abilities{}), s1},

	{"how long an owner is dead is counted over its return", weakness{countOverReturns: true}, threes(stranger, abilities{}).after(returned), s1},

	// Permits.
	{"H2: only contact is asked for", weakness{contactNow: true}, atOnce(abilities{permit: true}), s2},
	{"without g", weakness{ignoreAge: true}, atOnce(abilities{permit: true}), s2},
	{"H17: without r", weakness{ignoreEarliest: true}, atOnce(abilities{permit: true, renounce: true}), s1},
	{"g is exact, and clocks drift for long", weakness{ageOverOutage: true}, atOnce(abilities{permit: true}).with(again, 2), s2},
	{"H1, H15: power is as quick as a permit is long", weakness{}, atOnce(abilities{permit: true}).with(shortHold, 1), s1},
	{"H14: unreachable means no", weakness{unreachableConfirms: true}, atOnce(abilities{permit: true}), s1},
	{"another incarnation answers", weakness{anyIncarnationConfirms: true}, threes(stranger, abilities{condemn: true}), s1},
	{"a majority answers", weakness{majorityConfirms: true}, threes(three, abilities{renounce: true}), s1},
	{"the list is not recorded", weakness{unrecordedListConfirms: true}, threes(unknown, abilities{}), s1},
	{"a permit counts from the answer", weakness{permitFromAnswer: true}, threes(three, abilities{renounce: true, apartWitness: true}), s1},
	{"permits without end", weakness{serveForever: true}, threes(stranger, abilities{}), s1},

	// Lists.
	{"a newcomer does not end a permit", weakness{growthKeepsPermit: true}, threes(stranger, abilities{peers: true}), s1},
	{"an empty list does not end a permit", weakness{aloneKeepsPermit: true}, threes(stranger, abilities{peers: true, condemn: true}), s1},
	{"recorded before it is asked", weakness{recordedFirst: true}, threes(stranger, abilities{peers: true, apartPeers: true}), s1},
	{"H11: dropped before the record is", weakness{shrinkFirst: true}, threes(three, abilities{peers: true, apartPeers: true}).after(absentee), s1},
	{"a late list is recorded: nobody is on it", weakness{lateLists: true}, threes(stranger, abilities{peers: true, condemn: true, apartPeers: true}).after(lateAlone), s1},
	{"a late list is recorded: somebody is who is not asked", weakness{lateLists: true}, threes(three, abilities{peers: true, condemn: true, apartPeers: true}).after(lateOther), s1},
	{"the condemned record lists", weakness{condemnedRecords: true}, threes(three, abilities{peers: true, leave: true, renounce: true}), s2},

	// Hand-over.
	{"H5: serving until the hand-over is answered", weakness{serveWhileMoving: true}, atOnce(abilities{handover: true}), s1},
	{"a save overwrites a hand-over", weakness{saveBlindly: true}, atOnce(abilities{handover: true}), s4},
	{"H6: a hand-over is decided by a read", weakness{resumeByReading: true}, atOnce(abilities{handover: true}), s1},
	{"H7: a grant is believed", weakness{believeGrants: true}, atOnce(abilities{handover: true}), s1},

	// Beginning and end.
	{"H8: an end deletes", weakness{endDeletes: true}, atOnce(abilities{claim: true, end: true}).from(opened), s5},
	{"H9: 404 without a tombstone", weakness{noTombstone: true}, atOnce(abilities{claim: true, notFound: true}).from(opened), s5},
	{"an unrecorded session is served again before it is claimed", weakness{serveUnclaimed: true}, atOnce(abilities{permit: true, claim: true, notFound: true}).from(opened), s5},
	{"an unrecorded session is served on under the next incarnation", weakness{serveUnclaimed: true}, atOnce(abilities{claim: true, condemn: true, notFound: true}).from(opened), s5},
	{"H16: a claim of another incarnation is forgotten", weakness{forgetClaims: true}, atOnce(abilities{claim: true}).from(opened), s1},

	// The hold.
	{"no hold", weakness{noHold: true}, outages(1, abilities{outage: true, reboot: true}), p5},
	{"H13: another replica vouches", weakness{otherReplicaVouches: true}, outages(2, abilities{outage: true, reboot: true}), p5},
	{"a replica that holds condemns", weakness{heldCondemns: true}, outages(1, abilities{condemn: true, outage: true, reboot: true}), p5},
}

func TestMutantsAreFoundOut(t *testing.T) {
	for _, mu := range mutants {
		t.Run(mu.name, func(t *testing.T) {
			t.Parallel()
			mu.in.limits.only = mu.want
			r := mu.search(mu.weak, 2_000_000)
			if r.violated != mu.want {
				t.Fatalf("got %v; want %v", r, mu.want)
			}
			t.Log(r)
			if mu.weak == (weakness{}) {
				return // its times are what is wrong
			}
			if r := mu.search(weakness{}, r.states/slower); r.violated != fine {
				t.Errorf("with all rules got %v; want nothing", r)
			}
		})
	}
}

func (mu *mutant) search(weak weakness, bound int) result {
	m, start := mu.in.machine(weak)
	if mu.want == l1 {
		return m.explore(start, bound, m.recovers)
	}
	return m.explore(start, bound, nil)
}

func TestEveryWeaknessHasAMutant(t *testing.T) {
	all := reflect.TypeFor[weakness]()
	for i := range all.NumField() {
		found := false
		for _, mu := range mutants {
			found = found || reflect.ValueOf(mu.weak).Field(i).Bool()
		}
		if !found {
			t.Errorf("no mutant has %s, want one", all.Field(i).Name)
		}
	}
}
