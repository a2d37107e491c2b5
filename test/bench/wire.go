package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httputil"
	"net/url"
	"strconv"
	"time"

	"github.com/leasehold/leasehold/test/internal/client"
)

// protocol is the protocol version of all sessions.
const protocol = client.Version

// idDigits is how many digits an id has: all have the same, so that only they
// change in the request.
const idDigits = 10

// firstID is the id before the first.
const firstID = 1_000_000_000

// answerLimit is how long an answer may take to begin and to end.
const answerLimit = 20 * time.Second

// wire is a client's connection. It writes requests that are ready and reads
// HTTP by hand, so that the load costs little beside what is measured.
type wire struct {
	address string
	conn    net.Conn
	in      *bufio.Reader

	status  int    // of the last answer
	session []byte // the session id that the last answer named, if it did
	chunked bool   // the coding of the last answer
	length  int    // the length of the last answer, if it is not chunked
	body    []byte // of the last answer; the buffer is used again
}

// connect opens the connection, in place of one that may be open.
func (w *wire) connect() error {
	w.disconnect()
	conn, err := net.Dial("tcp", w.address)
	if err != nil {
		return err
	}
	w.conn, w.in = conn, bufio.NewReaderSize(conn, 16<<10)
	return nil
}

// disconnect closes the connection.
func (w *wire) disconnect() {
	if w.conn != nil {
		w.conn.Close()
		w.conn = nil
	}
}

// exchange writes a request and reads its answer to the end.
func (w *wire) exchange(request []byte) error {
	if _, err := w.conn.Write(request); err != nil {
		return err
	}
	if err := w.readHead(); err != nil {
		return err
	}
	return w.readBody()
}

// The header field, beside those that the upstream reads, by which an answer
// says that the connection ends after it.
var fieldConnection = []byte("connection")

// readHead reads an answer up to its body.
func (w *wire) readHead() error {
	line, err := w.in.ReadSlice('\n')
	if err != nil {
		return err
	}
	if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.1 ")) {
		return fmt.Errorf("answer begins with %.40q", line)
	}
	if w.status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return fmt.Errorf("answer begins with %.40q", line)
	}
	w.session, w.chunked, w.length = w.session[:0], false, 0
	for {
		line, err := w.in.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) <= 2 {
			return nil
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		switch {
		case bytes.EqualFold(name, fieldLength):
			w.length, _ = strconv.Atoi(string(bytes.TrimSpace(value)))
		case bytes.EqualFold(name, fieldCoding):
			w.chunked = true
		case bytes.EqualFold(name, fieldSession):
			w.session = append(w.session, bytes.TrimSpace(value)...)
		case bytes.EqualFold(name, fieldConnection) && bytes.Contains(value, []byte("close")):
			return errors.New("the answer ends the connection, which the client would have kept")
		}
	}
}

// readBody reads an answer's body into the buffer.
func (w *wire) readBody() error {
	if w.chunked {
		w.body = w.body[:0]
		if err := w.appendAll(httputil.NewChunkedReader(w.in)); err != nil {
			return err
		}
		return w.endChunks()
	}
	if cap(w.body) < w.length {
		w.body = make([]byte, w.length)
	}
	w.body = w.body[:w.length]
	_, err := io.ReadFull(w.in, w.body)
	return err
}

// appendAll appends what is left of a body to the buffer.
func (w *wire) appendAll(from io.Reader) error {
	for {
		if len(w.body) == cap(w.body) {
			w.body = append(w.body, make([]byte, max(4<<10, len(w.body)))...)[:len(w.body)]
		}
		n, err := from.Read(w.body[len(w.body):cap(w.body)])
		w.body = w.body[:len(w.body)+n]
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// endChunks reads the end of the trailer, which is empty.
func (w *wire) endChunks() error {
	_, err := w.in.ReadSlice('\n')
	return err
}

// request is a request that is ready but for the id in its body.
type request struct {
	bytes []byte
	idAt  int // where the id is
	id    int64
}

// newRequest prepares a POST of a session, or one without a session.
func newRequest(to *url.URL, session, method, params string) *request {
	const idMark = `"id":`
	body := fmt.Sprintf(`{"jsonrpc":"2.0",`+idMark+`%d,"method":%q,"params":%s}`, firstID, method, params)
	r := &request{id: firstID, bytes: fmt.Appendf(nil, "%s%sContent-Type: application/json\r\n"+
		"Accept: application/json, text/event-stream\r\nContent-Length: %d\r\n\r\n%s",
		requestHead("POST", to), sessionFields(session), len(body), body)}
	r.idAt = bytes.Index(r.bytes, []byte(idMark)) + len(idMark)
	return r
}

// next gives the request its next id and returns it.
func (r *request) next() []byte {
	r.id++
	strconv.AppendInt(r.bytes[:r.idAt], r.id, 10)
	return r.bytes
}

// digits are the digits of the id.
func (r *request) digits() []byte { return r.bytes[r.idAt : r.idAt+idDigits] }

// requestHead is the request line with the Host field.
func requestHead(method string, to *url.URL) string {
	return method + " " + to.RequestURI() + " HTTP/1.1\r\nHost: " + to.Host + "\r\n"
}

// sessionFields are the fields that name a session, if there is one.
func sessionFields(session string) string {
	if session == "" {
		return ""
	}
	return "Mcp-Session-Id: " + session + "\r\nMcp-Protocol-Version: " + protocol + "\r\n"
}

// checkAnswer says whether an answer of 200 is a result for the request.
func (w *wire) checkAnswer(r *request) error {
	// The id and the member are near the begin, also in a long answer.
	begin := w.body[:min(len(w.body), 4<<10)]
	if w.status != 200 || !bytes.Contains(begin, r.digits()) || !bytes.Contains(begin, []byte(`"result"`)) {
		return fmt.Errorf("request %s was answered with status %d and body %.300q", r.digits(), w.status, w.body)
	}
	return nil
}
