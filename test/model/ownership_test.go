package model

import (
	"math/rand/v2"
	"testing"
)

// complete are the worlds that are searched completely: two workers, with the
// messages apart that concern each other.
var complete = map[string]world{
	"reclaims and questions are late": {
		times: short, begin: two, limits: limits{workers: 2, incarnations: 2, epochs: 3, lemmas: true},
		can: abilities{take: true, permit: true, renounce: true, apartTake: true, apartWitness: true},
	},
	"renewals are late": {
		times: short, begin: two, limits: limits{workers: 2, incarnations: 1, epochs: 2, lemmas: true},
		can: abilities{take: true, permit: true, renounce: true, apartRenew: true},
	},
	"a clock goes wrong": {
		times: wrong, drift: 1, begin: two, limits: limits{workers: 2, incarnations: 1, epochs: 3, lemmas: true},
		can: abilities{take: true, permit: true, renounce: true},
	},
	"a session was opened in an outage": {
		times: short, begin: opened, limits: limits{workers: 2, incarnations: 2, epochs: 2, lemmas: true},
		can: abilities{take: true, permit: true, claim: true, notFound: true, condemn: true},
	},
	"etcd goes away for long": {
		times: short, begin: two, limits: limits{workers: 2, incarnations: 1, epochs: 2, replicas: 1, slack: 2, lemmas: true},
		can: abilities{take: true, permit: true, condemn: true, outage: true, reboot: true},
	},
	"etcd goes away for a moment": {
		times: short, begin: two, limits: limits{workers: 2, incarnations: 1, epochs: 2, replicas: 1},
		can: abilities{take: true, condemn: true, blip: true},
	},
}

func TestTwoWorkersKeepTheRulesWhateverHappens(t *testing.T) {
	for name, w := range complete {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if r := explores(t, w, 5_000_000, nil); !r.complete {
				t.Errorf("got %v, want all states", r)
			}
		})
	}
}

// partly are worlds that are too large for that.
var partly = map[string]world{
	"two workers, everything": {
		times: short, begin: two, limits: limits{workers: 2, incarnations: 3, epochs: 5, lemmas: true},
		can: abilities{
			take: true, permit: true, renounce: true, peers: true, condemn: true, handover: true, end: true,
			crash: true, restart: true, leave: true, forget: true, succeed: true, collect: true,
			apartRenew: true, apartTake: true, apartPeers: true, apartWitness: true, apartCondemn: true, apartRegister: true,
		},
	},
	"two workers, lists": {
		times: short, begin: two, limits: limits{workers: 2, incarnations: 2, epochs: 3, lemmas: true},
		can: abilities{take: true, permit: true, renounce: true, peers: true, condemn: true, apartPeers: true, apartCondemn: true},
	},
	"two workers, hand-overs": {
		times: short, begin: two, limits: limits{workers: 2, incarnations: 2, epochs: 5, lemmas: true},
		can: abilities{take: true, permit: true, renounce: true, handover: true, end: true, leave: true},
	},
	"two replicas": {
		times: short, begin: two, limits: limits{workers: 2, incarnations: 2, epochs: 2, replicas: 2, slack: 2, lemmas: true},
		can: abilities{take: true, condemn: true, outage: true, reboot: true},
	},
	"three workers": {
		times: short, begin: three, limits: limits{workers: 3, incarnations: 2, epochs: 3, lemmas: true},
		can: abilities{take: true, permit: true, renounce: true, handover: true, crash: true},
	},
	"a stranger": {
		times: short, begin: stranger, limits: limits{workers: 3, incarnations: 2, epochs: 3, punctual: 1 << workerC, lemmas: true},
		can: abilities{take: true, permit: true, renounce: true, peers: true, condemn: true, leave: true, apartPeers: true, apartTake: true},
	},
	"a stranger, after a late reclaim": {
		times: short, begin: strangerToA, first: lateReclaim, limits: limits{workers: 3, incarnations: 1, epochs: 3, punctual: 1 << workerC, lemmas: true},
		can: abilities{take: true, permit: true, apartTake: true},
	},
	"clocks go wrong again and again": {
		times: again, drift: 2, begin: two, limits: limits{workers: 2, incarnations: 1, epochs: 3, lemmas: true},
		can: abilities{take: true, permit: true, renounce: true},
	},
}

func TestTheRulesAreKeptAsFarAsIsSearched(t *testing.T) {
	for name, w := range partly {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			explores(t, w, bound(1_000_000), nil)
		})
	}
}

// Every so many states, nothing goes wrong any more from there on.
func TestSessionsGetOneLivingOwnerOnceNothingGoesWrong(t *testing.T) {
	for name, w := range map[string]world{
		"crashes": {
			times: short, begin: two, limits: limits{workers: 2, incarnations: 2, epochs: 3},
			can: abilities{take: true, permit: true, crash: true, restart: true, apartRenew: true},
		},
		"hand-overs": {
			times: short, begin: two, limits: limits{workers: 2, incarnations: 2, epochs: 3},
			can: abilities{take: true, permit: true, handover: true, end: true, crash: true, renounce: true, apartTake: true},
		},
		"lists": {
			times: short, begin: three, limits: limits{workers: 3, incarnations: 2, epochs: 3},
			can: abilities{take: true, permit: true, peers: true, apartPeers: true, crash: true, condemn: true, leave: true, collect: true},
		},
		"opened in an outage": {
			times: short, begin: opened, limits: limits{workers: 2, incarnations: 2, epochs: 3},
			can: abilities{take: true, permit: true, claim: true, notFound: true, condemn: true, crash: true},
		},
		"outages": {
			times: short, begin: two, limits: limits{workers: 2, incarnations: 2, epochs: 3, replicas: 2, slack: 2},
			can: abilities{take: true, permit: true, outage: true, reboot: true, crash: true},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := 0
			explores(t, w, bound(50_000), func(m *machine, s *state) property {
				if n++; n > 200 && n%100 != 0 {
					return fine
				}
				return m.recovers(s)
			})
		})
	}
}

// Walks go further than searches, and a small search goes on where each ends.
func TestTheRulesAreKeptOnRandomWalks(t *testing.T) {
	random := rand.New(rand.NewPCG(*seed, 0))
	for range bound(5000) {
		m, start := anyWorld(random).machine(weakness{})
		k := m.newWalk(start, random)
		k.run(20 + random.IntN(100))
		trace, violated := k.events, k.at.violated
		if violated == fine {
			r := m.explore(k.at, 1000, nil)
			trace, violated = append(trace, r.trace...), r.violated
		}
		if violated != fine {
			trace = m.shrink(start, trace, violated)
			_, last := m.follow(start, trace)
			t.Fatalf("seed %d: %v%s", *seed, violated, story(nil, trace, &last))
		}
	}
}

// anyWorld is three workers and some of what can happen.
func anyWorld(random *rand.Rand) world {
	maybe := func() bool { return random.IntN(2) == 0 }
	w := world{
		times: short, begin: three, limits: limits{workers: 3, incarnations: 3, epochs: 7, lemmas: true},
		can: abilities{
			take: true, permit: true, renounce: true, peers: maybe(), condemn: maybe(), handover: maybe(), end: maybe(),
			crash: maybe(), restart: maybe(), leave: maybe(), forget: maybe(), succeed: maybe(), collect: maybe(),
			apartRenew: maybe(), apartTake: maybe(), apartPeers: maybe(), apartWitness: maybe(), apartCondemn: maybe(), apartRegister: maybe(),
		},
	}
	switch random.IntN(4) {
	case 0:
		w.begin = stranger
	case 1:
		w.begin = strangerToA
	case 2:
		w.begin = opened
		w.can.claim, w.can.notFound = true, true
	}
	if maybe() {
		w.times, w.drift = wrong, 1
	}
	if maybe() {
		w.limits.punctual = 1 << random.IntN(3)
	}
	return w
}
