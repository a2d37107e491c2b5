package config

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// worldOf is a state with gateways by id, whose definitions are of these revisions and
// URLs.
func worldOf(revision int64, gateways map[string]string) *State {
	s := state(revision, "http://h")
	s.Gateways = map[string]*leaseholdv1.Gateway{}
	s.TTL = time.Second
	for id, definition := range gateways {
		var at int64
		var url string
		fmt.Sscan(definition, &at, &url)
		s.Gateways["gateways/"+id] = &leaseholdv1.Gateway{
			Name: "gateways/" + id, Status: &leaseholdv1.GatewayStatus{Revision: at}, Upstreams: []*leaseholdv1.Upstream{{Name: "u", Url: url}},
		}
	}
	return s
}

// served is what a snapshot serves, by gateway.
func served(s *Snapshot) string {
	var all []string
	for _, id := range []string{"a", "b", "c"} {
		if g := s.Gateways[id]; g != nil {
			all = append(all, fmt.Sprintf("%s@%d", id, g.Revision))
		}
	}
	for _, r := range s.Rejections {
		all = append(all, fmt.Sprintf("!%s@%d/%d", r.Gateway, r.Revision, r.Serving))
	}
	return strings.Join(all, " ")
}

func TestARejectedGatewayStaysAsItWasAndAllElseApplies(t *testing.T) {
	first, err := Compile(worldOf(3, map[string]string{"a": "1 http://a", "b": "2 http://b"}), empty)
	if err != nil {
		t.Fatal(err)
	}
	bad := worldOf(9, map[string]string{"a": "5 bad", "b": "6 http://new", "c": "7 bad"})
	bad.Members = []*leaseholdv1.Member{{Worker: "w"}}
	bad.Endings = []*leaseholdv1.Ending{{Gateway: "a"}}
	second, err := Compile(bad, first)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := served(second), "a@1 b@6 !a@5/1 !c@7/0"; got != want || second.Gateways["a"] != first.Gateways["a"] {
		t.Errorf("got %s, want %s with the gateway of before", got, want)
	}
	if len(second.Members) != 1 || len(second.Endings) != 1 || second.Revision != 9 {
		t.Errorf("got %+v, want everything else of the state", second)
	}
	if bad.Gateways["gateways/a"].GetUpstreams()[0].GetUrl() != "bad" {
		t.Error("the state was changed")
	}
	same, _ := Compile(bad, second)
	if got, want := served(same), "a@1 b@6 !a@5/1 !c@7/0"; got != want {
		t.Errorf("told again: got %s, want %s", got, want)
	}
	good, _ := Compile(worldOf(12, map[string]string{"a": "10 http://a", "b": "6 http://new"}), same)
	if got, want := served(good), "a@10 b@6"; got != want {
		t.Errorf("mended: got %s, want %s", got, want)
	}
}

func TestAPanicAtCompilingIsARejection(t *testing.T) {
	g, stack, err := recovered(func() (*Gateway, error) { panic("secret") })
	if g != nil || err == nil || strings.Contains(err.Error(), "secret") || !strings.Contains(stack, "secret") || !strings.Contains(stack, "reject_test.go") {
		t.Errorf("got %v, %v and the stack %q; want an error without the panic's text, which is in the stack", g, err, stack)
	}
}

// rig is the data directory of a worker that is restarted.
type rig struct {
	*testing.T
	dir   string
	q     *Quarantine
	disk  *Disk
	world *Snapshot
}

// start is what a worker does at its start; crash is how the one before it ended.
func (r *rig) start(crash string) {
	r.Helper()
	log := hclog.New(&hclog.LoggerOptions{Output: r.Output()})
	r.q, r.disk, r.world = NewQuarantine(r.dir, crash, log), NewDisk(r.dir, log), empty
	if kept, _, err := r.disk.Load(); err == nil {
		if r.world, err = r.q.Recall(kept); err != nil {
			r.Fatal(err)
		}
	}
}

// apply is what a worker does with a state.
func (r *rig) apply(s *State, want string) {
	r.Helper()
	next, err := r.q.Compile(s, r.world)
	if err != nil {
		r.Fatal(err)
	}
	r.world = next
	if err := r.disk.save(r.q.Kept(s, next), time.Now()); err != nil {
		r.Fatal(err)
	}
	if got := served(next); got != want {
		r.Errorf("got %s, want %s", got, want)
	}
}

func TestARestartedWorkerServesTheLastGoodOfARejectedGateway(t *testing.T) {
	r := &rig{T: t, dir: t.TempDir()}
	r.start("")
	r.apply(worldOf(3, map[string]string{"a": "1 http://a", "b": "2 http://b"}), "a@1 b@2")
	bad := worldOf(6, map[string]string{"a": "5 bad", "b": "2 http://b"})
	r.apply(bad, "a@1 b@2 !a@5/1")
	for range 2 {
		r.start("")
		if got, want := served(r.world), "a@1 b@2"; got != want {
			t.Errorf("from disk: got %s, want %s", got, want)
		}
		r.apply(bad, "a@1 b@2 !a@5/1")
	}
}

func TestADefinitionAtWhichTheWorkerCrashedIsNotAppliedAgain(t *testing.T) {
	r := &rig{T: t, dir: t.TempDir()}
	old := worldOf(3, map[string]string{"a": "1 http://a", "b": "2 http://b"})
	poison := worldOf(6, map[string]string{"a": "5 http://poison", "b": "2 http://b", "c": "6 http://c"})
	r.start("")
	r.apply(old, "a@1 b@2")
	r.q.settle(true)
	r.apply(poison, "a@5 b@2 c@6")
	r.start("panic: poison")
	if got, want := served(r.world), "a@1 b@2 !c@6/0 !a@5/1"; !sameWords(got, want) {
		t.Errorf("from disk: got %s, want %s", got, want)
	}
	r.apply(poison, "a@1 b@2 !a@5/1 !c@6/0")
	if q := r.world.Rejections[0]; !q.Quarantined || q.Reason == "" {
		t.Errorf("got %+v, want it quarantined with a reason", q)
	}
	r.start("") // it is remembered, whatever comes between
	r.start("panic: another")
	r.apply(poison, "a@1 b@2 !a@5/1 !c@6/0")
	r.apply(worldOf(8, map[string]string{"a": "7 http://good", "b": "2 http://b", "c": "6 http://c"}), "a@7 b@2 !c@6/0")
	r.apply(worldOf(9, map[string]string{"a": "7 http://good", "b": "2 http://b"}), "a@7 b@2")
	r.start("")
	r.apply(worldOf(9, map[string]string{"a": "7 http://good", "b": "2 http://b"}), "a@7 b@2")
}

// sameWords reports whether two texts have the same words.
func sameWords(a, b string) bool {
	count := map[string]int{}
	for _, w := range strings.Fields(a) {
		count[w]++
	}
	for _, w := range strings.Fields(b) {
		count[w]--
	}
	for _, n := range count {
		if n != 0 {
			return false
		}
	}
	return true
}

func TestAWorkerThatWasKilledSuspectsNoDefinition(t *testing.T) {
	r := &rig{T: t, dir: t.TempDir()}
	s := worldOf(3, map[string]string{"a": "1 http://a"})
	r.start("")
	r.apply(s, "a@1")
	r.start("") // its marks are still there
	r.apply(s, "a@1")
	r.start("panic: something else, later")
	r.apply(s, "a@1")
}

func TestADefinitionThatWasServedForLongIsNotTheCauseOfACrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &rig{T: t, dir: t.TempDir()}
		r.start("")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = r.q.Run(ctx)
		}()
		r.apply(worldOf(3, map[string]string{"a": "1 http://a"}), "a@1")
		time.Sleep(settledAfter / 2)
		later := worldOf(6, map[string]string{"a": "1 http://a", "b": "5 http://b"})
		r.apply(later, "a@1 b@5")
		time.Sleep(settledAfter/2 + time.Millisecond)
		synctest.Wait()
		left, err := readMarks(r.q.path)
		if got := fmt.Sprint(left.Applying); err != nil || got != "map[b:5]" {
			t.Errorf("after %v: got %s, %v; want the newer one only", settledAfter, got, err)
		}
		time.Sleep(settledAfter)
		synctest.Wait()
		if left, err = readMarks(r.q.path); err != nil || len(left.Applying) != 0 {
			t.Errorf("later: got %v, %v; want none", left, err)
		}
		r.apply(worldOf(8, map[string]string{"a": "7 http://a"}), "a@7")
		cancel()
		<-done
		if left, err = readMarks(r.q.path); err != nil || len(left.Applying) != 0 {
			t.Errorf("after the end in good order: got %v, %v; want none", left, err)
		}
	})
}

func TestNoDefinitionIsSuspectedWhereTooManyAreNew(t *testing.T) {
	r := &rig{T: t, dir: t.TempDir()}
	r.start("")
	many := map[string]string{"a": "1 http://a"}
	for i := range maxApplying {
		many[fmt.Sprint("g", i)] = "2 http://g"
	}
	s := worldOf(3, many)
	r.apply(s, "a@1")
	r.start("panic: something")
	r.apply(s, "a@1")
}

func TestMarksThatCannotBeReadSuspectNothing(t *testing.T) {
	r := &rig{T: t, dir: t.TempDir()}
	r.start("")
	if err := os.WriteFile(r.q.path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.start("panic: poison")
	r.apply(worldOf(3, map[string]string{"a": "1 http://a"}), "a@1")
}
