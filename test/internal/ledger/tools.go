package ledger

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// toolList is the result of tools/list.
const toolList = `{"tools":[` +
	`{"name":"counter_increment","description":"adds one to the session's counter and returns it","inputSchema":{"type":"object"}},` +
	`{"name":"counter_value","description":"returns the session's counter","inputSchema":{"type":"object"}},` +
	`{"name":"echo","description":"returns text, and the arguments byte by byte","inputSchema":{"type":"object","properties":{"text":{"type":"string"}}}},` +
	`{"name":"big","description":"returns a text of bytes bytes","inputSchema":{"type":"object","properties":{"bytes":{"type":"integer"}}}},` +
	`{"name":"slow","description":"takes ms milliseconds; with steps, answers as an event stream with that many progress events","inputSchema":{"type":"object","properties":{"ms":{"type":"integer"},"steps":{"type":"integer"}}}},` +
	`{"name":"gate","description":"returns once the gate of that name is released","inputSchema":{"type":"object","properties":{"name":{"type":"string"}}}},` +
	`{"name":"mark","description":"adds one to the session's counter, takes ms milliseconds, and returns tag and counter; with steps, answers as an event stream with that many progress events; with announce, also sends tag as a log message on the session's GET stream; with hang, says nothing more after the progress events","inputSchema":{"type":"object","properties":{"tag":{"type":"string"},"ms":{"type":"integer"},"steps":{"type":"integer"},"announce":{"type":"boolean"},"hang":{"type":"boolean"}}}},` +
	`{"name":"notify","description":"sends text as a log message on the session's GET stream","inputSchema":{"type":"object","properties":{"text":{"type":"string"}}}}` +
	`]}`

// arguments are the arguments of all tools together.
type arguments struct {
	Text     string `json:"text"`
	Name     string `json:"name"`
	Bytes    int    `json:"bytes"`
	MS       int    `json:"ms"`
	Steps    int    `json:"steps"`
	Tag      string `json:"tag"`
	Announce bool   `json:"announce"`
	Hang     bool   `json:"hang"`
}

// call runs a tool.
func (x *exchange) call(s *session) {
	x.ledger.count(&x.ledger.running, 1)
	defer x.ledger.count(&x.ledger.running, -1)
	x.cancel = s.begin(string(x.msg.ID))
	defer s.finish(string(x.msg.ID))
	var args arguments
	if x.msg.Params.Arguments != nil {
		if err := json.Unmarshal(x.msg.Params.Arguments, &args); err != nil {
			x.fail(http.StatusOK, -32602, "the arguments are of the wrong type")
			return
		}
	}
	switch x.msg.Params.Name {
	case "counter_increment":
		x.text(strconv.FormatInt(s.add(1), 10))
	case "counter_value":
		x.text(strconv.FormatInt(s.add(0), 10))
	case "echo":
		x.echo(args.Text)
	case "big":
		x.text(strings.Repeat("x", args.Bytes))
	case "slow":
		x.slow(s, args, "done")
	case "mark":
		x.mark(s, args)
	case "gate":
		x.wait(s, args.Name)
	case "notify":
		x.notify(s, args.Text)
	default:
		x.fail(http.StatusOK, -32602, "unknown tool")
	}
}

// add changes the session's counter and returns its new value.
func (s *session) add(n int64) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counter += n
	return s.counter
}

// text answers with one text. The ledger keeps its beginning.
func (x *exchange) text(text string) {
	x.entry.Result = text[:min(len(text), 64)]
	x.answer(content(text))
}

// content is the result of a tool that returns a text.
func content(text string) string {
	quoted, _ := json.Marshal(text)
	return `{"content":[{"type":"text","text":` + string(quoted) + `}]}`
}

// echo answers with a text and the arguments as they came.
func (x *exchange) echo(text string) {
	arguments := x.msg.Params.Arguments
	if arguments == nil {
		arguments = json.RawMessage("{}")
	}
	quoted, _ := json.Marshal(text)
	x.entry.Result = text[:min(len(text), 64)]
	x.answer(fmt.Sprintf(`{"content":[{"type":"text","text":%s}],"structuredContent":%s}`, quoted, arguments))
}

// mark has its effect at once, so that it has been carried out even if the
// caller is gone before the answer.
func (x *exchange) mark(s *session, args arguments) {
	x.entry.Tag, x.entry.Count = args.Tag, s.add(1)
	if args.Announce {
		s.send(logMessage(args.Tag))
	}
	x.slow(s, args, fmt.Sprintf("%s %d", args.Tag, x.entry.Count))
}

// slow takes its time and answers with text, at once if it is cancelled. With
// steps it answers as an event stream, and sends progress if the caller gave a
// token.
func (x *exchange) slow(s *session, args arguments, text string) {
	total, steps := time.Duration(args.MS)*time.Millisecond, args.Steps
	if steps <= 0 {
		if x.pause(s, time.After(total)) {
			x.text(text)
		}
		return
	}
	x.beginEvents()
	for i := range steps {
		if !x.pause(s, time.After(total/time.Duration(steps))) {
			return
		}
		if token := x.msg.Params.Meta.ProgressToken; token != nil {
			x.event(fmt.Appendf(nil, `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":%s,"progress":%d,"total":%d}}`,
				token, i+1, steps))
		}
	}
	if args.Hang {
		x.pause(s, nil)
		return
	}
	x.entry.Result = text
	x.event(fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%s,"result":%s}`, x.msg.ID, content(text)))
}

// wait answers once a gate is released.
func (x *exchange) wait(s *session, name string) {
	select {
	case <-x.ledger.gate(name):
		x.text("released")
	case <-s.done:
		x.fail(http.StatusNotFound, -32001, "session not found")
	case <-x.r.Context().Done():
		x.entry.Result = "caller gone"
	}
}

// begin notes a call that is under way, and returns what is closed when it is
// cancelled.
func (s *session) begin(id string) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls[id] = make(chan struct{})
	return s.calls[id]
}

// finish forgets a call.
func (s *session) finish(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.calls, id)
}

// cancel cancels a call, if it is under way.
func (s *session) cancel(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.calls[id]; c != nil {
		close(c)
		delete(s.calls, id)
	}
}

// pause waits for the timer, or until the call is cancelled. It reports false, and
// has recorded why, when the session ended or the caller went away before.
func (x *exchange) pause(s *session, timer <-chan time.Time) bool {
	select {
	case <-timer:
		return true
	case <-x.cancel:
		return true
	case <-s.done:
		x.entry.Result = "session ended"
	case <-x.r.Context().Done():
		x.entry.Result = "caller gone"
	}
	return false
}

// notify sends a log message on the session's stream.
func (x *exchange) notify(s *session, text string) {
	if s.send(logMessage(text)) {
		x.text("sent")
		return
	}
	x.text("no stream, or a full one")
}

// logMessage is the notification that carries a text.
func logMessage(text string) []byte {
	quoted, _ := json.Marshal(text)
	return fmt.Appendf(nil, `{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":%s}}`, quoted)
}

// send puts an event on the session's stream; it reports false if there is none
// or it is full, which a numbered stream never is.
func (s *session) send(event []byte) bool {
	if s.spoken != nil {
		s.say(event)
		return true
	}
	s.mu.Lock()
	stream := s.stream
	s.mu.Unlock()
	select {
	case stream <- event:
		return true
	default:
		return false
	}
}
