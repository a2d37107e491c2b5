package dataplane_test

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/leasehold/leasehold/dataplane/mcp"
)

// player plays one conversation, as its client and as its upstream.
type player struct {
	tb       testing.TB
	client   *client
	upstream *scripted
	owner    *worker
	via      []*worker // who gets what the client sends, by turns
	version  string

	exchanges map[string]*conversed
	order     []*conversed
	turns     int
	got       []string // what arrived at each step
}

// conversed is one exchange of a conversation: a request of the client, as it was
// sent and as the upstream got it, and its answer, as it was said and as the
// client got it.
type conversed struct {
	sent  *http.Request
	body  string
	heard *heard
	said  said // body: all of it
	ended bool

	mu      sync.Mutex // guards what follows
	answer  *http.Response
	arrived []byte
	err     error // how the answer ended, io.EOF if well
	more    chan struct{}
}

// The names of an upstream's session, and of the client's in files.
const (
	upstreamSession = "u-1"
	clientSession   = "{session}"
)

// openingText is what a client says first in a conversation that does not begin with
// initialize itself.
const openingText = `{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"%s","capabilities":{},"clientInfo":{"name":"c","version":"1"}}}`

func (p *player) play(c *conversation) {
	p.tb.Helper()
	if c.steps[0].exchange != "initialize" {
		p.open()
	}
	for _, s := range c.steps {
		var got string
		switch s.who + " " + s.does {
		case "client sends":
			p.send(s)
		case "upstream gets":
			got = p.hear(s)
		case "upstream says":
			p.say(s)
		case "client gets":
			got = p.receive(s)
		default:
			p.tb.Fatalf("nobody knows what %q is", s.who+" "+s.does)
		}
		if p.got = append(p.got, got); s.does == "gets" && got != s.text && !*update {
			p.tb.Errorf("%s %s %s: got\n%s\nwant\n%s", s.who, s.does, s.exchange, toFile.Replace(got), toFile.Replace(s.text))
		}
	}
	if differs := p.differences(); differs != c.differs && !*update {
		p.tb.Errorf("differences: got %q, want %q", differs, c.differs)
	}
	p.close()
}

// open initializes a session at the owner.
func (p *player) open() {
	p.tb.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		h := p.upstream.next(p.tb)
		h.say(p.tb, said{200, http.Header{"Content-Type": {"application/json"}, "Mcp-Session-Id": {upstreamSession}},
			`{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"` + p.version + `","capabilities":{},"serverInfo":{"name":"u","version":"1"}}}`})
		h.say(p.tb, said{})
	}()
	resp, body := p.client.do(p.owner, http.MethodPost, fmt.Sprintf(openingText, p.version))
	<-done
	if resp == nil || resp.StatusCode != 200 {
		p.tb.Fatalf("initialize: got %v %s", resp, body)
	}
	p.client.session = resp.Header.Get("Mcp-Session-Id")
}

// close ends the session, and sees to it that nobody said more than the file has.
func (p *player) close() {
	p.tb.Helper()
	for _, x := range p.order {
		if x.heard != nil && !x.ended {
			p.tb.Error("an answer was begun, and the file does not say that the client gets it")
			x.heard.say(p.tb, said{})
		}
	}
	if resp, body := p.client.do(p.via[0], http.MethodDelete, ""); resp == nil || resp.StatusCode != http.StatusNoContent {
		p.tb.Errorf("DELETE: got %v %s, want 204", resp, body)
	}
	select {
	case h := <-p.upstream.requests:
		p.tb.Errorf("the upstream got a request more: %s %s", h.method, h.body)
		h.say(p.tb, said{})
	default:
	}
}

func (p *player) exchange(name string) *conversed {
	x := p.exchanges[name]
	if x == nil {
		p.tb.Fatalf("no request is called %s", name)
	}
	return x
}

// send sends a request of the client's. Its answer is read from now on.
func (p *player) send(s step) {
	p.tb.Helper()
	method, header, body := parseHead(s.text)
	body = strings.TrimSuffix(body, "\n")
	w := p.owner
	if s.exchange != "initialize" {
		w = p.via[p.turns%len(p.via)]
		p.turns++
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	r, err := http.NewRequestWithContext(ctx, method, w.url+p.client.path, strings.NewReader(body))
	if err != nil {
		p.tb.Fatal(err)
	}
	p.address(r, header)
	x := &conversed{sent: r, body: body, more: make(chan struct{})}
	p.exchanges[s.exchange] = x
	p.order = append(p.order, x)
	done := make(chan struct{})
	go func() {
		defer close(done)
		x.read(p.client.http)
	}()
	p.tb.Cleanup(func() {
		cancel() // the answer has ended, or the test has failed
		<-done
	})
}

// address gives a request the header that a client of the version gives it, and
// what the file adds.
func (p *player) address(r *http.Request, header http.Header) {
	r.Header = http.Header{"Accept": {"application/json, text/event-stream"}, "User-Agent": {"client/1"}, "Accept-Encoding": {"identity"}}
	if r.Method == http.MethodPost {
		r.Header.Set("Content-Type", "application/json")
	}
	if p.client.session != "" {
		r.Header.Set("Mcp-Session-Id", p.client.session)
		if mcp.AtLeast(p.version, mcp.V20250618) {
			r.Header.Set("Mcp-Protocol-Version", p.version)
		}
	}
	maps.Copy(r.Header, header)
}

func (x *conversed) read(client *http.Client) {
	resp, err := client.Do(x.sent)
	x.note(resp, nil, err)
	if err != nil {
		return
	}
	defer resp.Body.Close()
	for {
		buffer := make([]byte, 4096)
		n, err := resp.Body.Read(buffer)
		if x.note(resp, buffer[:n], err); err != nil {
			return
		}
	}
}

// note adds to what arrived, and wakes who waits for it.
func (x *conversed) note(resp *http.Response, part []byte, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.answer, x.arrived, x.err = resp, append(x.arrived, part...), err
	close(x.more)
	x.more = make(chan struct{})
}

// await waits until enough holds of what arrived.
func (x *conversed) await(tb testing.TB, what string, enough func() bool) {
	tb.Helper()
	timeout := time.After(10 * time.Second)
	for {
		x.mu.Lock()
		ok, more := enough(), x.more
		x.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-more:
		case <-timeout:
			tb.Fatalf("%s not within 10 s; arrived: %q", what, x.arrived)
		}
	}
}

// hear returns the next request that the upstream gets, which is that of an
// exchange.
func (p *player) hear(s step) string {
	p.tb.Helper()
	x := p.exchange(s.exchange)
	x.heard = p.upstream.next(p.tb)
	if got, want := x.heard.header.Get("Content-Length"), strconv.Itoa(len(x.heard.body)); x.heard.method == http.MethodPost && got != want {
		p.tb.Errorf("Content-Length: got %s, want %s", got, want)
	}
	return formatHead(x.heard.method, x.heard.header, withEnd(x.heard.body))
}

// withEnd is a text as it stands in a file.
func withEnd(text string) string {
	if text == "" {
		return ""
	}
	return text + "\n"
}

// say says the answer of an exchange, or more of it, and waits until the client
// has got as much.
func (p *player) say(s step) {
	p.tb.Helper()
	x := p.exchange(s.exchange)
	part := said{body: s.text}
	if x.said.status == 0 {
		first, header, body := parseHead(s.text)
		part = said{header: header, body: body}
		part.status, _ = strconv.Atoi(first)
		if header.Get("Content-Type") != "text/event-stream" {
			part.body = strings.TrimSuffix(body, "\n")
		}
		x.said.status, x.said.header = part.status, header
	}
	x.said.body += part.body
	x.heard.say(p.tb, part)
	x.await(p.tb, "what the upstream said", func() bool {
		return x.err != nil || x.answer != nil && len(x.arrived) >= len(x.said.body)
	})
}

// receive ends the answer of an exchange and returns what the client got of it.
func (p *player) receive(s step) string {
	p.tb.Helper()
	x := p.exchange(s.exchange)
	if x.heard != nil && !x.ended {
		x.heard.say(p.tb, said{})
		x.ended = true
	}
	x.await(p.tb, "the end of the answer", func() bool { return x.err != nil })
	if x.err != io.EOF {
		p.tb.Fatalf("%s: %v", s.exchange, x.err)
	}
	header := x.answer.Header.Clone()
	if id := header.Get("Mcp-Session-Id"); id != "" {
		p.client.session = id
		header.Set("Mcp-Session-Id", clientSession)
	}
	body := string(x.arrived)
	if header.Get("Content-Type") != "text/event-stream" {
		body = withEnd(body)
	}
	return formatHead(strconv.Itoa(x.answer.StatusCode), header, body)
}

var (
	prefixedIDs = regexp.MustCompile(`((?:^|[\r\n])id: ?)up/[gp]/`)
	addedIDs    = regexp.MustCompile(`(^|[\r\n])id: up/r/[^\n]*\n`)
)

// differences names what one end sent and the other got otherwise. A difference
// that has no name fails the test.
func (p *player) differences() string {
	all := map[string]bool{}
	for _, x := range p.order {
		if x.heard == nil {
			all["answered by the gateway"] = true
			continue
		}
		if x.heard.body != x.body || x.heard.method != x.sent.Method {
			p.tb.Errorf("the upstream got %s %q, want %s %q", x.heard.method, x.heard.body, x.sent.Method, x.body)
		}
		differentFields(all, "request", x.sent.Header, x.heard.header)
		if x.answer == nil {
			continue
		}
		differentFields(all, "answer", x.said.header, x.answer.Header)
		if x.answer.StatusCode != x.said.status {
			all["status "+strconv.Itoa(x.said.status)+" became "+strconv.Itoa(x.answer.StatusCode)] = true
		}
		p.differentBody(all, x)
	}
	names := slices.Sorted(maps.Keys(all))
	return strings.Join(names, ", ")
}

func (p *player) differentBody(all map[string]bool, x *conversed) {
	got := string(x.arrived)
	for _, change := range []struct {
		name string
		undo *regexp.Regexp
	}{{"event ids prefixed", prefixedIDs}, {"event ids added", addedIDs}} {
		if plain := change.undo.ReplaceAllString(got, "$1"); plain != got {
			all[change.name] = true
			got = plain
		}
	}
	tail, ok := strings.CutPrefix(got, x.said.body)
	switch {
	case ok && tail == "":
	case ok && strings.Contains(tail, `"code":5040`):
		all["an error added at the end"] = true
	default:
		p.tb.Errorf("the client got %q, want %q", got, x.said.body)
	}
}

// differentFields adds the header fields that one end sent and the other got
// otherwise, those apart that concern the connection.
func differentFields(all map[string]bool, of string, sent, got http.Header) {
	for name := range merged(sent, got) {
		switch name {
		case "Accept-Encoding", "Content-Length", "Date", "Transfer-Encoding":
		case "Mcp-Session-Id":
			all["session id"] = true
		default:
			if !slices.Equal(sent[name], got[name]) {
				all[of+" header "+name] = true
			}
		}
	}
}

func merged(a, b http.Header) http.Header {
	all := a.Clone()
	maps.Copy(all, b)
	return all
}
