package main

import (
	"bytes"
	"fmt"
	"net/url"
	"time"
)

// churner is a client that opens a session, makes one call and ends the session,
// over and over.
type churner struct {
	wire
	to     *url.URL
	open   *request
	buffer []byte // for requests that are not ready

	latencies []time.Duration
}

// newChurner returns a churner for a URL.
func newChurner(at string) (*churner, error) {
	to, err := url.Parse(at)
	if err != nil {
		return nil, err
	}
	return &churner{wire: wire{address: to.Host}, to: to, open: newRequest(to, "", "initialize", initializeParams)}, nil
}

// initializeParams are the parameters of initialize.
const initializeParams = `{"protocolVersion":"` + protocol + `","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}`

// begin forgets what was measured before.
func (c *churner) begin() { c.latencies = c.latencies[:0] }

// took returns how long each session since begin took.
func (c *churner) took() []time.Duration { return c.latencies }

// step does one session.
func (c *churner) step() error {
	start := time.Now()
	if err := c.initialize(); err != nil {
		return err
	}
	session := string(c.session)
	call := newRequest(c.to, session, "tools/call", callParams(toolEcho))
	if err := c.exchange(call.bytes); err != nil {
		return fmt.Errorf("call: %w", err)
	}
	if err := c.checkAnswer(call); err != nil {
		return err
	}
	c.buffer = append(append(append(c.buffer[:0], requestHead("DELETE", c.to)...), sessionFields(session)...), "\r\n"...)
	if err := c.exchange(c.buffer); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	if c.status != 200 && c.status != 204 {
		return fmt.Errorf("delete was answered with status %d and body %.300q", c.status, c.body)
	}
	c.latencies = append(c.latencies, time.Since(start))
	return nil
}

// initialize opens a session; its id is then the wire's.
func (c *churner) initialize() error {
	if err := c.exchange(c.open.next()); err != nil {
		return fmt.Errorf("initialize: %w", err)
	}
	if err := c.checkAnswer(c.open); err != nil {
		return err
	}
	if len(bytes.TrimSpace(c.session)) == 0 {
		return fmt.Errorf("initialize was answered without a session id: %.300q", c.body)
	}
	return nil
}

// openOnly opens a session as a client does that then leaves it alone.
func (c *churner) openOnly() error {
	if err := c.initialize(); err != nil {
		return err
	}
	return c.initialized(string(c.session))
}

// initialized says that the client is ready.
func (c *churner) initialized(session string) error {
	const initialized = `{"jsonrpc":"2.0","method":"notifications/initialized"}`
	c.buffer = fmt.Appendf(c.buffer[:0], "%s%sContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\n"+
		"Content-Length: %d\r\n\r\n%s", requestHead("POST", c.to), sessionFields(session), len(initialized), initialized)
	if err := c.exchange(c.buffer); err != nil {
		return fmt.Errorf("initialized: %w", err)
	}
	if c.status != 202 {
		return fmt.Errorf("initialized was answered with status %d and body %.300q", c.status, c.body)
	}
	return nil
}
