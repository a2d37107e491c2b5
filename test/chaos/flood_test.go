package chaos

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/leasehold/leasehold/test/internal/client"
	"github.com/leasehold/leasehold/test/internal/cluster"
)

const (
	// bodyLimit is how long a request's body may be.
	bodyLimit = 4 << 20
	// takes is by how much a request that is refused may make a worker grow: what
	// it has read of the body, and what it reads that into.
	takes = 8 << 20
	// mebibyte is how much of a long body is sent at once.
	mebibyte = 1 << 20
)

// flood is a world of built binaries without the race detector, which would use
// memory of its own.
func flood(t *testing.T) *world {
	p := small
	p.plain, p.blind = true, true
	return start(t, p)
}

func TestBodyBeyondABoundIsRefusedAndTakesLittleMemory(t *testing.T) {
	w := flood(t)
	w.serve("body", w.ledger.URL(), "", "")
	crew := enlist(t, "body", w.Workers, 20)
	w.locate(crew)
	crew.work(crew.members, pace)
	worker := w.Workers[0]
	long := strings.Repeat("x", mebibyte)
	call := `{"jsonrpc":"2.0","id":"bound","method":"tools/call","params":{"name":"echo","arguments":{"a":`
	for name, c := range map[string]struct {
		length string // the field that says how long the body is
		body   func(io.Writer) error
		status int
		says   string
		closed bool // whether the connection is
	}{
		"one byte too many": {fmt.Sprintf("Content-Length: %d", bodyLimit+1), func(out io.Writer) error {
			for range bodyLimit / mebibyte {
				if _, err := io.WriteString(out, long); err != nil {
					return err
				}
			}
			_, err := io.WriteString(out, "x")
			return err
		}, 413, strconv.Itoa(bodyLimit), true},
		"100 MB of unknown length": {"Transfer-Encoding: chunked", func(out io.Writer) error {
			for range 100 {
				if _, err := fmt.Fprintf(out, "%x\r\n%s\r\n", len(long), long); err != nil {
					return err
				}
			}
			_, err := io.WriteString(out, "0\r\n\r\n")
			return err
		}, 413, strconv.Itoa(bodyLimit), true},
		"10,000 levels": {fmt.Sprintf("Content-Length: %d", len(call)+20_000+3), func(out io.Writer) error {
			_, err := io.WriteString(out, call+strings.Repeat("[", 10_000)+strings.Repeat("]", 10_000)+"}}}")
			return err
		}, 400, "-32600", false},
	} {
		t.Run(name, func(t *testing.T) {
			for range 3 {
				grown := growth(t, worker.Process, func() {
					status, text := sendRaw(t, worker, crew.members[0], c.length, c.body, c.closed)
					if status != c.status || !strings.Contains(text, c.says) {
						t.Errorf("got %d %.300q, want %d that says %s", status, text, c.status, c.says)
					}
				})
				t.Logf("the worker grew by %d KiB at most", grown>>10)
				if grown > takes {
					t.Errorf("the worker grew by %d bytes, want at most %d", grown, takes)
				}
			}
		})
	}
	crew.rest()
	w.expect(crew.made(), nil)
	w.audit(crew, book{})
	w.leave(crew, nil)
}

// sendRaw sends a POST of a member over a connection of its own, whether or not
// all of its body is taken, and returns the answer. It checks that the connection
// is closed after it, if it is to be.
func sendRaw(t *testing.T, at *cluster.Worker, m *member, length string, body func(io.Writer) error, closed bool) (status int, text string) {
	t.Helper()
	conn, err := net.Dial("tcp", at.Listen)
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(patience))
	var sending sync.WaitGroup
	sending.Go(func() {
		_, err := io.WriteString(conn, m.head(http.MethodPost, at)+"Content-Type: application/json\r\n"+length+"\r\n\r\n")
		if err == nil {
			body(conn) // the answer tells why not all of it is taken
		}
	})
	defer sending.Wait()
	defer conn.Close()
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	answer, _ := io.ReadAll(resp.Body)
	if closed {
		conn.SetReadDeadline(time.Now().Add(headersWithin))
		if _, err := in.ReadByte(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("after %d the connection is open still: %v", resp.StatusCode, err)
		}
	}
	return resp.StatusCode, string(answer)
}

// head is the head of a request of a member, up to what the caller adds.
func (m *member) head(method string, at *cluster.Worker) string {
	return fmt.Sprintf("%s /gateways/%s/mcp HTTP/1.1\r\nHost: %s\r\nAccept: application/json, text/event-stream\r\nMcp-Session-Id: %s\r\n",
		method, m.crew.gateway, at.Listen, m.session.ID)
}

// growth is by how much the resident memory of a process grew at most while
// something was done.
func growth(t *testing.T, p *cluster.Process, do func()) int {
	t.Helper()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p.PID), []byte("5"), 0); err != nil { // forgets the most
		t.Fatal(err)
	}
	before := resident(t, p, "VmRSS")
	do()
	return resident(t, p, "VmHWM") - before
}

// resident reads a size from a process's status.
func resident(t *testing.T, p *cluster.Process, field string) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), field+":")
	line, _, _ := strings.Cut(rest, "kB")
	kib, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatalf("read %s of %s: %v", field, p.Name, err)
	}
	return kib << 10
}

const (
	// headersWithin is how long a client may take to send its header.
	headersWithin = 10 * time.Second
	// perSession is how many GET streams a session may have.
	perSession = 8
)

func TestConnectionsThatDoNothingHoldUpNobody(t *testing.T) {
	const calling = 60
	// As many as a process may have open, where that is less.
	limit := descriptorLimit(t)
	slow, streams := min(1000, limit/8), min(10_000, limit/2)/perSession*perSession
	w := flood(t)
	w.serve("flood", w.ledger.URL(), "", "")
	worker := w.Workers[0]
	crew := enlist(t, "flood", w.Workers, calling)
	w.locate(crew)
	crew.work(crew.members, pace/4)
	w.let(2 * time.Second)
	began := time.Now()

	dribbling := dribble(t, worker, slow)
	idle := enlist(t, "flood", []*cluster.Worker{worker}, streams/perSession)
	conns := idle.idle(worker)
	full := time.Now()
	w.let(2 * time.Second)
	rested := time.Now()
	more, err := client.Do(t.Context(), http.MethodGet, worker.URL("flood"), idle.members[0].session.Header(), nil)
	if err != nil || more.Status != http.StatusTooManyRequests || more.Header.Get("Retry-After") == "" || !strings.Contains(string(more.Body), strconv.Itoa(perSession)) {
		t.Errorf("stream %d of a session: got %+v, %v; want 429 with Retry-After that names the bound", perSession+1, more, err)
	}
	crew.rest()
	w.expect(crew.made(), nil)
	before := only(crew.made(), func(c *call) bool { return c.ms == 0 && c.end.Before(began) })
	during := only(crew.made(), func(c *call) bool { return c.ms == 0 && c.begin.After(full) && c.end.Before(rested) })
	quiet, loud := percentile(before, 0.99), percentile(during, 0.99)
	t.Logf("%d streams were opened in %v; p99 of %d calls before: %v, of %d beside the streams: %v",
		len(conns), full.Sub(began).Round(time.Millisecond), len(before), quiet, len(during), loud)
	if most := 2*quiet + w.late(); loud > most {
		t.Errorf("calls took %v at the 99th percentile beside %d idle streams, want at most %v", loud, len(conns), most)
	}
	for _, c := range conns {
		c.Close()
	}
	if took := dribbling(); took > headersWithin+grace+w.late() {
		t.Errorf("%d connections whose headers came slowly: the last was closed after %v, want at most %v", slow, took, headersWithin)
	}
	idle.leave(nil)
	idle.http.CloseIdleConnections()
	w.audit(crew, book{})
	w.leave(crew, nil)
}

// descriptorLimit is how many descriptors a process may have.
func descriptorLimit(t *testing.T) int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	return int(min(limit.Max, 1<<20))
}

// dribble opens connections that send a byte of a header each second. The function
// that it returns waits until all are closed by the other end, and returns how long
// the last one lasted.
func dribble(t *testing.T, at *cluster.Worker, n int) (wait func() time.Duration) {
	took := make([]time.Duration, n)
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() {
			began := time.Now()
			conn, err := net.Dial("tcp", at.Listen)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			io.WriteString(conn, "POST /gateways/flood/mcp HTTP/1.1\r\nX-Slow: ")
			for began.Add(2 * headersWithin).After(time.Now()) {
				conn.SetReadDeadline(time.Now().Add(time.Second))
				if _, err = conn.Read(make([]byte, 1)); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
					break
				}
				io.WriteString(conn, "x")
			}
			took[i] = time.Since(began)
		})
	}
	return func() (longest time.Duration) {
		group.Wait()
		for _, d := range took {
			longest = max(longest, d)
		}
		return longest
	}
}

// idle opens all the GET streams that a crew's sessions may have.
func (c *crew) idle(at *cluster.Worker) []net.Conn {
	c.t.Helper()
	conns := make([]net.Conn, len(c.members)*perSession)
	errs := side(len(conns), 64, func(i int) error {
		conn, err := net.Dial("tcp", at.Listen)
		if err != nil {
			return err
		}
		conns[i] = conn
		conn.SetDeadline(time.Now().Add(patience))
		if _, err := io.WriteString(conn, c.members[i/perSession].head(http.MethodGet, at)+"\r\n"); err != nil {
			return err
		}
		resp, err := http.ReadResponse(bufio.NewReaderSize(conn, 512), nil)
		if err == nil && resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("status %d", resp.StatusCode)
		}
		return err
	})
	if len(errs) > 0 {
		c.t.Fatalf("%d of %d streams were not opened, among them: %v", len(errs), len(conns), errs[0])
	}
	return conns
}
