package e2e

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
	"github.com/leasehold/leasehold/test/internal/client"
	"github.com/leasehold/leasehold/test/internal/cluster"
	"github.com/leasehold/leasehold/test/internal/ledger"
)

// fleet is many sessions of one gateway, each of which sends every request to
// the next worker in turn.
type fleet struct {
	t       *testing.T
	cluster *cluster.Cluster
	gateway string
	remote  ledger.Remote
	members []*member
}

// member is one session of a fleet.
type member struct {
	*client.Session
	number   int
	turn     int // which worker is next
	counter  int // what the counter has to be
	upstream string
	owner    *cluster.Worker
	epoch    uint64
}

// width is how many members of a fleet are busy at a time.
const width = 16

// newFleet opens n sessions, evenly at all workers.
func newFleet(t *testing.T, c *cluster.Cluster, gateway string, remote ledger.Remote, n int) *fleet {
	t.Helper()
	f := &fleet{t: t, cluster: c, gateway: gateway, remote: remote, members: make([]*member, n)}
	each(t, width, f.members, func(i int, _ *member) error {
		m := &member{number: i, turn: i}
		var err error
		m.Session, err = client.Open(t.Context(), f.next(m))
		f.members[i] = m
		return err
	})
	return f
}

// next is the URL of the worker whose turn it is.
func (f *fleet) next(m *member) string {
	live := f.cluster.Live()
	m.turn++
	return live[(m.turn-1)%len(live)].URL(f.gateway)
}

// count increments the counter of a member and checks it.
func (f *fleet) count(ctx context.Context, m *member) error {
	m.counter++
	got, err := m.Increment(ctx, f.next(m))
	if err != nil {
		return err
	}
	if got != m.counter {
		return fmt.Errorf("the counter is %d, want %d", got, m.counter)
	}
	return nil
}

// work makes every member count n times.
func (f *fleet) work(n int) {
	f.t.Helper()
	each(f.t, width, f.members, func(_ int, m *member) error {
		for range n {
			if err := f.count(f.t.Context(), m); err != nil {
				return err
			}
		}
		return nil
	})
}

// identify finds out which upstream session each member has, by sending its
// number there.
func (f *fleet) identify() {
	f.t.Helper()
	each(f.t, width, f.members, func(_ int, m *member) error {
		_, err := m.Call(f.t.Context(), f.next(m), "echo", fmt.Sprintf(`{"text":"%d"}`, m.number))
		return err
	})
	for _, e := range report(f.t, f.remote).Entries {
		if e.Tool != "echo" {
			continue
		}
		number, err := strconv.Atoi(e.Result)
		if err != nil {
			f.t.Fatalf("the upstream saw an echo of %q", e.Result)
		}
		m := f.members[number]
		if m.upstream != "" && m.upstream != e.Session {
			f.t.Errorf("session %d has the upstream sessions %s and %s", number, m.upstream, e.Session)
		}
		m.upstream = e.Session
	}
}

// look reads from the control plane who owns each member.
func (f *fleet) look() {
	f.t.Helper()
	listed, err := f.cluster.Sessions(f.t.Context(), f.gateway)
	if err != nil {
		f.t.Fatal(err)
	}
	records := map[string]*leaseholdv1.Session{}
	for _, s := range listed {
		records[s.GetName()] = s
	}
	for _, m := range f.members {
		s := records[cluster.SessionName(f.gateway, m.ID)]
		if s == nil {
			f.t.Fatalf("session %d is not among the %d sessions of the gateway", m.number, len(listed))
		}
		if m.owner, err = f.cluster.Owner(f.t.Context(), s); err != nil {
			f.t.Fatal(err)
		}
		m.epoch = s.GetEpoch()
		if s.GetClass() != leaseholdv1.Class_CLASS_RESUMABLE {
			f.t.Errorf("session %d is of class %v, want resumable", m.number, s.GetClass())
		}
	}
}

// close ends every member with a DELETE at the next worker.
func (f *fleet) close() {
	f.t.Helper()
	each(f.t, width, f.members, func(_ int, m *member) error {
		return m.Close(f.t.Context(), f.next(m))
	})
}

func TestEveryCallComesFromTheOwnerWhicheverWorkerIsAsked(t *testing.T) {
	const sessions, calls = 200, 20
	c := shared(t)
	remote := c.Serve(t, "fleet", "")
	start := time.Now()
	f := newFleet(t, c, "fleet", remote, sessions)
	f.work(calls)
	t.Logf("%d sessions with %d calls each took %v", sessions, calls, time.Since(start).Round(time.Millisecond))
	f.identify()
	f.look()
	f.close()

	r := report(t, remote)
	if r.Opened != sessions || len(r.Live) != 0 {
		t.Errorf("the upstream saw %d sessions and has %d; want %d and none", r.Opened, len(r.Live), sessions)
	}
	checkEntries(t, f, r, calls)
	wantNoneListed(t, c, "fleet")
	refusedAsOver(t, c, f.members[0].Session, "fleet")
}

// checkEntries checks that each upstream session was used by its owner's
// process alone, for what one client asked.
func checkEntries(t *testing.T, f *fleet, r ledger.Report, calls int) {
	t.Helper()
	owners, increments, total := map[string]int{}, map[string]int{}, 0
	perWorker := map[string]int{}
	for _, m := range f.members {
		owners[m.upstream] = m.owner.PID
		perWorker[m.owner.Name]++
	}
	strangers := 0
	for _, e := range r.Entries {
		if e.PID != owners[e.Session] {
			if strangers++; strangers <= 5 {
				t.Errorf("%s %s of upstream session %s came from process %d, its owner is %d", e.HTTP, e.Method, e.Session, e.PID, owners[e.Session])
			}
		}
		if e.Method != "initialize" && e.Protocol != client.Version {
			t.Errorf("%s %s has protocol version %q, want %q", e.HTTP, e.Method, e.Protocol, client.Version)
		}
		if e.Tool == "counter_increment" {
			increments[e.Session]++
			total++
		}
	}
	if strangers > 0 {
		t.Errorf("%d requests came from another process than the owner's", strangers)
	}
	if total != len(f.members)*calls {
		t.Errorf("the upstream saw %d increments, want %d", total, len(f.members)*calls)
	}
	for session, n := range increments {
		if n != calls {
			t.Errorf("upstream session %s saw %d increments, want %d", session, n, calls)
		}
	}
	if len(perWorker) != len(f.cluster.Live()) {
		t.Errorf("sessions per owner: %v; want some at each worker", perWorker)
	}
}

// wantNoneListed checks that the command line shows no session of a gateway.
func wantNoneListed(t *testing.T, c *cluster.Cluster, gateway string) {
	t.Helper()
	out, err := c.CLI(t.Context(), "", "get", "sessions", "--gateway", gateway, "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var list leaseholdv1.ListSessionsResponse
	if err := protojson.Unmarshal([]byte(out), &list); err != nil {
		t.Fatalf("get sessions printed %.300q: %v", out, err)
	}
	if n := len(list.GetSessions()); n != 0 {
		t.Errorf("get sessions shows %d live sessions, want none", n)
	}
}
