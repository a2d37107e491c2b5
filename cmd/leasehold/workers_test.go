package main

import (
	"bytes"
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/leasehold/leasehold/cmd/internal/table"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// golden compares got with a file of testdata.
func golden(t *testing.T, file, got string) {
	t.Helper()
	path := "testdata/" + file
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("not what %s has (rewrite it with -update):\n%s", path, got)
	}
}

func TestDescribeWorkerSaysWhatIsKnownInEachState(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	filled := func(state leaseholdv1.WorkerState) *leaseholdv1.Worker {
		worker := workerIn(state, 1203, 3)
		worker.Zone, worker.Version, worker.AdminAddress, worker.AppliedRevision = "a", "v0.1.0", "127.0.0.1:8090", 42
		worker.RegisterTime, worker.UndurableSessions = timestamppb.New(now.Add(-3*time.Hour)), 2
		worker.Peers = []string{"workers/" + workerB, "workers/1111111111111111"}
		return worker
	}
	alone, gone := filled(serving), filled(dead)
	alone.Peers = nil
	gone.Takeover = &leaseholdv1.Takeover{Rule: leaseholdv1.TakeoverRule_TAKEOVER_RULE_WAITING, LatestTime: timestamppb.New(now.Add(9 * time.Minute))}
	var pages []string
	for _, worker := range []*leaseholdv1.Worker{filled(drains), alone, gone, filled(departed)} {
		p := &page{now: now}
		describeWorker(p, worker)
		pages = append(pages, p.text.String())
	}
	golden(t, "describe_worker.txt", strings.Join(pages, "----\n"))
}

func TestDescribeWorkerHasWordsForEachTakeoverRule(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	var pages []string
	rules := leaseholdv1.TakeoverRule(0).Descriptor().Values()
	for i := range rules.Len() {
		takeover := &leaseholdv1.Takeover{Rule: leaseholdv1.TakeoverRule(rules.Get(i).Number()), Takers: []string{"workers/" + workerB, "workers/1111111111111111"}}
		switch takeover.Rule {
		case leaseholdv1.TakeoverRule_TAKEOVER_RULE_WAITING, leaseholdv1.TakeoverRule_TAKEOVER_RULE_HOLDING:
			takeover.Takers = nil
			fallthrough
		case leaseholdv1.TakeoverRule_TAKEOVER_RULE_LISTED:
			takeover.LatestTime = timestamppb.New(now.Add(9 * time.Minute))
		}
		if i > 0 && takeovers[takeover.Rule] == "" {
			t.Errorf("there are no words for %v", takeover.Rule)
		}
		p := &page{now: now}
		describeTakeover(p, "workers/"+workerA, takeover)
		pages = append(pages, string(rules.Get(i).Name())+"\n"+p.text.String())
	}
	golden(t, "takeover.txt", strings.Join(pages, "----\n"))
}

func TestALongListOfWorkersIsCut(t *testing.T) {
	p := &page{}
	p.workers("  Known", make([]string, mostShown+5), "none")
	if got := p.text.String(); strings.Count(got, "\n") != mostShown+1 || !strings.HasSuffix(got, " and 5 more\n") {
		t.Errorf("got\n%s", got)
	}
}

// id is the id of a worker that has one digit only.
func id(digit string) string { return strings.Repeat(digit, workerDigits) }

// several are workers in all states.
func several() []*leaseholdv1.Worker {
	all := []*leaseholdv1.Worker{workerIn(serving, 1203, 0), workerIn(drains, 1203, 0), workerIn(dead, 1203, 0), workerIn(departed, 1203, 0)}
	for i, digit := range []string{"a", "b", "c", "d"} {
		all[i].Name, all[i].Zone, all[i].Version = "workers/"+id(digit), "eu-1", "v0.1.0"
	}
	return all
}

func TestGetWorkersShowsStatesAndSessionsAndTheDeadIfAsked(t *testing.T) {
	p := &plane{all: several(), looks: states(workerIn(dead, 1203, 0))}
	alive := "WORKER            STATE     SESSIONS  LISTEN         ZONE  VERSION  CONFIG  AGE\n" +
		"aaaaaaaaaaaaaaaa  serving   1203      10.0.0.1:8080  eu-1  v0.1.0   0       -\n" +
		"bbbbbbbbbbbbbbbb  draining  1203      10.0.0.1:8080  eu-1  v0.1.0   0       -\n"
	_, stdout, _ := p.run(t, "get", "workers")
	expect(t, stdout, alive)
	_, stdout, _ = p.run(t, "get", "workers", "--show-dead")
	expect(t, stdout, alive+
		"cccccccccccccccc  dead      1203      10.0.0.1:8080  eu-1  v0.1.0   0       -\n"+
		"dddddddddddddddd  left      1203      10.0.0.1:8080  eu-1  v0.1.0   0       -\n")
	_, stdout, _ = p.run(t, "get", "worker", id("c")[:8], "-o", "yaml") // a dead one, by its first digits
	if !strings.Contains(stdout, "\nstate: DEAD\nsessions: 1203\n") {
		t.Errorf("got\n%s", stdout)
	}
}

func TestWorkersAreCompletedWhereTheirStateFits(t *testing.T) {
	addr, _ := (&plane{all: several()}).replica(t)
	for line, want := range map[string]string{
		"drain worker |":          id("a"),
		"drain worker x |":        "",
		"undrain worker |":        id("b"),
		"forget worker |":         id("c"),
		"forget worker workers/|": "workers/" + id("c"),
		"describe worker |":       id("a") + "," + id("b") + "," + id("c"),
		"get sessions --owner |":  id("a") + "," + id("b") + "," + id("c"),
		"move session x --to |":   id("a"),
	} {
		if got := complete(t, addr, line); got != want {
			t.Errorf("%s: offered %q, want %q", line, got, want)
		}
	}
}

func TestSessionsThatWereHandedOverOrDrainedAreShown(t *testing.T) {
	then := timestamppb.New(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))
	session := &leaseholdv1.Session{
		Name: "gateways/demo/sessions/" + digestA, Owner: "workers/" + workerA, Epoch: 2, CreateTime: then,
		Events: []*leaseholdv1.SessionEvent{
			{Time: then, Type: leaseholdv1.SessionEventType_SESSION_EVENT_TYPE_HANDED_OVER, Worker: "workers/" + workerA, Epoch: 2},
			{Time: then, Type: leaseholdv1.SessionEventType_SESSION_EVENT_TYPE_ENDED, Worker: "workers/" + workerA, Epoch: 2},
		},
		End: &leaseholdv1.SessionEnd{Reason: leaseholdv1.EndReason_END_REASON_WORKER_DRAINED, Time: then},
	}
	p := &page{now: then.AsTime()}
	describeSession(p, session)
	for _, want := range []string{"ended: worker drained", "  0s   handed over  " + workerA + "  2"} {
		if !strings.Contains(p.text.String(), want) {
			t.Errorf("describe lacks %q:\n%s", want, p.text.String())
		}
	}
	list := (&sessionList{watched: true}).resource()
	var out bytes.Buffer
	if err := table.Write(&out, list.columns, [][]string{list.gone(session)}); err != nil || !strings.Contains(out.String(), "ended: worker drained") {
		t.Errorf("the watch shows, with %v,\n%s", err, out.String())
	}
}
