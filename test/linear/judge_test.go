package linear

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
	"github.com/leasehold/leasehold/test/internal/ledger"
)

// searchLimit bounds porcupine's search for an order for one session.
const searchLimit = 30 * time.Second

// verdict is what the judges say of a run.
type verdict struct {
	progress
	violations []violation
	operations []operation
	changes    []change
	dispatches int
	// strangers are requests at the upstream whose process could not be told.
	strangers int
	illegal   []porcupine.LinearizationInfo
	saved     bool
}

// judge ends what is under way and judges all that was written down.
func (w *world) judge(t *testing.T) verdict {
	t.Helper()
	w.finish()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	changes, err := history(ctx, w.store)
	if err != nil {
		t.Fatal(err)
	}
	v := verdict{operations: w.all(), changes: changes}
	tried, err := try(changes, v.operations)
	if err != nil {
		t.Fatal(err)
	}
	v.progress, v.violations = tried.progress, tried.violations
	entries := w.ledger.Report(true).Entries
	v.dispatched(w, entries)
	v.once(entries)
	v.linearize()
	v.saveIfWrong(t, w)
	return v
}

// dispatched adds what the upstream saw to the operations.
func (v *verdict) dispatched(w *world, entries []ledger.Entry) {
	sessions := w.byUpstream(entries)
	for _, e := range entries {
		s := sessions[e.Session]
		if s == nil || e.Method == "initialize" || e.HTTP == "GET" {
			continue // of a session that its client never learned of
		}
		from, id := w.dispatcher(e.PID)
		if from == nil {
			v.strangers++
			continue
		}
		sent, ok := s.sentAt(e)
		if !ok {
			continue
		}
		v.dispatches++
		v.operations = append(v.operations, operation{
			Method: dispatch, Session: s.key, Process: from.name, Worker: id, Outcome: done, Unrecorded: !v.durable(s),
			Request: strings.TrimSpace(e.HTTP + " " + e.Method + " " + string(e.ID)), Call: sent, Return: w.at(e.Time),
		})
	}
}

// durable reports whether a session was recorded when its client learned of it.
func (v *verdict) durable(s *session) bool {
	return slices.ContainsFunc(v.operations, func(op operation) bool {
		return op.Session == s.key && op.Method == claim && op.Outcome == done && op.Return <= s.initialized
	})
}

// disowned reports whether a session was lost as it may be: its worker, which had no
// answer to its claim, lost its incarnation before. Sessions that a worker knows to be
// recorded never end so, unless they are pinned.
func (v *verdict) disowned(s *session) bool {
	return slices.ContainsFunc(v.changes, func(c change) bool {
		r, err := recordOf(c.Value)
		return c.Key == root+"sessions/"+s.key && err == nil && r.GetEnd().GetReason() == leaseholdv1.EndReason_END_REASON_OWNER_LOST
	})
}

// once judges whether any call reached the upstream twice.
func (v *verdict) once(entries []ledger.Entry) {
	times := map[string]int{}
	for _, e := range entries {
		if e.Method == "tools/call" {
			times[string(e.ID)]++
		}
	}
	for id, n := range times {
		if n > 1 {
			v.violations = append(v.violations, violation{"ledger", deliveredOnce, fmt.Sprintf("%s arrived %d times", id, n)})
		}
	}
}

// linearize has porcupine judge each session by itself.
func (v *verdict) linearize() {
	sessions := map[string][]porcupine.Operation{}
	for _, op := range telling(v.operations) {
		if op.Session != "" {
			sessions[op.Session] = append(sessions[op.Session], porcupine.Operation{Input: op, Call: op.Call, Return: op.Return})
		}
	}
	for key, operations := range sessions {
		result, info := porcupine.CheckOperationsVerbose(model, operations, searchLimit)
		switch result {
		case porcupine.Unknown:
			v.violations = append(v.violations, violation{byPorcupine, "an order is found in time", key})
		case porcupine.Illegal:
			culprit := unexplained(operations, info)
			v.illegal = append(v.illegal, info)
			v.violations = append(v.violations, violation{byPorcupine, linearizable + culprit.Method, key + ": " + culprit.String()})
		}
	}
}

// telling leaves out what tells nothing and makes the search long: a question without an
// answer that changes nothing, and all but the first of equal operations of which nobody
// knows whether they were carried out. Of those only one can have an effect.
func telling(operations []operation) []operation {
	operations = slices.Clone(operations)
	sort.SliceStable(operations, func(i, j int) bool { return operations[i].Call < operations[j].Call })
	met := map[operation]bool{}
	return slices.DeleteFunc(operations, func(op operation) bool {
		if op.Outcome != unknown {
			return false
		}
		op.Call, op.Late, op.Process = 0, false, ""
		before := met[op]
		met[op] = true
		return before || op.Method == resolve && op.Worker == ""
	})
}

// unexplained returns the first operation for which no order was found.
func unexplained(operations []porcupine.Operation, info porcupine.LinearizationInfo) operation {
	var longest []porcupine.Operation
	for _, partition := range info.PartialLinearizationsOperations() {
		for _, order := range partition {
			if len(order) > len(longest) {
				longest = order
			}
		}
	}
	explained := map[operation]bool{}
	for _, o := range longest {
		explained[o.Input.(operation)] = true
	}
	sort.Slice(operations, func(i, j int) bool { return operations[i].Return < operations[j].Return })
	for _, o := range operations {
		if op := o.Input.(operation); !explained[op] {
			return op
		}
	}
	return operations[0].Input.(operation)
}

// found returns the distinct judges and properties of the violations.
func (v *verdict) found() []string {
	var all []string
	for _, found := range v.violations {
		all = append(all, found.Judge+": "+found.Property)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// saveIfWrong keeps the histories if the judges found something, or if asked to.
func (v *verdict) saveIfWrong(t *testing.T, w *world) {
	if *keep != "" || len(v.violations) > 0 && w.mutant == *without {
		v.save(t, w)
	}
}

// save keeps the histories, once.
func (v *verdict) save(t *testing.T, w *world) {
	if v.saved {
		return
	}
	v.saved = true
	dir, err := os.MkdirTemp(*keep, strings.ReplaceAll(t.Name(), "/", "-")+"-")
	if err != nil {
		t.Error(err)
		return
	}
	sort.Slice(v.operations, func(i, j int) bool { return v.operations[i].Call < v.operations[j].Call })
	var errs []error
	errs = append(errs, writeLines(filepath.Join(dir, "operations.jsonl"), v.operations),
		writeLines(filepath.Join(dir, "revisions.jsonl"), v.changes),
		writeLines(filepath.Join(dir, "violations.jsonl"), v.violations))
	for i, info := range v.illegal {
		errs = append(errs, porcupine.VisualizePath(model, info, filepath.Join(dir, fmt.Sprintf("session%d.html", i))))
	}
	for _, p := range w.processes() {
		errs = append(errs, os.WriteFile(filepath.Join(dir, p.Name+".log"), []byte(p.Output()), 0o644))
	}
	for _, err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
	t.Logf("histories and logs are kept in %s", dir)
}
