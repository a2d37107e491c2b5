package linear

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// guard is what the product can be built without.
type guard struct {
	without  string
	scenario func(*stage)
	want     []string
}

// guards are what the product is built without, one at a time, a scenario in
// which that matters, and what the judges must find.
var guards = []guard{
	{"no-dead-owner-guard", reclaimOfTheLiving, []string{byHistory + ": " + wasDead, byPorcupine + ": " + linearizable + dispatch}},
	{"no-compare-and-swap", reclaimOfThePast, []string{byHistory + ": " + wasAskedFor, byPorcupine + ": " + linearizable + reclaim}},
	{"no-fence", requestToTheFenced, []string{byPorcupine + ": " + linearizable + dispatch}},
	{"no-fence", requestToTheStopped, []string{byPorcupine + ": " + linearizable + dispatch}},
	{"fence-from-reply", answerOfThePast, []string{byPorcupine + ": " + linearizable + dispatch}},
	{"readopt-ignores-condemned", returnOfTheCondemned, []string{byHistory + ": " + staysOver, byPorcupine + ": " + linearizable + dispatch}},
	{"condemned-later", requestToTheFenced, []string{byHistory + ": " + isCondemned}},
	{"hand-over-without-cas", handOverOfThePast, []string{byHistory + ": " + wasAskedFor}},
	{"permit-unreachable-ok", requestToTheUnreachable, []string{byPorcupine + ": " + linearizable + dispatch}},
	{"take-without-power", returnOfAWitness, []string{byPorcupine + ": " + linearizable + dispatch}},
	{"permit-without-witness-times", wordOfATaker, []string{byPorcupine + ": " + linearizable + dispatch}},
	{"no-may-take", reclaimByANewcomer, []string{byHistory + ": " + mayTake, byPorcupine + ": " + linearizable + dispatch}},
	{"permit-from-majority", wordOfMost, []string{byPorcupine + ": " + linearizable + dispatch}},
	{"end-deletes", claimOfTheEnded, []string{byHistory + ": " + endsAreFinal, byPorcupine + ": " + linearizable + claim}},
}

// twoWorkers is the world of a scenario.
var twoWorkers = size{etcd: 1, controls: 1, workers: 2, ttl: 2 * time.Second, race: true}

// short is the same world, where workers serve on for a short time only: after that it
// is certain that a session which was not recorded will never be, for which there is a
// guard of its own.
var (
	short = size{etcd: 1, controls: 1, workers: 2, ttl: 2 * time.Second, outage: 2 * time.Second, race: true}
	later = guard{"not-found-without-tombstone", recordOfTheForgotten, []string{byPorcupine + ": " + linearizable + claim}}
)

func TestProductWithoutOneOfItsGuardsIsFoundOut(t *testing.T) {
	for _, g := range guards {
		t.Run(g.without, func(t *testing.T) { t.Parallel(); g.foundOut(t, twoWorkers) })
	}
	t.Run(later.without, func(t *testing.T) { t.Parallel(); later.foundOut(t, short) })
	t.Run("with all of them it is not", func(t *testing.T) {
		t.Parallel()
		st := newStage(t, twoWorkers)
		for _, g := range guards {
			g.scenario(st)
			st.asked.Wait()
			st.recovered()
		}
		v := st.innocent()
		if got, want := v.progress, (progress{reclaims: 6, readoptions: 3}); got.reclaims < want.reclaims || got.readoptions < want.readoptions {
			t.Errorf("in the store: %+v; want at least %+v", got, want)
		}
		if late := refusedLate(v.operations); !slices.Equal(late, []string{"Claim ENDED", "HandOver STALE", "Reclaim STALE"}) {
			t.Errorf("messages that came too late met %q, want a refusal of each kind", late)
		}
	})
	t.Run("nor if it serves on for a short time", func(t *testing.T) {
		t.Parallel()
		st := newStage(t, short)
		later.scenario(st)
		if v := st.innocent(); v.burials == 0 {
			t.Errorf("in the store: %+v; want a tombstone of a session that had no record", v.progress)
		}
	})
}

// foundOut checks that the judges notice that the product has no such guard.
func (g guard) foundOut(t *testing.T, s size) {
	s.mutant = g.without
	st := newStage(t, s)
	g.scenario(st)
	st.asked.Wait()
	v := st.judge(t)
	for _, found := range v.violations {
		t.Log(found)
	}
	for _, want := range g.want {
		if got := v.found(); !slices.Contains(got, want) {
			t.Errorf("got %q, want %q among them", got, want)
		}
	}
}

// innocent checks that the judges find nothing.
func (st *stage) innocent() verdict {
	st.Helper()
	v := st.judge(st.T)
	for _, found := range v.violations {
		st.Error(found)
	}
	return v
}

// newStage starts a world of two workers.
func newStage(t *testing.T, s size) *stage {
	t.Helper()
	w := newWorld(t, s)
	st := &stage{T: t, world: w, loser: w.workers[0], winner: w.workers[1]}
	st.ownership = newOwners(w)
	w.tell(st.ownership.saw)
	st.settle()
	return st
}

// refusedLate returns how the messages fared that scenarios bring too late.
func refusedLate(operations []operation) []string {
	early := []string{done, unknown, "NOT_ALIVE", "OWNER_UNCERTAIN", holding}
	var all []string
	for _, op := range operations {
		if (op.Method == reclaim || op.Method == claim || op.Method == handOver) && !slices.Contains(early, op.Outcome) {
			all = append(all, op.Method+" "+op.Outcome)
		}
	}
	slices.SortFunc(all, strings.Compare)
	return slices.Compact(all)
}

func TestOnlyMutantsReadTheirName(t *testing.T) {
	const name = "LEASEHOLD_MUTANT"
	for mutant, want := range map[string]bool{"": false, guards[0].without: true} {
		w := &world{size: size{race: true, mutant: mutant}}
		if err := w.build(t.Context()); err != nil {
			t.Fatal(err)
		}
		binary, err := os.ReadFile(w.binary)
		if err != nil {
			t.Fatal(err)
		}
		if got := bytes.Contains(binary, []byte(name)); got != want {
			t.Errorf("%q: the binary contains %s: %v, want %v", mutant, name, got, want)
		}
	}
}
