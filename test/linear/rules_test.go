package linear

import (
	"fmt"
	"slices"
	"strings"
)

// The judges.
const (
	byPorcupine = "porcupine"
	byHistory   = "etcd's history"
)

// What etcd's history is judged by.
const (
	wasDead       = "the old owner was dead"
	isAlive       = "the new owner is alive"
	mayTake       = "who takes over is asked by the old owner, or that cannot serve on"
	wasGiven      = "an owner that lives gives its session away itself"
	isCondemned   = "the old owner is condemned by then"
	staysOver     = "a condemned incarnation never comes back"
	isNewest      = "a member is of its worker's newest incarnation"
	epochsRise    = "each owner has the next epoch"
	endsAreFinal  = "an end is final"
	beginsOnce    = "a session begins once, with a claim or an end"
	wasAskedFor   = "each change replaces the revision that was asked for"
	isInTheStore  = "what was acknowledged is in the store"
	linearizable  = "one order explains everything: "
	deliveredOnce = "nothing with an effect is sent twice"
)

// violation is something that must not happen.
type violation struct {
	Judge    string `json:"judge"`
	Property string `json:"property"`
	Detail   string `json:"detail"`
}

func (v violation) String() string { return v.Judge + ": " + v.Property + ": " + v.Detail }

// progress counts what etcd's history shows: a run in which nothing happens
// violates nothing.
type progress struct {
	claims, reclaims, handOvers, saves, ends, burials, readoptions, condemned int
}

// trial judges a history, revision by revision.
type trial struct {
	now        *moment
	asked      map[string][]operation // by session
	violations []violation
	progress
}

// try judges the store's history by the rules of ownership, and by what was
// asked of the control plane.
func try(changes []change, operations []operation) (*trial, error) {
	t := &trial{now: firstMoment(), asked: map[string][]operation{}}
	for _, op := range operations {
		if op.Session != "" {
			t.asked[op.Session] = append(t.asked[op.Session], op)
		}
	}
	stored := map[string]entry{} // by session@revision
	for len(changes) > 0 {
		n := 1
		for n < len(changes) && changes[n].Revision == changes[0].Revision {
			n++
		}
		if err := t.revision(changes[:n], stored); err != nil {
			return nil, err
		}
		changes = changes[n:]
	}
	t.acknowledged(operations, stored)
	return t, nil
}

// revision judges the changes of one revision, by how things were before it.
func (t *trial) revision(changes []change, stored map[string]entry) error {
	condemnedNow := map[owner]bool{}
	for _, c := range changes {
		if name, ok := strings.CutPrefix(c.Key, root+"condemned/"); ok && !c.Deleted {
			condemnedNow[owner(name)] = true
		}
	}
	for _, c := range changes {
		kind, name, _ := strings.Cut(strings.TrimPrefix(c.Key, root), "/")
		switch kind {
		case "members":
			t.member(c, owner(name))
		case "condemned":
			if c.Deleted {
				t.found(staysOver, c, "the mark that it is condemned is gone")
				continue
			}
			if !t.now.condemned[owner(name)] {
				t.condemned++
			}
			if t.now.members[owner(name)] {
				t.found(wasDead, c, "it was alive")
			}
		case "sessions":
			if err := t.session(c, name, condemnedNow, stored); err != nil {
				return err
			}
		}
	}
	for _, c := range changes {
		if err := t.now.apply(c); err != nil {
			return err
		}
	}
	return nil
}

func (t *trial) found(property string, c change, format string, args ...any) {
	t.violations = append(t.violations, violation{byHistory, property,
		fmt.Sprintf("revision %d, %s: ", c.Revision, c.Key) + fmt.Sprintf(format, args...)})
}

// member judges a change of a member key.
func (t *trial) member(c change, who owner) {
	if c.Deleted {
		return
	}
	if t.now.condemned[who] {
		t.found(staysOver, c, "put again")
	}
	if t.now.members[who] {
		return // it says something new of itself
	}
	worker, _, _ := strings.Cut(string(who), "/")
	if newest := t.now.incarnations[worker]; newest != who {
		t.found(isNewest, c, "the worker's incarnation is %q", newest)
	}
	if t.now.met[who] {
		t.readoptions++
	}
}

// session judges a change of a session's record.
func (t *trial) session(c change, name string, condemnedNow map[owner]bool, stored map[string]entry) error {
	before, existed := t.now.sessions[name]
	if c.Deleted {
		t.found(endsAreFinal, c, "deleted; it was %+v", before)
		return nil
	}
	after, err := entryOf(c)
	if err != nil {
		return err
	}
	stored[fmt.Sprintf("%s@%d", name, c.Revision)] = after
	switch {
	case existed && before.ended:
		t.found(endsAreFinal, c, "the tombstone of revision %d is replaced by %+v", before.revision, after)
	case after.ended:
		t.ends++
		if existed && (after.owner != before.owner || after.epoch != before.epoch) {
			t.found(endsAreFinal, c, "ended by %s, epoch %d; it was %+v", after.owner, after.epoch, before)
		}
		if !existed && (t.wasGivenUp(name) || !t.wasAsked(name, end, after.owner, after.owner, 0)) {
			t.burial(c, name, after)
			return nil
		}
		t.mustBeAsked(c, name, end, after.owner, after.owner, 0)
	case !existed:
		t.claims++
		if after.epoch != 1 {
			t.found(beginsOnce, c, "it begins with epoch %d", after.epoch)
		}
		t.mustLive(c, after)
		t.mustBeAsked(c, name, claim, after.owner, after.owner, 0)
	case after.owner == before.owner:
		t.saves++
		if after.epoch != before.epoch {
			t.found(epochsRise, c, "epoch %d became %d without another owner", before.epoch, after.epoch)
		}
		t.mustLive(c, after)
		if !t.wasAsked(name, handOver, after.owner, after.owner, before.revision) { // which keeps the session
			t.mustBeAsked(c, name, save, after.owner, after.owner, before.revision)
		}
	case after.handed:
		t.handOvers++
		if !t.now.members[before.owner] {
			t.found(wasGiven, c, "%s, which was dead, gave it to %s", before.owner, after.owner)
		}
		t.nextEpoch(c, before, after)
		t.mustLive(c, after)
		t.mustBeAsked(c, name, handOver, before.owner, after.owner, before.revision)
	default:
		t.reclaims++
		t.succession(c, before, after, condemnedNow)
		t.nextEpoch(c, before, after)
		t.mustLive(c, after)
		t.mustBeAsked(c, name, reclaim, after.owner, after.owner, before.revision)
	}
	return nil
}

// wasGivenUp reports whether anybody was told that a session is over without a record.
func (t *trial) wasGivenUp(name string) bool {
	return slices.ContainsFunc(t.asked[name], func(op operation) bool {
		return op.Method == resolve && op.Worker != "" && op.Outcome == "SESSION_NOT_FOUND"
	})
}

// burial judges a tombstone of a session that had no record, which somebody asked for:
// the one that opened it must not be able to record it any more.
func (t *trial) burial(c change, name string, after entry) {
	t.burials++
	if t.now.members[after.owner] {
		t.found(wasDead, c, "%s, which opened it, was alive", after.owner)
	}
	t.mustBeAsked(c, name, resolve, after.owner, after.owner, 0)
}

// succession judges a change of owner that the old one did not ask for.
func (t *trial) succession(c change, before, after entry, condemnedNow map[owner]bool) {
	if !t.now.takeable(before.owner, after.owner) {
		t.found(mayTake, c, "%s, which asks %v, gave way to %s", before.owner, t.now.knows[before.owner], after.owner)
	}
	if t.now.members[before.owner] {
		t.found(wasDead, c, "%s, which was alive, gave way to %s", before.owner, after.owner)
	}
	if !t.now.condemned[before.owner] && !condemnedNow[before.owner] {
		t.found(isCondemned, c, "%s gave way to %s and may come back", before.owner, after.owner)
	}
}

func (t *trial) nextEpoch(c change, before, after entry) {
	if after.epoch != before.epoch+1 {
		t.found(epochsRise, c, "epoch %d was followed by %d", before.epoch, after.epoch)
	}
}

func (t *trial) mustLive(c change, after entry) {
	if !t.now.members[after.owner] {
		t.found(isAlive, c, "%s is dead", after.owner)
	}
}

// mustBeAsked judges whether a worker asked for the change, and, with a revision, named
// the one that was replaced. to is the owner from then on.
func (t *trial) mustBeAsked(c change, name, method string, by, to owner, replaced int64) {
	if !t.wasAsked(name, method, by, to, replaced) {
		t.found(wasAskedFor, c, "no %s by %s named revision %d, which it replaced", method, by, replaced)
	}
}

func (t *trial) wasAsked(name, method string, by, to owner, replaced int64) bool {
	return slices.ContainsFunc(t.asked[name], func(op operation) bool {
		return op.Method == method && ownerOf(op.Worker, op.Incarnation) == by && (replaced == 0 || op.Revision == replaced) &&
			(method != handOver || ownerOf(op.To, op.ToIncarnation) == to)
	})
}

// acknowledged judges whether the store had what answers said.
func (t *trial) acknowledged(operations []operation, stored map[string]entry) {
	for _, op := range operations {
		if op.Outcome != done || op.Got.Revision == 0 {
			continue
		}
		e, ok := stored[fmt.Sprintf("%s@%d", op.Session, op.Got.Revision)]
		want := ownerOf(op.Worker, op.Incarnation)
		if op.Method == resolve || op.Method == handOver {
			want = ownerOf(op.Got.Worker, op.Got.Incarnation)
		}
		if !ok || e.ended != (op.Method == end || op.Got.Ended) || op.Method != end && e.owner != want {
			t.violations = append(t.violations, violation{byHistory, isInTheStore,
				fmt.Sprintf("%v; the store has %+v there", op, e)})
		}
	}
}
