package pairs

import (
	"bytes"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// cut says how a stream comes to its end before its time.
type cut int

const (
	whole  cut = iota // not at all
	broken            // the connection breaks in the middle of the response
	ended             // the response ends in order, though without an answer
)

// front is what a load balancer is to a fleet: it sends each request to the next
// of its targets, whatever session it belongs to. It can cut streams.
type front struct {
	// URL is where clients reach it, without a path.
	URL string

	server *http.Server

	mu      sync.Mutex // guards all below
	targets []string
	next    int
	sent    map[string]int // requests by target
	method  string         // of requests whose streams are to be cut
	arm     cut            // how to cut the next stream that carries a message
	cuts    int
	reports int // of progress, in all streams
	said    int // messages, other than answers, in streams that could be cut
}

// startFront starts a front for targets, host:port each.
func startFront(t *testing.T, targets ...string) *front {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &front{URL: "http://" + listener.Addr().String(), targets: targets, sent: map[string]int{}, method: http.MethodPost}
	transport := &http.Transport{}
	f.server = &http.Server{ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0), Handler: readFirst(&httputil.ReverseProxy{
		Rewrite:        func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = "http", f.turn(), "" },
		Transport:      transport,
		FlushInterval:  -1,
		ModifyResponse: f.watch,
		ErrorLog:       log.New(io.Discard, "", 0),
	})}
	var serving sync.WaitGroup
	serving.Go(func() { f.server.Serve(listener) })
	t.Cleanup(func() {
		f.server.Close()
		serving.Wait()
		transport.CloseIdleConnections()
	})
	return f
}

// readFirst has requests read to their end before they are passed on. Otherwise an
// answer that begins early may break off with the sending of the request.
func readFirst(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		next.ServeHTTP(w, r)
	})
}

// turn returns the target whose turn it is.
func (f *front) turn() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	target := f.targets[f.next%len(f.targets)]
	f.next++
	f.sent[target]++
	return target
}

// use makes these the targets and returns those before them.
func (f *front) use(targets ...string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	before := f.targets
	f.targets = targets
	return before
}

// remove takes a target out.
func (f *front) remove(target string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.targets = slices.DeleteFunc(slices.Clone(f.targets), func(t string) bool { return t == target })
}

// messages returns how many messages, other than answers, the streams have had that
// answer requests of the front's method.
func (f *front) messages() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.said
}

// spread returns how many requests each of the targets had.
func (f *front) spread() (sent []int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, target := range f.targets {
		sent = append(sent, f.sent[target])
	}
	return sent
}

// cutNext has the front cut, in the way that how says, the next stream that
// answers a request of its method, right after its next message that is no answer.
func (f *front) cutNext(how cut) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.arm, f.cuts = how, 0
}

// disarm returns how many streams were cut since cutNext.
func (f *front) disarm() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.arm = whole
	return f.cuts
}

// passed returns how many reports of progress have gone by, 0 without a front.
func (f *front) passed() int {
	if f == nil {
		return 0
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reports
}

// watch watches streams.
func (f *front) watch(resp *http.Response) error {
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		resp.Body = &watched{ReadCloser: resp.Body, front: f, cuttable: resp.Request.Method == f.method}
	}
	return nil
}

// watched is the body of a stream.
type watched struct {
	io.ReadCloser
	front    *front
	cuttable bool
	unended  string // what was read of an event that has not ended
	how      cut
}

// Read implements io.Reader.
func (w *watched) Read(p []byte) (int, error) {
	switch w.how {
	case broken:
		return 0, errors.New("cut")
	case ended:
		return 0, io.EOF
	}
	n, err := w.ReadCloser.Read(p)
	w.unended += string(p[:n])
	for {
		event, rest, complete := strings.Cut(w.unended, "\n\n")
		if !complete {
			return n, err
		}
		w.unended = rest
		w.how = max(w.how, w.front.saw(event, w.cuttable))
	}
}

// saw is called with each event. It returns how to cut the stream that it was on.
func (f *front) saw(event string, cuttable bool) cut {
	f.mu.Lock()
	defer f.mu.Unlock()
	if strings.Contains(event, `"notifications/progress"`) {
		f.reports++
	}
	if !cuttable || !strings.Contains(event, `"method"`) {
		return whole
	}
	f.said++
	if f.arm == whole {
		return whole
	}
	how := f.arm
	f.arm = whole
	f.cuts++
	return how
}
