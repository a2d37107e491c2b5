package model

import (
	"fmt"
	"strings"
)

const (
	maxWorkers      = 3
	maxIncarnations = 3 // of one worker
	maxReplicas     = 2
)

// id is one registration of a worker, the pair (worker, E). 0 is none.
type id uint8

// none is no incarnation at all.
const none id = 0

func idOf(worker int, e uint8) id {
	if e == 0 {
		return none
	}
	return id(worker*maxIncarnations + int(e))
}

func (i id) worker() int { return int(i-1) / maxIncarnations }
func (i id) e() uint8    { return uint8(i-1)%maxIncarnations + 1 }

func (i id) String() string {
	if i == none {
		return "nobody"
	}
	return fmt.Sprintf("%s%d", workerName(i.worker()), i.e())
}

func workerName(w int) string { return string(rune('A' + w)) }

// ids is a set of incarnations.
type ids uint16

func setOf(i id) ids { return 1 << i }

func (s ids) has(i id) bool { return s>>i&1 == 1 }

func (s ids) count() (n int) {
	for ; s != 0; s &= s - 1 {
		n++
	}
	return n
}

func (s ids) String() string {
	var all []string
	for i := id(1); i <= maxWorkers*maxIncarnations; i++ {
		if s.has(i) {
			all = append(all, i.String())
		}
	}
	return "{" + strings.Join(all, " ") + "}"
}

// What became of a worker's process.
const (
	unborn  uint8 = iota
	running       // it acts
	leaving       // it has stopped dispatching for good and is about to leave
	dead          // crashed, or left
)

// Stages of a call: each is one message after the other, and each may be late,
// or lost for ever.
const (
	idle     uint8 = iota
	resolved       // what the call depends on was read
	sent           // the request is under way
	answered       // it was carried out, and the answer is under way
)

// not is a count that does not run.
const not uint8 = 0xff

// worker is what a worker knows, by its own clock, and what of its messages is
// under way. Ages count up to a bound past which they make no difference. Sets come
// first, so that there is no padding, which costs time.
type worker struct {
	list      ids // whom it asks
	answers   ids // who of them has answered the question that is open
	peers     ids // what RecordPeers under way asks to record
	recorded  ids // what it is answered
	latePeers ids // what an earlier one asks

	process uint8
	e       uint8 // the incarnation that it believes to be; 0 while it has none
	born    uint8 // the first incarnation of this process

	ack   uint8 // age of the last acknowledged renewal, from its sending
	held  uint8 // for how long contact has lasted without a lapse; not if it does not count
	power uint8 // age of the last power

	permit   uint8 // ticks left
	asked    uint8 // age of the question to the list; not if none is open
	earliest uint8 // the earliest power that an answer to it named
	clean    uint8 // age of the last question that all answered; not if it does not count
	known    uint8 // 1: the list is recorded, and not empty

	renewal   uint8 // age of the renewal under way; not if none is
	renewed   uint8 // 1: it was carried out
	recording uint8 // stage of RecordPeers
	late      uint8 // 1: an earlier one is under way, whose answer nobody waits for
	register  uint8 // 1: a copy of its registration is under way

	take     uint8 // stage of a reclaim
	takeE    uint8 // under which incarnation
	takeOver uint8 // 1: of a superseded owner's session
	taken    uint8 // the epoch that it brought

	gone     id    // whom it has asked to condemn, in a request under way
	handover id    // the receiver of a hand-over under way
	ending   uint8 // 1: the end of the session is under way
	claim    uint8 // the incarnation that a claim under way names

	epoch      uint8 // under which it believes to own the session; 0 if it does not
	under      uint8 // the incarnation under which it does
	moving     uint8 // 1: it does not dispatch for it
	unrecorded uint8 // 1: it opened it, and knows of no record
	claimed    uint8 // 1: it has sent a claim
	seen       uint8 // the highest epoch that it knows of
	grants     uint8 // epochs of hand-overs to it that it may be told, or told again

	missed uint8 // ticks in which it could have renewed and did not; not if they are too many for an outage
}

// quiet makes x a worker that knows and does nothing.
func (x *worker) quiet() {
	*x = worker{ack: not, held: not, power: not, asked: not, clean: not, renewal: not}
}

// incarnation is what the store has of one, and since when.
type incarnation struct {
	lease     uint8 // ticks that its member key has left; 0 if it is dead
	begun     uint8 // 1: it was registered
	condemned uint8
	over      uint8 // 1 and the ticks since it left, or its worker registered anew; 0 if neither
	collected uint8 // 1: its keys were collected
	deadFor   uint8 // ticks since its lease ended
	list      ids   // the list as recorded
}

// What the store has of the session.
const (
	absent uint8 = iota
	owned
	ended
)

// replica is a replica of the control plane.
type replica struct {
	cutOff uint8 // 1: it gets no answer from etcd
	lost   uint8 // for how many ticks
	back   uint8 // 1: it has had etcd again for less than a tick, and so keeps it
	hold   uint8 // ticks left
}

// state is the whole world at one moment. It is comparable, and two that are equal
// have the same future. There are no revisions in it: a request that compares one is
// dropped as soon as what it compares changes.
type state struct {
	workers      [maxWorkers]worker
	incarnations [maxWorkers*maxIncarnations + 1]incarnation
	replicas     [maxReplicas]replica

	phase uint8
	owner id
	epoch uint8

	drift uint8 // how often a clock may still go wrong
	calm  uint8 // ticks until one may again

	// What happened, for the properties.
	dispatched uint8    // the highest epoch under which a worker was entitled
	over       uint8    // 1: the session has ended, or somebody was told 404
	kept       uint8    // the epoch of which somebody was told that it is recorded
	violated   property // by the step that led here
}

// alive reports whether an incarnation has a member key.
func (s *state) alive(i id) bool { return i != none && s.incarnations[i].lease > 0 }

// living is all that have one.
func (s *state) living() (all ids) {
	for i := range s.incarnations {
		if s.alive(id(i)) {
			all |= setOf(id(i))
		}
	}
	return all
}

// owns reports whether the record names i.
func (s *state) owns(i id) bool { return s.phase == owned && s.owner == i }

// believedRightly reports whether the record says what w believes.
func (s *state) believedRightly(w int) bool {
	x := &s.workers[w]
	return s.owns(idOf(w, x.e)) && s.epoch == x.epoch
}

// String says what matters of a state.
func (s *state) String() string {
	var b strings.Builder
	switch s.phase {
	case absent:
		b.WriteString("no record")
	case owned:
		fmt.Fprintf(&b, "the record: %v, epoch %d", s.owner, s.epoch)
	case ended:
		b.WriteString("a tombstone")
	}
	for w := range s.workers {
		x := &s.workers[w]
		if x.process == running && x.epoch > 0 {
			fmt.Fprintf(&b, "; %s believes in epoch %d and asks %v", workerName(w), x.epoch, x.list)
		}
	}
	for i := range s.incarnations {
		if x := &s.incarnations[i]; x.begun == 1 {
			fmt.Fprintf(&b, "; %v", id(i))
			for _, is := range []struct {
				so   bool
				word string
			}{{x.lease > 0, "alive"}, {x.lease == 0, "dead"}, {x.condemned == 1, "condemned"}, {x.over > 0, "over"}, {x.collected == 1, "collected"}} {
				if is.so {
					b.WriteString(" " + is.word)
				}
			}
			fmt.Fprintf(&b, " %v", x.list)
		}
	}
	return b.String()
}
