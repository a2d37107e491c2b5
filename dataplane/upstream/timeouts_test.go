package upstream

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/leasehold/leasehold/dataplane/session"
)

func TestAnAddressThatDoesNotAnswerIsGivenUpInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, n := newBubbleClient(t)
		n.set(time.Hour, nil)
		began := time.Now()
		if err := try(t.Context(), c, "a:1"); !errors.Is(err, session.ErrNotSent) || !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != connectTimeout {
			t.Errorf("got %v after %v, want that it was not sent after %v", err, time.Since(began), connectTimeout)
		}
		c.replicas.lookup = func(context.Context, string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")}, nil
		}
		began = time.Now()
		if err := try(t.Context(), c, "b:1"); !errors.Is(err, session.ErrNotSent) || time.Since(began) != connectTimeout+connectTimeout/3 {
			t.Errorf("two addresses: got %v after %v, want the first to get a third of %v", err, time.Since(began), connectTimeout)
		}
	})
}

func TestAServerThatDoesNotSpeakTLSIsGivenUpInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestClient(t)
		c.connect = func(context.Context, string, string) (net.Conn, error) {
			here, there := net.Pipe()
			go io.Copy(io.Discard, there) // until the other end is closed
			return here, nil
		}
		began := time.Now()
		_, _, err := speak(t, c, &session.Dispatch{Upstream: at(&url.URL{Scheme: "https", Host: "192.0.2.1:1"}), Method: http.MethodPost})
		if !errors.Is(err, session.ErrNotSent) || time.Since(began) != tlsTimeout {
			t.Errorf("got %v after %v, want that it was not sent after %v", err, time.Since(began), tlsTimeout)
		}
	})
}

func TestConnectionsAreClosedOnceNobodyHasUsedThemForTheIdleTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestClient(t)
		closed := make(chan time.Time, 1)
		c.connect = func(context.Context, string, string) (net.Conn, error) {
			here, there := net.Pipe()
			go func() {
				request := make([]byte, 1024)
				there.Read(request)
				io.WriteString(there, "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")
				io.Copy(io.Discard, there)
				closed <- time.Now()
			}()
			return here, nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go c.Run(ctx)
		if _, _, err := speak(t, c, &session.Dispatch{Upstream: at(&url.URL{Scheme: "http", Host: "192.0.2.1:1"}), Method: http.MethodPost}); err != nil {
			t.Fatal(err)
		}
		used := time.Now()
		if after := (<-closed).Sub(used); after < idleTimeout || after > idleTimeout*4/3 {
			t.Errorf("closed after %v, want %v at least and a third more at most", after, idleTimeout)
		}
	})
}
