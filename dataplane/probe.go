package dataplane

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/leasehold/leasehold/dataplane/forward"
)

// probe asks this worker, the way others do, whether it serves: over a new
// connection to each of its listeners, so that one that accepts no more is
// noticed. The address is the listener's own, not the one that is advertised.
func (w *worker) probe(ctx context.Context) error {
	err := forward.Probe(ctx, w.cfg.PeerListener.Addr(), w.cfg.Trust.Workers)
	if errors.Is(err, forward.ErrCertificate) {
		// It is there, and the connections that it has go on: a certificate's end is
		// no reason to give up sessions, when those of all workers may end at once.
		err = w.table.Turn(ctx)
	}
	if err != nil {
		return fmt.Errorf("listener for workers: %w", err)
	}
	if err := probeHTTP(ctx, w.cfg.Listener.Addr(), w.cfg.TLS != nil); err != nil {
		return fmt.Errorf("listener for clients: %w", err)
	}
	return nil
}

// probeHTTP asks the HTTP server at address for a path that it does not have.
// Whatever it says is an answer, even that it does not care for this client.
func probeHTTP(ctx context.Context, address net.Addr, secure bool) error {
	var dialer net.Dialer
	raw, err := dialer.DialContext(ctx, address.Network(), address.String())
	if err != nil {
		return err
	}
	defer raw.Close()
	defer context.AfterFunc(ctx, func() { raw.SetDeadline(time.Unix(1, 0)) })()
	heard := &listening{Conn: raw}
	var conn net.Conn = heard
	if secure {
		conn = tls.Client(heard, &tls.Config{InsecureSkipVerify: true}) // it is asked for a sign of life and told nothing
	}
	_, err = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
	if err == nil {
		_, err = conn.Read(make([]byte, 1))
	}
	if heard.something {
		return nil
	}
	return err
}

// listening is a connection that notes whether the other side said anything.
type listening struct {
	net.Conn
	something bool
}

// Read implements net.Conn.
func (l *listening) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	l.something = l.something || n > 0
	return n, err
}
