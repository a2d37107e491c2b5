package linear

import (
	"math"
	"testing"

	"github.com/anishathalye/porcupine"
)

// The owners in made-up histories.
const (
	first  = "aaaaaaaaaaaaaaaa"
	second = "bbbbbbbbbbbbbbbb"
)

// during makes an operation take place between two moments.
func during(call, ret int64, op operation) operation {
	op.Session, op.Call, op.Return = "g/s", call, ret
	if op.Outcome == "" {
		op.Outcome = done
	}
	return op
}

func claimed(by string, at int64) operation {
	return operation{Method: claim, Worker: by, Incarnation: 1, Epoch: 1, Got: answer{Revision: at}}
}

func reclaimed(by string, of int64, epoch uint64, at int64) operation {
	return operation{Method: reclaim, Worker: by, Incarnation: 1, Revision: of,
		Got: answer{Worker: by, Incarnation: 1, Epoch: epoch, Revision: at}}
}

func handedOver(by, to string, of int64, epoch uint64, at int64) operation {
	return operation{Method: handOver, Worker: by, Incarnation: 1, Revision: of, To: to, ToIncarnation: 1,
		Got: answer{Worker: to, Incarnation: 1, Epoch: epoch, Revision: at}}
}

// buried is a Resolve of a session without a record, which then can never have one.
func buried(opener string) operation {
	return met("SESSION_NOT_FOUND", operation{Method: resolve, Worker: opener, Incarnation: 1})
}

// unrecorded is a dispatch for a session that was opened without the control plane.
func unrecorded(by string) operation {
	return operation{Method: dispatch, Worker: by, Unrecorded: true}
}

func dispatched(by string) operation { return operation{Method: dispatch, Worker: by} }

// met is an operation that met another outcome than done.
func met(outcome string, op operation) operation {
	op.Outcome, op.Got = outcome, answer{}
	return op
}

func TestModelKnowsWhatOneOwnerAtATimeMeans(t *testing.T) {
	begin := during(0, 1, claimed(first, 5))
	gone := during(math.MaxInt64-1, math.MaxInt64, operation{Method: resolve, Outcome: "SESSION_NOT_FOUND"})
	over := during(2, 3, operation{Method: end, Worker: first, Incarnation: 1, Got: answer{Revision: 6}})
	for name, c := range map[string]struct {
		want       bool
		operations []operation
	}{
		"an owner dispatches":           {true, []operation{begin, during(2, 3, dispatched(first))}},
		"somebody else does":            {false, []operation{begin, during(2, 3, dispatched(second))}},
		"before anybody has claimed":    {false, []operation{during(2, 3, dispatched(first)), during(4, 5, claimed(first, 5))}},
		"after the session has ended":   {false, []operation{begin, over, during(4, 5, dispatched(first))}},
		"while the session ends":        {true, []operation{begin, over, during(2, 5, dispatched(first))}},
		"the old owner, too late":       {false, []operation{begin, during(2, 3, reclaimed(second, 5, 2, 6)), during(4, 5, dispatched(first))}},
		"the old owner, asked before":   {true, []operation{begin, during(2, 3, reclaimed(second, 5, 2, 6)), during(2, 9, dispatched(first))}},
		"a reclaim of another record":   {false, []operation{begin, during(2, 3, reclaimed(second, 4, 2, 6))}},
		"a reclaim that skips an epoch": {false, []operation{begin, during(2, 3, reclaimed(second, 5, 3, 6))}},
		"a reclaim that is repeated": {true, []operation{begin, during(2, 3, reclaimed(second, 5, 2, 6)),
			during(4, 5, reclaimed(second, 5, 2, 6))}},
		"two reclaims of one record": {false, []operation{begin, during(2, 3, reclaimed(second, 5, 2, 6)),
			during(2, 3, reclaimed(first, 5, 2, 7))}},
		"a reclaim that nobody knows of took place": {true, []operation{begin,
			during(2, never, met(unknown, reclaimed(second, 5, 2, 6))), during(4, 5, dispatched(second))}},
		"or did not": {true, []operation{begin,
			during(2, never, met(unknown, reclaimed(second, 5, 2, 6))), during(4, 5, dispatched(first))}},
		"but not both": {false, []operation{begin, during(2, never, met(unknown, reclaimed(second, 5, 2, 6))),
			during(4, 5, dispatched(second)), during(6, 7, dispatched(first))}},
		"a hand-over":                   {true, []operation{begin, during(2, 3, handedOver(first, second, 5, 2, 6)), during(4, 5, dispatched(second))}},
		"the giver, too late":           {false, []operation{begin, during(2, 3, handedOver(first, second, 5, 2, 6)), during(4, 5, dispatched(first))}},
		"a hand-over of another record": {false, []operation{begin, during(2, 3, handedOver(first, second, 4, 2, 6))}},
		"a hand-over that is repeated": {true, []operation{begin, during(2, 3, handedOver(first, second, 5, 2, 6)),
			during(4, 5, handedOver(first, second, 5, 2, 6))}},
		"a hand-over that nobody knows of took place": {true, []operation{begin,
			during(2, never, met(unknown, handedOver(first, second, 5, 2, 6))), during(4, 5, dispatched(second))}},
		"or not, since the giver kept the session": {true, []operation{begin, during(2, never, met(unknown, handedOver(first, second, 5, 2, 6))),
			during(4, 5, handedOver(first, first, 5, 1, 7)), during(6, 7, dispatched(first))}},
		"but not after that": {false, []operation{begin, during(2, never, met(unknown, handedOver(first, second, 5, 2, 6))),
			during(4, 5, handedOver(first, first, 5, 1, 7)), during(6, 7, dispatched(second))}},
		"a session without a record is used":  {true, []operation{during(0, 1, unrecorded(first)), during(2, 3, claimed(first, 5)), during(4, 5, dispatched(first))}},
		"by two":                              {false, []operation{during(0, 1, unrecorded(first)), during(2, 3, unrecorded(second))}},
		"and claimed by another":              {false, []operation{during(0, 1, unrecorded(first)), during(2, 3, claimed(second, 5))}},
		"and used once it can have no record": {false, []operation{during(0, 1, buried(first)), during(2, 3, unrecorded(first))}},
		"and claimed then":                    {false, []operation{during(0, 1, buried(first)), during(2, 3, claimed(first, 5))}},
		"or it is refused":                    {true, []operation{during(0, 1, unrecorded(first)), during(2, 3, buried(first)), during(4, 5, met("ENDED", claimed(first, 5)))}},
		"a claim after the end":               {false, []operation{begin, over, during(4, 5, claimed(first, 7))}},
		"a claim refused as ended":            {true, []operation{begin, over, during(4, 5, met("ENDED", claimed(first, 7)))}},
		"a refusal for no reason":             {false, []operation{begin, during(4, 5, met("ENDED", claimed(first, 7)))}},
		"a session that is forgotten":         {false, []operation{begin, gone}},
		"a save in another's name": {false, []operation{begin,
			during(2, 3, operation{Method: save, Worker: second, Incarnation: 1, Epoch: 1, Revision: 5, Got: answer{Revision: 6}})}},
		"an end in another's name": {false, []operation{begin,
			during(2, 3, operation{Method: end, Worker: second, Incarnation: 1, Got: answer{Revision: 6}})}},
	} {
		var h []porcupine.Operation
		for _, op := range c.operations {
			h = append(h, porcupine.Operation{Input: op, Call: op.Call, Return: op.Return})
		}
		if got := porcupine.CheckOperations(model, h); got != c.want {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
	}
}
