package dataplane_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/leasehold/leasehold/dataplane"
	"github.com/leasehold/leasehold/dataplane/dial"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// trap is a listener on this machine to which nobody is to connect.
type trap struct {
	port  string
	fell  atomic.Int64
	close func()
}

func startTrap(t *testing.T) *trap {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	one, done := &trap{}, make(chan struct{})
	_, one.port, _ = net.SplitHostPort(l.Addr().String())
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			one.fell.Add(1)
			conn.Close()
		}
	}()
	one.close = func() { l.Close(); <-done }
	t.Cleanup(one.close)
	return one
}

// rebinding answers with another address each time: the first may be dialled, though
// nobody listens there, and the others may not.
func rebinding() dial.Lookup {
	var asked atomic.Int64
	turns := []string{"127.0.0.2", "127.0.0.1", "::ffff:127.0.0.1", "169.254.169.254"}
	return func(_ context.Context, host string) ([]netip.Addr, error) {
		if host == "metadata.test" {
			return []netip.Addr{netip.MustParseAddr("169.254.169.254")}, nil
		}
		return []netip.Addr{netip.MustParseAddr(turns[(asked.Add(1)-1)%int64(len(turns))])}, nil
	}
}

// hosts are ways to write what may not be dialled.
var hosts = []string{
	"rebinding.test", "metadata.test", "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]",
	"[::127.0.0.1]", "169.254.169.254", "[::ffff:a9fe:a9fe]", "[fd00:ec2::254]", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0.0.0.0", "[::]",
}

// users are those who open connections at the word of a definition.
var users = map[string]func(u *leaseholdv1.Upstream, host string){
	"sessions": func(u *leaseholdv1.Upstream, host string) { u.Url = "http://" + host + "/mcp" },
	"sse": func(u *leaseholdv1.Upstream, host string) {
		u.Url, u.Transport = "http://"+host+"/sse", leaseholdv1.Transport_TRANSPORT_SSE
	},
	"health": func(u *leaseholdv1.Upstream, host string) {
		u.Url = "http://" + host + "/mcp"
		u.HealthCheck = &leaseholdv1.HealthCheck{Interval: durationpb.New(time.Second), UnhealthyAfter: 2}
	},
	"token": func(u *leaseholdv1.Upstream, host string) {
		u.Url = "http://127.0.0.2:1/mcp" // after the token, that is never
		u.Credential = &leaseholdv1.Credential{Kind: &leaseholdv1.Credential_Oauth{Oauth: &leaseholdv1.OAuthClientCredentials{
			TokenUrl: "https://" + host + "/token", ClientId: "id",
			ClientSecret: &leaseholdv1.Secret{Source: &leaseholdv1.Secret_Value{Value: "secret"}, Fingerprint: "f"},
		}}}
	},
}

func TestNobodyInAWorkerDialsWhatMayNotBeDialledHoweverItIsWritten(t *testing.T) {
	p, trap := startPlane(t), startTrap(t)
	for user, define := range users {
		for i, host := range hosts {
			p.setUpstream(fmt.Sprintf("%s-%d", user, i), "http://unused.test/mcp", func(u *leaseholdv1.Upstream) { define(u, host+":"+trap.port) })
		}
	}
	w := startWorkerWith(t, p, func(cfg *dataplane.Config) {
		cfg.Dial = dial.Policy{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.2/32")}}
		cfg.SetLookup(rebinding())
	})
	for user := range users {
		for i, host := range hosts {
			for range 4 { // as often as the name changes its meaning
				resp, body := newClient(t, fmt.Sprintf("%s-%d", user, i)).do(w, http.MethodPost, initialize)
				if resp.StatusCode != http.StatusBadGateway || strings.Contains(body, "169.254.169.254") {
					t.Errorf("%s at %s: got %d %s, want 502 without the address of a name", user, host, resp.StatusCode, body)
				}
			}
		}
	}
	for i, host := range hosts {
		eventually(t, "health checks at "+host+" have failed", func() bool {
			_, body := newClient(t, fmt.Sprintf("health-%d", i)).do(w, http.MethodPost, initialize)
			return strings.Contains(body, "health checks in a row failed")
		})
	}
	if n := trap.fell.Load(); n > 0 {
		t.Errorf("%d connections went to this machine, want none", n)
	}
}

// TestARedirectOfAnUpstreamToAnotherOriginIsNotFollowedByAnybody has the upstream answer
// every method with a redirect, and a credential that must stay where it is.
func TestARedirectOfAnUpstreamToAnotherOriginIsNotFollowedByAnybody(t *testing.T) {
	p, u, trap := startPlane(t), startUpstream(t), startTrap(t)
	withHealth := func(u *leaseholdv1.Upstream) {
		withBearer(&leaseholdv1.Secret{Source: &leaseholdv1.Secret_Value{Value: "secret"}, Fingerprint: "f"})(u)
		u.HealthCheck = &leaseholdv1.HealthCheck{Interval: durationpb.New(time.Second), UnhealthyAfter: 2}
	}
	p.setUpstream("g", u.URL, withHealth)
	w := startWorkerWith(t, p, func(cfg *dataplane.Config) { cfg.Dial = dial.Policy{AllowLoopback: true} })
	c := newClient(t, "g")
	c.initialize(w)
	for _, status := range []int{301, 302, 303, 307, 308} {
		for _, to := range []string{"http://127.0.0.1:" + trap.port + "/mcp", "http://169.254.169.254/latest/meta-data/", "//127.0.0.1:" + trap.port} {
			u.setHook(func(w http.ResponseWriter, _ *http.Request, _ string) bool {
				w.Header().Set("Location", to)
				w.WriteHeader(status)
				return true
			})
			if got, body := c.call(w); got != http.StatusBadGateway {
				t.Errorf("%d to %s: got %d %s, want 502", status, to, got, body)
			}
		}
	}
	eventually(t, "health checks have failed", func() bool {
		_, body := c.call(w)
		return strings.Contains(body, "health checks in a row failed")
	})
	u.setHook(nil)
	if n := trap.fell.Load(); n > 0 {
		t.Errorf("%d connections went where a redirect pointed, want none", n)
	}
}
