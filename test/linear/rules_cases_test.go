package linear

import (
	"fmt"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// script is a made-up history of the store.
type script []change

// at makes a change of a key take place.
func (s script) at(revision int64, key string, value []byte) script {
	return append(slices.Clip(s), change{Revision: revision, Key: root + key, Deleted: value == nil, Value: value})
}

// joins registers a worker, under the incarnation of that revision.
func (s script) joins(revision int64, worker string) script {
	return s.at(revision, "incarnations/"+worker, []byte("{}")).
		at(revision+1, fmt.Sprintf("members/%s/%d", worker, revision), []byte("{}"))
}

func (s script) dies(revision int64, worker string, incarnation int64) script {
	return s.at(revision, fmt.Sprintf("members/%s/%d", worker, incarnation), nil)
}

// owns puts the record of a session.
func (s script) owns(revision int64, worker string, incarnation int64, epoch uint64) script {
	return s.record(revision, &leaseholdv1.SessionRecord{Worker: worker, Incarnation: incarnation, Epoch: epoch})
}

func (s script) record(revision int64, r *leaseholdv1.SessionRecord) script {
	value, err := proto.Marshal(r)
	if err != nil {
		panic(err)
	}
	return s.at(revision, "sessions/g/s", value)
}

func (s script) condemns(revision int64, worker string, incarnation int64) script {
	return s.at(revision, fmt.Sprintf("condemned/%s/%d", worker, incarnation), []byte("0"))
}

// knows records whom a worker asks before it serves on.
func (s script) knows(revision int64, worker string, incarnation int64, peer owner) script {
	return s.at(revision, "incarnations/"+worker, fmt.Appendf(nil, `{"incarnation":%d,"peers":[%q]}`, incarnation, peer))
}

// gives hands the session over.
func (s script) gives(revision int64, worker string, incarnation int64, epoch uint64) script {
	return s.record(revision, &leaseholdv1.SessionRecord{Worker: worker, Incarnation: incarnation, Epoch: epoch,
		Events: []*leaseholdv1.SessionEvent{{Type: leaseholdv1.SessionEventType_SESSION_EVENT_TYPE_HANDED_OVER}}})
}

func (s script) ends(revision int64, worker string, incarnation int64, epoch uint64) script {
	return s.record(revision, &leaseholdv1.SessionRecord{Worker: worker, Incarnation: incarnation, Epoch: epoch, End: &leaseholdv1.SessionEnd{}})
}

// asking is what both owners may have asked for in the made-up histories.
func asking() []operation {
	var all []operation
	for _, op := range []operation{
		{Method: claim, Worker: first, Incarnation: 1},
		{Method: reclaim, Worker: second, Incarnation: 3, Revision: 5},
		{Method: save, Worker: first, Incarnation: 1, Revision: 5},
		{Method: handOver, Worker: first, Incarnation: 1, Revision: 5, To: second, ToIncarnation: 3},
		{Method: end, Worker: first, Incarnation: 1},
		{Method: end, Worker: second, Incarnation: 3},
	} {
		op.Session, op.Outcome, op.Return = "g/s", unknown, never
		all = append(all, op)
	}
	return all
}

func TestRulesKnowWhatMustNotHappenInTheStore(t *testing.T) {
	both := script{}.joins(1, first).joins(3, second)
	begun := both.owns(5, first, 1, 1)
	dead := begun.dies(6, first, 1)
	moved := dead.owns(7, second, 3, 2).condemns(7, first, 1)
	for name, c := range map[string]struct {
		history script
		want    []string
	}{
		"a session moves":                     {moved, nil},
		"and ends":                            {moved.ends(8, second, 3, 2), nil},
		"the owner comes back":                {dead.at(7, "members/"+first+"/1", []byte("{}")), nil},
		"the old owner lives":                 {begun.owns(7, second, 3, 2).condemns(7, first, 1), []string{wasDead}},
		"the new owner is dead":               {dead.dies(7, second, 3).owns(8, second, 3, 2).condemns(8, first, 1), []string{isAlive}},
		"the old owner is not condemned":      {dead.owns(7, second, 3, 2), []string{isCondemned}},
		"it is condemned later":               {dead.owns(7, second, 3, 2).condemns(8, first, 1), []string{isCondemned}},
		"an epoch is skipped":                 {dead.owns(7, second, 3, 3).condemns(7, first, 1), []string{epochsRise}},
		"the condemned comes back":            {moved.at(8, "members/"+first+"/1", []byte("{}")), []string{staysOver}},
		"the living is condemned":             {begun.condemns(6, first, 1), []string{wasDead}},
		"the mark is removed":                 {moved.at(8, "condemned/"+first+"/1", nil), []string{staysOver}},
		"an incarnation of before comes back": {dead.at(7, "incarnations/"+first, []byte("{}")).at(8, "members/"+first+"/1", []byte("{}")), []string{isNewest}},
		"a tombstone is deleted":              {moved.ends(8, second, 3, 2).at(9, "sessions/g/s", nil), []string{endsAreFinal}},
		"a tombstone is replaced":             {moved.ends(8, second, 3, 2).owns(9, second, 3, 2), []string{endsAreFinal}},
		"another ends the session":            {begun.ends(6, second, 3, 1), []string{endsAreFinal}},
		"a session begins late":               {both.owns(5, first, 1, 2), []string{beginsOnce}},
		"a dead worker claims":                {script{}.owns(5, first, 1, 1), []string{isAlive}},
		"an owner changes the epoch":          {begun.owns(6, first, 1, 2), []string{epochsRise}},
		"the taker is asked before":           {dead.knows(7, first, 1, second+"/3").owns(8, second, 3, 2).condemns(8, first, 1), nil},
		"the taker is not asked": {both.knows(5, second, 3, first+"/1").knows(5, first, 1, "c/1").at(5, "incarnations/c", []byte(`{"incarnation":1}`)).
			owns(5, first, 1, 1).dies(6, first, 1).owns(7, second, 3, 2).condemns(7, first, 1), []string{mayTake}},
		"nor can anybody else be":          {both.knows(5, first, 1, "c/1").owns(5, first, 1, 1).dies(6, first, 1).owns(7, second, 3, 2).condemns(7, first, 1), nil},
		"an owner gives":                   {begun.gives(7, second, 3, 2), nil},
		"to a dead one":                    {begun.dies(6, second, 3).gives(7, second, 3, 2), []string{isAlive}},
		"a dead owner gives":               {dead.gives(7, second, 3, 2), []string{wasGiven}},
		"another record is given":          {begun.owns(6, first, 1, 1).gives(7, second, 3, 2), []string{wasAskedFor}},
		"nobody asked for what took place": {both.owns(5, second, 3, 1), []string{wasAskedFor}},
		"another record was asked for":     {begun.at(6, "sessions/g/s", begun[4].Value).dies(7, first, 1).owns(8, second, 3, 2).condemns(8, first, 1), []string{wasAskedFor}},
	} {
		tried, err := try(c.history, asking())
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, v := range tried.violations {
			got = append(got, v.Property)
		}
		slices.Sort(got)
		slices.Sort(c.want)
		if got = slices.Compact(got); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

func TestRulesKnowWhoseSessionsMayBeGivenUp(t *testing.T) {
	op := operation{Method: resolve, Session: "g/s", Worker: first, Incarnation: 1, Outcome: "SESSION_NOT_FOUND"}
	joined := script{}.joins(1, first)
	for name, c := range map[string]struct {
		history script
		want    int
	}{
		"of a dead worker": {joined.dies(3, first, 1).ends(4, first, 1, 0), 0},
		"of a living one":  {joined.ends(4, first, 1, 0), 1},
	} {
		tried, err := try(c.history, []operation{op})
		if err != nil {
			t.Fatal(err)
		}
		if got := len(tried.violations); got != c.want || tried.burials != 1 {
			t.Errorf("%s: %v, %+v; want %d violations", name, tried.violations, tried.progress, c.want)
		}
	}
}

func TestRulesMissWhatWasAcknowledged(t *testing.T) {
	history := script{}.joins(1, first).owns(5, first, 1, 1).ends(6, first, 1, 1)
	for name, c := range map[string]struct {
		method string
		at     int64
		want   int
	}{
		"a claim":                {claim, 5, 0},
		"a claim that is not":    {claim, 4, 1},
		"a claim that is an end": {claim, 6, 1},
		"an end":                 {end, 6, 0},
		"an end that is not":     {end, 7, 1},
	} {
		op := operation{Method: c.method, Session: "g/s", Worker: first, Incarnation: 1, Outcome: done, Got: answer{Revision: c.at}}
		tried, err := try(history, append(asking(), op))
		if err != nil {
			t.Fatal(err)
		}
		if got := len(tried.violations); got != c.want {
			t.Errorf("%s: %v, want %d violations", name, tried.violations, c.want)
		}
	}
}
