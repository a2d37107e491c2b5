package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/leasehold/leasehold/test/internal/cluster"
)

// rates returns a result with rates of calls at 16 clients.
func rates(byPath map[string][]float64) *result {
	r := newResult()
	for path, rates := range byPath {
		row := r.row(sectionCalls, path, goalClients)
		for _, rate := range rates {
			row.Rounds = append(row.Rounds, values{figureRate: rate, figureP99: 1000 / rate})
		}
	}
	r.finish(sectionCalls)
	return r
}

// some are the sections with names.
func some(names ...string) []section {
	var found []section
	for _, s := range sections {
		for _, name := range names {
			if s.name == name {
				found = append(found, s)
			}
		}
	}
	return found
}

func TestResultTakesMediansAndRatios(t *testing.T) {
	r := rates(map[string][]float64{
		pathDirect: {400, 500, 600}, pathProxy: {100, 10, 110}, pathOwner: {300, 110, 111}, pathForward: {50, 60, 40},
	})
	owner, forward := r.find(sectionCalls, pathOwner, 16), r.find(sectionCalls, pathForward, 16)
	if owner.Median[figureRate] != 111 || owner.ToProxy != 1.11 || forward.ToOwner != 50.0/111 {
		t.Errorf("owner %+v, forward %+v", owner, forward)
	}
}

func TestGoals(t *testing.T) {
	r := rates(map[string][]float64{pathProxy: {100}, pathOwner: {111}, pathForward: {50}})
	var err error
	if r.Goals, err = r.evaluate(some(sectionCalls)); err != nil {
		t.Fatal(err)
	}
	if len(r.Goals) != 2 || !r.Goals[0].Reached || r.Goals[1].Reached {
		t.Errorf("owner at 1.11 × the proxy reaches its goal, forward at 0.45 × the owner does not; got %+v", r.Goals)
	}
	err = r.checkGoals(io.Discard)
	if err == nil || strings.Contains(err.Error(), "calls, owner") || !strings.Contains(err.Error(), "calls, forward") {
		t.Errorf("got %v", err)
	}
	if _, err := r.evaluate(some(sectionCalls, sectionStream)); err == nil {
		t.Error("a goal counts as reached although its path was not measured")
	}
}

func TestGoalsThatBoundFromAbove(t *testing.T) {
	for _, c := range []struct {
		heap, descriptors float64
		reached           [2]bool
	}{
		{8000, 0, [2]bool{true, true}},
		{9000, 0.5, [2]bool{false, false}},
	} {
		r := newResult()
		row := r.row(sectionIdle, pathOwner, 100)
		row.Rounds = []values{{figureHeap: c.heap, figureFDs: c.descriptors}}
		r.finish(sectionIdle)
		goals, err := r.evaluate(some(sectionIdle))
		if err != nil || len(goals) != 2 || goals[0].Reached != c.reached[0] || goals[1].Reached != c.reached[1] {
			t.Errorf("%+v: %+v, %v", c, goals, err)
		}
	}
}

func TestCounters(t *testing.T) {
	r := newResult()
	ran := some(sectionCalls, sectionChurn)
	r.Counters[sectionCalls] = cluster.Metrics{`leasehold_etcd_requests_total{op="renew"}`: 3}
	r.Counters[sectionChurn] = cluster.Metrics{`leasehold_etcd_requests_total{op="batch"}`: 3}
	if err := r.checkCounters(io.Discard, ran); err != nil {
		t.Error(err)
	}
	r.Counters[sectionCalls][`leasehold_etcd_requests_total{op="get"}`] = 1
	if err := r.checkCounters(io.Discard, ran); err == nil {
		t.Error("a request to etcd other than renew passed in a section of calls on live sessions")
	}
}

func TestCompareMarksWhatLiesBeyondTheSpread(t *testing.T) {
	old := rates(map[string][]float64{pathProxy: {100, 110, 120}, pathOwner: {100, 110, 120}, pathForward: {100, 110, 120}, pathNginx: {9}})
	new := rates(map[string][]float64{pathProxy: {121, 130, 140}, pathOwner: {80, 90, 99}, pathForward: {119, 130, 140}})
	for path, want := range map[string]change{
		pathProxy:   {110, 130, markBetter},
		pathOwner:   {110, 90, markWorse},
		pathForward: {110, 130, ""},
	} {
		got, ok := compare(old.find(sectionCalls, path, 16), new.find(sectionCalls, path, 16), rateColumn(""))
		if !ok || got != want {
			t.Errorf("%s: got %+v, %v, want %+v", path, got, ok, want)
		}
	}
	// Of a latency, less is better.
	got, ok := compare(old.find(sectionCalls, pathProxy, 16), new.find(sectionCalls, pathProxy, 16), columnP99)
	if !ok || got.mark != markBetter {
		t.Errorf("p99: %+v, %v", got, ok)
	}
}

func TestCompareOfFiguresMeasuredOnce(t *testing.T) {
	row := func(v float64) *row {
		return &row{Median: values{figureHeap: v}, Rounds: []values{{figureHeap: v}}}
	}
	c := column{figure: figureHeap}
	for after, want := range map[float64]string{1050: "", 1200: markWorse, 800: markBetter} {
		if got, ok := compare(row(1000), row(after), c); !ok || got.mark != want {
			t.Errorf("from 1000 to %v: %+v, %v, want %q", after, got, ok, want)
		}
	}
	if _, ok := compare(row(1000), row(1000), columnP50); ok {
		t.Error("a figure that neither has is compared")
	}
}

func TestCompareFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, r *result) string {
		data, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	old := write("old.json", rates(map[string][]float64{pathOwner: {100, 110, 120}}))
	new := write("new.json", rates(map[string][]float64{pathOwner: {50, 55, 60}}))
	var out bytes.Buffer
	if err := compareFiles(&out, []string{old, new}); err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`calls +16 +owner +calls/s +110 +55 +0\.50 +WORSE`).MatchString(out.String()) {
		t.Errorf("got\n%s", out.String())
	}
	if err := compareFiles(io.Discard, []string{old, write("empty.json", newResult())}); err == nil {
		t.Error("files without a common figure compare")
	}
	if err := compareFiles(io.Discard, []string{old}); err == nil {
		t.Error("one file compares")
	}
}

func TestPrintHasAllSections(t *testing.T) {
	r := rates(map[string][]float64{pathProxy: {100}, pathOwner: {150}})
	r.Environment = readEnvironment([]string{"-only", "calls"})
	var out bytes.Buffer
	r.print(&out, some(sectionCalls))
	for _, want := range []string{"small calls, closed loop", "1.50", r.Environment.Go, "go run ./test/bench -only calls"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
}
