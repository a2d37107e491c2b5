package upstream

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/leasehold/leasehold/dataplane/credential"
	"github.com/leasehold/leasehold/dataplane/session"
)

// conn is a connection to an upstream. One request uses it at a time.
type conn struct {
	net    net.Conn
	raw    net.Conn // below TLS
	key    string
	since  time.Time // when it became idle
	reader *bufio.Reader
	limit  int // bytes of header that may still be read, or unlimited
	// silence is how long a read may take; 0 means any time.
	silence time.Duration
	cut     atomic.Bool // interrupt was called
	// failed is what the last read that failed came to; nil if none did.
	failed error
	// aside is closed when a body that is written while the answer is read is
	// done; nil otherwise.
	aside chan struct{}
}

const (
	unlimited = -1
	// together is up to which size a body goes out with its header, and before
	// the answer is looked at. An upstream may answer a longer one before it has
	// read it, and would wait for ever for somebody to read that answer.
	together = 16 << 10
)

// errNotHTTP says that an answer cannot be read. What net/http says of it has pieces of
// the answer in it, which may repeat what the upstream was shown.
var errNotHTTP = errors.New("what the upstream answers is not HTTP/1.1")

var errHeaderTooLarge = fmt.Errorf("answer has more than %d bytes of header", maxHeaderBytes)

// source is what a connection's buffered reader reads from.
type source struct{ cn *conn }

// Read implements io.Reader.
func (s source) Read(p []byte) (n int, err error) {
	defer func() {
		if err != nil {
			s.cn.failed = err
		}
	}()
	switch s.cn.limit {
	case unlimited:
	case 0:
		return 0, errHeaderTooLarge
	default:
		p = p[:min(len(p), s.cn.limit)]
	}
	n, err = s.cn.read(p)
	if s.cn.limit != unlimited {
		s.cn.limit -= n
	}
	return n, err
}

// plain returns an error of reading an answer without anything of the answer: as it is
// if the connection failed, or else errNotHTTP.
func (cn *conn) plain(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || cn.failed != nil && errors.Is(err, cn.failed) {
		return err
	}
	return errNotHTTP
}

// read reads what comes within the silence that is allowed. The error is
// session.ErrSilent if nothing does.
func (cn *conn) read(p []byte) (int, error) {
	if cn.silence == 0 {
		return cn.net.Read(p)
	}
	cn.net.SetReadDeadline(time.Now().Add(cn.silence))
	if cn.cut.Load() {
		cn.interrupt() // which the deadline has undone
	}
	n, err := cn.net.Read(p)
	if errors.Is(err, os.ErrDeadlineExceeded) && !cn.cut.Load() {
		err = fmt.Errorf("%w for %v", session.ErrSilent, cn.silence)
	}
	return n, err
}

// listen sets how long a read may take from now on.
func (cn *conn) listen(silence time.Duration) {
	if cn.silence != 0 && silence == 0 {
		cn.net.SetReadDeadline(time.Time{})
	}
	cn.silence = silence
}

// interrupt makes every read and write fail, now and later.
func (cn *conn) interrupt() {
	cn.cut.Store(true)
	cn.net.SetDeadline(time.Unix(1, 0))
}

// exchange writes a request and reads the head of its answer.
func (cn *conn) exchange(target *url.URL, method string, header http.Header, body []byte) (*http.Response, error) {
	if err := cn.write(target, method, header, body); err != nil {
		return nil, fmt.Errorf("write request: %w", err)
	}
	request := &http.Request{Method: method}
	for {
		cn.limit = maxHeaderBytes
		response, err := http.ReadResponse(cn.reader, request)
		cn.limit = unlimited
		if err != nil {
			return nil, fmt.Errorf("read answer: %w", cn.plain(err))
		}
		if response.StatusCode == http.StatusSwitchingProtocols {
			return nil, fmt.Errorf("read answer: unexpected HTTP %d", response.StatusCode)
		}
		if response.StatusCode >= 200 {
			return response, nil
		}
	}
}

var requests = sync.Pool{New: func() any { b := make([]byte, 0, 2<<10); return &b }}

func (cn *conn) write(target *url.URL, method string, header http.Header, body []byte) error {
	buffer := requests.Get().(*[]byte)
	defer func() {
		if cap(*buffer) <= 2*together {
			requests.Put(buffer)
		}
	}()
	b, err := appendHead((*buffer)[:0], target, method, header, len(body))
	*buffer = b
	if err != nil {
		return err
	}
	if len(body) <= together {
		b = append(b, body...)
		*buffer = b
		_, err = cn.net.Write(b)
		return err
	}
	if _, err := cn.net.Write(b); err != nil {
		return err
	}
	cn.aside = make(chan struct{})
	go func(done chan struct{}) {
		defer close(done)
		cn.net.Write(body) // if it fails, reading the answer does too, or there is one already
	}(cn.aside)
	return nil
}

// appendHead appends the request line and the header, without the fields that are
// for workers only.
func appendHead(b []byte, target *url.URL, method string, header http.Header, length int) ([]byte, error) {
	b = append(append(b, method...), ' ')
	b = append(append(b, target.RequestURI()...), " HTTP/1.1\r\nHost: "...)
	b = append(append(b, target.Host...), "\r\n"...)
	for name, values := range header {
		if strings.HasPrefix(name, credential.InternalPrefix) {
			continue
		}
		for _, value := range values {
			if strings.ContainsAny(value, "\r\n\x00") || strings.ContainsAny(name, "\r\n\x00: ") {
				return b, fmt.Errorf("header %.64q has a character that a header cannot have", name)
			}
			b = append(append(b, name...), ": "...)
			b = append(append(b, value...), "\r\n"...)
		}
	}
	if length > 0 || method == http.MethodPost {
		b = append(b, "Content-Length: "...)
		b = append(strconv.AppendInt(b, int64(length), 10), "\r\n"...)
	}
	return append(b, "\r\n"...), nil
}

// answer is the body of an answer. Its connection is used again once the body
// was read to its end and closed.
type answer struct {
	client   *Client
	conn     *conn // nil once closed
	body     io.ReadCloser
	stop     func() bool // ends the watch over the request's context
	reusable bool
	whole    bool
}

// Read implements io.Reader.
func (a *answer) Read(p []byte) (int, error) {
	n, err := a.body.Read(p)
	switch {
	case err == io.EOF:
		a.whole = true
	case err != nil && a.conn != nil:
		err = a.conn.plain(err)
	}
	return n, err
}

// Buffered returns how many bytes can be read without waiting, framing included.
func (a *answer) Buffered() int { return a.conn.reader.Buffered() }

// Close implements io.Closer. It may be called again.
func (a *answer) Close() error {
	cn := a.conn
	if cn == nil {
		return nil
	}
	a.conn = nil
	undisturbed := a.stop()
	if a.whole && a.reusable && undisturbed && cn.reader.Buffered() == 0 && cn.sent() {
		cn.listen(0) // a deadline of its last request must not end it
		a.client.keep(cn)
		return nil
	}
	err := cn.net.Close()
	if cn.aside != nil {
		<-cn.aside
	}
	return err
}

// sent reports whether the whole request was written, and forgets about it.
func (cn *conn) sent() bool {
	if cn.aside == nil {
		return true
	}
	select {
	case <-cn.aside:
		cn.aside = nil
		return true
	default:
		return false
	}
}
