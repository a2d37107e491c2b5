package dataplane_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/session"
)

// crowdSize is how many clients there are that do the same at the same time, with
// the same ids and tokens.
const crowdSize = 50

// hugeSize is the size of a huge event.
const hugeSize = 512 << 10

// patron is one of them: a client with a tag, which all that its upstream says to
// it carries, and a GET stream.
type patron struct {
	*client
	tag         string
	owner, away *worker

	mu     sync.Mutex // guards what follows
	stream *events
	last   string // the id of the last event on the GET stream
	notes  []string
}

// anyTag begins the tag of every client.
const anyTag = "tag-"

// enter opens the sessions and GET streams of a crowd, half of them at each of two
// workers.
func enter(t *testing.T, u *unruly, workers [2]*worker) []*patron {
	crowd := make([]*patron, crowdSize)
	for i := range crowd {
		crowd[i] = &patron{client: newClient(t, "g"), tag: fmt.Sprintf(anyTag+"%02d", i), owner: workers[i%2], away: workers[1-i%2]}
	}
	atOnce(crowd, func(i int, p *patron) {
		resp, body := p.do(p.owner, http.MethodPost, strings.Replace(initialize, `"name":"t"`, `"name":"`+p.tag+`"`, 1))
		p.check("initialize", body)
		p.session = resp.Header.Get("Mcp-Session-Id")
		p.hear([]*worker{p.owner, p.away}[i/2%2])
	})
	return crowd
}

// atOnce has all of a crowd do something at the same time.
func atOnce(crowd []*patron, f func(i int, p *patron)) {
	var group sync.WaitGroup
	for i, p := range crowd {
		group.Go(func() { f(i, p) })
	}
	group.Wait()
}

// check checks that a text is for this client only, and has something in each
// event that says so: its tag, or an error of ours that names the upstream.
func (p *patron) check(what, text string) {
	p.tb.Helper()
	if own, all := strings.Count(text, p.tag), strings.Count(text, anyTag); own != all {
		p.tb.Errorf("%s: %d of %d tags that %s got are others': %.300q", what, all-own, all, p.tag, text)
	}
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "data: ") && !strings.HasPrefix(text, "{") {
			continue
		}
		if !strings.Contains(line, p.tag) && !(strings.Contains(line, `"error"`) && strings.Contains(line, `\"up\"`)) {
			p.tb.Errorf("%s: %s got %.200q, which has neither its tag nor an error that names the upstream", what, p.tag, line)
		}
	}
}

// ask calls a tool and returns the answer, read to its end and checked.
func (p *patron) ask(at *worker, id int, tool string) string {
	p.tb.Helper()
	resp, text := p.do(at, http.MethodPost, p.request(id, tool))
	if resp == nil {
		p.tb.Errorf("%s: %s got no answer: %s", tool, p.tag, text)
		return ""
	}
	p.check(tool, text)
	return text
}

func (p *patron) request(id int, tool string) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":%q,"_meta":{"progressToken":1}}}`, id, tool)
}

// hear opens the GET stream, after what was heard before, and keeps what it says.
func (p *patron) hear(at *worker) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.listen(at, p.last, "")
	p.stream = e
	go func() {
		id := ""
		for line := range e.lines {
			if rest, ok := strings.CutPrefix(line, "id: "); ok {
				id = rest
			}
			data, ok := strings.CutPrefix(line, "data: ")
			if !ok || !json.Valid([]byte(data)) {
				continue // a line may have broken off
			}
			p.mu.Lock()
			if p.stream == e {
				p.notes, p.last = append(p.notes, data), id
			}
			p.mu.Unlock()
		}
	}()
}

// hush closes the GET stream. What is read from it afterwards does not count.
func (p *patron) hush() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stream.cancel()
	p.stream = nil
}

// heard returns what the GET stream said so far.
func (p *patron) heard() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.notes
}

// unruly is an upstream that breaks every rule towards its sessions but one: what
// it says to a session carries the tag of that session's client.
type unruly struct {
	*upstreamServer
	guests sync.Map // *guest, by session id
	wrote  chan int // bytes of events without end that were taken
}

// guest is a session of an unruly upstream.
type guest struct {
	tag      string
	answered [4]chan struct{} // a call with the number was
	replied  chan string      // what the client said to a question
	alone    chan struct{}    // closed once the client of a call is gone
	notes    int              // on the GET stream, of which there is one at a time
}

func startUnruly(t *testing.T) *unruly {
	u := &unruly{upstreamServer: startUpstream(t), wrote: make(chan int, crowdSize)}
	u.setHook(u.serve)
	return u
}

// guest returns the session of a client.
func (u *unruly) guest(tag string) (found *guest) {
	u.guests.Range(func(_, g any) bool {
		if g.(*guest).tag == tag {
			found = g.(*guest)
		}
		return found == nil
	})
	return found
}

func (u *unruly) serve(w http.ResponseWriter, r *http.Request, method string) bool {
	var message struct {
		ID     json.RawMessage
		Params struct {
			Name       string
			ClientInfo struct{ Name string }
		}
		Result struct{ Action string }
	}
	body, _ := io.ReadAll(r.Body)
	json.Unmarshal(body, &message)
	id := r.Header.Get("Mcp-Session-Id")
	if method == "initialize" {
		u.admit(w, message.ID, message.Params.ClientInfo.Name)
		return true
	}
	known, _ := u.guests.Load(id)
	g, _ := known.(*guest)
	switch {
	case g == nil:
		return false
	case r.Method == http.MethodGet:
		g.chatter(w, r)
	case r.Method == http.MethodDelete:
		u.guests.Delete(id)
		w.WriteHeader(http.StatusNoContent)
	case method == "tools/call":
		u.call(w, r, g, message.Params.Name, message.ID)
	default:
		if method == "" {
			g.replied <- message.Result.Action
		}
		w.WriteHeader(http.StatusAccepted)
	}
	return true
}

func (u *unruly) admit(w http.ResponseWriter, id json.RawMessage, tag string) {
	g := &guest{tag: tag, replied: make(chan string, 10), alone: make(chan struct{})}
	for i := range g.answered {
		g.answered[i] = make(chan struct{})
	}
	session := fmt.Sprintf("%p", g)
	u.guests.Store(session, g)
	w.Header().Set("Mcp-Session-Id", session)
	reply(w, id, fmt.Sprintf(`{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":%q,"version":"1"}}`, tag))
}

// chatter speaks on the GET stream without an end. Now and then it answers there
// what every client has asked, with the id that all of them use.
func (g *guest) chatter(w http.ResponseWriter, r *http.Request) {
	say := begin(w)
	for tick := time.NewTicker(25 * time.Millisecond); ; {
		select {
		case <-r.Context().Done():
			tick.Stop()
			return
		case <-tick.C:
		}
		g.notes++
		text := fmt.Sprintf(`{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"%s %d"}}`, g.tag, g.notes)
		if g.notes%10 == 0 {
			text = fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"result":{"data":"%s %d"}}`, g.tag, g.notes)
		}
		if say("data: "+text+"\n\n") != nil {
			return
		}
	}
}

// begin begins a stream and returns what writes on it.
func begin(w http.ResponseWriter) (say func(string) error) {
	w.Header().Set("Content-Type", "text/event-stream")
	control := http.NewResponseController(w)
	control.Flush()
	return func(text string) error {
		if _, err := io.WriteString(w, text); err != nil {
			return err
		}
		return control.Flush()
	}
}

// result is an event with an answer, padded with the tag.
func (g *guest) result(id string, size int) string {
	return fmt.Sprintf(`data: {"jsonrpc":"2.0","id":%s,"result":{"text":"%s"}}`+"\n\n", id, strings.Repeat(g.tag, 1+size/len(g.tag)))
}

const progress = `data: {"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1,"message":"%s"}}` + "\n\n"

// call answers a call as badly as the tool's name says.
func (u *unruly) call(w http.ResponseWriter, r *http.Request, g *guest, tool string, id json.RawMessage) {
	if tool == "reversed" { // the first call is answered last
		n := int(id[0] - '0')
		if n < 3 {
			<-g.answered[n+1]
		}
		defer close(g.answered[n])
		reply(w, id, fmt.Sprintf(`{"text":"%s"}`, g.tag))
		return
	}
	say := begin(w)
	say(fmt.Sprintf(progress, g.tag))
	switch tool {
	case "twice": // and with the ids of others' calls
		say(g.result(string(id), 0))
		say(g.result(string(id), 0))
		say(g.result(`2`, 0))
		say(g.result(`"mine"`, 0))
	case "garbage":
		say("data: {\"jsonrpc\" " + g.tag + "\n\n")
		say(g.tag + " without a colon\n\n: \xff\xfe\n\n")
		say("event: \x00\ndata: ]]" + g.tag + "\ndata: [[" + g.tag + "\n\n")
		say("data: {\"" + g.tag)
		panic(http.ErrAbortHandler)
	case "huge":
		say(g.result(string(id), hugeSize))
	case "endless":
		n, piece := 0, strings.Repeat(g.tag+" ", 8<<10)
		for err := say("data: "); err == nil; n += len(piece) {
			err = say(piece)
		}
		u.wrote <- n
	case "asks":
		say(fmt.Sprintf(`data: {"jsonrpc":"2.0","id":1,"method":"elicitation/create","params":{"message":"%s"}}`+"\n\n", g.tag))
		if got := <-g.replied; got != g.tag {
			say(g.result(`"an answer of `+got+`"`, 0))
			return
		}
		say(g.result(string(id), 0))
	case "late":
		select {
		case <-g.alone:
			say(g.result(string(id), 0))
		case <-r.Context().Done():
		}
	}
}

func TestAnUnrulyUpstreamDoesNotMixUpItsClients(t *testing.T) {
	p, u := startPlane(t), startUnruly(t)
	p.ttl = time.Minute // so much at once may make renewals late
	p.setGateway("g", u.URL, nil)
	workers := [2]*worker{startWorker(t, p), startWorker(t, p)}
	before := held(nil)
	var first footprint
	for round := range 2 {
		crowd := enter(t, u, workers)
		u.plague(t, crowd)
		comeBack(t, u, crowd)
		checkNotes(t, crowd)
		atOnce(crowd, func(_ int, p *patron) {
			p.hush()
			if resp, body := p.do(p.away, http.MethodDelete, ""); resp == nil || resp.StatusCode != http.StatusNoContent {
				t.Errorf("DELETE: got %v %s, want 204", resp, body)
			}
		})
		u.guests.Range(func(_, g any) bool {
			t.Errorf("the upstream still has the session of %s", g.(*guest).tag)
			return true
		})
		if round == 0 {
			first = settle(crowd, before, footprint{heap: chancy.heap, goroutines: 1 << 20, descriptors: 1 << 20})
			if first.heap > before.heap+chancy.heap {
				t.Errorf("after the first round: got %+v, want little more heap than before, %+v", first, before)
			}
			continue
		}
		// What is kept open for the next request is there since the first round.
		now := settle(crowd, first, chancy)
		t.Logf("before %+v, after the first round %+v, after the second %+v", before, first, now)
		if !now.within(first, chancy) {
			t.Errorf("after the second round: got %+v, want little more than after the first, %+v", now, first)
		}
	}
}

// plague has the crowd suffer one thing after the other, all at the same time.
func (u *unruly) plague(t *testing.T, crowd []*patron) {
	atOnce(crowd, func(_ int, p *patron) {
		var three sync.WaitGroup
		for id, at := range []*worker{p.owner, p.away, p.owner} {
			three.Go(func() {
				if text := p.ask(at, id+1, "reversed"); !strings.Contains(text, fmt.Sprintf(`"id":%d`, id+1)) {
					t.Errorf("reversed: %s got %q, want the answer to %d", p.tag, text, id+1)
				}
			})
		}
		three.Wait()
	})
	atOnce(crowd, func(_ int, p *patron) {
		if text := p.ask(p.away, 1, "twice"); strings.Count(text, `"result"`) != 4 {
			t.Errorf("twice: %s got %q, want all four answers that were for it", p.tag, text)
		}
	})
	atOnce(crowd, func(_ int, p *patron) {
		text := p.ask(p.away, 1, "garbage")
		if !strings.Contains(text, `"code":5040`) || !strings.Contains(text, `upstream \"up\" did not answer`) {
			t.Errorf("garbage: %s got %q, want the error 5040 that names the upstream", p.tag, text)
		}
	})
	atOnce(crowd, func(i int, p *patron) {
		at := []*worker{p.owner, p.away}[i/2%2]
		if i%5 > 0 {
			if text := p.ask(at, 1, "huge"); strings.Count(text, p.tag) < hugeSize/len(p.tag) {
				t.Errorf("huge: %s got %d bytes with %d tags, want all of the event", p.tag, len(text), strings.Count(text, p.tag))
			}
			return
		}
		text := p.ask(at, 1, "endless")
		if !strings.Contains(text, fmt.Sprintf(`"code":%d`, mcp.CodeLimit)) || !strings.Contains(text, fmt.Sprint(session.MaxEvent)) {
			t.Errorf("endless: %s got %.300q, want the error %d that names the bound", p.tag, text, mcp.CodeLimit)
		}
		if n := <-u.wrote; n > 4*session.MaxEvent {
			t.Errorf("endless: %d bytes of the event were taken, want little more than %d", n, session.MaxEvent)
		}
	})
	atOnce(crowd, func(_ int, p *patron) {
		e := p.listen(p.away, "", p.request(1, "asks"))
		p.check("progress", e.data())
		p.check("question", e.data())
		p.do(p.owner, http.MethodPost, fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"result":{"action":%q}}`, p.tag))
		if text := e.data(); !strings.Contains(text, `"id":1,"result"`) || !strings.Contains(text, p.tag) {
			t.Errorf("asks: %s got %q, want its answer, after what it said itself", p.tag, text)
		}
	})
}

// comeBack has half of the crowd lose all of their streams in the middle and come
// back at the other worker. The other half leave their calls for good.
func comeBack(t *testing.T, u *unruly, crowd []*patron) {
	atOnce(crowd, func(i int, p *patron) {
		at := []*worker{p.owner, p.away}[i/2%2]
		e := p.listen(at, "", p.request(1, "late"))
		p.check("progress", e.data())
		e.cancel()
		if i%4 >= 2 {
			close(u.guest(p.tag).alone)
			return
		}
		p.hush()
		other := p.owner
		if at == p.owner {
			other = p.away
		}
		p.hear(other)
		again := p.listen(other, e.last, "")
		close(u.guest(p.tag).alone)
		text := again.data()
		p.check("late", text)
		if !strings.Contains(text, `"id":1,"result"`) {
			t.Errorf("late: %s came back and got %q, want the answer", p.tag, text)
		}
		if text := again.data(); text != "<end>" {
			t.Errorf("late: %s got %q after the answer, want the end", p.tag, text)
		}
	})
}

// checkNotes checks that each client was told, on its GET streams together, its
// own notes, all of them, in order.
func checkNotes(t *testing.T, crowd []*patron) {
	atOnce(crowd, func(_ int, p *patron) {
		had := len(p.heard())
		eventually(t, p.tag+" is told more", func() bool { return len(p.heard()) > had+2 })
		for i, note := range p.heard() {
			if want := fmt.Sprintf(`"%s %d"`, p.tag, i+1); !strings.Contains(note, want) {
				t.Errorf("note %d of %s: got %s, want %s", i+1, p.tag, note, want)
				return
			}
		}
	})
}

// footprint is what a process has at one moment.
type footprint struct{ heap, goroutines, descriptors int }

// chancy is by how much a footprint may differ from another one that is the same
// but for chance.
var chancy = footprint{heap: 8 << 20, goroutines: 50, descriptors: 50}

// held returns what this process has, without what clients keep open for their next
// requests.
func held(crowd []*patron) footprint {
	for _, p := range crowd {
		p.http.CloseIdleConnections()
	}
	for range 3 {
		runtime.GC() // what the first leaves in pools the next take
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	open, _ := os.ReadDir("/proc/self/fd")
	return footprint{int(m.HeapAlloc), runtime.NumGoroutine(), len(open)}
}

// settle waits until this process has little more than before, and returns what it
// has.
func settle(crowd []*patron, before, more footprint) footprint {
	var now footprint
	for deadline := time.Now().Add(10 * time.Second); ; <-time.After(50 * time.Millisecond) {
		now = held(crowd)
		if now.within(before, more) || time.Now().After(deadline) {
			return now
		}
	}
}

func (f footprint) within(before, more footprint) bool {
	return f.heap <= before.heap+more.heap && f.goroutines <= before.goroutines+more.goroutines && f.descriptors <= before.descriptors+more.descriptors
}
