package dataplane_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/leasehold/leasehold/dataplane"
	"github.com/leasehold/leasehold/dataplane/dial"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// noted is what an upstream was shown in Authorization, by method.
type noted struct {
	mu    sync.Mutex // guards shown
	shown map[string][]string
}

// noteShown makes u note what it is shown, and do as it does otherwise.
func noteShown(u *upstreamServer) *noted {
	n := &noted{shown: map[string][]string{}}
	u.setHook(func(_ http.ResponseWriter, r *http.Request, method string) bool {
		if method == "" {
			method = r.Method
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		n.shown[method] = append(n.shown[method], strings.Join(r.Header["Authorization"], "|"))
		for name := range r.Header {
			if strings.HasPrefix(name, "X-Leasehold-") {
				n.shown[name] = r.Header[name]
			}
		}
		return false
	})
	return n
}

func (n *noted) String() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return fmt.Sprint(n.shown)
}

// bearing makes a client show a token of its own with each request.
type bearing struct{ token string }

// RoundTrip implements http.RoundTripper.
func (b *bearing) RoundTrip(r *http.Request) (*http.Response, error) {
	r.Header.Set("Authorization", "Bearer "+b.token)
	return http.DefaultTransport.(*http.Transport).RoundTrip(r)
}

func newBearing(t *testing.T, gateway, token string) (*client, *bearing) {
	c, b := newClient(t, gateway), &bearing{token}
	c.http = &http.Client{Transport: b}
	t.Cleanup(http.DefaultTransport.(*http.Transport).CloseIdleConnections)
	return c, b
}

func withBearer(s *leaseholdv1.Secret) func(*leaseholdv1.Upstream) {
	return func(u *leaseholdv1.Upstream) {
		u.Credential = &leaseholdv1.Credential{Kind: &leaseholdv1.Credential_Bearer{Bearer: s}}
	}
}

func TestAConfiguredCredentialGoesWithEveryRequestAndIsRotatedWithinASession(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	n := noteShown(u)
	p.setUpstream("g", u.URL, withBearer(&leaseholdv1.Secret{Source: &leaseholdv1.Secret_File{File: "token"}}))
	dir := t.TempDir()
	write := func(token string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "token"), []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("one")
	inDir := func(cfg *dataplane.Config) { cfg.CredentialsDir = dir }
	owner, front := startWorkerWith(t, p, inDir), startWorkerWith(t, p, inDir)
	c, _ := newBearing(t, "g", "client's")
	c.initialize(owner)
	if status, text := c.call(front); status != 200 || text != "1" {
		t.Fatalf("call: got %d %s", status, text)
	}
	if got := n.String(); got != "map[initialize:[Bearer one] tools/call:[Bearer one]]" {
		t.Errorf("the upstream was shown %s", got)
	}
	write("two")
	last := 1
	eventually(t, "the new token is used", func() bool {
		last++
		if status, text := c.call(front); status != 200 || text != fmt.Sprint(last) {
			t.Fatalf("call %d: got %d %s, want the same session", last, status, text)
		}
		return strings.Contains(n.String(), "Bearer two")
	})
	if resp, body := c.do(front, http.MethodDelete, ""); resp.StatusCode != http.StatusNoContent {
		t.Fatalf("DELETE: got %d %s", resp.StatusCode, body)
	}
	if got := n.String(); !strings.Contains(got, "DELETE:[Bearer two]") || strings.Contains(got, "client's") {
		t.Errorf("the upstream was shown %s, want the credential with DELETE too, and never the client's", got)
	}
}

func TestTheCallersFieldIsPassedOnWhereTheDefinitionSaysSo(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	n := noteShown(u)
	p.setUpstream("g", u.URL, func(u *leaseholdv1.Upstream) {
		u.Credential = &leaseholdv1.Credential{Kind: &leaseholdv1.Credential_CallerHeader{CallerHeader: "authorization"}}
	})
	owner, front := startWorker(t, p), startWorker(t, p)
	c, b := newBearing(t, "g", "one")
	c.initialize(owner)
	b.token = "two"
	c.call(front)
	b.token = "three"
	c.call(owner)
	if resp, body := c.do(front, http.MethodDelete, ""); resp.StatusCode != http.StatusNoContent {
		t.Fatalf("DELETE: got %d %s", resp.StatusCode, body)
	}
	if got := n.String(); got != "map[DELETE:[Bearer three] initialize:[Bearer one] tools/call:[Bearer two Bearer three]]" {
		t.Errorf("the upstream was shown %s", got)
	}
}

func TestAnAddressThatIsNotDialledIsToldByItsRule(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setUpstream("g", u.URL, func(*leaseholdv1.Upstream) {})
	w := startWorkerWith(t, p, func(cfg *dataplane.Config) { cfg.Dial = dial.Policy{} })
	resp, body := newClient(t, "g").do(w, http.MethodPost, initialize)
	if resp.StatusCode != http.StatusBadGateway || !strings.Contains(body, "loopback addresses are dialled with --allow-loopback-upstreams or --insecure only") || strings.Contains(body, "127.0.0.1") {
		t.Errorf("got %d %s, want 502 with the rule and without the address", resp.StatusCode, body)
	}
}

func TestAMissingCredentialIsNotToldToClients(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setUpstream("g", u.URL, withBearer(&leaseholdv1.Secret{Source: &leaseholdv1.Secret_Env{Env: "HOME"}}))
	resp, body := newClient(t, "g").do(startWorker(t, p), http.MethodPost, initialize)
	if resp.StatusCode != http.StatusBadGateway || !strings.Contains(body, "credential or certificate is not to be had at this worker") || strings.Contains(body, "HOME") || u.opened != 0 {
		t.Errorf("got %d %s after %d sessions, want 502 without the name, and none", resp.StatusCode, body, u.opened)
	}
}

func TestCallsBeyondAnUpstreamsBoundAreRefusedWhileItsStreamsAreNotCounted(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setUpstream("g", u.URL, func(u *leaseholdv1.Upstream) { u.MaxConcurrentRequests = 1 })
	w := startWorker(t, p)
	first, second := newClient(t, "g"), newClient(t, "g")
	first.initialize(w)
	second.initialize(w)
	entered, release := make(chan struct{}), make(chan struct{})
	u.setHook(func(_ http.ResponseWriter, _ *http.Request, method string) bool {
		if method == "tools/call" {
			close(entered)
			<-release
		}
		return false
	})
	var group sync.WaitGroup
	group.Go(func() {
		if status, text := first.call(w); status != 200 {
			t.Errorf("the call in flight: got %d %s", status, text)
		}
	})
	await(t, entered)
	u.setHook(nil)
	resp, body := second.do(w, http.MethodPost, `{"jsonrpc":"2.0","id":9,"method":"tools/call","params":{"name":"n"}}`)
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" || !strings.Contains(body, "1 requests of this worker in flight, which is its bound") || !strings.Contains(body, `"id":9`) {
		t.Errorf("second call: got %d %v %s, want 503 with Retry-After and the bound", resp.StatusCode, resp.Header, body)
	}
	close(release)
	group.Wait()
	if status, text := second.call(w); status != 200 || text != "1" {
		t.Errorf("after the first: got %d %s, want 200", status, text)
	}
}

func TestAnEjectedUpstreamFailsAtOnceAndIsAdmittedAgain(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setUpstream("g", u.URL, func(u *leaseholdv1.Upstream) {
		u.HealthCheck = &leaseholdv1.HealthCheck{Interval: durationpb.New(time.Second), UnhealthyAfter: 2, HealthyAfter: 1}
	})
	w := startWorker(t, p)
	c, leaving := newClient(t, "g"), newClient(t, "g")
	c.initialize(w)
	leaving.initialize(w)
	var id atomic.Value // of the leaving one's session at the upstream
	u.setHook(func(_ http.ResponseWriter, r *http.Request, method string) bool {
		if method == "tools/call" {
			id.Store(r.Header.Get("Mcp-Session-Id"))
		}
		return false
	})
	leaving.call(w)
	var ends atomic.Int32
	u.setHook(func(w http.ResponseWriter, r *http.Request, method string) bool {
		if r.Method == http.MethodDelete && r.Header.Get("Mcp-Session-Id") == id.Load() {
			ends.Add(1)
		}
		if method == "ping" {
			w.WriteHeader(http.StatusInternalServerError)
		}
		return method == "ping"
	})
	eventually(t, "the upstream is ejected", func() bool {
		status, text := c.call(w)
		return status == http.StatusBadGateway && strings.Contains(text, "2 health checks in a row failed")
	})
	if resp, body := leaving.do(w, http.MethodDelete, ""); resp.StatusCode != http.StatusNoContent || ends.Load() != 1 {
		t.Errorf("DELETE while it is ejected: got %d %s and %d ends of the upstream session, want one", resp.StatusCode, body, ends.Load())
	}
	u.setHook(nil)
	eventually(t, "the upstream is admitted again", func() bool {
		status, _ := c.call(w)
		return status == http.StatusOK
	})
	if resp, body := c.do(w, http.MethodDelete, ""); resp.StatusCode != http.StatusNoContent {
		t.Errorf("DELETE: got %d %s", resp.StatusCode, body)
	}
	w.stop()
	if u.live() != 0 {
		t.Errorf("sessions at the upstream: got %d, want 0", u.live())
	}
}
