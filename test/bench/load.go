package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"time"

	"github.com/leasehold/leasehold/test/internal/client"
)

// padding is what calls and answers carry.
const padding = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789abcdefghijklmnopqrstuvwxyzABC"

// The tools of the upstream.
const (
	toolEcho   = "echo"   // answers with the padding
	toolLarge  = "large"  // answers with largeSize bytes
	toolStream = "stream" // answers with two events
	toolLong   = "long-"  // and how long it takes, as in long-10s: reports progress meanwhile
)

// caller is one client: a session, a connection while it is being measured, and
// a request that is ready but for its id.
type caller struct {
	wire
	to      *url.URL
	id      string
	request *request
	least   int // how long a body at least is, if that is to be checked

	latencies []time.Duration
}

// newCaller opens a session at one URL and prepares for calls at another.
func newCaller(ctx context.Context, openAt, callAt string) (*caller, error) {
	s, err := client.Open(ctx, openAt)
	if err != nil {
		return nil, err
	}
	to, err := url.Parse(callAt)
	if err != nil {
		return nil, err
	}
	c := &caller{wire: wire{address: to.Host}, to: to, id: s.ID}
	c.use(toolEcho)
	return c, nil
}

// use makes a tool the one that is called.
func (c *caller) use(tool string) {
	c.request = newRequest(c.to, c.id, "tools/call", callParams(tool))
	c.least = 0
	if tool == toolLarge {
		c.least = largeSize
	}
}

// callParams are the parameters of a call.
func callParams(tool string) string {
	return fmt.Sprintf(`{"name":%q,"arguments":{"text":%q},"_meta":{"progressToken":1}}`, tool, padding)
}

// call makes one call and checks its answer.
func (c *caller) call() error {
	if err := c.exchange(c.request.next()); err != nil {
		return err
	}
	if len(c.body) < c.least {
		return fmt.Errorf("an answer of %d bytes, want %d", len(c.body), c.least)
	}
	return c.checkAnswer(c.request)
}

// begin forgets what was measured before.
func (c *caller) begin() { c.latencies = c.latencies[:0] }

// took returns the latencies since begin.
func (c *caller) took() []time.Duration { return c.latencies }

// step makes one call and keeps its latency.
func (c *caller) step() error {
	start := time.Now()
	if err := c.call(); err != nil {
		return err
	}
	c.latencies = append(c.latencies, time.Since(start))
	return nil
}

// stepper is a client that does the same thing over and over.
type stepper interface {
	connect() error
	disconnect()
	limit(time.Time)
	begin()
	step() error
	took() []time.Duration
}

// limit says until when the connection may be used.
func (w *wire) limit(deadline time.Time) { w.conn.SetDeadline(deadline) }

// drive lets clients work side by side for a while, each doing its next step
// when the last is done, and returns how long it took.
func drive[S stepper](clients []S, d time.Duration) (time.Duration, error) {
	start := time.Now()
	deadline := start.Add(d)
	errs := make([]error, len(clients))
	var group sync.WaitGroup
	for i, c := range clients {
		group.Go(func() {
			c.begin()
			c.limit(deadline.Add(answerLimit))
			for errs[i] == nil && time.Now().Before(deadline) {
				errs[i] = c.step()
			}
		})
	}
	group.Wait()
	return time.Since(start), errors.Join(errs...)
}

// connectAll connects clients.
func connectAll[S stepper](clients []S) error {
	for _, c := range clients {
		if err := c.connect(); err != nil {
			return err
		}
	}
	return nil
}

// disconnectAll disconnects clients.
func disconnectAll[S stepper](clients []S) {
	for _, c := range clients {
		c.disconnect()
	}
}
