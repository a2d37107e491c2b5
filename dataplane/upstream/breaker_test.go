package upstream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/leasehold/leasehold/dataplane/session"
)

// network is where a test's connections go: how long connecting takes, and whether
// it succeeds.
type network struct {
	mu       sync.Mutex // guards what follows
	took     time.Duration
	err      error
	answer   string // written to each request a second later, before the connection is closed
	connects int
	at       []time.Time
}

func (n *network) set(took time.Duration, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.took, n.err = took, err
}

func (n *network) count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.connects
}

func (n *network) connect(ctx context.Context, _, _ string) (net.Conn, error) {
	n.mu.Lock()
	n.connects++
	n.at = append(n.at, time.Now())
	took, err, answer := n.took, n.err, n.answer
	n.mu.Unlock()
	select {
	case <-time.After(took):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	here, there := net.Pipe()
	go func() {
		defer there.Close()
		if request, err := http.ReadRequest(bufio.NewReader(there)); err == nil {
			io.Copy(io.Discard, request.Body)
			time.Sleep(time.Second)
			io.WriteString(there, answer)
		}
	}()
	return here, nil
}

var errNoRoute = errors.New("no route to host")

// newBubbleClient returns a client whose connections fail at once, to be used
// in a bubble of synctest.
func newBubbleClient(t *testing.T) (*Client, *network) {
	n := &network{err: errNoRoute, answer: "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"}
	c := newTestClient(t)
	c.connect = n.connect
	c.replicas.lookup = func(context.Context, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("192.0.2.1")}, nil
	}
	return c, n
}

func try(ctx context.Context, c *Client, host string) error {
	resp, err := c.Do(ctx, &session.Dispatch{Upstream: at(&url.URL{Scheme: "http", Host: host}), Method: http.MethodPost})
	if err == nil {
		resp.Body.Close()
	}
	return err
}

// open makes the circuit of host open.
func open(t *testing.T, c *Client, host string) {
	t.Helper()
	for range openAfter {
		if err := try(t.Context(), c, host); !errors.Is(err, errNoRoute) {
			t.Fatalf("got %v, want the connection's error", err)
		}
	}
}

func TestRequestsFailAtOnceAfterFiveFailedConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, n := newBubbleClient(t)
		n.set(connectTimeout, errNoRoute)
		open(t, c, "a:1")
		began := time.Now()
		for range 20 {
			err := try(t.Context(), c, "a:1")
			if !errors.Is(err, session.ErrNotSent) || !strings.Contains(err.Error(), "http://a:1 at 192.0.2.1:1 failed 5 times in a row (no route to host); next try in ") {
				t.Fatalf("got %v, want ErrNotSent with how often it failed and when the next try is", err)
			}
		}
		if took := time.Since(began); took != 0 || n.count() != openAfter {
			t.Errorf("20 requests took %v and %d connections were tried; want 0 and %d", took, n.count(), openAfter)
		}
		if err := try(t.Context(), c, "b:1"); !errors.Is(err, errNoRoute) {
			t.Errorf("another host: got %v, want a try of its own", err)
		}
	})
}

func TestAnOpenCircuitIsTriedAfterOneSecondAndThenMoreAndMoreSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, n := newBubbleClient(t)
		open(t, c, "a:1")
		for range 7 {
			for tries := n.count(); n.count() == tries; {
				try(t.Context(), c, "a:1")
				time.Sleep(time.Millisecond)
			}
		}
		for i, want := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 10 * time.Second, 10 * time.Second, 10 * time.Second} {
			got := n.at[openAfter+i].Sub(n.at[openAfter+i-1])
			if got < want*8/10 || got > want+time.Millisecond {
				t.Errorf("pause %d: got %v, want %v less at most a fifth", i+1, got, want)
			}
		}
	})
}

func TestAHalfOpenCircuitIsTriedByOneRequestAtATimeAndClosedBySuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, n := newBubbleClient(t)
		open(t, c, "a:1")
		n.set(time.Second, nil)
		time.Sleep(firstPause)
		var group sync.WaitGroup
		var mu sync.Mutex
		var refused int
		for range 10 {
			group.Go(func() {
				if err := try(t.Context(), c, "a:1"); errors.Is(err, session.ErrNotSent) && strings.Contains(err.Error(), "another request tries now") {
					mu.Lock()
					defer mu.Unlock()
					refused++
				}
			})
		}
		group.Wait()
		if got := n.count() - openAfter; got != 1 || refused != 9 {
			t.Errorf("10 requests: %d tried and %d were refused; want 1 and 9", got, refused)
		}
		for range 10 {
			group.Go(func() {
				if err := try(t.Context(), c, "a:1"); err != nil {
					t.Errorf("after a success: %v", err)
				}
			})
		}
		group.Wait()
		n.set(0, errNoRoute)
		open(t, c, "a:1") // five anew: the ones before are forgotten
	})
}

func TestWhatAnUpstreamAnswersDoesNotOpenItsCircuit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, answer := range []string{"", "nonsense\r\n\r\n", "HTTP/1.1 500 Broken\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"} {
			c, n := newBubbleClient(t)
			n.err, n.answer = nil, answer
			var group sync.WaitGroup
			for range 4 * openAfter { // all connect before the first is answered
				group.Go(func() { try(t.Context(), c, "a:1") })
			}
			group.Wait()
			if err := try(t.Context(), c, "a:1"); errors.Is(err, session.ErrNotSent) {
				t.Errorf("answer %q: got %v, want the request to be sent", answer, err)
			}
		}
	})
}

func TestACallerThatGivesUpDoesNotOpenTheCircuit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, n := newBubbleClient(t)
		n.set(connectTimeout, errNoRoute)
		for range 4 * openAfter {
			ctx, cancel := context.WithTimeout(t.Context(), connectTimeout/2)
			if err := try(ctx, c, "a:1"); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("got %v, want the caller's deadline", err)
			}
			cancel()
		}
		open(t, c, "a:1")
		time.Sleep(firstPause)
		ctx, cancel := context.WithTimeout(t.Context(), connectTimeout/2)
		defer cancel()
		try(ctx, c, "a:1")
		if err := try(t.Context(), c, "a:1"); !errors.Is(err, errNoRoute) {
			t.Errorf("after the request that tried gave up: got %v, want the next one to try", err)
		}
	})
}

func TestConnectionsThatFailTogetherOpenTheCircuitOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, n := newBubbleClient(t)
		n.set(time.Second, errNoRoute)
		var group sync.WaitGroup
		for range 100 {
			group.Go(func() { try(t.Context(), c, "a:1") })
		}
		group.Wait()
		n.set(0, nil)
		time.Sleep(firstPause)
		if err := try(t.Context(), c, "a:1"); err != nil {
			t.Errorf("%v after 100 connections failed together: got %v, want a try", firstPause, err)
		}
	})
}

func TestFailuresOfABoundedNumberOfUpstreamsAreRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := newBubbleClient(t)
		for i := range maxCircuits + 100 {
			try(t.Context(), c, fmt.Sprintf("h%d:1", i))
			time.Sleep(time.Millisecond)
		}
		if n := len(c.breaker.circuits); n != maxCircuits || c.breaker.circuits["http://h0:1 at 192.0.2.1:1"] != nil {
			t.Errorf("circuits: got %d, want %d without the oldest", n, maxCircuits)
		}
	})
}
