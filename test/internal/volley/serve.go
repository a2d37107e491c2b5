package volley

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// dialTogether bounds the connections that are being made: a listener's backlog is
// bounded.
const dialTogether = 512

// Serve reads requests from in and says on out how many they are. It sends them
// when in ends, and writes their answers, in any order, once it has them all:
// until then it leaves the machine to others.
func Serve(in io.Reader, out io.Writer, patience time.Duration) error {
	decoder := json.NewDecoder(in)
	var requests []Request
	if err := decoder.Decode(&requests); err != nil {
		return fmt.Errorf("read requests: %w", err)
	}
	rounds := make([]*round, len(requests))
	for i, r := range requests {
		address, text, err := r.wire()
		if err != nil {
			return err
		}
		rounds[i] = &round{address: address, request: text}
	}
	encoder := json.NewEncoder(out)
	if err := encoder.Encode(len(requests)); err != nil {
		return err
	}
	if _, err := decoder.Token(); err != io.EOF {
		return fmt.Errorf("the input goes on after the requests: %w", err)
	}
	fire(rounds, patience)
	buffered := bufio.NewWriter(out)
	encoder = json.NewEncoder(buffered)
	for i, r := range rounds {
		r.answer.Index = i
		if err := encoder.Encode(r.answer); err != nil {
			return err
		}
	}
	return buffered.Flush()
}

// wire is the request as it is sent, and where to.
func (r Request) wire() (address string, text []byte, err error) {
	to, err := url.Parse(r.URL)
	if err != nil {
		return "", nil, err
	}
	text = fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n", to.RequestURI(), to.Host, len(r.Body))
	for name, value := range r.Header {
		text = fmt.Appendf(text, "%s: %s\r\n", name, value)
	}
	return to.Host, append(append(text, "\r\n"...), r.Body...), nil
}

// round is one request on a connection of its own.
type round struct {
	address string
	request []byte
	conn    net.Conn
	answer  Answer
}

// fire makes all rounds at once. Connections are closed when they are over, since
// the other end has work to do with that.
func fire(rounds []*round, patience time.Duration) {
	dialing := make(chan struct{}, dialTogether)
	var group sync.WaitGroup
	for _, r := range rounds {
		group.Go(func() {
			r.answer.Begin = time.Now()
			if err := r.make(dialing, patience); err != nil {
				r.answer.Failure = err.Error()
			}
			r.answer.End = time.Now()
		})
	}
	group.Wait()
	for _, r := range rounds {
		if r.conn != nil {
			r.conn.Close()
		}
	}
}

func (r *round) make(dialing chan struct{}, patience time.Duration) error {
	until := time.Now().Add(patience)
	dialing <- struct{}{}
	conn, err := (&net.Dialer{Deadline: until}).Dial("tcp", r.address)
	<-dialing
	if err != nil {
		return err
	}
	r.conn = conn
	if err := conn.SetDeadline(until); err != nil {
		return err
	}
	if _, err := conn.Write(r.request); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReaderSize(conn, 1<<10), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	r.answer.Status, r.answer.Header = resp.StatusCode, make(map[string]string, len(resp.Header))
	for name := range resp.Header {
		r.answer.Header[name] = resp.Header.Get(name)
	}
	body, err := io.ReadAll(resp.Body)
	r.answer.Body = string(body)
	return err
}
