package conformance

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
)

// front is what a load balancer is to a fleet: it accepts connections and sends
// each request to the next of its targets, whatever session it belongs to. It
// passes on the very bytes that it reads, as they come, and keeps no connection
// to a target for a second request, so that whatever differs behind it is not of
// its making.
type front struct {
	// URL is where clients reach it, without a path.
	URL string

	listener net.Listener
	targets  []string
	serving  sync.WaitGroup

	mu      sync.Mutex // guards all below
	next    int
	sent    []int             // requests by target
	open    map[net.Conn]bool // all connections, on both sides
	reached map[string][]bool // by session, which targets its requests went to
	closed  bool
}

// startFront starts a front for targets, host:port each. The caller closes it.
func startFront(targets ...string) (*front, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start the front: %w", err)
	}
	f := &front{
		URL: "http://" + listener.Addr().String(), listener: listener, targets: targets,
		sent: make([]int, len(targets)), open: map[net.Conn]bool{}, reached: map[string][]bool{},
	}
	f.serving.Go(f.accept)
	return f, nil
}

// Close breaks all connections and returns when nothing of the front is left.
func (f *front) Close() {
	f.listener.Close()
	f.mu.Lock()
	f.closed = true
	for conn := range f.open {
		conn.Close()
	}
	f.mu.Unlock()
	f.serving.Wait()
}

// Spread returns how many requests each target got, how many sessions there
// were, and how many of those had requests at more than one target.
func (f *front) Spread() (sent []int, sessions, spread int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, targets := range f.reached {
		seen := 0
		for _, reached := range targets {
			if reached {
				seen++
			}
		}
		if seen > 1 {
			spread++
		}
	}
	return append([]int(nil), f.sent...), len(f.reached), spread
}

// accept serves connections until the listener is closed.
func (f *front) accept() {
	for {
		conn, err := f.listener.Accept()
		if err != nil {
			return
		}
		f.serving.Go(func() { f.serve(conn) })
	}
}

// track remembers a connection until untrack; false means that the front closes.
func (f *front) track(conn net.Conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed {
		f.open[conn] = true
	}
	return !f.closed
}

// untrack closes and forgets a connection.
func (f *front) untrack(conn net.Conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.open, conn)
	conn.Close()
}

// choose returns the target whose turn it is.
func (f *front) choose(session string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	turn := f.next % len(f.targets)
	f.next++
	f.sent[turn]++
	if session != "" {
		if f.reached[session] == nil {
			f.reached[session] = make([]bool, len(f.targets))
		}
		f.reached[session][turn] = true
	}
	return f.targets[turn]
}

// serve passes on the requests of one connection, one after the other.
func (f *front) serve(client net.Conn) {
	defer f.untrack(client)
	if !f.track(client) {
		return
	}
	var raw bytes.Buffer // what was read and not yet passed on
	in := bufio.NewReader(io.TeeReader(client, &raw))
	for {
		req, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		if _, err := io.Copy(io.Discard, req.Body); err != nil {
			return
		}
		request := bytes.Clone(raw.Next(raw.Len() - in.Buffered()))
		if !f.exchange(client, in, req, request) {
			return
		}
	}
}

// exchange passes on one request and its response. It returns when the next
// request begins, false if there will be none on this connection.
func (f *front) exchange(client net.Conn, in *bufio.Reader, req *http.Request, request []byte) bool {
	target, err := net.Dial("tcp", f.choose(req.Header.Get("Mcp-Session-Id")))
	if err != nil {
		return false
	}
	defer f.untrack(target)
	if !f.track(target) {
		return false
	}
	more := make(chan error, 1)
	f.serving.Go(func() {
		_, err := in.Peek(1)
		if err != nil {
			target.Close() // the client went away, and the target is to know
		}
		more <- err
	})
	reusable := relay(client, target, req, request)
	if !reusable {
		client.Close()
	}
	return <-more == nil && reusable
}

// relay writes a request to the target and passes the response on as it comes. It
// reports whether the client may send another request on its connection.
func relay(client io.Writer, target io.ReadWriter, req *http.Request, request []byte) bool {
	if _, err := target.Write(request); err != nil {
		return false
	}
	// Whoever reads the response to its end has passed all of it on.
	passing := bufio.NewReader(io.TeeReader(target, client))
	for {
		resp, err := http.ReadResponse(passing, req)
		if err != nil {
			return false
		}
		if resp.StatusCode < http.StatusOK {
			continue
		}
		_, err = io.Copy(io.Discard, resp.Body)
		return err == nil && !resp.Close && !req.Close
	}
}

// check returns an error unless the requests of most sessions went to more than
// one target, and all targets had about as many.
func (f *front) check() error {
	sent, sessions, spread := f.Spread()
	if slices.Max(sent)-slices.Min(sent) > 1 {
		return fmt.Errorf("the front sent %v requests to its targets", sent)
	}
	if sessions == 0 || spread < sessions*9/10 {
		return fmt.Errorf("of %d sessions %d had requests at several targets", sessions, spread)
	}
	return nil
}
