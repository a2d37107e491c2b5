// Package crossing stands before the listener of a process and knows who connects to
// it, so that a test can cut the way from some processes and leave it to others.
package crossing

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// Crossing passes connections on to a listener. It is safe for concurrent use.
type Crossing struct {
	listener net.Listener
	target   string
	who      func(net.Conn) string
	group    sync.WaitGroup

	mu     sync.Mutex // guards all below
	closed bool
	cut    map[string]bool // by who connects
	ways   map[*way]struct{}
}

// way is one connection. far is nil if it was cut from the beginning.
type way struct {
	from      string
	near, far net.Conn
	cut       atomic.Bool
}

// New listens on a free loopback port and passes connections on to target. who names
// the other end of a connection; it is asked while that is open.
func New(target string, who func(net.Conn) string) (*Crossing, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	c := &Crossing{listener: listener, target: target, who: who, cut: map[string]bool{}, ways: map[*way]struct{}{}}
	c.group.Go(c.accept)
	return c, nil
}

// Address is where the crossing listens.
func (c *Crossing) Address() string { return c.listener.Addr().String() }

// Cut swallows everything between those who are named and the target: what is
// connected stays so and hears nothing, and who connects anew hears nothing either.
func (c *Crossing) Cut(from ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range from {
		c.cut[name] = true
	}
	for w := range c.ways {
		if c.cut[w.from] {
			w.cut.Store(true)
		}
	}
}

// Heal ends all cuts. The connections that were cut break: what they lost does not
// come back.
func (c *Crossing) Heal() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = map[string]bool{}
	for w := range c.ways {
		if w.cut.Load() {
			w.close()
		}
	}
}

// Close closes the listener and all connections.
func (c *Crossing) Close() {
	c.listener.Close()
	c.mu.Lock()
	c.closed = true
	for w := range c.ways {
		w.close()
	}
	c.mu.Unlock()
	c.group.Wait()
}

func (c *Crossing) accept() {
	for {
		conn, err := c.listener.Accept()
		if err != nil {
			return
		}
		c.group.Go(func() { c.serve(conn) })
	}
}

// serve passes one connection on until either end closes it.
func (c *Crossing) serve(near net.Conn) {
	w := &way{from: c.who(near), near: near}
	defer w.close()
	if !c.begin(w) {
		return
	}
	defer c.end(w)
	if w.far == nil {
		io.Copy(io.Discard, near)
		return
	}
	var group sync.WaitGroup
	group.Go(func() { w.pass(w.far, w.near) })
	w.pass(w.near, w.far)
	group.Wait()
}

// begin connects a way to the target, unless it is cut.
func (c *Crossing) begin(w *way) bool {
	far, err := net.Dial("tcp", c.target)
	if err != nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		far.Close()
		return false
	}
	c.ways[w] = struct{}{}
	if c.cut[w.from] {
		far.Close()
		w.cut.Store(true)
		return true
	}
	w.far = far
	return true
}

func (c *Crossing) end(w *way) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.ways, w)
}

// pass carries bytes, or swallows them, until from ends; then both ends are closed.
func (w *way) pass(to, from net.Conn) {
	defer w.close()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 && !w.cut.Load() {
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// close closes both ends.
func (w *way) close() {
	w.near.Close()
	if w.far != nil {
		w.far.Close()
	}
}
