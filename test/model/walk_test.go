package model

import "math/rand/v2"

// walk is a run at random. Workers are cut off from the store and connected again;
// one that is connected renews with every tick, one that is not asks for permits.
type walk struct {
	*machine
	random *rand.Rand
	weight [kinds]float64 // how likely a kind of step is
	cut    [maxWorkers]bool
	at     state
	events []event
}

// seldom is what ends most walks, or leads nowhere, if it happens often.
var seldom = []kind{crashed, stopped, endSent, renounced, collected, forgotten, succeeded, tickLost, tickGained, notFound}

// connected is what a worker that is cut off does not do.
var connected = [kinds]bool{
	renewalSent: true, renewalAnswered: true, renewed: true, registered: true, refused: true,
	peersAnswered: true, peersRecorded: true, livingRecorded: true, heardOf: true,
	takeResolved: true, readOwner: true, handoverSaved: true, handoverLearnt: true,
}

func (m *machine) newWalk(start state, random *rand.Rand) *walk {
	m.settle(&start)
	k := &walk{machine: m, random: random, at: start}
	for i := range k.weight {
		k.weight[i] = []float64{0.1, 1, 1, 3}[random.IntN(4)]
	}
	for _, i := range seldom {
		k.weight[i] *= 0.1
	}
	return k
}

// run takes about as many steps, or fewer if one violates something.
func (k *walk) run(steps int) {
	chance := func(p float64) bool { return k.random.Float64() < p }
	pace := []float64{0.15, 0.3, 0.5}[k.random.IntN(3)]
	flip := []float64{0.02, 0.05, 0.1}[k.random.IntN(3)]
	for tries := 0; tries < 3*steps && len(k.events) < steps && k.at.violated == fine; tries++ {
		switch {
		case chance(flip):
			w := k.random.IntN(k.limits.workers)
			k.cut[w] = !k.cut[w]
		case chance(flip / 2):
			k.cut = [maxWorkers]bool{true, true, true}
		case chance(pace):
			k.tickAll()
		default:
			k.anything()
		}
	}
}

// tickAll lets a tick pass after all have done what they do all the time.
func (k *walk) tickAll() {
	for w, cut := range k.cut {
		if cut && k.random.IntN(4) > 0 {
			k.inTurn(w, permitted, asked, confirmed, confirmed)
		}
		if !cut && k.at.workers[w].ack > 0 {
			k.inTurn(w, renewalSent, renewalArrived, renewalAnswered, renewed)
		}
	}
	if k.at.violated == fine {
		k.take(&k.next(&k.at)[0])
	}
}

// inTurn takes the first step of each kind that w can take.
func (k *walk) inTurn(w int, all ...kind) {
	for _, what := range all {
		for _, st := range k.next(&k.at) {
			if st.kind == what && int(st.w) == w && k.at.violated == fine {
				k.take(&st)
				break
			}
		}
	}
}

func (k *walk) take(st *step) {
	k.events = append(k.events, st.event)
	k.at = st.to
}

// anything takes any step but that time passes. Kinds are equally likely but for
// their weight, however many steps there are of each.
func (k *walk) anything() {
	next := k.next(&k.at)
	var of [kinds]float64
	for i := range next {
		of[next[i].kind]++
	}
	var chosen *step
	total := 0.0
	for i := range next {
		st := &next[i]
		if st.kind == ticked || connected[st.kind] && k.cut[st.w] || st.to == k.at {
			continue
		}
		weight := k.weight[st.kind] / of[st.kind]
		total += weight
		if k.random.Float64()*total < weight {
			chosen = st
		}
	}
	if chosen != nil {
		k.take(chosen)
	}
}

// shrink leaves out of a trace what the violation does not need.
func (m *machine) shrink(start state, trace []event, violated property) []event {
	for n := len(trace) / 2; n >= 1; n /= 2 {
		for at := 0; at+n <= len(trace); {
			shorter := append(append([]event(nil), trace[:at]...), trace[at+n:]...)
			if happened, last := m.follow(start, shorter); len(happened) == len(shorter) && last.violated == violated {
				trace = shorter
			} else {
				at++
			}
		}
	}
	return trace
}

// follow lets what is wanted happen, as far as it is possible, and returns what
// happened and what it leads to.
func (m *machine) follow(s state, wanted []event) (happened []event, last state) {
	m.settle(&s)
	for _, want := range wanted {
		found := false
		for _, st := range m.next(&s) {
			if found = st.is(want); found {
				happened = append(happened, st.event)
				s = st.to
				break
			}
		}
		if !found {
			break
		}
	}
	return happened, s
}
