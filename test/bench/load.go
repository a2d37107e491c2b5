package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httputil"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/leasehold/leasehold/test/internal/client"
)

// protocol is the protocol version of all sessions.
const protocol = client.Version

// padding is what calls and answers carry.
const padding = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789abcdefghijklmnopqrstuvwxyzABC"

// idDigits is how many digits an id has: all have the same, so that only they
// change in the request.
const idDigits = 10

// callTimeout is how long a call may take at the end of a measurement.
const callTimeout = 20 * time.Second

// caller is one client: a session, a connection while it is being measured, and
// a request that is ready but for its id.
type caller struct {
	address string
	conn    net.Conn
	in      *bufio.Reader
	request []byte
	idAt    int // where the id is in the request
	id      int64
	body    []byte // buffer for the answer

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
	c := &caller{address: to.Host, id: 1_000_000_000, body: make([]byte, 0, 4<<10)}
	const idMark = `"id":`
	body := fmt.Sprintf(`{"jsonrpc":"2.0",`+idMark+`%d,"method":"tools/call","params":{"name":"echo","arguments":{"text":%q}}}`, c.id, padding)
	c.request = fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\n"+
		"Accept: application/json, text/event-stream\r\nMcp-Session-Id: %s\r\nMcp-Protocol-Version: %s\r\nContent-Length: %d\r\n\r\n%s",
		to.RequestURI(), to.Host, s.ID, protocol, len(body), body)
	c.idAt = bytes.Index(c.request, []byte(idMark)) + len(idMark)
	return c, nil
}

// connect opens the connection, in place of one that may be open.
func (c *caller) connect() error {
	c.disconnect()
	conn, err := net.Dial("tcp", c.address)
	if err != nil {
		return err
	}
	c.conn, c.in = conn, bufio.NewReaderSize(conn, 16<<10)
	return nil
}

// disconnect closes the connection.
func (c *caller) disconnect() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

// run calls until the deadline and keeps each latency.
func (c *caller) run(deadline time.Time) error {
	c.latencies = c.latencies[:0]
	c.conn.SetDeadline(deadline.Add(callTimeout))
	for start := time.Now(); start.Before(deadline); {
		if err := c.call(); err != nil {
			return err
		}
		now := time.Now()
		c.latencies = append(c.latencies, now.Sub(start))
		start = now
	}
	return nil
}

// call makes one call and checks that its answer is a success with its id.
func (c *caller) call() error {
	c.id++
	strconv.AppendInt(c.request[:c.idAt], c.id, 10)
	if _, err := c.conn.Write(c.request); err != nil {
		return err
	}
	if err := c.readAnswer(); err != nil {
		return err
	}
	id := c.request[c.idAt : c.idAt+idDigits]
	if !bytes.Contains(c.body, id) || !bytes.Contains(c.body, []byte(`"result"`)) {
		return fmt.Errorf("call %s was answered with %.300q", id, c.body)
	}
	return nil
}

// readAnswer reads an answer into the buffer.
func (c *caller) readAnswer() error {
	status, err := c.in.ReadSlice('\n')
	if err != nil {
		return err
	}
	ok := bytes.HasPrefix(status, []byte("HTTP/1.1 200"))
	first := string(status[:min(len(status), 40)])
	length, chunked := 0, false
	for {
		line, err := c.in.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) <= 2 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		switch {
		case bytes.EqualFold(name, fieldLength):
			length, _ = strconv.Atoi(string(bytes.TrimSpace(value)))
		case bytes.EqualFold(name, fieldCoding):
			chunked = true
		}
	}
	if err := c.readBody(length, chunked); err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("answer %q with body %.300q", first, c.body)
	}
	return nil
}

// readBody reads an answer's body into the buffer.
func (c *caller) readBody(length int, chunked bool) error {
	if chunked {
		var err error
		if c.body, err = io.ReadAll(httputil.NewChunkedReader(c.in)); err == nil {
			_, err = c.in.ReadSlice('\n')
		}
		return err
	}
	if cap(c.body) < length {
		c.body = make([]byte, length)
	}
	c.body = c.body[:length]
	_, err := io.ReadFull(c.in, c.body)
	return err
}

// drive lets callers call side by side for a while and returns how long it took.
func drive(callers []*caller, d time.Duration) (time.Duration, error) {
	start := time.Now()
	deadline := start.Add(d)
	errs := make([]error, len(callers))
	var group sync.WaitGroup
	for i, c := range callers {
		group.Go(func() { errs[i] = c.run(deadline) })
	}
	group.Wait()
	return time.Since(start), errors.Join(errs...)
}
