package main

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httputil"
	"strconv"
	"strings"
	"sync"
	"time"
)

// upstream is a stateful MCP server that does as little as it can: it reads
// HTTP by hand and knows sessions, initialize and one kind of call.
type upstream struct {
	mu       sync.RWMutex // guards sessions
	sessions map[string]bool
}

// newUpstream returns an upstream without sessions.
func newUpstream() *upstream { return &upstream{sessions: map[string]bool{}} }

// serve answers on listener.
func (u *upstream) serve(listener net.Listener) error {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go u.converse(conn)
	}
}

// ask is a request as far as the upstream reads it.
type ask struct {
	method  string
	session string
	length  int
	chunked bool
	body    []byte
}

// converse answers the requests of one connection.
func (u *upstream) converse(conn net.Conn) {
	defer conn.Close()
	in, out := bufio.NewReaderSize(conn, 16<<10), make([]byte, 0, 4<<10)
	var a ask
	for {
		if err := a.read(in); err != nil {
			return
		}
		var err error
		if out, err = u.answer(conn, out[:0], &a); err != nil {
			return
		}
	}
}

// The header fields that the upstream reads.
var (
	fieldSession = []byte("mcp-session-id")
	fieldLength  = []byte("content-length")
	fieldCoding  = []byte("transfer-encoding")
)

// read reads the next request.
func (a *ask) read(in *bufio.Reader) error {
	line, err := in.ReadSlice('\n')
	if err != nil {
		return err
	}
	method, _, _ := bytes.Cut(line, []byte(" "))
	*a = ask{method: string(method), body: a.body[:0]}
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			return a.readBody(in)
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimSpace(value)
		switch {
		case bytes.EqualFold(name, fieldSession):
			a.session = string(value)
		case bytes.EqualFold(name, fieldLength):
			if a.length, err = strconv.Atoi(string(value)); err != nil {
				return err
			}
		case bytes.EqualFold(name, fieldCoding):
			a.chunked = bytes.EqualFold(value, []byte("chunked"))
		}
	}
}

// readBody reads the body into the buffer of the request before.
func (a *ask) readBody(in *bufio.Reader) error {
	if a.chunked {
		body, err := io.ReadAll(httputil.NewChunkedReader(in))
		if err == nil {
			_, err = in.ReadSlice('\n') // the end of the trailer
		}
		a.body = body
		return err
	}
	if a.length > 8<<20 {
		return errors.New("the body is too long")
	}
	if cap(a.body) < a.length {
		a.body = make([]byte, a.length)
	}
	a.body = a.body[:a.length]
	_, err := io.ReadFull(in, a.body)
	return err
}

// answer writes the answer to a request, by way of the buffer out, which it
// returns.
func (u *upstream) answer(conn net.Conn, out []byte, a *ask) ([]byte, error) {
	switch {
	case a.method == "DELETE":
		u.mu.Lock()
		delete(u.sessions, a.session)
		u.mu.Unlock()
		out = append(out, "HTTP/1.1 204 No Content\r\n\r\n"...)
	case a.method != "POST":
		out = append(out, "HTTP/1.1 405 Method Not Allowed\r\nAllow: POST, DELETE\r\nContent-Length: 0\r\n\r\n"...)
	case !bytes.Contains(a.body, []byte(`"tools/call"`)):
		out = u.answerRare(out, a)
	case !u.knows(a.session):
		out = append(out, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"...)
	default:
		return u.answerCall(conn, out, a.body)
	}
	_, err := conn.Write(out)
	return out, err
}

// answerCall writes the answer to a call. The id and the tool are found the
// cheap way; the load generator, which checks answers, sends them so that they
// are found.
func (u *upstream) answerCall(conn net.Conn, out, body []byte) ([]byte, error) {
	id, tool := after(body, `"id":`, ","), after(body, `"name":"`, `"`)
	switch string(tool) {
	case toolLarge:
		buffers := net.Buffers{appendCall(out, id, len(largeResult)), largeResult}
		_, err := buffers.WriteTo(conn)
		return out, err
	case toolStream:
		if _, err := conn.Write(appendFirstEvent(out)); err != nil {
			return out, err
		}
		time.Sleep(streamPause)
		_, err := conn.Write(appendLastEvent(out, id))
		return out, err
	}
	if length, ok := strings.CutPrefix(string(tool), toolLong); ok {
		d, err := time.ParseDuration(length)
		if err != nil {
			return out, err
		}
		return answerLong(conn, out, id, d)
	}
	out = append(appendCall(out, id, len(callResult)), callResult...)
	_, err := conn.Write(out)
	return out, err
}

// after returns what is between a mark and the next end.
func after(body []byte, mark, end string) []byte {
	_, rest, _ := bytes.Cut(body, []byte(mark))
	rest, _, _ = bytes.Cut(rest, []byte(end))
	return rest
}

// knows reports whether a session is live.
func (u *upstream) knows(session string) bool {
	u.mu.RLock()
	defer u.mu.RUnlock()
	return u.sessions[session]
}

// callResult is the result of most calls.
const callResult = `,"result":{"content":[{"type":"text","text":"` + padding + `"}]}}`

// largeSize is how long a large result's text is.
const largeSize = 1 << 20

// largeResult is the result of a large call.
var largeResult = fmt.Appendf(nil, `,"result":{"content":[{"type":"text","text":"%s"}]}}`,
	strings.Repeat(padding, largeSize/len(padding)+1)[:largeSize])

// appendCall appends the answer to a call, up to its result of so many bytes.
func appendCall(out, id []byte, result int) []byte {
	const begin = `{"jsonrpc":"2.0","id":`
	out = append(out, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: "...)
	out = strconv.AppendInt(out, int64(len(begin)+len(id)+result), 10)
	out = append(out, "\r\n\r\n"+begin...)
	return append(out, id...)
}

// answerRare appends the answer to what is not measured.
func (u *upstream) answerRare(out []byte, a *ask) []byte {
	var msg struct {
		ID     json.RawMessage `json:"id"`
		Method string          `json:"method"`
	}
	if err := json.Unmarshal(a.body, &msg); err != nil {
		return append(out, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"...)
	}
	if msg.ID == nil {
		return append(out, "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"...)
	}
	body, session := fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"result":{}}`, msg.ID), ""
	switch msg.Method {
	case "tools/list":
		body = fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"result":{"tools":[%s]}}`, msg.ID, tools)
	case "initialize":
		id := rand.Text()
		u.mu.Lock()
		u.sessions[id] = true
		u.mu.Unlock()
		session = "Mcp-Session-Id: " + id + "\r\n"
		body = fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"result":{"protocolVersion":%q,"capabilities":{"tools":{}},`+
			`"serverInfo":{"name":"bench","version":"1"}}}`, msg.ID, protocol)
	}
	return fmt.Appendf(out, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n\r\n%s", session, len(body), body)
}

// tools are the tools as they are listed: a hundred, one of which is called.
var tools = func() string {
	const tool = `{"name":%q,"description":"Answers with text, whatever it was told.","inputSchema":{"type":"object","properties":{"text":{"type":"string"}}}}`
	all := fmt.Sprintf(tool, toolEcho)
	for n := range 99 {
		all += fmt.Sprintf(","+tool, fmt.Sprintf("tool%d", n+1))
	}
	return all
}()
