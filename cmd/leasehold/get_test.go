package main

import (
	"bytes"
	"context"
	"encoding/json"
	"math"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/leasehold/leasehold/cmd/internal/table"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func TestTablesFitATerminalWhateverIsInThem(t *testing.T) {
	long, old := strings.Repeat("x", 63), timestamppb.New(time.Now().Add(-29*24*time.Hour))
	digest, worker := strings.Repeat("0123456789abcdef", 2), "workers/0123456789abcdef"
	gateway := &leaseholdv1.Gateway{
		Name: "gateways/" + long, CreateTime: old,
		Upstreams: []*leaseholdv1.Upstream{{Url: "http://" + strings.Repeat("y", 2000)}},
		Status:    &leaseholdv1.GatewayStatus{WorkersApplied: 1000, WorkersTotal: 1000, Sessions: 100_000_000},
	}
	live := &leaseholdv1.Session{
		Name: gateway.Name + "/sessions/" + digest, Owner: worker, Epoch: math.MaxUint64, Class: leaseholdv1.Class_CLASS_REBUILDABLE, CreateTime: old,
		Activity: &leaseholdv1.SessionActivity{LastUseTime: old, Calls: math.MaxUint64},
	}
	ended := &leaseholdv1.Session{
		Name: gateway.Name + "/sessions/" + digest[1:] + "0", Owner: worker, CreateTime: old, Epoch: 1,
		End: &leaseholdv1.SessionEnd{Reason: leaseholdv1.EndReason_END_REASON_UPSTREAM_CHANGED},
	}
	process := &leaseholdv1.Worker{
		Name: worker, ListenAddress: "[0123:4567:89ab:cdef:0123:4567:89ab:cdef]:65535", Zone: long, Version: long,
		Incarnation: math.MaxInt64, AppliedRevision: math.MaxInt64, RegisterTime: old,
		State: leaseholdv1.WorkerState_WORKER_STATE_DRAINING, Sessions: math.MaxInt32,
	}
	once, watched := (&sessionList{activity: true}).resource(), (&sessionList{watched: true}).resource()
	workers, watchedWorkers := (&workerList{}).resource(), (&workerList{watched: true}).resource()
	sessions := []*leaseholdv1.Session{live, ended}
	for name, c := range map[string]struct {
		columns []table.Column
		rows    [][]string
		whole   []string // what is never cut
	}{
		"gateways": {gateways("").columns, append(gateways("").rows([]*leaseholdv1.Gateway{gateway}), gateways("").gone(gateway)), nil},
		"sessions": {once.columns, once.rows(sessions), []string{"\n" + digest[:8] + "  ", "\n" + digest[1:9] + "  ", " 01234567 "}},
		"watched":  {watched.columns, append(watched.rows(sessions), watched.gone(live)), []string{"\n" + digest[:8] + "  "}},
		"workers":  {workers.columns, workers.rows([]*leaseholdv1.Worker{process}), []string{"\n0123456789abcdef  draining  2147483647  "}},
		"watched workers": {
			watchedWorkers.columns, append(watchedWorkers.rows([]*leaseholdv1.Worker{process}), watchedWorkers.gone(process)),
			[]string{"\n0123456789abcdef  draining  ", "\n0123456789abcdef  removed   -"},
		},
	} {
		var out bytes.Buffer
		if err := table.Write(&out, c.columns, c.rows); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out.String()) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > table.Width {
				t.Errorf("%s: line of %d characters: %s", name, n, line)
			}
		}
		for _, want := range c.whole {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%s: %q is not in the table:\n%s", name, want, out.String())
			}
		}
	}
}

func TestATableNamesSessionsByAsManyDigitsAsTellThemApart(t *testing.T) {
	var all []*leaseholdv1.Session
	for _, digest := range []string{"0123456789abcdef0123456789abcdef", "0123456780abcdef0123456789abcdef"} {
		all = append(all, &leaseholdv1.Session{Name: "gateways/a/sessions/" + digest})
	}
	if got := telling(all[:1]); got != 8 {
		t.Errorf("one session: got %d digits, want 8", got)
	}
	if got := telling(all); got != 16 {
		t.Errorf("two that differ in their tenth digit: got %d digits, want 16", got)
	}
}

// watchRun is a `leasehold get … --watch` in this process.
type watchRun struct {
	t      *testing.T
	out    *output
	errs   *output
	cancel context.CancelFunc
	code   chan int
}

func startWatch(dev *devRun, line string, args ...string) *watchRun {
	dev.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w := &watchRun{t: dev.t, out: newOutput(line), errs: newOutput("^never$"), cancel: cancel, code: make(chan int, 1)}
	go func() {
		w.code <- run(ctx, append(args, "--watch", "--control", dev.control), strings.NewReader(""), w.out, w.errs)
	}()
	dev.t.Cleanup(cancel)
	w.wait(w.out.seen)
	return w
}

func (w *watchRun) wait(seen <-chan struct{}) {
	w.t.Helper()
	select {
	case <-seen:
	case code := <-w.code:
		w.t.Fatalf("the watch ended with %d: %s%s", code, w.out, w.errs)
	case <-time.After(startLimit):
		w.t.Fatalf("not seen: %s%s", w.out, w.errs)
	}
}

func (w *watchRun) stop() string {
	w.t.Helper()
	w.cancel()
	if code := <-w.code; code != exitOK {
		w.t.Errorf("the watch ended with %d: %s", code, w.errs)
	}
	return w.out.String()
}

func TestGetDescribeAndCompleteAgainstARunningControlPlane(t *testing.T) {
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	dev := startDev(t, t.TempDir())
	defer dev.stop()
	dev.do("name: a\nlabels: {team: search}\ndescription: \"two\\nlines\"\nupstreams: [{name: u, url: http://127.0.0.1:1/mcp}]\n", "apply", "-f", "-")
	initialize(t, dev.workers[0])
	session := strings.TrimSpace(dev.do("", "get", "sessions", "-o", "name"))
	digest := session[strings.LastIndex(session, "/")+1:]
	owner := strings.TrimSpace(strings.SplitN(dev.do("", "describe", "session", digest[:8]), "Owner", 2)[1][:60])
	owner = strings.TrimPrefix(strings.Fields(owner)[0], "workers/")

	t.Run("names", func(t *testing.T) {
		expect(t, dev.do("", "get", "gateways", "-o", "name"), "gateways/a\ngateways/demo\n")
		expect(t, dev.do("", "get", "gateway", "a", "-o", "name"), "gateways/a\n")
	})
	t.Run("filters", func(t *testing.T) {
		expect(t, dev.do("", "get", "gateways", "--filter", "labels.team = search", "-o", "name"), "gateways/a\n")
		expect(t, dev.do("", "get", "sessions", "--owner", owner[:8], "--class", "resumable", "-o", "name"), session+"\n")
		expect(t, dev.do("", "get", "sessions", "--class", "pinned", "-o", "name"), "")
		expect(t, dev.do("", "get", "sessions", "--filter", "gateway = gateways/a", "-o", "name"), "")
		dev.fail("", "filter", "get", "gateways", "--filter", "labels")
		dev.fail("", "there is no worker whose name begins with 00000000", "get", "sessions", "--owner", "00000000")
	})
	t.Run("describe", func(t *testing.T) {
		for what, wants := range map[string][]string{
			"session " + digest[:8]:  {session, "live", "resumable: another worker continues", "workers/" + owner, "test 1", "2025-11-25", "\n  demo  ", "  opened  " + owner, "since this owner has the session"},
			"gateway a":              {"gateways/a", "two?lines", "  team  ", "search", "http://127.0.0.1:1/mcp", "streamable http", "2 of 2 have applied revision"},
			"worker " + owner[:8]:    {"workers/" + owner, "Incarnation", "127.0.0.1:", "dev"},
			"session demo/" + digest: {session},
		} {
			got := dev.do("", append([]string{"describe"}, strings.Fields(what)...)...)
			for _, want := range wants {
				if !strings.Contains(got, want) {
					t.Errorf("describe %s lacks %q:\n%s", what, want, got)
				}
			}
		}
		dev.fail("", "gateways/none: ", "describe", "gateway", "none")
	})
	t.Run("complete", func(t *testing.T) {
		for _, c := range []struct{ args, want string }{
			{"get gateway |", "a,demo"},
			{"get gateways gateways/d|", "gateways/demo"},
			{"describe gateway d|", "demo"},
			{"delete gateway |", "a,demo"},
			{"describe session |", "demo/" + digest},
			{"terminate session demo/|", "demo/" + digest},
			{"get session gateways/|", session},
			{"get session " + digest[:4] + "|", digest},
			{"describe worker " + owner[:3] + "|", owner},
			{"get sessions --gateway |", "a,demo"},
			{"get sessions --owner " + owner[:3] + "|", owner},
			{"get sessions --class |", "resumable,rebuildable,pinned"},
			{"get workers -o |", "table,yaml,json,name"},
			{"get |", "gateways,sessions,workers"},
			{"get gateway a |", ""},
		} {
			if got := complete(t, dev.control, c.args); got != c.want {
				t.Errorf("%s: offered %q, want %q", c.args, got, c.want)
			}
		}
	})
	t.Run("watch", func(t *testing.T) {
		rows := startWatch(dev, `^demo +2/2 `, "get", "gateways")
		lines := startWatch(dev, `BOOKMARK`, "get", "sessions", "-o", "json")
		one := startWatch(dev, `gateways/a`, "get", "gateway", "a", "-o", "name")
		table := startWatch(dev, `^`+digest[:8], "get", "sessions")
		removed, dropped := watch(t, rows.out, `(?m)^b +.* removed$`), watch(t, table.out, `ended: terminated`)
		gone := watch(t, one.out, `gateways/a removed`)
		dev.do("name: b\nupstreams: [{name: u, url: http://127.0.0.1:1/mcp}]\n", "apply", "-f", "-")
		dev.do("", "delete", "gateway", "b")
		dev.do("", "terminate", "session", digest[:8])
		dev.do("", "delete", "gateway", "a")
		rows.wait(removed)
		table.wait(dropped)
		one.wait(gone)
		expect(t, one.stop(), "gateways/a\ngateways/a removed\n")
		if got := rows.stop(); strings.Count(got, "NAME") != 1 || !strings.HasPrefix(got, "NAME") || !strings.Contains(got, "\nb ") {
			t.Errorf("the table is\n%s", got)
		}
		table.stop()
		var types []string
		for line := range strings.Lines(lines.stop()) {
			var event struct {
				Type    string
				Session struct{ Name string }
			}
			if err := json.Unmarshal([]byte(line), &event); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			types = append(types, strings.TrimPrefix(event.Type, "CHANGE_TYPE_"))
		}
		if !slices.Equal(types, []string{"PUT", "BOOKMARK", "REMOVED"}) {
			t.Errorf("events: got %v", types)
		}
		dev.fail("", "gateways/none: ", "get", "gateway", "none", "--watch")
	})
}

// complete returns what a shell is offered at the bar.
func complete(t *testing.T, control, line string) string {
	t.Helper()
	words := strings.Fields(strings.TrimSuffix(line, "|"))
	begun := ""
	if !strings.HasSuffix(line, " |") {
		begun, words = words[len(words)-1], words[:len(words)-1]
	}
	t.Setenv("LEASEHOLD_CONTROL", control)
	code, stdout, _ := call(t, "", append(append([]string{"__complete"}, words...), begun)...)
	if code != exitOK {
		t.Errorf("complete %s: exit code %d", line, code)
	}
	var names []string
	for text := range strings.Lines(stdout) {
		name, _, _ := strings.Cut(strings.TrimSpace(text), "\t")
		if name != "" && !strings.HasPrefix(name, ":") {
			names = append(names, name)
		}
	}
	return strings.Join(names, ",")
}

func TestCompletionIsSilentAndQuickWithoutAControlPlane(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0") // accepts, never answers
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	for _, control := range []string{"127.0.0.1:1", listener.Addr().String(), "10.0.0.1:7070", "nonsense"} {
		begun := time.Now()
		if got := complete(t, control, "get gateway |"); got != "" {
			t.Errorf("%s: offered %q", control, got)
		}
		if took := time.Since(begun); took > 1500*time.Millisecond {
			t.Errorf("%s: took %v, want at most a second", control, took)
		}
	}
}

func TestSeveralAddressesOfTheControlPlaneAreTriedInTurn(t *testing.T) {
	dev := startDev(t, t.TempDir(), "--workers", "1", "--no-demo")
	defer dev.stop()
	code, stdout, stderr := call(t, "", "get", "workers", "-o", "name", "--control", "127.0.0.1:1,"+dev.control)
	if code != exitOK || strings.Count(stdout, "workers/") != 1 {
		t.Errorf("got exit code %d, %q and %q, want the worker", code, stdout, stderr)
	}
}
