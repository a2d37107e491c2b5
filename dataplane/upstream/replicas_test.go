package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"testing"

	"github.com/leasehold/leasehold/dataplane/session"
)

// fleet is servers at several addresses with one port, and a name for them.
type fleet struct {
	url     *url.URL
	servers map[string]*httptest.Server // by address
	named   []netip.Addr
}

// startFleet starts servers that answer with their address and the Host that
// they were asked for.
func startFleet(t *testing.T, c *Client, ips ...string) *fleet {
	t.Helper()
	f := &fleet{servers: map[string]*httptest.Server{}}
	port := "0"
	for _, ip := range ips {
		l, err := net.Listen("tcp", net.JoinHostPort(ip, port))
		if err != nil {
			t.Fatal(err)
		}
		_, port, _ = net.SplitHostPort(l.Addr().String())
		address := l.Addr().String()
		s := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "%s for %s", address, r.Host)
		})}}
		s.Start()
		t.Cleanup(s.Close)
		f.servers[address] = s
		f.named = append(f.named, netip.MustParseAddr(ip))
	}
	f.url = &url.URL{Scheme: "http", Host: "mcp.test:" + port, Path: "/mcp"}
	c.replicas.lookup = func(_ context.Context, host string) ([]netip.Addr, error) {
		if host != "mcp.test" {
			t.Errorf("resolved %q, want mcp.test", host)
		}
		return f.named, nil
	}
	return f
}

func ask(t *testing.T, c *Client, target *url.URL, address string) (string, error) {
	t.Helper()
	resp, err := c.Do(t.Context(), &session.Dispatch{Upstream: at(target), Method: http.MethodPost, Address: address})
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

func TestRequestsWithoutAnAddressSpreadAndThoseWithOneStayThere(t *testing.T) {
	c := newTestClient(t)
	f := startFleet(t, c, "127.0.0.1", "127.0.0.2", "127.0.0.3")
	seen := map[string]int{}
	for range 90 {
		answer, err := ask(t, c, f.url, "")
		if err != nil {
			t.Fatal(err)
		}
		seen[answer]++
	}
	if len(seen) != len(f.servers) {
		t.Errorf("90 requests reached %v, want all of %d replicas", seen, len(f.servers))
	}
	for address := range f.servers {
		for range 20 {
			answer, err := ask(t, c, f.url, address)
			if want := address + " for " + f.url.Host; err != nil || answer != want {
				t.Fatalf("a request for %s: got %q, %v; want %q", address, answer, err, want)
			}
		}
	}
}

func TestAReplicaThatIsDownIsPassedOverUnlessItIsTheOneThatIsMeant(t *testing.T) {
	c := newTestClient(t)
	f := startFleet(t, c, "127.0.0.1", "127.0.0.2")
	down := net.JoinHostPort("127.0.0.1", f.url.Port())
	f.servers[down].Close()
	for range 20 {
		if answer, err := ask(t, c, f.url, ""); err != nil || answer != net.JoinHostPort("127.0.0.2", f.url.Port())+" for "+f.url.Host {
			t.Fatalf("got %q, %v; want the replica that is there", answer, err)
		}
	}
	if _, err := ask(t, c, f.url, down); !errors.Is(err, session.ErrNotSent) || errors.Is(err, session.ErrReplicaGone) {
		t.Errorf("for the one that is down, while the name has it: got %v, want ErrNotSent alone", err)
	}
	f.named = f.named[1:]
	clear(c.replicas.names) // what was resolved is old
	if _, err := ask(t, c, f.url, down); !errors.Is(err, session.ErrNotSent) || !errors.Is(err, session.ErrReplicaGone) {
		t.Errorf("for the one that is down, once the name has it no longer: got %v, want ErrReplicaGone", err)
	}
	c.replicas.lookup = func(context.Context, string) ([]netip.Addr, error) { return nil, errors.New("no answer") }
	if _, err := ask(t, c, f.url, net.JoinHostPort("127.0.0.9", f.url.Port())); !errors.Is(err, session.ErrNotSent) {
		t.Errorf("while names are not resolved: got %v, want ErrNotSent", err)
	}
}

func TestAReplicaThatStillAnswersIsNotGoneThoughItsNameChanged(t *testing.T) {
	c := newTestClient(t)
	f := startFleet(t, c, "127.0.0.1", "127.0.0.2")
	f.named = f.named[1:]
	old := net.JoinHostPort("127.0.0.1", f.url.Port())
	if answer, err := ask(t, c, f.url, old); err != nil || answer != old+" for "+f.url.Host {
		t.Errorf("got %q, %v; want the old replica", answer, err)
	}
}
