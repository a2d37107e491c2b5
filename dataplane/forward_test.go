package dataplane_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/leasehold/leasehold/dataplane/sessionid"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func TestOwnerRefusesAForwardThatIsNotMeantForItAsItIs(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	w := startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(w)
	member := p.members[w.id]
	conn, err := grpc.NewClient(member.GetInfo().GetPeerAddress(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	digest := sessionid.DigestOf(c.session)
	good := func() *leaseholdv1.ForwardStart {
		return &leaseholdv1.ForwardStart{
			Worker: w.id, Incarnation: member.GetIncarnation(), Epoch: 1, Hops: 1, Gateway: "g", Session: digest[:], Principal: "anonymous",
			Method: http.MethodPost, Header: []string{"Content-Type", "application/json"}, BodyLength: uint32(len(forwardedCall)),
		}
	}
	for name, tc := range map[string]struct {
		change  func(*leaseholdv1.ForwardStart)
		refusal leaseholdv1.Refusal
		code    codes.Code
	}{
		"as expected":          {change: func(*leaseholdv1.ForwardStart) {}},
		"stale epoch":          {change: func(s *leaseholdv1.ForwardStart) { s.Epoch = 2 }, refusal: leaseholdv1.Refusal_REFUSAL_STALE_EPOCH},
		"other incarnation":    {change: func(s *leaseholdv1.ForwardStart) { s.Incarnation++ }, refusal: leaseholdv1.Refusal_REFUSAL_STALE_INCARNATION},
		"other worker":         {change: func(s *leaseholdv1.ForwardStart) { s.Worker = "ffffffffffffffff" }, refusal: leaseholdv1.Refusal_REFUSAL_NOT_OWNER},
		"unknown session":      {change: func(s *leaseholdv1.ForwardStart) { s.Session = make([]byte, 16) }, refusal: leaseholdv1.Refusal_REFUSAL_OVER},
		"unknown, to be taken": {change: func(s *leaseholdv1.ForwardStart) { s.Session, s.Epoch = make([]byte, 16), 0 }, refusal: leaseholdv1.Refusal_REFUSAL_NOT_OWNER},
		"second hop":           {change: func(s *leaseholdv1.ForwardStart) { s.Hops = 2 }, code: codes.InvalidArgument},
		"no hop":               {change: func(s *leaseholdv1.ForwardStart) { s.Hops = 0 }, code: codes.InvalidArgument},
		"digest":               {change: func(s *leaseholdv1.ForwardStart) { s.Session = s.Session[:8] }, code: codes.InvalidArgument},
		"body over its bound":  {change: func(s *leaseholdv1.ForwardStart) { s.BodyLength = 4<<20 + 1 }, code: codes.InvalidArgument},
		"body over its length": {change: func(s *leaseholdv1.ForwardStart) { s.BodyLength = 3 }, code: codes.InvalidArgument},
		"odd header":           {change: func(s *leaseholdv1.ForwardStart) { s.Header = []string{"Accept"} }, code: codes.InvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			u.mu.Lock()
			before := u.sessions["up-1"]
			u.mu.Unlock()
			stream, err := leaseholdv1.NewPeerServiceClient(conn).Forward(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			start := good()
			tc.change(start)
			stream.Send(&leaseholdv1.ForwardRequest{Start: start, Body: []byte(forwardedCall)})
			resp, err := stream.Recv()
			if status.Code(err) != tc.code || resp.GetRefusal() != tc.refusal {
				t.Errorf("got %v, %v; want %v, %v", resp, err, tc.refusal, tc.code)
			}
			u.mu.Lock()
			defer u.mu.Unlock()
			want := before
			if tc.code == codes.OK && tc.refusal == 0 {
				want++
			}
			if got := u.sessions["up-1"]; got != want {
				t.Errorf("calls at the upstream: got %d, want %d", got-before, want-before)
			}
		})
	}
}

func TestOwnerSaysHowItsSessionsAreUsed(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	w := startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(w)
	c.call(w)
	c.call(w)
	conn, err := grpc.NewClient(p.members[w.id].GetInfo().GetPeerAddress(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	digest := sessionid.DigestOf(c.session).String()
	ask := func(names ...string) (*leaseholdv1.ObserveSessionsResponse, error) {
		return leaseholdv1.NewPeerServiceClient(conn).ObserveSessions(t.Context(), &leaseholdv1.ObserveSessionsRequest{Sessions: names})
	}
	got, err := ask(digest, strings.Repeat("0", 32))
	if err != nil || len(got.GetActivities()) != 1 || got.GetActivities()[digest].GetCalls() != 2 || got.GetActivities()[digest].GetCallsInFlight() != 0 ||
		time.Since(got.GetActivities()[digest].GetLastUseTime().AsTime()) > time.Minute {
		t.Errorf("got %v, %v; want 2 calls of the one session, used just now", got, err)
	}
	if _, err := ask("nonsense"); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "sessions[0]") {
		t.Errorf("got %v, want INVALID_ARGUMENT that names the field", err)
	}
}

const forwardedCall = `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"n"}}`

func TestForwardedCallsRunConcurrentlyAndBodiesOfAnySizePass(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	owner, other := startWorker(t, p), startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(owner)
	release := make(chan struct{})
	u.setHook(func(w http.ResponseWriter, r *http.Request, method string) bool {
		switch method {
		case "slow":
			<-release
		case "echo":
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"jsonrpc":"2.0","id":1,"result":{"length":%d}}`, r.ContentLength)
			return true
		}
		return false
	})
	var slow sync.WaitGroup
	for i := range 100 {
		slow.Go(func() {
			one := *c
			if resp, body := one.do(other, http.MethodPost, fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"slow"}`, i+2)); resp == nil || resp.StatusCode != 200 {
				t.Errorf("slow call: %v %s", resp, body)
			}
		})
	}
	for _, size := range []int{0, 1000, 1<<20 - 1, 1 << 20, 3 << 20} {
		body := `{"jsonrpc":"2.0","id":1,"method":"echo","params":{"pad":"` + strings.Repeat("x", size) + `"}}`
		resp, got := c.do(other, http.MethodPost, body)
		if resp == nil || resp.StatusCode != 200 || !strings.Contains(got, fmt.Sprintf(`"length":%d}`, len(body))) {
			t.Errorf("body of %d bytes beside 100 slow calls: got %v %s", len(body), resp, got)
		}
	}
	close(release)
	slow.Wait()
}

func TestAnOwnerThatDiesWithinACallIsAnUnknownOutcomeAtOnceAndNeverASecondCall(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	owner, other := startWorker(t, p), startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(owner)
	inside, release := make(chan struct{}), make(chan struct{})
	u.setHook(func(w http.ResponseWriter, _ *http.Request, method string) bool {
		if method == "tools/call" {
			close(inside) // a second call would panic
			<-release
		}
		return false
	})
	answered := make(chan string, 1)
	go func() {
		status, text := c.call(other)
		answered <- fmt.Sprint(status, " ", text)
	}()
	<-inside
	go owner.stop() // calls in flight get 3 s, then their streams are cut
	select {
	case got := <-answered:
		if !strings.HasPrefix(got, "200 ") || !strings.Contains(got, `"code":5040`) || !strings.Contains(got, `"id":1`) {
			t.Errorf("got %s, want 200 with code 5040 and the id", got)
		}
	case <-time.After(10 * time.Second):
		t.Error("no answer within 10 s")
	}
	close(release)
}

func TestARequestThatOnlyAsksIsRepeatedWhenItsOwnerDiesWithinIt(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	owner, other := startWorker(t, p), startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(owner)
	inside, release := make(chan struct{}, 2), make(chan struct{})
	u.setHook(func(http.ResponseWriter, *http.Request, string) bool {
		select {
		case inside <- struct{}{}:
		default:
		}
		<-release
		return false
	})
	answered := make(chan string, 1)
	go func() {
		resp, body := c.do(other, http.MethodPost, `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`)
		answered <- fmt.Sprint(resp.StatusCode, " ", body)
	}()
	<-inside
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		owner.stop()
	}()
	<-inside // at the other worker
	close(release)
	if got := <-answered; !strings.HasPrefix(got, "200 ") || strings.Contains(got, "5040") {
		t.Errorf("got %s, want the answer of the second attempt", got)
	}
	<-stopped
}

func TestAStreamThatBreaksOffBreaksOffForTheClientToo(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	owner, other := startWorker(t, p), startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(owner)
	u.setHook(func(w http.ResponseWriter, _ *http.Request, method string) bool {
		if method != "tools/call" {
			return false
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", "1000000")
		io.WriteString(w, `{"jsonrpc":`)
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	for name, w := range map[string]*worker{"owner": owner, "forwarded": other} {
		r, _ := http.NewRequest(http.MethodPost, w.url+c.path, strings.NewReader(forwardedCall))
		r.Header = http.Header{"Accept": {"application/json, text/event-stream"}, "Content-Type": {"application/json"}, "Mcp-Session-Id": {c.session}}
		resp, err := c.http.Do(r)
		if err != nil {
			continue // broken off before the head went out
		}
		// An answer of which nothing went out yet can still become an error.
		if body, err := io.ReadAll(resp.Body); err == nil && !strings.Contains(string(body), `"code":5040`) {
			t.Errorf("%s: the client took a part for the whole: %.100s", name, body)
		}
		resp.Body.Close()
	}
	u.setHook(nil)
	if status, _ := c.call(other); status != 200 {
		t.Errorf("the session after it: got %d, want 200", status)
	}
}
