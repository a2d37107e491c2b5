package dataplane_test

import (
	"bytes"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// several is upstreams that count behind one gateway.
type several struct {
	p  *plane
	of map[string]*upstreamServer
}

func startSeveral(t *testing.T, names ...string) several {
	s := several{startPlane(t), map[string]*upstreamServer{}}
	var definitions []*leaseholdv1.Upstream
	for _, name := range names {
		s.of[name] = startUpstream(t)
		s.of[name].lists = true
		definitions = append(definitions, &leaseholdv1.Upstream{Name: name, Url: s.of[name].URL})
	}
	s.p.setGatewayOf("g", definitions...)
	return s
}

// count calls the tool of each upstream at a worker, and wants it to have counted so far.
func (s several) count(t *testing.T, c *client, w *worker, want int) {
	t.Helper()
	for name := range s.of {
		if status, got := c.tool(w, name+"_n", "{}"); status != http.StatusOK || got != fmt.Sprint(want) {
			t.Fatalf("call %d of %s: got %d %q, want 200 %d", want, name, status, got, want)
		}
	}
}

// one wants every upstream to have had one session, which lives.
func (s several) one(t *testing.T) {
	t.Helper()
	for name, u := range s.of {
		if u.live() != 1 || u.opened != 1 {
			t.Errorf("upstream %s: %d sessions opened, %d live; want 1 and 1", name, u.opened, u.live())
		}
	}
}

// recorded returns the upstreams in the one live record, by name.
func (s several) recorded() (names []string) {
	for _, record := range s.p.live() {
		for _, part := range record.GetUpstreams() {
			names = append(names, part.GetUpstream())
		}
	}
	slices.Sort(names)
	return names
}

func TestASessionWithSeveralUpstreamsOutlivesItsOwnerUnderAllTheSameUpstreamSessions(t *testing.T) {
	s := startSeveral(t, "a", "b", "c")
	owner, second := startWorker(t, s.p), startWorker(t, s.p)
	c := newClient(t, "g")
	c.initialize(owner)
	s.count(t, c, second, 1)
	eventually(t, "all upstreams are recorded", func() bool { return slices.Equal(s.recorded(), []string{"a", "b", "c"}) })
	owner.stop()
	s.count(t, c, second, 2)
	s.one(t)
	if live := s.p.live(); len(live) != 1 || live[0].GetEpoch() != 2 || !live[0].GetMerged() || live[0].GetClass() != leaseholdv1.Class_CLASS_RESUMABLE {
		t.Errorf("records: got %v, want one resumable with epoch 2", live)
	}
	if resp, body := c.do(second, http.MethodDelete, ""); resp.StatusCode != http.StatusNoContent {
		t.Errorf("DELETE: got %d %s", resp.StatusCode, body)
	}
	for name, u := range s.of {
		if u.live() != 0 {
			t.Errorf("upstream %s: %d sessions are left", name, u.live())
		}
	}
}

func TestASessionWithSeveralUpstreamsIsHandedOverWithAllOfThem(t *testing.T) {
	s := startSeveral(t, "a", "b")
	owner, other := startWorkerWith(t, s.p, drainSoon), startWorkerWith(t, s.p, drainSoon)
	c := newClient(t, "g")
	c.initialize(owner)
	s.count(t, c, owner, 1)
	s.p.drain(owner.id, true)
	eventually(t, "the other worker owns the session", func() bool {
		live := s.p.live()
		return len(live) == 1 && live[0].GetWorker() == other.id && live[0].GetEpoch() == 2
	})
	s.count(t, c, owner, 2)
	s.count(t, c, other, 3)
	s.one(t)
}

func TestAnUpstreamThatJoinsLaterIsRecordedToo(t *testing.T) {
	s := startSeveral(t, "a", "b")
	late := make(chan struct{})
	s.of["b"].setHook(func(_ http.ResponseWriter, _ *http.Request, method string) bool {
		if method == "initialize" {
			<-late
		}
		return false
	})
	s.p.change(func() {
		s.p.gateways["gateways/g"].OpenTimeout = durationpb.New(100 * time.Millisecond)
	})
	owner, second := startWorker(t, s.p), startWorker(t, s.p)
	c := newClient(t, "g")
	c.initialize(owner)
	if got := s.recorded(); !slices.Equal(got, []string{"a"}) {
		t.Errorf("recorded at first: got %v, want a", got)
	}
	close(late)
	eventually(t, "both upstreams are recorded", func() bool { return slices.Equal(s.recorded(), []string{"a", "b"}) })
	owner.stop()
	s.count(t, c, second, 1)
	s.one(t)
}

func TestASessionWithSeveralUpstreamsEndsWithItsGateway(t *testing.T) {
	s := startSeveral(t, "a", "b")
	w := startWorker(t, s.p)
	c := newClient(t, "g")
	c.initialize(w)
	s.count(t, c, w, 1)
	s.p.deleteGateway("g")
	eventually(t, "the upstream sessions have ended", func() bool { return s.of["a"].live()+s.of["b"].live() == 0 })
}

// wish has a client set a log level and subscribe to a resource of b, of which all
// upstreams are told as far as it is theirs.
func (s several) wish(t *testing.T, c *client, w *worker) {
	t.Helper()
	for _, request := range []string{
		`{"jsonrpc":"2.0","id":"l","method":"logging/setLevel","params":{"level":"error"}}`,
		`{"jsonrpc":"2.0","id":"s","method":"resources/subscribe","params":{"uri":"b+` + resourceURI + `"}}`,
	} {
		if resp, body := c.do(w, http.MethodPost, request); resp.StatusCode != http.StatusOK || !strings.Contains(body, `"result":{}`) {
			t.Fatalf("%s: got %d %s", request, resp.StatusCode, body)
		}
	}
}

// toldAgain wants the upstreams, which have forgotten their sessions, to be told in new
// ones of what was wished.
func (s several) toldAgain(t *testing.T, c *client, w *worker) {
	t.Helper()
	for name, want := range map[string][]string{"a": {"logging/setLevel"}, "b": {"logging/setLevel", "resources/subscribe"}} {
		eventually(t, name+" is told again", func() bool {
			c.tool(w, name+"_n", "{}")
			return slices.Equal(s.of[name].wasTold(), want)
		})
	}
}

func startWished(t *testing.T) several {
	s := startSeveral(t, "a", "b")
	for _, u := range s.of {
		u.wished = true
	}
	return s
}

func TestTheLogLevelAndSubscriptionsOutliveTheOwnerOfASessionWithSeveralUpstreams(t *testing.T) {
	s := startWished(t)
	owner, second := startWorker(t, s.p), startWorker(t, s.p)
	c := newClient(t, "g")
	c.initialize(owner)
	s.count(t, c, second, 1)
	s.wish(t, c, owner)
	var sealed []byte
	eventually(t, "they are recorded", func() bool {
		live := s.p.live()
		if len(live) != 1 || len(live[0].GetSealedWishes()) < 100 {
			return false
		}
		sealed = live[0].GetSealedWishes()
		return true
	})
	if bytes.Contains(sealed, []byte(resourceURI)) {
		t.Error("a resource's URI is recorded in clear")
	}
	owner.stop()
	s.of["a"].forget()
	s.of["b"].forget()
	s.toldAgain(t, c, second)
}

func TestTheLogLevelAndSubscriptionsAreHandedOverWithASessionWithSeveralUpstreams(t *testing.T) {
	s := startWished(t)
	owner, other := startWorkerWith(t, s.p, drainSoon), startWorkerWith(t, s.p, drainSoon)
	c := newClient(t, "g")
	c.initialize(owner)
	s.count(t, c, owner, 1)
	s.wish(t, c, owner)
	s.p.drain(owner.id, true)
	eventually(t, "the other worker owns the session", func() bool {
		live := s.p.live()
		return len(live) == 1 && live[0].GetWorker() == other.id && live[0].GetEpoch() == 2
	})
	s.of["a"].forget()
	s.of["b"].forget()
	s.toldAgain(t, c, other)
}
